import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from etude.data.tokenizers import Bytes
from etude.engine.flops import FlopCounter
from etude.engine.ledger import Ledger
from etude.engine.protocols import Generator, Sampling
from etude.engine.streams import initialise
from etude.errors import BadInput
from etude.generate.local import LocalGenerator
from etude.generate.states import decoder_of
from etude.learn.logprobs import token_logprobs
from etude.nn.recurrent import RecurrentConfig, RecurrentLM
from etude.nn.transformer import Transformer, TransformerConfig

VOCAB, CONTEXT = 23, 48
PROMPTS = [np.arange(n) % VOCAB for n in (3, 9, 9, 1, 5, 12, 2, 7)]


class Stranger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(VOCAB, 8), nn.Linear(8, VOCAB)

    def forward(self, tokens):
        return self.out(self.embed(tokens).cumsum(1).sin()) * 3


def _transformer(**change) -> Transformer:
    config = TransformerConfig(
        **{"vocab": VOCAB, "width": 16, "depth": 2, "heads": 4, "kv_heads": 2, "context": CONTEXT, "init_std": 0.3} | change
    )
    return initialise(Transformer(config), 0)


def _gru() -> RecurrentLM:
    return initialise(RecurrentLM(RecurrentConfig(vocab=VOCAB, width=12, init_std=0.7)), 0)


def _stranger() -> Stranger:
    torch.manual_seed(0)
    return Stranger()


MODELS = {"transformer": _transformer, "gru": _gru, "stranger": _stranger}
EACH = pytest.mark.parametrize("kind", MODELS)


def _logits(model, tokens) -> torch.Tensor:
    out = model(torch.as_tensor(tokens)[None])
    return (model.head(out["hidden"]) if isinstance(out, dict) else out)[0].detach()


@EACH
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_one_batch_of_8_equals_8_of_1(kind, temperature):
    model = MODELS[kind]()
    sampling = Sampling(temperature=temperature, max_tokens=12, stop_tokens=(4,))
    together = LocalGenerator(model).complete(PROMPTS, sampling, n=2, seed=3)
    for i, prompt in enumerate(PROMPTS):
        alone = LocalGenerator(model, batch_size=1).complete([prompt], sampling, n=2, seed=3, ids=[i])[0]
        for a, b in zip(together[i], alone, strict=True):
            assert a.tokens.tolist() == b.tokens.tolist()
            assert a.finish == b.finish
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
    assert {len(c.tokens) for group in together for c in group} != {12}, "some should have stopped"
    assert together[0][0].tokens.tolist() != together[0][1].tokens.tolist()


@EACH
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.4, 0.8), (0.0, 1.0)])
def test_log_probabilities_are_the_trainers(kind, temperature, top_p):
    model = MODELS[kind]()
    generator = LocalGenerator(model)
    groups = generator.complete(PROMPTS, Sampling(temperature=temperature, top_p=top_p, max_tokens=9), seed=1)
    scores = generator.score(PROMPTS, [g[0].tokens for g in groups], temperature=temperature)
    for prompt, (completion,), score in zip(PROMPTS, groups, scores, strict=True):
        whole = torch.as_tensor(np.concatenate((prompt, completion.tokens)))
        logits = _logits(model, whole[:-1])[len(prompt) - 1 :] / (temperature or 1)
        losses = F.cross_entropy(logits, whole[len(prompt) :], reduction="none")
        np.testing.assert_allclose(completion.logprobs, -losses, atol=1e-5)
        np.testing.assert_allclose(score, -losses, atol=1e-5)


def test_scores_of_a_model_in_half_precision_are_the_trainers():
    model, row = _transformer(width=32).to(torch.bfloat16), torch.arange(20)[None] % VOCAB
    expected = token_logprobs(model, row, torch.arange(19)[None] >= 4, 0.7).logprobs[0, 4:].detach().numpy()
    [got] = LocalGenerator(model).score([row[0, :5].numpy()], [row[0, 5:].numpy()], temperature=0.7)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@EACH
