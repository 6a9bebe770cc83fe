import pytest

from etude.data.tasks.traces import NoTrace, check_trace, count_backtracks, traces_of
from etude.engine.protocols import Problem
from etude.errors import BadInput

pytest.importorskip("reasoning_gym", reason="the extra 'tasks' is not installed", exc_type=ImportError)
from etude.data.tasks.gym_search import RELATIONS, SEARCHED, SearchedZebra, _holds, searched

SMALLER = {"countdown": {"min_numbers": 3, "max_numbers": 4}, "sudoku": {}, "zebra_puzzles": {"num_people": 3}}


@pytest.mark.parametrize("name", sorted(SEARCHED))
def test_traces_of_the_packages_own_problems_replay_and_their_answers_pass_its_scorer(name):
    found, made = searched(name, **SMALLER[name]), 0
    for i in range(4):
        p = found.problem(1, i, 0)
        try:
            traces = traces_of(found, p, (0, 1, 3))
        except NoTrace:
            continue
        made += 1
        for k, trace in zip((0, 1, 3), traces, strict=True):
            assert check_trace(found, p, trace.text) == k == count_backtracks(trace.text)
            assert found.verify(p, trace.text) == 1.0
            assert found.verify(p, trace.text.rsplit("\n", 1)[1]) == 1.0
            assert found.verify(p, trace.text + "\nor so") == 0.0
            assert found.gym.verify(p, found.unfolded(trace.text.rsplit("> ", 1)[1])) == 1.0
    assert made >= 2


def test_the_trees_find_the_packages_solution_and_no_other():
    for name in ("sudoku", "zebra_puzzles"):
        found = searched(name, **SMALLER[name])
        p = found.problem(2, 0, 0)
        ends, stack = [], [found.root(p.data)]
        while stack:
            state = stack.pop()
            if found.solved(p.data, state):
                ends.append(found.answer(p.data, state))
            elif not found.failed(p.data, state):
                stack += [after for _, after in found.moves(p.data, state)]
        assert len(ends) == 1
        assert found.unfolded(ends[0]) == p.answer


def test_relations_by_hand():
    true = {
        "left": (1, 2), "before": (1, 3), "after": (3, 1), "beside": (2, 1), "two apart": (1, 3), "three apart": (4, 1), "not at": (1, 2),
        "at": (2, 2), "same": (3, 3),
    }  # fmt: skip
    false = {
        "left": (2, 1), "before": (2, 2), "after": (1, 1), "beside": (1, 3), "two apart": (1, 2), "three apart": (1, 3), "not at": (2, 2),
        "at": (1, 2), "same": (1, 3),
    }  # fmt: skip
    assert set(true) == set(RELATIONS.values())
    for relation in true:
        assert _holds(relation, *true[relation])
        assert not _holds(relation, *false[relation])


def test_what_is_refused():
    with pytest.raises(BadInput, match="task reasoning-gym/arc_1d: found no solver that branches, hence no traces, expected one of"):
        searched("arc_1d")
    with pytest.raises(BadInput, match="did you mean 'zebra_puzzles'"):
        searched("zebra_puzzle")
    with pytest.raises(BadInput, match="found 6 numbers, expected at most 4"):
        searched("countdown", min_numbers=6).problem(0, 0, 0)
    p = searched("zebra_puzzles").problem(0, 0, 0)

    class Other:
        def problem(self, seed, index, difficulty):
            return Problem(p.id, p.prompt.replace("\n1. ", "\n1. Perhaps "), p.answer, 0, {})

    found = SearchedZebra()
    found.gym = Other()
    with pytest.raises(BadInput, match="found 'Perhaps .*expected a clue"):
        found.problem(0, 0, 0)
