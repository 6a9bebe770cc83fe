"""Choosing among samples."""

import pytest

from etude.errors import BadInput
from etude.learn.selection import accepted, best_and_worst, best_of


def test_the_best_of_each_prompt_with_ties_to_the_earlier():
    assert best_of([0.1, 0.9, 0.9, 0.3, 0.3], [5, 5, 5, 2, 2]).tolist() == [1, 3]
    assert best_of([1, 2, 3, 4], [7, 2, 7, 2]).tolist() == [2, 3]  # not contiguous; prompts in order of appearance


def test_rejection_sampling():
    scores, prompts = [1, 0, 1, 1, 0, 0.5], [0, 0, 0, 0, 1, 1]
    assert accepted(scores, prompts).tolist() == [0]
    assert accepted(scores, prompts, per_prompt=2).tolist() == [0, 2]
    assert accepted(scores, prompts, at_least=0.5, per_prompt=9).tolist() == [0, 2, 3, 5]
    assert accepted([0, 0], [1, 1]).tolist() == []


def test_pairs_of_best_and_worst():
    assert best_and_worst([1, 0, 0.5, 3, 3], [0, 0, 0, 1, 1]).tolist() == [[0, 1]]


def test_bad_input():
    with pytest.raises(BadInput, match="sample 1 of prompt 4: score: found nan"):
        best_of([0, float("nan")], [4, 4])
    with pytest.raises(BadInput, match="one score a sample"):
        best_of([], [])
    with pytest.raises(BadInput, match="per_prompt"):
        accepted([1], [0], per_prompt=0)