def test_greedy_takes_the_likeliest(kind):
    model = MODELS[kind]()
    (completion,) = LocalGenerator(model).complete([PROMPTS[1]], Sampling(temperature=0, max_tokens=15))[0]
    tokens = PROMPTS[1].tolist()
    for token in completion.tokens:
        assert token == _logits(model, np.array(tokens))[-1].argmax()
        tokens.append(int(token))
    assert completion.finish == "length"
    assert completion.kept is None


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 5), st.sampled_from([0.5, 1.0, 2.0]), st.integers(0, 5), st.sampled_from([0.5, 0.9, 1.0]), st.integers(1, 20))
def test_invariants(seed, temperature, top_k, top_p, max_tokens):
    model = _GRU
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_tokens, stop_tokens=(2, 11))
    for group in LocalGenerator(model, batch_size=3).complete(PROMPTS[:3], sampling, n=2, seed=seed):
        for c in group:
            stops = np.isin(c.tokens, (2, 11))
            assert not stops[:-1].any()
            assert 1 <= len(c.tokens) <= max_tokens
            assert (c.finish == "stop") == bool(stops[-1])
            assert len(c.logprobs) == len(c.tokens)
            assert (c.kept is None) == (top_k == 0 and top_p == 1)
            if c.kept is not None:
                assert len(c.kept_sets) == len(c.tokens)
                for token, count, ids in zip(c.tokens, c.kept, c.kept_sets, strict=True):
                    assert token in ids
                    assert count == len(ids) <= (top_k or VOCAB)
                    assert (np.diff(ids) > 0).all()


_GRU = _gru()


def test_samples_belong_to_seed_prompt_id_and_index():
    generator, sampling = LocalGenerator(_transformer()), Sampling(max_tokens=10)
    first = generator.complete(PROMPTS[:2], sampling, n=3, seed=5, ids=[10, 11])
    other_order = generator.complete([PROMPTS[1], PROMPTS[0]], sampling, n=4, seed=5, ids=[11, 10])
    for group, again in zip(first, reversed(other_order), strict=True):
        assert [c.tokens.tolist() for c in group] == [c.tokens.tolist() for c in again[:3]]
    longer = generator.complete(PROMPTS[:1], Sampling(max_tokens=20), n=1, seed=5, ids=[10])[0][0]
    assert longer.tokens[:10].tolist() == first[0][0].tokens.tolist()
    for change in ({"seed": 6}, {"ids": [12]}):
        other = generator.complete(PROMPTS[:1], sampling, **{"seed": 5, "ids": [10]} | change)[0][0]
        assert other.tokens.tolist() != first[0][0].tokens.tolist()


class _Noted(Transformer):
    """Notes how many rows are read."""

    def begin(self, tokens, mask=None):
        self.read = [tokens.shape[0]]
        return super().begin(tokens, mask)

    def extend(self, tokens, state):
        self.read.append(tokens.shape[0])
        return super().extend(tokens, state)

    def forward(self, tokens, document_ids=None, positions=None):
        return super().forward(tokens, document_ids, positions)


def test_prompts_are_read_once_and_finished_samples_leave():
    model = initialise(_Noted(_transformer().config), 0)
    groups = LocalGenerator(model).complete(PROMPTS, Sampling(max_tokens=30, temperature=2, stop_tokens=(1, 2, 3)), n=4, seed=0)
    lengths = sorted(len(c.tokens) for group in groups for c in group)
    assert model.read[0] == len(PROMPTS)
    assert len(model.read) <= lengths[-1]
    for step, rows in enumerate(model.read[1:], start=1):
        going_on = sum(n > step for n in lengths)
        assert going_on <= rows <= going_on / 0.75


def test_stop_strings_and_text():
    model = _transformer(vocab=256)
    generator, prompt = LocalGenerator(model, Bytes()), "Once"
    free = generator.complete([prompt], Sampling(max_tokens=30, temperature=0))[0][0]
    stop = Bytes().decode(free.tokens[4:6])
    if "\ufffd" in stop:
        stop = Bytes().decode(free.tokens)[3]
    cut = generator.complete([prompt], Sampling(max_tokens=30, temperature=0, stop_strings=(stop,)))[0][0]
    assert cut.finish == "stop"
    assert cut.text == Bytes().decode(cut.tokens)
    assert stop in cut.text
    assert stop not in Bytes().decode(cut.tokens[:-1])
    assert free.tokens[: len(cut.tokens)].tolist() == cut.tokens.tolist()
    ended = generator.complete([prompt], Sampling(max_tokens=30, temperature=0, stop_tokens=(int(free.tokens[2]),)))[0][0]
    assert ended.tokens[-1] == free.tokens[2]
    assert ended.text == Bytes().decode(ended.tokens[:-1])


