"""RISE: its rows against the authors' own and by hand, the loop on toys, both ways of answering, budgets, and what is refused."""

import itertools
import json
import math
import shutil
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from rollout_toys import END, Copy, Letters, PlainGenerator, tiny

from etude.engine.ledger import Ledger
from etude.engine.protocols import Problem, Sampling
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.learn.finetune import exponential_weights
from etude.learn.rows import CompletionSource
from etude.loop.loop import run_loop
from etude.papers.improvement.rise import (
    STUDY,
    Answers,
    Attempt,
    Pair,
    Protocol,
    Retry,
    Rise,
    RiseConfig,
    arms,
    converted,
    in_parallel,
    majority,
    over_turns,
    state_of,
    swapped,
    text,
)  # fmt: skip

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rise.json").read_text())
TINY = STUDY.scales["smoke"].settings
LETTERS = Letters()
SAMPLING = Sampling(max_tokens=2, stop_tokens=(END,))
CONFIG = RiseConfig(questions=6, batch_questions=3, corrections=9, best_of=4, updates=3, rows=4, lr=1e-2)


def key(response):
    return response if response.isdigit() else None


PROTOCOL = Protocol(Copy(), lambda problem: f"!{problem.prompt}", key)
PROBLEMS = [Copy().problem(0, i, 1) for i in range(12)]


def attempt(name, reward, said=(0,)):
    return Attempt([ord(c) for c in name], name, reward, said)


def rise(config=CONFIG, **more):
    return Rise(tiny(context=32), PROBLEMS, PROTOCOL, LETTERS, SAMPLING, context=32, config=config, seed=3, **more)


def run(name, settings=TINY, seed=5, folder=None):
    return STUDY.arms[name].run(Job(study="rise", arm=name, scale="smoke", seed=seed, settings=settings, folder=folder))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


pytestmark = pytest.mark.usefixtures("own_cache")


# --- rows -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_rows_are_those_of_the_authors_code(case):
    said = [[ord(c) for c in f"O{i}"] for i in range(len(case["actions"]))]
    trajectory = [attempt(a, r, s) for a, r, s in zip(case["actions"], case["rewards"], said, strict=True)]
    pairs = converted([7], trajectory, case["criterion"])
    assert len(pairs) == len(case["rows"])
    for pair, row in zip(pairs, case["rows"], strict=True):
        talk = [[ord(c) for c in (t if i % 2 else t.strip())] for i, t in enumerate(row["talk"])]
        ours = "".join(map(chr, (*pair.state[1:], *pair.answer))).replace(" ", "")
        assert ours == "".join(chr(c) for turn in talk for c in turn)
        assert pair.reward == row["reward"]
        assert all(loss == 0 for loss in row["losses"])
        assert exponential_weights(np.array([pair.reward]), 0.4)[0] == pytest.approx(row["weight"])


def test_weights_by_hand():
    assert exponential_weights(np.array([-1.0, 0.0, 1.0]), 0.4) == pytest.approx([0.0820850, 1.0, 12.1824940])


def test_a_state_is_the_question_and_the_last_interactions():
    before = [attempt("a", 0, [1]), attempt("b", 0, [2]), attempt("c", 0, [3])]
    assert state_of([9], before) == (9, 97, 1, 98, 2, 99, 3)
    assert state_of([9], before, 3) == (9, 98, 2, 99, 3)
    assert state_of([9], before, 2) == (9, 99, 3)
    assert state_of([9], before, 1) == (9,)
    assert state_of([9], before, 8) == state_of([9], before)


def test_criteria_by_hand():
    trajectory = [attempt("a", 0.0), attempt("b", -1.0), attempt("c", 0.0), attempt("d", 1.0), attempt("e", 0.0)]
    kept = {c: "".join(chr(p.answer[0]) for p in converted([7], trajectory, c)) for c in ("all", "better", "best", "success")}
    assert kept == {"all": "abcd", "better": "acd", "best": "acd", "success": "d"}
    assert [p.past for p in converted([7], trajectory)] == [0, 1, 2, 3]


