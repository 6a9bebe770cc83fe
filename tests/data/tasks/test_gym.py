import re
import sys
from itertools import pairwise

import pytest

from etude.data.tasks import task
from etude.errors import BadInput

pytest.importorskip("reasoning_gym", reason="the extra 'tasks' is not installed", exc_type=ImportError)
from etude.data.tasks.gym import FORMULAS, FUNCTIONS, LISTS, GymTask, _harmless, names

EIGHT = (
    "countdown", "sudoku", "arc_1d", "geometry", "color_cube_rotation", "list_functions", "zebra_puzzles", "self_reference",
)  # fmt: skip


@pytest.mark.parametrize("name", EIGHT)
def test_the_eight_tasks_of_the_gym(name):
    found = GymTask(name)
    first, second = found.problem(0, 0, 0), found.problem(1, 0, 0)
    assert first == found.problem(0, 0, 0)
    assert first.data["seed"] != second.data["seed"]
    right = first.answer if name != "countdown" else first.data["metadata"]["expression"]
    assert found.verify(first, right) == 1.0
    assert found.verify(first, f" {right}\n") == 1.0
    for wrong in (
        "",
        " ",
        f"The answer is {right}, I think",
        f"{right} or not",
        "x",
        right + right,
        "\x00",
        "-0",
        "٣",
        f"<think>{right}</think>",
    ):
        assert found.verify(first, wrong) == 0.0, wrong


def test_seeds_lie_far_apart():
    found = task("reasoning-gym/chain_sum")
    seen = [found.problem(seed, i, 0) for seed in (0, 1) for i in range(30)]
    assert len({p.data["seed"] for p in seen}) == 60
    assert len({p.prompt for p in seen}) > 55
    seeds = sorted(p.data["seed"] for p in seen)
    assert min(b - a for a, b in pairwise(seeds)) > 10**9


def test_difficulty_is_the_curriculum_and_settings_the_configuration():
    found = task("reasoning-gym/chain_sum")
    assert len(found.difficulties) > 1
    easy, hard = found.problem(0, 0, 1), found.problem(0, 0, found.difficulties[-1])
    assert len(easy.prompt) < len(hard.prompt)
    assert found.verify(hard, hard.answer) == 1.0
    assert task("reasoning-gym/chain_sum", min_terms=2, max_terms=2).problem(0, 0, 0).prompt.count("+") <= 1
    with pytest.raises(BadInput, match="difficulty: found 99"):
        found.problem(0, 0, 99)
    with pytest.raises(BadInput, match="setting: found 'min_term', .*did you mean 'min_terms'"):
        task("reasoning-gym/chain_sum", min_term=2)
    with pytest.raises(BadInput, match="settings .* expected what the package allows"):
        task("reasoning-gym/chain_sum", min_terms=9, max_terms=2)
    with pytest.raises(BadInput, match="did you mean 'zebra_puzzles'"):
        task("reasoning-gym/zebra_puzzle")
    assert len(names()) >= 100


def test_responses_are_never_evaluated(tmp_path):
    """Scorers of the package that evaluate Python do not get to see it."""
    file = tmp_path / "x"
    hostile = (
        f"__import__('pathlib').Path({str(file)!r}).touch()",
        f"[open({str(file)!r}, 'w')]",
        "exit()",
        "().__class__",
        "9**9**9",
        "S('1')",
    )
    for name in (*LISTS, *FORMULAS, "countdown", "puzzle24"):
        found = GymTask(name)
        p = found.problem(0, 0, 0)
        for text in hostile:
            assert found.verify(p, text) == 0.0
        if name not in ("countdown", "puzzle24"):
            assert _harmless(name, p.answer.strip()), p.answer
            assert found.verify(p, p.answer) == 1.0
    assert not file.exists()


TOWER = "(((9**99+0)**99+0)**99+0)**99"


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_a_short_formula_that_would_grow_without_end_is_not_computed(name):
    found = GymTask(name)
    p = found.problem(0, 0, 0)
    for text in (
        TOWER, f"({TOWER}+0)**99", f"x + {TOWER}", "2**(2+99*99*99*99)", "2**(9*99*99*99*99)", "(a+b+c+d+f+g)**99", "99**99*" * 9 + "1",
        "(x+1)*" * 12 + "x", "exp(exp(exp(99)))", "x**y", "x" + "**9" * 9, "(" * 900, "9" + "**x" * 200, "1e9**9**9", "-" * 999 + "x",
    ):  # fmt: skip
        assert found.verify(p, text) == 0.0
        assert not _harmless(name, text), text
    for i in range(12):
        answer = found.problem(1, i, 0).answer.strip()
        others = set(re.findall("[A-Za-z]{2,}", answer)) - FUNCTIONS  # taken as they stand, never computed
        assert _harmless(name, answer) == (not others), answer
    for text in ("(x+1)**3/2 - 4*x**(1/2) + C", "-x**-2*sin(2*x)", "x**0.5*exp(-x)/3"):
        assert _harmless(name, text), text


def test_without_the_package_the_extra_is_named(monkeypatch):
    from etude.data.tasks import gym

    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    monkeypatch.setattr(gym, "_package", gym._package.__wrapped__)
    with pytest.raises(BadInput, match=r"pip install 'etude\[tasks\]'"):
        task("reasoning-gym/countdown")


@pytest.mark.parametrize(("name", "around"), [("sokoban", "{} or UDLR"), ("sokoban", "not {}"), ("survo", "not {}"), ("survo", "{} or so")])
def test_words_around_an_answer_are_none(name, around):
    task = GymTask(name)
    problem = task.problem(5, 0, 0)
    assert task.verify(problem, problem.answer) == 1
    assert task.verify(problem, around.format(problem.answer)) == 0
