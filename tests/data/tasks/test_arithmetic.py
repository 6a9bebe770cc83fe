"""Calculations in several formats: held against the authors' strings, read back, and balanced as they should be."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data.tasks import task
from etude.data.tasks.arithmetic import FORMATS, OPERATORS, answer_width, balanced_additions, carries, rendered, result_of
from etude.engine.streams import numpy_rng
from etude.errors import BadInput

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "teaching-arithmetic.json").read_text())
KINDS = [(operator, form) for operator in OPERATORS for form in FORMATS if (operator, form) != ("*", "simplified")]


@pytest.mark.parametrize("example", GOLDEN["examples"], ids=lambda e: f"{e['a']}{e['operator']}{e['b']}")
def test_examples_are_the_authors(example):
    """But for simplified working whose digits their code draws at random from the second step on (a flag that is overwritten)."""
    for name in FORMATS:
        for mark in ("", "$"):
            if name + mark in example:
                prompt, completion = rendered(example["a"], example["b"], example["operator"], name, delimited=bool(mark))
                assert prompt + completion + "\n" == example[name + mark]


@given(a=st.integers(0, 99_999), b=st.integers(0, 99_999), kind=st.sampled_from(KINDS), delimited=st.booleans())
def test_what_is_written_is_read_back(a, b, kind, delimited):
    operator, form = kind
    delimited = delimited and form in ("plain", "reverse")
    _, completion = rendered(a, b, operator, form, delimited=delimited)
    assert result_of(completion, form, delimited=delimited) == OPERATORS[operator](a, b)
    if form in ("plain", "reverse"):
        prompt, padded = rendered(a, b, operator, form, digits=5)
        assert len(prompt) == 12
        assert len(padded.replace("-", "")) == answer_width(5, operator)
        assert result_of(padded, form, width=answer_width(5, operator)) == OPERATORS[operator](a, b)


def test_by_hand():
    assert rendered(128, 367) == ("128+367=", "495")
    assert rendered(128, 367, form="reverse", digits=3) == ("128+367=", "5940")
    assert rendered(7, 30, "-", "reverse", delimited=True) == ("$7-30=", "32-$")
    assert rendered(128, 367, form="simplified")[1] == "A->5 , C->1\nA->9 , C->0\nA->4 , C->0.\n495"


@pytest.mark.parametrize(
    ("completion", "form", "more"),
    [
        ("0495", "plain", {}),
        ("495 ", "plain", {}),
        ("+495", "plain", {}),
        ("495", "plain", {"delimited": True}),
        ("495", "plain", {"width": 4}),
        ("-0000", "plain", {"width": 4}),
        ("٤٩٥0", "plain", {"width": 4}),
        ("A->5 , C->1\n495", "simplified", {}),
        ("4 9 5", "detailed", {}),
        ("<scratch>\n</scratch>\n49 5", "detailed", {}),
        ("", "plain", {}),
    ],
)
def test_what_is_no_answer(completion, form, more):
    assert result_of(completion, form, **more) is None


@pytest.mark.parametrize("form", FORMATS)
def test_the_task_pays_its_own_answer_and_no_other(form):
    family = task("arithmetic", form=form)
    for k in range(20):
        problem = family.problem(0, k, 3)
        assert family.verify(problem, problem.answer) == 1
        assert family.verify(problem, problem.answer + "\n") == 1
        other = family.problem(0, k + 1, 3)
        assert family.verify(problem, other.answer) == float(other.data == problem.data)


def test_pairs_are_balanced_different_and_not_those_to_avoid():
    avoid = frozenset((a, 500) for a in range(1000))
    pairs = balanced_additions(2_000, numpy_rng(0, "pairs"), avoid=avoid)
    found = {(int(a), int(b)) for a, b in pairs}
    assert len(found) == 2_000
    assert not found & avoid
    longest = np.array([max(len(str(a)), len(str(b))) for a, b in pairs])
    assert (longest == 1).sum() >= 100
    assert longest[:100].max() == 1
    assert longest[100:280].max() == 2
    counts = np.bincount([carries(int(a), int(b)) for a, b in pairs])
    assert len(counts) == 4
    assert counts.max() <= 500
    assert counts.min() == 500  # 2,000 in four even shares


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: rendered(1, 2, "/"), "operator"),
        (lambda: rendered(1, 2, form="revers"), "did you mean 'reverse'"),
        (lambda: rendered(1, 2, "*", "simplified"), "plain, reverse or detailed"),
        (lambda: rendered(1000, 2, digits=3), "at most 3 digits"),
        (lambda: rendered(1, 2, form="detailed", digits=3), "not padded"),
        (lambda: rendered(-1, 2), "operands >= 0"),
        (lambda: balanced_additions(9_000, numpy_rng(0, "pairs"), digits=2), "at most what there is"),
        (lambda: balanced_additions(50, numpy_rng(0, "pairs")), "at least 100 pairs"),
        (lambda: task("arithmetic", form="detailed", padded=True), "plain or reverse"),
    ],
)
def test_what_cannot_be_written_is_told(call, told):
    with pytest.raises(BadInput, match=told):
        call()
