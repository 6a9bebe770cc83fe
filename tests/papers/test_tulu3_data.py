"""Tulu 3's data: preference pairs, questions and their split, verifiers, leaks."""

import math
from dataclasses import replace

import numpy as np
import pytest
from rollout_toys import END, Letters

from etude.engine.protocols import Completion, Sampling
from etude.engine.streams import numpy_rng
from etude.errors import BadInput
from etude.papers.improvement.tulu3 import STUDY, arms, best_and_worse, leaks, preferences, tasks

TINY = STUDY.scales["smoke"].settings
SAMPLING = Sampling(max_tokens=2, stop_tokens=(END,))


# --- preferences ------------------------------------------------------------------------------------------------------
def test_the_best_stands_against_a_worse_one():
    rng = numpy_rng(0, "x")
    drawn = [best_and_worse([2, 5, 1, 5], rng) for _ in range(60)]
    assert {chosen for chosen, _ in drawn} == {1}
    assert {rejected for _, rejected in drawn} == {0, 2}
    assert best_and_worse([3, 3], rng) is None
    with pytest.raises(BadInput, match="marks"):
        best_and_worse([1, math.nan], rng)
    with pytest.raises(BadInput, match="marks"):
        best_and_worse([], rng)


class Said:
    """Says fixed answers, by prompt."""

    def __init__(self, *answers):
        self.answers = answers

    def complete(self, prompts, sampling, *, n, seed, ids=None):
        return [[Completion(np.array([*Letters().encode(a), END]), a, np.zeros(2), "stop") for a in self.answers[:n]] for _ in prompts]


def test_pairs_are_partly_the_policys_own():
    prompts = [Letters().encode("7?"), Letters().encode("8?")]
    sources = [(Said("7", "1"), SAMPLING, 2), (Said("1", "2"), SAMPLING, 2)]
    made = preferences(sources, prompts, lambda place, c: float(c.text == "7"), seed=0)
    assert [Letters().decode(chosen[:-1]) for _, chosen, _ in made.rows] == ["7", "7"]
    assert all(Letters().decode(rejected[:-1]) in "12" for _, _, rejected in made.rows)
    own = sum(Letters().decode(rejected[:-1]) == "1" for _, _, rejected in made.rows)  # "1" was said by both: the policy's
    assert made.on_policy == (2 + own) / 4
    first = preferences(sources, prompts, lambda place, c: float(place == 1 and c.text == "2"), seed=0)
    assert [prompt.tolist() for prompt, _, _ in first.rows] == [prompts[1].tolist()]  # the other had equal marks
    with pytest.raises(BadInput, match="2 prompts without two answers of different marks"):
        preferences(sources, prompts, lambda place, c: 1.0, seed=0)
    with pytest.raises(BadInput, match="sources"):
        preferences([], prompts, lambda place, c: 1.0, seed=0)


# --- the testbed ------------------------------------------------------------------------------------------------------
def test_nothing_of_the_evaluations_is_asked_in_training():
    tests = [p for which in tasks.EVALUATIONS for items in tasks.evaluation(which, 3, 20).values() for p in items]
    asked = {tasks.content(p) for p in tests}
    assert len(asked) > 120
    for stream in ("base", "demonstrations", "pairs"):
        assert asked.isdisjoint(tasks.content(p) for _, p in tasks.mixed(3, stream, 400, unseen_one_in=4))
    rl = arms.Bench.pool(type("Job", (), {"s": replace(TINY, rl_prompts=200), "job": type("J", (), {"seed": 3})})())
    assert asked.isdisjoint(tasks.content(rl[i]) for i in range(len(rl)))
    swapped = tests[0].__class__("x", "all 9 2 3 = 4: ", "", 3, {"numbers": [9, 2, 3], "target": 4})
    assert tasks.content(swapped) == tasks.content(replace(swapped, prompt="", data={"numbers": [3, 9, 2], "target": 4}))


def test_verifiers_take_no_part_for_the_whole():
    for name, family in tasks.families().items():
        problem = family.task.problem(0, 1, family.level)
        right = problem.answer
        assert tasks.verify(name, problem, right) == 1
        for wrong in (f"{right} {right}", f"it is {right}", f"{right}\n{right}1", "", right + "0"):
            assert tasks.verify(name, problem, wrong) == 0


def test_planted_leaks_are_found_and_the_scraped_set_is_dropped():
    settings = replace(TINY, num_test=100, sft_rows=400)
    evaluations = {which: tasks.evaluation(which, 3, 100) for which in tasks.EVALUATIONS}
    data = leaks.demonstrations(settings, 3, evaluations)
    told = data.told()
    assert (told["leaks found"], told["rows lost"]) == (1.0, 0.0)
    assert 70 < told["leaks planted"] <= 8 * (1 + 10)  # a question drawn twice is one
    assert data.cleaned.dropped == ["scraped"]
    assert len(data.rows) == 400
    prompts = [p.prompt for families in evaluations.values() for items in families.values() for p in items]
    assert not any(prompt in row for prompt in prompts for row, _ in data.rows if len(row) >= len(prompt) and row.endswith(prompt))


def test_demonstrations_are_wrong_as_often_as_asked():
    items = tasks.mixed(1, "demonstrations", 800)
    rows = tasks.demonstrations(items, 0.25, numpy_rng(1, "wrong"))
    wrong = np.mean([tasks.verify(name, p, answer) == 0 for (name, p), (_, answer) in zip(items, rows, strict=True)])
    assert wrong == pytest.approx(0.25, abs=0.05)
    assert all(tasks.verify(name, p, p.answer) == 1 for name, p in items)