def test_no_loss_on_anything_but_the_last_answer():
    pairs = converted([7, 8], [attempt("a", 0.0, [1, 2]), attempt("bc", 1.0)])
    source = CompletionSource([(p.state, p.answer) for p in pairs], context=16)
    batch = source.get(np.arange(2))
    for row, pair in enumerate(pairs):
        targets = batch["tokens"][row, 1:][batch["loss_mask"][row]]
        assert targets.tolist() == list(pair.answer)


def test_histories_are_swapped_for_those_of_another_question():
    pairs = [Pair((1, 10, 5), (20,), 1.0, 1), Pair((1,), (21,), 0.0, 0), Pair((1, 11, 5), (22,), 0.0, 1), Pair((2, 12, 6), (23,), 1.0, 1)]
    histories = [(1, 10), (), (1, 11), (2, 12)]
    out = swapped(pairs, histories, [1, 1, 1, 2])
    assert [p.state for p in out] == [(2, 12, 5), (1,), (2, 12, 5), (1, 10, 6)]  # what is said last asks the pair's own question
    assert [(p.answer, p.reward, p.past) for p in out] == [(p.answer, p.reward, p.past) for p in pairs]
    assert swapped(pairs[:3], histories[:3], [1, 1, 1]) == pairs[:3]


# --- the protocol and answering -----------------------------------------------------------------------------------------
def test_rewards_and_what_is_said():
    problem = Problem("p", "7?", "7", 1)
    assert [PROTOCOL.reward(problem, t) for t in ("7", "8", "=", "")] == [1.0, 0.0, -1.0, -1.0]
    for stop in (True, False):
        environment = Retry(PROTOCOL, stop=stop)
        assert environment.reset(problem) == "7?"
        wrong, right = environment.step("8"), environment.step("7")
        assert (wrong.text, wrong.reward, wrong.terminated) == ("!7?", 0.0, False)
        # Without an oracle a right answer is called incorrect like any other.
        assert (right.text, right.reward, right.terminated) == (("", 1.0, True) if stop else ("!7?", 1.0, False))


def test_votes():
    assert majority(["a", "b", "b", None]) == 1
    assert majority(["a", "b"]) == 0  # level: the earliest
    assert majority([None, "b", "a", "a", "b"]) == 1
    assert majority([None, None]) is None


def test_scores_of_answers_by_hand():
    right = np.array([[[False, True, False], [False, False, False]]])
    answers = Answers(right, [[["a", "b", "a"], [None, None, None]]], Ledger())
    assert (answers.any_right(), answers.voted(), answers.accuracy(1)) == (0.5, 0.0, 0.5)
    assert answers.repeats() == 0.0
    assert Answers(right, [[["a", "b", "b"], ["c", "c", "d"]]], Ledger()).voted() == 0.5
    assert Answers(right, [[["a", "b", "b"], ["c", "c", "d"]]], Ledger()).repeats() == pytest.approx(1 / 3)
    flat = right.reshape(-1)
    for num in (1, 2, 6):
        brute = np.mean([flat[list(chosen)].any() for chosen in itertools.combinations(range(6), num)])
        assert answers.within(num) == pytest.approx(brute)
    with pytest.raises(BadInput, match="num: found 7, expected 1 to the 6 answers of a question"):
        answers.within(7)


@pytest.mark.parametrize("window", [1, 2])
def test_turns_read_the_window_and_stop_for_nobody(window):
    model = tiny(context=32)
    got = over_turns(model, PROBLEMS[:3], PROTOCOL, LETTERS, SAMPLING, context=32, turns=4, window=window, samples=2, seed=1)
    assert got.right.shape == (3, 2, 4)
    assert {len(group) for row in got.keys for group in row} == {4}
    said = got.ledger.total("generated_tokens")
    read = got.ledger.total("prompt_tokens")
    first = 3 * len("7?")
    # Three later turns of six episodes: the question, and under a window of two the answer before with what was said to it.
    later = 18 * len("7?") + (18 * len("!7?") if window == 2 else 0)
    extra = read - first - later
    assert extra == 0 if window == 1 else 0 < extra < said
    parallel = in_parallel(model, PROBLEMS[:3], PROTOCOL, LETTERS, SAMPLING, num=4, groups=2, seed=1)
    assert parallel.right.shape == (3, 2, 4)
    assert parallel.ledger.total("prompt_tokens") == 6 * len("7?")
    if window == 2:
        assert got.flops > parallel.flops


