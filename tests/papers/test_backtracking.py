"""Backtracking: its traces and controls, what the reward pays, that arms share all but their traces, and what is refused."""

import json
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from etude.data.tasks import task
from etude.data.tasks.answers import answer_of
from etude.data.tasks.countdown import Countdown
from etude.data.tasks.traces import BACK, PADDING, check_trace, count_backtracks, make_trace
from etude.engine.ledger import Ledger
from etude.engine.protocols import Problem
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.papers.improvement.backtracking import (
    EIGHT,
    STUDY,
    Scored,
    Settings,
    Warmup,
    arms,
    problem_task,
    testbed,
    traced_problems,
    traced_task,
    warmup,
    wrong_end,
)
from etude.papers.improvement.backtracking.warmup import SMALL

TINY = STUDY.scales["smoke"].settings
FOUND = Countdown(operations="+-")
KS = (0, 1, 2, 3, 4)
PROBLEMS = [FOUND.problem(3, i, 3 + i % 2) for i in range(40)]
TRACED = traced_problems(FOUND, PROBLEMS, KS, 12, seed=1)


pytestmark = pytest.mark.usefixtures("own_cache")


def job(seed=5, settings=TINY, folder=None):
    return Job(study="backtracking", arm="", scale="smoke", seed=seed, settings=settings, folder=folder)


# --- traces -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("k", [0, 1, 3])
def test_every_row_has_exactly_k_backtracks_and_all_sets_the_same_problems(k):
    rows = warmup(FOUND, TRACED, Warmup(num_backtracks=k), seed=2)
    assert [prompt for prompt, _ in rows] == [t.problem.prompt for t in TRACED]
    for item, (_, text) in zip(TRACED, rows, strict=True):
        assert check_trace(FOUND, item.problem, text) == k == count_backtracks(text)


def test_controls_take_away_what_they_say():
    def rows(content, k=3):
        return [text for _, text in warmup(FOUND, TRACED, Warmup(num_backtracks=k, content=content), 2, testbed.count_tokens)]

    right = rows("right")
    for text, full, item in zip(rows("padded"), right, TRACED, strict=True):
        assert testbed.count_tokens(text) == testbed.count_tokens(full)
        assert text.replace(f"{PADDING}\n", "") == item.traces[0].text
    for text, full in zip(rows("shuffled"), right, strict=True):
        assert text != full
        assert sorted(text.split("\n")) == sorted(full.split("\n"))
    workings = {full.rsplit("\n", 1)[0] for full in right}
    for text, full in zip(rows("swapped"), right, strict=True):
        assert answer_of(text) == answer_of(full)
        assert count_backtracks(text) == 3
        assert text.rsplit("\n", 1)[0] in workings - {full.rsplit("\n", 1)[0]}
    counts = [count_backtracks(text) for text in rows("random", 4)]
    assert len(set(counts)) > 2
    assert max(counts) <= 4
    for text, item in zip(rows("random", 4), TRACED, strict=True):
        check_trace(FOUND, item.problem, text)


def test_a_wrong_end_has_valid_steps_k_backtracks_and_a_wrong_answer():
    texts = [text for _, text in warmup(FOUND, TRACED, Warmup(num_backtracks=3, content="wrong end"), 2)]
    for text, item in zip(texts, TRACED, strict=True):
        assert count_backtracks(text) == 3
        assert answer_of(text) is not None
        assert FOUND.verify(item.problem, text) == 0.0
        whole = item.traces[4].text
        assert whole.startswith(text.rsplit("\n", 1)[0] + f"\n{BACK}")  # what follows in the whole trace is the return
        value = whole[len(text.rsplit("\n", 1)[0]) - 20 : len(text.rsplit("\n", 1)[0])].rsplit("=", 1)[1]
        numbers = Problem("x", "", "", 3, {**item.problem.data, "target": int(value)})
        assert FOUND.verify(numbers, text) == 1.0  # the answer is what the last dead end came to, from all numbers


