"""The Generator protocol over HTTP: a real server on the loopback that fails, stalls and talks nonsense."""

import json
import time

import numpy as np
import pytest
from llm_server import Server

from etude.data.tokenizers import BytePairs, Bytes, Characters
from etude.engine.ledger import Ledger
from etude.engine.protocols import Sampling
from etude.errors import BadInput
from etude.generate import asking
from etude.generate.server import ServerGenerator

TOKENIZER = Characters("0123456789 abcdefghijklmnopqrstuvwxyz")
SAMPLING = Sampling(max_tokens=8)


@pytest.fixture
def server():
    one = Server()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0.01)


def generator(server, folder, **changes):
    return ServerGenerator(server.url, "small", **({"cache": folder / "answers", "tokenizer": TOKENIZER, "key": ""} | changes))


def texts(groups):
    return [[c.text for c in group] for group in groups]


def test_a_sample_depends_on_seed_prompt_and_index_and_nothing_is_asked_twice(server, tmp_path):
    ledger = Ledger()
    one = generator(server, tmp_path, ledger=ledger)
    first = one.complete(["a", "b"], SAMPLING, n=3, seed=5)
    assert [len(g) for g in first] == [3, 3]
    assert len({t for g in texts(first) for t in g}) == 6
    assert len(server.asked) == one.client.asked == 6
    again = generator(server, tmp_path, ledger=ledger)
    # Another batch and order, the same ids: the same samples, from the cache.
    assert texts(again.complete(["b", "a"], SAMPLING, n=2, seed=5, ids=[1, 0])) == [texts(first)[1][:2], texts(first)[0][:2]]
    assert len(server.asked) == 6
    assert again.client.asked == 0
    assert texts(again.complete(["a"], SAMPLING, seed=6)) != [texts(first)[0][:1]]
    assert ledger.entries["generate"]["calls"] == 6 + 4 + 1
    assert ledger.entries["generate"]["prompt_tokens"] == 7 * 11
    assert ledger.entries["generate"]["generated_tokens"] == 6 * 11
    assert "flops" not in ledger.entries["generate"]


def test_equal_requests_of_one_call_are_asked_once(server, tmp_path):
    one = generator(server, tmp_path, capabilities={"score"})
    assert len(one.score(["ab"] * 5, ["cd"] * 5)) == 5
    assert len(server.asked) == 1


@pytest.mark.parametrize("fault", ["500", "503", "429", "408", "garbage", "list", "empty", "half", "hang up", "stall", "drip", "deep"])
def test_what_fails_once_is_asked_again(server, tmp_path, fault):
    server.faults = [fault, fault]
    one = generator(server, tmp_path, timeout=0.5)
    assert texts(one.complete(["a"], SAMPLING))[0][0].isdigit()
    assert len(server.asked) == 3
    assert one.client.asked == 1


@pytest.mark.parametrize(
    ("fault", "said"), [("500", "status 500: told to fail"), ("garbage", "no JSON"), ("stall", "no whole answer in 0.2 s")]
)
def test_what_fails_for_good_is_one_line(server, tmp_path, fault, said):
    server.faults = [fault] * 9
    with pytest.raises(BadInput, match=said) as caught:
        generator(server, tmp_path, timeout=0.2, attempts=3).complete(["a"], SAMPLING)
    assert "3 attempts" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.asked) == 3


@pytest.mark.parametrize("fault", ["drip", "drip headers"])
def test_the_time_limit_holds_for_an_attempt_as_a_whole(server, tmp_path, fault):
    server.faults = [fault]
    started = time.perf_counter()
    with pytest.raises(BadInput, match="no whole answer in 0.3 s"):
        generator(server, tmp_path, timeout=0.3, attempts=1).complete(["a"], SAMPLING)
    assert time.perf_counter() - started < 2  # the headers alone take 5 s


def test_an_answer_of_another_shape_is_asked_again(server, tmp_path):
    server.faults = ["text for a message"] * 2
    assert texts(generator(server, tmp_path, chat=True).complete(["a"], SAMPLING))[0][0].isdigit()
    assert len(server.asked) == 3
    ledger = Ledger()
    server.change = lambda answer: answer | {"usage": [1, 2]}  # what it cost is then not known
    generator(server, tmp_path, chat=True, ledger=ledger).complete(["b"], SAMPLING)
    assert ledger.entries["generate"]["prompt_tokens"] == 0
    for rows in ([3], {"a": 1}, "x"):
        server.change = lambda answer, rows=rows: {"choices": [answer["choices"][0] | {"logprobs": {"content": rows}}]}
        with pytest.raises(BadInput, match="log-probabilities that are none"):
            generator(server, tmp_path, chat=True, capabilities={"logprobs"}, attempts=2).complete(["c"], SAMPLING)