def test_turns_that_do_not_fit_are_refused():
    with pytest.raises(BadInput, match="found room for 1 turns, expected a context of 4 turns"):
        over_turns(tiny(), PROBLEMS[:1], PROTOCOL, LETTERS, SAMPLING, context=5, turns=4, window=2, samples=1, seed=1)


# --- the loop ---------------------------------------------------------------------------------------------------------
def test_each_iteration_corrects_its_own_failures_over_longer_histories(tmp_path):
    steps = rise()
    run_loop(steps, steps.start(), 2, tmp_path)
    longest = []
    for number in (1, 2):
        folder = tmp_path / f"round-{number:03d}"
        rows = {(tuple(r["state"]), tuple(r["answer"])): r["reward"] for r in lines(folder / "data.jsonl")}
        expected = {}
        for line in lines(folder / "candidates.jsonl"):
            problem = PROBLEMS[line["problem"]]
            tried = line["attempts"]
            assert len(tried) <= number
            values = [PROTOCOL.reward(problem, a["text"]) for a in tried]
            assert all(v != 1 for v in values[:-1])  # an episode ends at success
            assert [c["after"] for c in line["corrections"]] == [t + 1 for t, v in enumerate(values) if v != 1]
            for correction in line["corrections"]:
                best = max(correction["answers"], key=lambda a: PROTOCOL.reward(problem, a["text"]))
                state = problem.prompt
                for a in tried[: correction["after"]]:
                    state += LETTERS.decode(a["tokens"]) + f"!{problem.prompt}"
                if best["text"] and best["text"] not in [a["text"] for a in tried[: correction["after"]]]:
                    expected[state, LETTERS.decode(best["tokens"])] = PROTOCOL.reward(problem, best["text"])
        told = {(LETTERS.decode(s), LETTERS.decode(a)): r for (s, a), r in rows.items()}
        distinct = {k: v for k, v in expected.items() if k in told}
        assert len(distinct) >= 0.5 * len(expected) > 0  # the others repeat an attempt in mid-history
        assert all(told[k] == v for k, v in distinct.items())
        longest.append(max(c["after"] for line in lines(folder / "candidates.jsonl") for c in line["corrections"]))
    assert longest == [1, 2]


def test_without_a_history_it_is_rejection_sampling(tmp_path):
    steps = rise(replace(CONFIG, window=1, criterion="success", best_of=64))
    run_loop(steps, steps.start(), 2, tmp_path)
    for number in (1, 2):
        rows = lines(tmp_path / f"round-{number:03d}" / "data.jsonl")
        assert rows
        for row in rows:
            state, answer = LETTERS.decode(row["state"]), LETTERS.decode(row["answer"])
            assert (len(state), state[1]) == (2, "?")
            assert answer.rstrip(".") == state[0]
            assert row["reward"] == 1.0


def test_a_killed_loop_goes_on_to_the_same_weights(tmp_path):
    steps = rise()
    whole, _ = run_loop(steps, steps.start(), 2, tmp_path / "whole")

    class Dies(Rise):
        def judge(self, number, state, candidates):
            for done, row in enumerate(super().judge(number, state, candidates)):
                if (number, done) == (2, 3):
                    raise KeyboardInterrupt
                yield row

    broken = Dies(tiny(context=32), PROBLEMS, PROTOCOL, LETTERS, SAMPLING, context=32, config=CONFIG, seed=3)
    with pytest.raises(KeyboardInterrupt):
        run_loop(broken, broken.start(), 2, tmp_path / "cut")
    again, _ = run_loop(steps, steps.start(), 2, tmp_path / "cut")
    assert all(torch.equal(again["model"][k], whole["model"][k]) for k in whole["model"])
    for row in (*whole["ledger"].values(), *again["ledger"].values()):
        row.pop("seconds")
    assert again["ledger"] == whole["ledger"]


