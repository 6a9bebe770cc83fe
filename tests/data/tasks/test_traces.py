from itertools import pairwise

import pytest

from etude.data.tasks import task
from etude.data.tasks.answers import answer_of
from etude.data.tasks.countdown import Countdown
from etude.data.tasks.traces import (
    BACK,
    NoTrace,
    check_trace,
    count_backtracks,
    make_trace,
    make_traces,
    padded,
    shuffled,
    traces_of,
    wrong_content,
)
from etude.engine.protocols import Problem
from etude.errors import BadInput

KINDS = [(Countdown(operations="+-*"), 3), (Countdown(operations="+-*"), 4), (task("sudoku-4x4"), 7), (task("zebra"), 3)]


@pytest.mark.parametrize(("found", "level"), KINDS, ids=["countdown-3", "countdown-4", "sudoku", "zebra"])
@pytest.mark.parametrize("k", [0, 1, 3, 5])
def test_traces_have_exactly_k_backtracks_and_every_false_branch_fails(found, level, k):
    made = 0
    for i in range(8):
        p = found.problem(0, i, level)
        try:
            trace = make_trace(found, p, k)
        except NoTrace:
            continue
        made += 1
        assert trace.num_backtracks == k == count_backtracks(trace.text) == check_trace(found, p, trace.text)
        assert found.verify(p, trace.text) == 1.0
        assert trace == make_trace(found, p, k)
    assert made >= (3 if k else 8)


def test_traces_of_one_tree_are_those_made_one_by_one():
    found = Countdown(operations="+-")
    for i in range(12):
        p = found.problem(1, i, 3 + i % 2)
        try:
            together = traces_of(found, p, (0, 1, 3, 5), 7)
        except NoTrace:
            continue
        assert together == [make_trace(found, p, k, 7) for k in (0, 1, 3, 5)]
    with pytest.raises(BadInput, match="num_backtracks: found -2"):
        traces_of(found, p, (0, -2))


def by_hand():
    return Countdown(operations="+*"), Problem(
        "p", "all 2 3 4 = 14: ", "", 3, {"numbers": [2, 3, 4], "target": 14, "each": "exactly", "operations": "+*"}
    )


def test_a_trace_by_hand():
    """2 3 4 -> 14: (3+4)*2 alone, and 2*4+3 = 11, 3*4+2 = 14 too."""
    found, p = by_hand()
    text = "4*3=12\n12*2=24\nno, back to 2 12\n12+2=14\n> 4*3+2"
    assert check_trace(found, p, text) == 1
    for wrong, message in (
        (text.replace("12*2=24", "12*2=25"), "line 2: '12\\*2=25' is no step"),
        (text.replace("back to 2 12", "back to 2 3 4"), "not to the nearest state"),
        ("4*3=12\nno, back to 2 3 4\n4*3=12\n12+2=14\n> 4*3+2", "gives up a state that can be solved"),
        ("4*2=8\nno, back to 2 3 4\n4*3=12\n12+2=14\n> 4*3+2", "returns before all was tried"),
        ("no, back to 2 3 4\n4*3=12\n12+2=14\n> 4*3+2", "gives up a state that can be solved"),
        ("4*3=12\n> 4*3+2", "the last step does not solve"),
        ("4*3=12\n12+2=14\n> 4*3+1", "the answer is not right"),
        ("4*3=12\n12*2=24\nno, back to 2 12\n12*2=24\nno, back to 2 12\n12+2=14\n> 4*3+2", "again"),
    ):
        with pytest.raises(ValueError, match=message):
            check_trace(found, p, wrong)


def test_failures_do_not_leak_the_target():
    found = Countdown(operations="+-*")
    for i in range(10):
        p = found.problem(2, i, 3)
        for k in (1, 2, 3):
            try:
                lines = make_trace(found, p, k).text.split("\n")
            except NoTrace:
                continue
            for before, line in pairwise(lines):
                if line.startswith(BACK):
                    assert not before.endswith(f"={p.data['target']}")


def test_a_number_that_cannot_be_had_is_refused_with_what_can():
    found, p = by_hand()
    with pytest.raises(NoTrace, match=r"no trace with 500 backtracks \(false branches need"):
        make_trace(found, p, 500)
    problems = [found.problem(0, i, 2) for i in range(5)]
    with pytest.raises(BadInput, match="traces of .* with 40 backtracks: found 0 among 5 problems; the last that failed: problem "):
        make_traces(found, problems, 40)
    with pytest.raises(BadInput, match="a trace of .* characters, expected at most 10"):
        make_trace(found, p, 1, longest=10)
    with pytest.raises(BadInput, match="task chains: found no search tree, expected a task that can be searched"):
        make_trace(task("chains"), task("chains").problem(0, 0, 2), 1)
    with pytest.raises(BadInput, match="num_backtracks: found -1"):
        make_trace(found, p, -1)


def test_controls_keep_the_answer_and_lose_what_they_should():
    found = Countdown(operations="+-*")
    problems = [found.problem(0, i, 4) for i in range(40)]
    rows = make_traces(found, problems, 3, num_rows=5)
    assert len(rows) == 5
    texts = [trace.text for _, trace in rows]
    swapped = wrong_content(texts, 0)
    for (p, trace), other in zip(rows, swapped, strict=True):
        plain = make_trace(found, p, 0).text
        long = padded(plain, len(trace.text))
        assert len(plain) <= len(long) <= max(len(trace.text), len(plain))
        assert len(trace.text) - len(long) < 12 or len(plain) > len(trace.text)
        assert count_backtracks(long) == 0
        breaks = plain.count("\n")
        assert padded(plain, breaks + 9, lambda text: text.count("\n")) == "let me see\n" * 9 + plain
        mixed = shuffled(trace.text, 0, p.id)
        assert sorted(mixed.split("\n")) == sorted(trace.text.split("\n"))
        assert mixed != trace.text
        for text in (long, mixed, other):
            assert answer_of(text) == answer_of(trace.text)
            assert found.verify(p, text) == 1.0
        assert other.split("\n")[:-1] != trace.text.split("\n")[:-1]
    with pytest.raises(BadInput, match="at least two"):
        wrong_content(texts[:1], 0)


def test_an_answer_inside_a_failed_branch_does_not_count():
    found, p = by_hand()
    assert found.verify(p, "4*3=12\n> 4*3+2\nno, back to 2 3 4\n4*2=8\n> 4*2+3") == 0.0
    assert found.verify(p, "4*3=12\n> 4*3+2\nno, back to 2 3 4") == 0.0