@pytest.mark.parametrize("status", ["400", "401", "404"])
def test_a_refusal_is_not_asked_again(server, tmp_path, status):
    server.faults = [status] * 9
    with pytest.raises(BadInput, match=f"status {status}: told to fail"):
        generator(server, tmp_path).complete(["a"], SAMPLING)
    assert len(server.asked) == 1


def test_a_server_that_is_not_there(server, tmp_path):
    server.close()
    with pytest.raises(BadInput, match=r"no connection.*2 attempts.*OpenAI-compatible server"):
        generator(server, tmp_path, attempts=2).complete(["a"], SAMPLING)
    with pytest.raises(BadInput, match="begins with http"):
        ServerGenerator("localhost:8000", "small")


def test_what_was_answered_before_a_failure_is_kept(server, tmp_path):
    one = generator(server, tmp_path, parallel=1)
    server.faults = ["", "", "400"]
    with pytest.raises(BadInput):
        one.complete(["a", "b", "c", "d"], SAMPLING)
    one.complete(["a", "b", "c", "d"], SAMPLING)
    asked = [body["prompt"] for body in server.asked]
    # Whether d was on its way when c failed is a matter of time.
    assert [asked.count(name) for name in "abcd"] == [1, 1, 2, 1]


def test_a_damaged_answer_on_disk_is_asked_again(server, tmp_path):
    first = generator(server, tmp_path).complete(["a"], SAMPLING)
    [file] = (tmp_path / "answers").rglob("*.json")
    file.write_text(file.read_text()[:40])
    assert texts(generator(server, tmp_path).complete(["a"], SAMPLING)) == texts(first)
    assert len(server.asked) == 2


def test_the_key_is_sent_and_kept_nowhere(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    generator(server, tmp_path, key=None).complete(["a"], SAMPLING)
    assert server.keys == ["Bearer sk-secret"]
    assert all("secret" not in f.read_text() for f in tmp_path.rglob("*.json"))
    server.faults = ["401"]
    with pytest.raises(BadInput) as caught:
        generator(server, tmp_path, key=None).complete(["b"], SAMPLING)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-secret\n", "sk-sécret"])
def test_a_key_that_no_header_takes_is_refused_unshown(key):
    with pytest.raises(BadInput, match="server, key: found a line end") as caught:
        ServerGenerator("http://localhost:1/v1", "small", key=key)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://", "http://a:b/v1", "http://a:99999/", "http://[::1", "http://a b/v1", "http://é..com/", "http://a:/\n"]
)
def test_an_address_that_is_none_is_not_tried(url):
    with pytest.raises(BadInput, match="HOST:PORT"):
        ServerGenerator(url, "small", key="")


def test_half_a_character_is_no_answer(server, tmp_path):
    server.change = lambda answer: {"choices": [{"text": "\ud800"}]}
    with pytest.raises(BadInput, match="an answer that is none.*2 attempts"):
        generator(server, tmp_path, tokenizer=Bytes(), attempts=2).complete(["a"], SAMPLING)


@pytest.mark.parametrize("bad", [float("nan"), -float("inf"), 1, False, -(10**400), "-1"])
def test_numbers_that_are_no_log_probabilities_are_asked_for_again(server, tmp_path, bad):
    server.change = lambda answer: {"choices": [{"text": "ab", "logprobs": {"token_logprobs": [-1, bad]}}]}
    with pytest.raises(BadInput, match="log-probabilities that are none"):
        generator(server, tmp_path, capabilities={"logprobs"}, attempts=2).complete(["a"], SAMPLING)
    server.change = lambda answer: {"choices": [{"logprobs": {"text_offset": [0, 1], "token_logprobs": [None, bad]}}]}
    with pytest.raises(BadInput, match="log-probabilities that are none"):
        generator(server, tmp_path, capabilities={"score"}, attempts=2).score(["a"], ["b"])