def test_a_teacher_corrects(tmp_path):
    class Teacher(PlainGenerator):
        def complete(self, prompts, sampling, *, n=1, seed=0, ids=None):
            groups = super().complete(prompts, sampling, n=n, seed=seed, ids=ids)
            answers = [LETTERS.encode(LETTERS.decode(p)[-2] + ".") for p in prompts]
            return [
                [replace(c, tokens=a, text=LETTERS.decode(a[:-1]), finish="stop") for c in g] for g, a in zip(groups, answers, strict=True)
            ]

    steps = rise(replace(CONFIG, best_of=1), teacher=Teacher(tiny(context=32)))
    _, (report,) = run_loop(steps, steps.start(), 1, tmp_path)
    assert report["corrected"] == 1.0
    own = rise(replace(CONFIG, best_of=1))
    _, (alone,) = run_loop(own, own.start(), 1, tmp_path / "own")
    assert alone["corrected"] < 1.0


def test_equally_many_samples_whatever_fails(tmp_path):
    drawn = []
    for window in (None, 1):
        steps = rise(replace(CONFIG, corrections=2, window=window))
        state, reports = run_loop(steps, steps.start(), 1, tmp_path / str(window))
        assert reports[0]["used"] < 1
        drawn.append(state["ledger"]["generate"]["samples"])
    assert drawn == [6 + 2 * 2 * 4] * 2


def test_it_learns_to_answer_again(tmp_path):
    """A model that repeats itself for ever learns from its corrections to say something else."""
    config = replace(CONFIG, questions=12, batch_questions=12, corrections=24, best_of=16, updates=60, rows=16, lr=1e-2)
    steps = rise(config)
    state, _ = run_loop(steps, steps.start(), 1, tmp_path)
    turns = [
        over_turns(m, PROBLEMS, PROTOCOL, LETTERS, SAMPLING, context=32, turns=3, window=2, samples=4, seed=2).any_right()
        for m in (tiny(context=32), steps.model_of(state))
    ]
    assert turns[1] > turns[0] + 0.1


# --- bad input --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda: RiseConfig(tau=0.0), "rise.tau: found 0.0, expected a number > 0"),
        (lambda: RiseConfig(window=0), "rise.window: found 0, expected a whole number >= 1, or none"),
        (lambda: RiseConfig(criterion="beter"), "rise.criterion: found 'beter', expected .*did you mean 'better'"),
        (lambda: RiseConfig(history="swaped"), "rise.history: found 'swaped', expected .*did you mean 'swapped'"),
        (lambda: RiseConfig(updates=0), "rise.updates: found 0, expected a whole number >= 1"),
        (lambda: converted([1], [attempt("a", 1.0)], "most"), "criterion: found 'most'"),
        (lambda: converted([1], [attempt("a", 1.0)], window=0), "window: found 0"),
        (
            lambda: converted([1], [attempt("a", 0.0), attempt("b", None)]),
            "episode, attempt 2: reward: found None, expected a finite",
        ),
        (lambda: converted([1], [attempt("a", math.nan)]), "episode, attempt 1: reward: found nan"),
        (lambda: rise(replace(CONFIG, questions=13)), "problems: found 12, expected at least the 13 of an iteration"),
        (lambda: replace(TINY, window=0), "settings: found 3 turns, window 0"),
    ],
)
def test_refused(what, message):
    with pytest.raises(BadInput, match=message):
        what()


def test_nothing_to_learn_from_is_said(tmp_path):
    def never(problem):
        return f"!{problem.prompt}"

    class Hard(Copy):
        def verify(self, problem, response):
            return 0.0

    steps = Rise(
        tiny(), PROBLEMS, Protocol(Hard(), never, key), LETTERS, SAMPLING, context=32, config=replace(CONFIG, criterion="success"), seed=1
    )
    with pytest.raises(BadInput, match="iteration 1: found no rows to learn from"):
        run_loop(steps, steps.start(), 1, tmp_path)


