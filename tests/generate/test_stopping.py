import numpy as np
import pytest

from etude.data.tokenizers import BytePairs, Bytes
from etude.errors import BadInput
from etude.generate.stopping import StopStrings, text_of


def _first_end(strings, tokenizer, tokens) -> int | None:
    stops = StopStrings(strings, tokenizer)
    return next((i + 1 for i in range(len(tokens)) if stops.ended(np.asarray(tokens[: i + 1], np.int64))), None)


def test_bytes():
    tokens = Bytes().encode("one\ntwo\n\nthree").astype(np.int64)
    assert _first_end(["\n\n"], Bytes(), tokens) == 9
    assert _first_end(["three", "two"], Bytes(), tokens) == 7
    assert _first_end(["four"], Bytes(), tokens) is None
    assert _first_end([], Bytes(), tokens) is None


def test_a_character_of_several_bytes():
    tokens = Bytes().encode("a → b").astype(np.int64)
    assert _first_end(["→"], Bytes(), tokens) == 5


def test_inside_and_across_tokens():
    text = "the end. the end. the end; stop" * 3
    tokenizer = BytePairs.train(text, 290)
    tokens = tokenizer.encode(text).astype(np.int64)
    assert len(tokens) < len(text) / 2
    for stop in ("end", "d; s", ". t", "stopthe"):
        end = _first_end([stop], tokenizer, tokens)
        assert stop in tokenizer.decode(tokens[:end])
        assert stop not in tokenizer.decode(tokens[: end - 1])


def test_tokens_without_text_do_not_hide_a_string():
    assert _first_end(["ab"], Bytes(), [ord("a"), *[300] * 20, ord("b")]) == 22
    assert _first_end(["ab"], Bytes(), [300, 300]) is None


def test_text():
    assert text_of(np.array([104, 105, 256]), Bytes()) == "hi"
    assert text_of(np.array([104, 105]), None) == ""


def test_without_a_tokenizer():
    with pytest.raises(BadInput, match="Sampling.stop_strings: found 'x', expected none, or a generator that has a tokenizer"):
        StopStrings(["x"], None)