def test_a_completion_ends_where_the_context_does():
    groups = LocalGenerator(_transformer()).complete([np.zeros(CONTEXT, int), np.zeros(CONTEXT - 3, int)], Sampling(max_tokens=9))
    assert [(len(g[0].tokens), g[0].finish) for g in groups] == [(1, "length"), (4, "length")]
    (wide,) = LocalGenerator(_transformer(), context=2 * CONTEXT).complete([np.zeros(CONTEXT, int)], Sampling(max_tokens=9))
    assert len(wide[0].tokens) == 9


@EACH
def test_the_ledger_holds_what_was_computed(kind):
    model, ledger = MODELS[kind](), Ledger()
    prompts = [PROMPTS[1], PROMPTS[1]]
    groups = LocalGenerator(model, ledger=ledger).complete(prompts, Sampling(max_tokens=6), n=2, seed=0)
    row = ledger.entries["generate"]
    assert row["generated_tokens"] == 24
    assert row["prompt_tokens"] == 18
    assert row["samples"] == 4
    assert row["seconds"] > 0
    with FlopCounter() as counter:
        decoder = decoder_of(model)
        state = decoder.begin(torch.as_tensor(np.stack(prompts)))
        _ = state.logits
        state = state.select([0, 0, 1, 1])
        tokens = torch.as_tensor(np.stack([c.tokens for g in groups for c in g]))
        for i in range(5):
            decoder.extend(tokens[:, i : i + 1], state)
    assert row["flops"] == counter.total > 0
    judge = Ledger()
    LocalGenerator(model, ledger=judge, category="judge").score(prompts, [g[0].tokens for g in groups])
    assert judge.total("flops", ("judge",)) > 0
    assert judge.entries["judge"]["prompt_tokens"] == 28


def test_progress_rises_to_one():
    shares = []
    LocalGenerator(_gru(), batch_size=3, progress=shares.append).complete(PROMPTS, Sampling(max_tokens=40), n=1)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) > 5


def test_the_model_is_left_as_it_was():
    model = _transformer()
    model.train()
    model.blocks[0].eval()
    state = torch.get_rng_state()
    LocalGenerator(model).complete(PROMPTS, Sampling(max_tokens=3), seed=0)
    assert model.training
    assert not model.blocks[0].training
    assert torch.equal(state, torch.get_rng_state())
    loss = model(torch.zeros(1, 4, dtype=torch.int64))["hidden"].sum()
    loss.backward()


def test_it_is_a_generator():
    generator: Generator = LocalGenerator(_gru())
    assert generator.capabilities == {"tokens", "logprobs", "score", "kept"}
    assert generator.complete([], Sampling()) == []
    assert [s.tolist() for s in generator.score([PROMPTS[0]], [np.zeros(0, int)])] == [[]]


@pytest.mark.parametrize(
    ("prompts", "named", "message"),
    [
        ([np.zeros(0, int)], {}, "prompt 0: found no tokens, expected at least one"),
        ([np.zeros(CONTEXT + 1, int)], {}, "prompt 0: found 49 tokens, expected at most 48, the model's context"),
        ([np.array([VOCAB])], {}, "prompt 0, token 0: found 23, expected an id of 0 to 22, the model's vocabulary"),
        (["text"], {}, "prompt 0: found text, expected token ids: this generator has no tokenizer"),
        ([np.array([1])], {"n": 0}, "n: found 0, expected a whole number >= 1"),
    ],
)
def test_bad_prompts(prompts, named, message):
    with pytest.raises(BadInput) as caught:
        LocalGenerator(_transformer()).complete(prompts, Sampling(), **named)
    assert str(caught.value) == message


def test_bad_scores():
    generator = LocalGenerator(_transformer())
    with pytest.raises(BadInput, match="score: found 1 prompts and 0 completions"):
        generator.score([PROMPTS[0]], [])
    with pytest.raises(BadInput, match="completion 0: found 49 tokens with its prompt, expected at most 48, the model's context"):
        generator.score([np.zeros(30, int)], [np.zeros(20, int)])
    with pytest.raises(BadInput, match="LocalGenerator.batch_size: found 0"):
        LocalGenerator(_gru(), batch_size=0)


def test_a_model_that_gives_no_numbers():
    model = _transformer()
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    with pytest.raises(BadInput, match="logits: found NaN or Inf at token 0, expected finite logits"):
        LocalGenerator(model).complete(PROMPTS[:1], Sampling(max_tokens=2))