def test_ids_are_checked_before_they_are_sent(server, tmp_path):
    for prompt, said in (([1.5], "type float64"), ([3, -1], "prompt 1, token 1: found -1")):
        with pytest.raises(BadInput, match=said):
            generator(server, tmp_path, capabilities={"tokens"}).complete([np.array([1]), np.array(prompt)], SAMPLING)
    with pytest.raises(BadInput, match="prompt 0, token 0: found 99"):
        generator(server, tmp_path).complete([np.array([99])], SAMPLING)
    assert not server.asked


def test_a_stop_token_without_text_is_not_asked_for(server, tmp_path):
    pairs = BytePairs.train("ab cd " * 20, 260)
    pairs.inner.add_special_tokens(["<end>"])
    one = generator(server, tmp_path, tokenizer=BytePairs(pairs.inner))
    one.complete(["a"], Sampling(stop_tokens=(pairs.inner.token_to_id("<end>"),)))
    assert "stop" not in server.asked[0]


def test_requests_are_under_way_together_but_no_more_than_told(server, tmp_path):
    server.faults = ["slow"] * 24
    started = time.perf_counter()
    generator(server, tmp_path, parallel=6).complete(["a"], SAMPLING, n=24)
    assert time.perf_counter() - started < 0.1 * 24 * 0.8
    assert 1 < server.most_together <= 6


def test_tokens_text_and_log_probabilities(server, tmp_path):
    one = generator(server, tmp_path, capabilities={"tokens", "logprobs"})
    [[completion]] = one.complete(
        [np.array(TOKENIZER.encode("a 1"))], Sampling(max_tokens=4, top_k=5, stop_tokens=(int(TOKENIZER.encode(" ")[0]),))
    )
    assert server.asked[0]["prompt"] == TOKENIZER.encode("a 1").tolist()
    assert server.asked[0]["top_k"] == 5
    assert server.asked[0]["stop"] == [" "]
    assert TOKENIZER.decode(completion.tokens) == completion.text
    assert completion.logprobs.tolist() == [-0.5] * 4
    assert completion.finish == "length"
    [[warm]] = one.complete(["a 1"], Sampling(temperature=0.7, max_tokens=8))
    assert warm.logprobs is None  # a server gives those at 1
    assert warm.finish == "stop"
    assert server.asked[1]["prompt"] == "a 1"


def test_log_probabilities_of_another_tokenizer_are_refused(server, tmp_path):
    server.change = lambda a: a | {"choices": [a["choices"][0] | {"logprobs": {"token_logprobs": [-1.0]}}]}
    with pytest.raises(BadInput, match="1 log-probabilities for 6 tokens"):
        generator(server, tmp_path, capabilities={"logprobs"}).complete(["a"], SAMPLING)


def test_chat(server, tmp_path):
    one = generator(server, tmp_path, chat=True, system="be brief", capabilities={"logprobs"})
    [[completion]] = one.complete(["hi there"], SAMPLING)
    assert server.asked[0]["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi there"}]
    assert completion.text.isdigit()
    assert len(completion.logprobs) == 6
    with pytest.raises(BadInput, match="with chat"):
        generator(server, tmp_path, chat=True, capabilities={"score"})


def test_score(server, tmp_path):
    one = generator(server, tmp_path, capabilities={"score"})
    first, none = one.score(["ab", "ab"], ["cd", ""])
    assert first == pytest.approx([-ord("c") / 100, -ord("d") / 100])
    assert len(none) == 0
    with pytest.raises(BadInput, match="at 1"):
        one.score(["ab"], ["cd"], temperature=0.5)
    with pytest.raises(BadInput, match="capability 'score'"):
        generator(server, tmp_path).score(["ab"], ["cd"])


def test_bad_input(server, tmp_path):
    plain = generator(server, tmp_path, tokenizer=None)
    with pytest.raises(BadInput, match=r"prompt 1.*token ids"):
        plain.complete(["a", np.array([1, 2])], SAMPLING)
    with pytest.raises(BadInput, match="prompt 0.*no tokens"):
        plain.complete([""], SAMPLING)
    with pytest.raises(BadInput, match="stop strings"):
        plain.complete(["a"], Sampling(stop_tokens=(3,)))
    with pytest.raises(BadInput, match="did you mean 'logprobs'"):
        generator(server, tmp_path, capabilities={"logprob"})
    with pytest.raises(BadInput, match="the model's"):
        generator(server, tmp_path, tokenizer=None, capabilities={"logprobs"})
    assert not server.asked
    assert json.dumps(sorted(plain.capabilities)) == "[]"
