"""Rows of prompts and completions: masks, filling, weights, and what is refused."""

import numpy as np
import pytest
import torch
from rollout_toys import END, Letters

from etude.engine.protocols import Batch
from etude.errors import BadInput
from etude.learn.pairs import PairSource
from etude.learn.rows import CompletionSource, conversation_row


def test_only_the_completion_is_marked_and_filling_goes_to_the_end():
    source = CompletionSource([("12?", "12"), ([7, 12], np.array([7]))], context=16, tokenizer=Letters(), end=END)
    data = source.get(np.array([0, 1]))
    assert data["tokens"].tolist() == [[1, 2, 12, 1, 2, END, 0, 0, 0], [7, 12, 7, END, 0, 0, 0, 0, 0]]
    assert [[i for i, on in enumerate(row) if on] for row in data["loss_mask"].tolist()] == [[2, 3, 4], [1, 2]]
    assert data["lengths"].tolist() == [6, 4]
    assert Batch(data, np.arange(2)).num_tokens == 8  # filling is not charged
    weighted = CompletionSource([([1], [2])] * 3, context=16, weights=[0.5, 0, 2]).get(np.array([2, 0]))
    assert weighted["weights"].tolist() == [2, 0.5]


def test_a_conversation_marks_every_turn_of_the_model():
    row = conversation_row([("1?", False), ("2", True), ("!", False), ("1", True)], context=16, tokenizer=Letters(), end=END)
    assert Letters().decode(row.tokens) == "1?2.!1."
    assert [Letters().decode([t]) for t, on in zip(row.tokens[1:], row.mask, strict=True) if on] == ["2", ".", "1", "."]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("1", "2"), ("1", "")], "row 1: found an empty completion, expected at least one token"),
        ([("", "2")], "row 0: found an empty prompt"),
        ([("1", "2"), ("1234", "56789")], "row 1: found 9 tokens, expected at most 8, the context of 7"),
        ([("1", "2", "3")], r"row 0: found \('1', '2', '3'\), expected a pair"),
        ([(np.ones(2), "2")], "row 0: found float64 of shape"),
        ([], "row: found no rows"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(BadInput, match=message):
        CompletionSource(rows, context=7, tokenizer=Letters())


def test_bad_weights_and_texts_without_a_tokenizer():
    with pytest.raises(BadInput, match="row 1: weight: found -1.0, expected a finite number >= 0"):
        CompletionSource([([1], [2])] * 2, context=4, weights=[1, -1])
    with pytest.raises(BadInput, match="one for each of 2 rows"):
        CompletionSource([([1], [2])] * 2, context=4, weights=[1])
    with pytest.raises(BadInput, match="row 0: found a text, expected token ids, or a tokenizer"):
        CompletionSource([("1", "2")], context=4)


def test_pairs_come_in_one_batch():
    source = PairSource([("1?", "1", "23"), ("2?", "2", "3")], context=8, tokenizer=Letters(), end=END, reference=[[-1, -2], [-3, -4]])
    data = source.get(np.array([1, 0]))
    assert data["tokens"].shape == (2, 2, 9)
    assert [Letters().decode(r[:n]) for r, n in zip(data["tokens"][1], data["lengths"][1], strict=True)] == ["1?1.", "1?23."]
    assert data["loss_mask"].sum(-1).tolist() == [[2, 2], [2, 3]]
    assert torch.equal(data["reference"], torch.tensor([[-3.0, -4.0], [-1.0, -2.0]]))
    assert Batch(data, np.arange(2)).num_tokens == 3 + 3 + 3 + 4


def test_a_completion_may_stand_beside_itself_where_rewards_are_regressed():
    source = PairSource([("1?", "2", "2")], context=8, tokenizer=Letters(), end=END, distinct=False)
    first, second = source.get(np.array([0]))["tokens"][0].tolist()
    assert first == second


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("1", "2", "3"), ("1", "2", "2")], "pair 1: found chosen = rejected, expected two different completions"),
        ([("1", "2", "")], "pair 0, rejected: found an empty completion"),
        ([("1", "23456789", "2")], "pair 0, chosen: found 9 tokens"),
        ([("1", "2")], "pair 0: found 2 parts"),
        ([], "pair: found no rows"),
    ],
)
def test_bad_pairs_are_named(rows, message):
    with pytest.raises(BadInput, match=message):
        PairSource(rows, context=7, tokenizer=Letters())
    with pytest.raises(BadInput, match=r"pair reference: found shape \(1,\), expected \(1, 2\)"):
        PairSource([("1", "2", "3")], context=7, tokenizer=Letters(), reference=[1.0])
