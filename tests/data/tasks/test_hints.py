"""LEGO chains and the hints of sorting, against what their prompts say."""

import pytest

from etude.data.tasks import task
from etude.errors import BadInput


@pytest.mark.parametrize("variables", [2, 5, 9])
def test_the_answer_of_a_chain_follows_from_its_clauses(variables):
    family = task("lego", variables=variables)
    seen = set()
    for k in range(40):
        problem = family.problem(0, k, 1 + k % variables)
        told, _, asked = problem.prompt.partition(" . ")
        clauses = {c.split(" = ")[0]: c.split(" = ")[1].split(" ") for c in told.split(" , ")}
        name, steps = asked.removesuffix(" = val "), 0
        flips = 0
        while not clauses[name][1].isdigit():
            flips += clauses[name][0] == "not"
            name, steps = clauses[name][1], steps + 1
        assert steps == problem.difficulty - 1
        assert problem.answer == str((int(clauses[name][1]) + flips) % 2)
        assert len(clauses) == variables
        seen.add(told.split(" = ")[0])
    assert len(seen) > 3


@pytest.mark.parametrize("repeats", [False, True])
def test_hints_against_the_lists_that_they_are_about(repeats):
    for hint in ("sort", "successor", "count", "fill"):
        family = task("sorting-hints", hint=hint, largest=12, repeats=repeats)
        for k in range(60):
            problem = family.problem(1, k, 2 + k % 7)
            word, _, rest = problem.prompt.removesuffix(": ").partition(" ")
            listed, _, asked = rest.partition(" ; ")
            numbers = [int(n) for n in listed.split()]
            assert word == hint
            assert len(numbers) == problem.difficulty
            assert repeats or len(set(numbers)) == len(numbers)
            assert all(1 <= n <= 12 for n in numbers)
            if hint == "sort":
                assert problem.answer == " ".join(map(str, sorted(numbers)))
            elif hint == "successor":
                larger = [n for n in numbers if n > int(asked)]
                assert int(problem.answer) == (min(larger) if larger else int(asked))
                assert larger or len(set(numbers)) == 1
            elif hint == "count":
                assert int(problem.answer) == len([n for n in numbers if n < int(asked)])
            else:
                assert asked.replace("_", problem.answer).split() == [str(n) for n in sorted(numbers)]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: task("lego", variables=1), "from 2 to 26"),
        (lambda: task("sorting-hints", hint="succesor"), "did you mean 'successor'"),
        (lambda: task("sorting-hints", largest=1), ">= 2"),
        (lambda: task("sorting-hints", largest=5).problem(0, 0, 6), "difficulty"),
    ],
)
def test_what_is_no_such_task_is_told(call, told):
    with pytest.raises(BadInput, match=told):
        call()
