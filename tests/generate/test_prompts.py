import numpy as np
import pytest

from etude.data.tokenizers import BytePairs, Bytes
from etude.errors import BadInput
from etude.generate.prompts import check_lengths, ids_of, ids_or_default, in_batches


def test_text_and_ids():
    rows = ids_of(["hi", np.array([1, 2], np.uint8)], Bytes(), 256, what="prompt")
    assert [r.tolist() for r in rows] == [[104, 105], [1, 2]]
    assert all(r.dtype == np.int64 for r in rows)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("text", "prompt 1: found text, expected token ids: this generator has no tokenizer"),
        (np.array([0.5]), "prompt 1: found an array of shape (1,) and type float64, expected token ids [n], whole numbers"),
        (np.zeros((1, 2), int), "prompt 1: found an array of shape (1, 2) and type int64, expected token ids [n], whole numbers"),
        (np.array([3, 9]), "prompt 1, token 1: found 9, expected an id of 0 to 8, the model's vocabulary"),
        (np.array([-1]), "prompt 1, token 0: found -1, expected an id of 0 to 8, the model's vocabulary"),
    ],
)
def test_bad_items(item, message):
    with pytest.raises(BadInput) as caught:
        ids_of([np.array([0]), item], None, 9, what="prompt")
    assert str(caught.value) == message


def test_negative_ids_of_an_unknown_vocabulary():
    with pytest.raises(BadInput, match="completion 0, token 0: found -2, expected an id of 0 or more"):
        ids_of([np.array([-2])], None, None, what="completion")


def test_lengths():
    check_lengths([np.zeros(4, int)], 4)
    with pytest.raises(BadInput, match="prompt 1: found no tokens, expected at least one"):
        check_lengths([np.zeros(1, int), np.zeros(0, int)], 4)
    with pytest.raises(BadInput, match="prompt 0: found 5 tokens, expected at most 4, the model's context"):
        check_lengths([np.zeros(5, int)], 4)


def test_ids():
    assert ids_or_default(None, 2) == [0, 1]
    assert ids_or_default(np.array([4, 2]), 2) == [4, 2]
    with pytest.raises(BadInput, match="ids: found 1 ids, expected 2, one for each prompt"):
        ids_or_default([1], 2)
    with pytest.raises(BadInput, match="ids: found id 3 twice"):
        ids_or_default([3, 3], 2)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_batches_hold_each_sample_once_and_no_more_than_they_may(batch_size):
    lengths = [5, 1, 9]
    batches = list(in_batches(lengths, 4, batch_size))
    assert all(sum(k for _, _, k in b) <= batch_size for b in batches)
    samples = [(p, first + j) for b in batches for p, first, k in b for j in range(k)]
    assert sorted(samples) == [(p, j) for p in range(3) for j in range(4)]
    order = [lengths[p] for p, _ in samples]
    assert order == sorted(order)


@pytest.mark.parametrize("tokenizer", [Bytes(), BytePairs.train("a b ", 257)])
def test_text_that_is_no_unicode_is_refused(tokenizer):
    with pytest.raises(BadInput, match="prompt 1: found no Unicode at character 2, expected text in UTF-8"):
        ids_of(["a", "a\udcff"], tokenizer, None, what="prompt")