def test_a_wrong_end_by_hand():
    found = Countdown(operations="+*")
    p = Problem("p", "all 2 3 4 = 14: ", "", 3, {"numbers": [2, 3, 4], "target": 14, "each": "exactly", "operations": "+*"})
    trace = make_trace(found, p, 1)
    assert trace.text.count(BACK) == 1
    text = wrong_end(found, p, trace)
    assert BACK not in text
    assert found.verify(p, text) == 0.0
    with pytest.raises(BadInput, match="problem p: found a trace without backtracks"):
        wrong_end(found, p, make_trace(found, p, 0))
    sudoku = task("sudoku-4x4")
    puzzle = next(t for t in traced_problems(sudoku, [sudoku.problem(0, i, 7) for i in range(20)], (1,), 1, 0))
    with pytest.raises(BadInput, match="task sudoku-4x4: found dead ends that are no answers, expected countdown"):
        wrong_end(sudoku, puzzle.problem, puzzle.traces[1])


@pytest.mark.parametrize("name", sorted(SMALL))
def test_countdown_sudoku_and_zebra_puzzles_have_traces(name):
    found = traced_task(name, small=True)
    level = found.difficulties[len(found.difficulties) // 2]
    traced = traced_problems(found, [found.problem(0, i, level) for i in range(40)], (0, 1, 2), 3, seed=0)
    for k in (0, 1, 2):
        for item, (_, text) in zip(traced, warmup(found, traced, Warmup(num_backtracks=k), 0), strict=True):
            assert check_trace(found, item.problem, text) == k


def test_what_is_refused():
    for name in sorted(set(EIGHT) - set(SMALL)):
        with pytest.raises(BadInput, match=f"task {name}: found no solver that branches"):
            traced_task(name)
    for ask in (traced_task, problem_task):
        with pytest.raises(BadInput, match="did you mean 'zebra_puzzles'"):
            ask("zebra_puzzle")
    with pytest.raises(BadInput, match="with 0, 400 backtracks: found 0 among 40 problems, expected 5: draw more problems"):
        traced_problems(FOUND, PROBLEMS, (0, 400), 5, 0)
    with pytest.raises(BadInput, match="task chains: found no search tree"):
        traced_problems(task("chains"), [], (0,), 0, 0)
    with pytest.raises(BadInput, match="no trace with 7 backtracks, expected one made by"):
        warmup(FOUND, TRACED, Warmup(num_backtracks=7), 0)
    with pytest.raises(BadInput, match="Warmup.content: found 'pad', .*did you mean 'padded'"):
        Warmup(num_backtracks=1, content="pad")
    with pytest.raises(BadInput, match="settings.levels"):
        replace(TINY, levels=(4, 3))
    with pytest.raises(BadInput, match="settings.numbers"):
        replace(TINY, numbers=(1, 0))
    with pytest.raises(BadInput, match="settings.max_tokens: found 20, expected at least [0-9]+, as the longest trace"):
        arms.run(job(settings=replace(TINY, max_tokens=20)), Warmup(num_backtracks=5))
    with pytest.raises(BadInput, match="settings.format_score: found 1"):
        replace(TINY, format_score=1)


@pytest.mark.parametrize("name", EIGHT)
def test_the_eight_tasks_load_and_verify(name):
    pytest.importorskip("reasoning_gym", reason="the extra 'tasks' is not installed", exc_type=ImportError)
    found = problem_task(name)
    problem = found.problem(0, 0, 0)
    right = problem.data["metadata"]["expression"] if name == "countdown" else problem.answer
    assert found.verify(problem, right) == 1.0
    assert found.verify(problem, f"{right} or so") == 0.0
    if name not in SMALL:
        with pytest.raises(BadInput, match="no search tree"):
            traced_problems(found, [problem], (0,), 1, 0)
        return
    traced = traced_task(name, **({"max_numbers": 4} if name == "countdown" else {}))
    rows = traced_problems(traced, [traced.problem(0, i, 0) for i in range(5)], (0, 1), 2, 0)
    for item, (_, text) in zip(rows, warmup(traced, rows, Warmup(num_backtracks=1), 0), strict=True):
        assert check_trace(traced, item.problem, text) == 1


# --- the testbed ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("returns", [0, 2, 5])
def test_a_walk_is_valid_goes_back_as_often_as_said_and_is_blind_to_the_target(returns):
    for p in PROBLEMS:
        text = testbed.walk(FOUND, p, returns, 1)
        elsewhere = Problem(p.id, p.prompt, p.answer, p.difficulty, {**p.data, "target": p.data["target"] + 1})
        assert testbed.walk(FOUND, elsewhere, returns, 1) == text
        ended = int(text.split("\n")[-2].split("=")[1])
        reached = Problem("x", "", "", p.difficulty, {**p.data, "target": ended})
        assert FOUND.verify(reached, text) == 1.0  # it answers what it came to
        if returns == 0:
            assert len(FOUND.audit(p, text)) == p.difficulty - 1
            assert all(FOUND.audit(p, text))
        assert count_backtracks(text) == returns or (p.difficulty == 3 and count_backtracks(text) < returns)


def test_a_walk_by_hand():
    p = Problem("p", "all 2 3 = 5: ", "", 2, {"numbers": [2, 3], "target": 5, "each": "exactly", "operations": "+-"})
    back = {testbed.walk(FOUND, p, 1, seed) for seed in range(20)}
    assert back == {f"3+2=5\n{BACK}2 3\n3-2=1\n> 3-2", f"3-2=1\n{BACK}2 3\n3+2=5\n> 3+2"}
    assert {testbed.walk(FOUND, p, 9, seed) for seed in range(20)} == back  # two ways are all there are


def test_half_of_the_base_s_rows_have_no_target_and_only_these_go_back():
    rows = testbed.base_rows(replace(TINY, base_rows=80), 3)
    assert len(rows) == 80
    assert sum("=" in prompt for prompt, _ in rows) == 40
    for prompt, text in rows:
        if "=" in prompt:
            assert not count_backtracks(text)
            numbers, target = prompt.removeprefix("all ").removesuffix(": ").split(" = ")
            data = {"numbers": [int(n) for n in numbers.split()], "target": int(target), "each": "exactly", "operations": "+-"}
            assert FOUND.verify(Problem("x", prompt, "", 3, data), text) == 1.0
    assert {count_backtracks(text) for prompt, text in rows if "=" not in prompt} >= {0, 1, 3, 5}


def test_the_reward_pays_right_wrong_and_none():
    p = Problem("p", "all 2 3 = 5: ", "", 2, {"numbers": [2, 3], "target": 5, "each": "exactly", "operations": "+-"})
    scored = Scored(FOUND, 0.1)
    assert scored.reset(p) == p.prompt
    for said, reward in (
        ("> 2+3", 1.0),
        ("2+3=5\n> 3+2", 1.0),
        ("> 3-2", 0.1),
        ("3-2=1", 0.1),
        ("> 2+3\n> 2+3", 0.0),
        ("> 2+3\nmore", 0.0),
    ):
        assert scored.step(said).reward == reward, said


def test_rewards_are_the_authors():
    golden = json.loads((Path(__file__).parents[1] / "golden" / "backtracking.json").read_text())
    for case in golden["cases"]:
        data = {"numbers": case["numbers"], "target": case["target"], "each": "exactly", "operations": "+-*/"}
        scored = Scored(Countdown(), 0.1)
        scored.reset(Problem("p", "all ", "", len(case["numbers"]), data))
        assert scored.step(f"a line of working\n> {case['answer']}").reward == case["reward"], case
    none, two, inside = golden["none, two, inside the working"]
    assert none == scored.step("a line\nanother").reward
    assert two == scored.step("a line\n> 3*4+2\n> 3*4+2").reward
    assert inside == scored.step("> 3*4+2\na line").reward


def test_no_test_problem_is_trained_on_in_any_order():
    def key(p):
        return tuple(sorted(p.data["numbers"])), p.data["target"]

    held = testbed.pool(TINY, 1, "test", 60, test=True)
    test = {key(held[i]) for i in range(len(held))}
    assert [d.name for d in held.parts] == ["3 numbers", "4 numbers"]
    for name in ("traces", "reinforcement", "base"):
        for level in TINY.levels:
            assert not test & {key(p) for p in islice(testbed.problems(TINY, 1, name, level), 300)}


def test_the_longest_trace_fits():
    s = Settings(rows=60)
    for item in testbed.traced(s, 1):
        assert testbed.count_tokens(item.traces[max(s.numbers)].text) < s.max_tokens  # and its end
        assert testbed.count_tokens(item.problem.prompt) + s.max_tokens <= s.context + 1
    assert testbed.TOKENIZER.vocab == s.vocab


def test_kept_traces_are_those_written_anew():
    first, again = testbed.traced(TINY, 4), testbed.traced(TINY, 4)
    assert first == again
    assert len(first) == TINY.rows
    for item in first:
        for k in TINY.numbers:
            assert check_trace(testbed.task_of(TINY), item.problem, item.traces[k].text) == k


# --- arms -------------------------------------------------------------------------------------------------------------
def test_falls():
    assert arms.largest_fall([0.1, 0.3, 0.2, 0.4, 0.15]) == pytest.approx(0.25)
    assert arms.largest_fall([0.0, 0.1, 0.1]) == 0.0


def test_arms_share_base_problems_and_budget_and_resume(tmp_path):
    outcomes = {
        name: STUDY.arms[name].run(job(folder=tmp_path / name)) for name in ("no backtrack", "3 backtracks", "swapped", "cold start")
    }
    problems = {}
    for name, outcome in outcomes.items():
        planned = STUDY.arms[name].planned(TINY)
        assert outcome.ledger["train"]["steps"] == planned["train.steps"]
        assert outcome.ledger["generate"]["samples"] == planned["generate.samples"]
        assert outcome.ledger["base:solves some straight on"] == outcomes["cold start"].ledger["base:solves some straight on"]
        x, y = outcome.curves["success / sampled tokens"]
        assert (x[0], x[-1]) == (0.0, outcome.ledger["generate"]["generated_tokens"])
        assert y[-1] == outcome.metrics["success"]
        log = (tmp_path / name / "parts/reinforcement/rollouts.jsonl").read_text()
        problems[name] = [line.split('"problem": "')[1].split('"')[0] for line in log.splitlines()]
    assert len(set(map(tuple, problems.values()))) == 1
    assert outcomes["cold start"].metrics["trace tokens"] == 0
    assert (
        outcomes["swapped"].metrics["trace tokens"]
        == outcomes["3 backtracks"].metrics["trace tokens"]
        > outcomes["no backtrack"].metrics["trace tokens"]
    )
    again = STUDY.arms["swapped"].run(job(folder=tmp_path / "swapped"))
    assert again.metrics == outcomes["swapped"].metrics


def test_a_cold_start_that_does_not_learn_is_the_base_bit_for_bit():
    base = testbed.base_model(TINY, 5).model
    before = {k: v.clone() for k, v in base.state_dict().items()}
    test = arms.held_out(TINY, 5)
    history = arms.learned(job(settings=replace(TINY, lr=1e-30)), base, test, Ledger())
    again = testbed.base_model(TINY, 5).model
    assert {k: v for k, v in history[0].items() if k.startswith("test/solved")} == {
        f"test/{k}": v for k, v in test(again).items() if k.startswith("solved")
    }
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())


def test_the_study_is_sound():
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    paper = STUDY.scales["paper"]
    changed = {f.name for f in fields(Settings)}
    assert set(paper.sources) == changed
    assert sum(claim.primary for claim in STUDY.claims) == 1
    with torch.device("meta"):
        model = STUDY.build_paper_model(paper.settings)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(STUDY.paper_parameters["Qwen2.5-3B"][0], rel=0.005)
    for settings in (TINY, STUDY.scales["quick"].settings, STUDY.scales["cpu"].settings):
        assert settings.rows % 2 == settings.pool % 2 == settings.num_test % 2 == 0
        used = {how.num_backtracks for arm in STUDY.arms.values() if (how := arm.run.keywords["how"]) is not None}
        assert used <= set(settings.numbers)