# --- the testbed and the study ------------------------------------------------------------------------------------------
def test_the_base_is_never_asked_twice():
    settings = replace(STUDY.scales["cpu"].settings, demonstrations=300)
    lengths = set()
    for prompt, answer in text.demonstrations(settings, 7):
        asked = [line.lstrip("ox").split(":")[0] for line in prompt.split("\n")]
        assert len(set(asked)) == len(asked)
        lengths.add(len(asked))
        *talk, last = prompt.split("\n")
        for line, after in zip(talk, [*talk, last][1:], strict=True):
            numbers, answered = line.lstrip("ox").split(":")
            digits, target = numbers.split("=")
            right = text.task().right({**_data(digits, target)}, answered)
            assert after[0] == ("o" if right else "x")
        assert text.task().right(_data(*asked[-1].split("=")), answer)
        assert text.part_of(f"{asked[-1]}:") == "demonstrations"
        assert len(prompt) + len(answer) <= settings.context
    assert lengths == {1, 2, 3}


def _data(digits, target):
    return {"numbers": [int(d) for d in digits], "target": int(target), "each": "exactly", "operations": "+-*/"}


def test_no_question_of_the_test_is_learned():
    settings = STUDY.scales["cpu"].settings
    parts = {part: {p.prompt for p in islice(text.problems(settings, 3, part), 300)} for part in ("demonstrations", "rollouts", "test")}
    assert not parts["demonstrations"] & parts["rollouts"] | parts["rollouts"] & parts["test"] | parts["demonstrations"] & parts["test"]
    with pytest.raises(BadInput, match="questions: found '1=1:' of the test"):
        arms.check_disjoint({"1=1:", "b"}, {"1=1:"})
    test = text.distinct(settings, 3, "test", 50)
    assert len({p.prompt for p in test}) == 50
    with pytest.raises(BadInput, match="questions of the test: found 400 asked for, expected at most the 2"):
        text.distinct(replace(settings, levels=(3,)), 3, "test", 400)
    assert all(text.protocol().reward(p, p.answer) == 1 for p in test)
    assert [text.protocol().reward(test[0], t) for t in ("1+1", "1+", "")] == [0.0, -1.0, -1.0]


def test_three_interactions_fit_the_context():
    settings = STUDY.scales["cpu"].settings
    question, answer = len("9999=99:"), settings.max_tokens
    assert question + 3 * answer + 2 * (1 + question) <= settings.context + 1


def test_arms_spend_alike():
    done = {name: run(name) for name in STUDY.arms}
    for name in ("single turn", "RISE", "swapped"):
        assert done[name].ledger["train"]["steps"] == STUDY.arms[name].planned(TINY)["train.steps"]
        assert done[name].parameters == done["base"].parameters
    assert done["RISE"].ledger["base:countdown in conversations"]["steps"] == TINY.base_updates
    assert done["RISE"].metrics["five answers, oracle"] == done["RISE"].metrics["p1@t5"]
    assert done["single turn"].metrics["five answers, oracle"] == done["single turn"].metrics["p5@t1"]
    x, y = done["RISE"].curves["right so far / turn"]
    assert x == [1.0, 2.0, 3.0]
    assert y == sorted(y)


def test_a_run_killed_in_its_second_iteration_goes_on(tmp_path):
    whole = run("RISE")
    run("RISE", folder=tmp_path)
    assert run("RISE", folder=tmp_path).metrics == whole.metrics  # killed after its last iteration
    (last,) = (tmp_path / "loop" / "rounds").glob("step-*2")
    shutil.rmtree(last)
    assert run("RISE", folder=tmp_path).metrics == whole.metrics


def test_the_study_is_whole():
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    paper = STUDY.scales["paper"]
    assert set(paper.sources) == {f.name for f in fields(paper.settings)}
    build = STUDY.build_paper_model
    assert build is not None
    with torch.device("meta"):
        count = sum(p.numel() for p in build(paper.settings).parameters())
    assert count == pytest.approx(STUDY.paper_parameters["Llama-2-7B"][0], rel=0.01)
