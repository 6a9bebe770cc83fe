"""ReST-MCTS*: inferred rewards by hand, trees and what is learned from them, the loop and its resumption, the arms' budgets."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from etude.engine.ledger import Ledger
from etude.engine.streams import derive
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.generate.search import MCTS, Beam, Node, Question, Samples, Step, run_searches
from etude.learn.logprobs import frozen_copy
from etude.loop.loop import run_loop
from etude.papers.improvement.rest_mcts import (
    STUDY,
    Learning,
    SelfTraining,
    Settings,
    arms,
    inferred,
    quality,
    text,
    trees,
    weighted_reward,
)

TINY = STUDY.scales["smoke"].settings


def run(name, settings=TINY, seed=5, folder=None):
    return STUDY.arms[name].run(Job(study="rest-mcts", arm=name, scale="smoke", seed=seed, settings=settings, folder=folder))


pytestmark = pytest.mark.usefixtures("own_cache")


# --- rewards ----------------------------------------------------------------------------------------------------------
def test_a_right_chain_rises_evenly_to_one():
    for length in range(1, 9):
        value = 0.0
        for k in range(1, length + 1):
            value = quality(value, length - k, wrong=False)
            assert value == pytest.approx(k / length)


def test_weighted_rewards_by_hand():
    assert weighted_reward(0.25, 2, wrong=False) == pytest.approx(0.25)
    assert weighted_reward(0.25, 2, wrong=True) == pytest.approx(-0.25)
    assert quality(0.5, 1, wrong=True) == pytest.approx(0.25)
    assert quality(0.25, 1, wrong=True) == 0.0  # .25 - .375, never below 0
    with pytest.raises(BadInput, match="distance: found -1"):
        weighted_reward(0.5, -1, wrong=False)


def tree(spec, node=None, path=""):
    """{"a": {...}, "b": True} with letters as steps; True: a right end, False: a wrong one, None: nothing has ended there."""
    node = node or Node()
    nodes = {}
    for letter, below in spec.items():
        child = node.add(Step(letter, (ord(letter),)), 0.5, isinstance(below, bool))
        nodes[path + letter] = child
        if isinstance(below, dict):
            nodes |= tree(below, child, path + letter)[1]
    return node, nodes


def labelled(spec, right):
    root, nodes = tree(spec)
    labels = inferred(root, {nodes[name] for name in right}.__contains__)
    names = {node: name for name, node in nodes.items()}
    return {names[node]: (label.distance, label.wrong, pytest.approx(label.value)) for node, label in labels.items()}


def test_values_of_a_tree_by_hand():
    # Right: aab (3 steps) and b's bb (2 steps). Dead: aaa, ab with its abc, ba. ac has not ended, so nothing is known of it.
    spec = {"a": {"a": {"a": False, "b": True}, "b": {"c": False}, "c": None}, "b": {"a": False, "b": True}, "c": {"a": {"b": False}}}
    assert labelled(spec, ["aab", "bb"]) == {
        "a": (2, False, 1 / 3),  # (1 - 0) / 3
        "aa": (1, False, 2 / 3),
        "aaa": (1, True, 2 / 3 - (1 / 3) / 2),  # its live parent's distance, 1
        "aab": (0, False, 1.0),
        "ab": (2, True, 1 / 3 - (2 / 3) / 3),
        "abc": (2, True, max(0, 1 / 9 - (8 / 9) / 3)),  # of the nearest live ancestor, a
        "b": (1, False, 1 / 2),
        "ba": (1, True, 1 / 2 - (1 / 2) / 2),
        "bb": (0, False, 1.0),
        "c": (2, True, 0.0),  # the root's distance: min(2, 1) + 1 - 0 = 2
        "ca": (2, True, 0.0),
        "cab": (2, True, 0.0),
    }  # fmt: skip
    assert labelled(spec, []) == {}  # no right leaf: nothing can be inferred


def test_labels_agree_with_brute_force():
    rng = np.random.default_rng(0)

    def drawn(depth):
        if depth == 0 or rng.random() < 0.3:
            return [True, False, None][rng.integers(3)]
        return {c: drawn(depth - 1) for c in "abc"[: rng.integers(1, 4)]}

    for _ in range(40):
        root, nodes = tree({c: drawn(4) for c in "abc"})
        ends = {name: node for name, node in nodes.items() if node.ended}
        right = {name for name in ends if rng.random() < 0.4}
        labels = inferred(root, {nodes[n] for n in right}.__contains__)
        if not right:
            assert labels == {}
            continue
        nearest = {name: min((len(r) - len(name) for r in right if r.startswith(name)), default=None) for name in ["", *nodes]}
        expected = {"": 0.0}
        for name in sorted(nodes, key=len):
            if not any(end.startswith(name) for end in ends):
                assert nodes[name] not in labels
                continue
            live = next(name[:k] for k in range(len(name), -1, -1) if nearest[name[:k]] is not None)
            sign = 1 if live == name else -1
            before = expected[name[:-1]]
            expected[name] = max(0, before + sign * (1 - before) / (nearest[live] + 1))
            label = labels[nodes[name]]
            assert (label.wrong, label.distance, label.value) == (sign < 0, nearest[live], pytest.approx(expected[name]))


# --- trees ------------------------------------------------------------------------------------------------------------
def test_trees_survive_json_and_what_is_learned_by_hand():
    root, nodes = tree({"a": {"x": True, "y": False}, "b": True, "c": {"z": None}})
    for name, estimate in (("ax", 0.6), ("b", 0.1), ("ay", 0.9)):
        nodes[name].estimate = estimate
    again, listed = trees.tree_of(json.loads(json.dumps(trees.rows_of(root))))
    assert [trees.text_of(n) for n in listed] == ["a", "ax", "ay", "b", "c", "cz"]
    assert [(n.ended, n.estimate) for n in listed] == [(n.ended, n.estimate) for n in root.walk() if n.parent is not None]
    right = {listed[1], listed[3]}
    found = trees.traces(again, right, at_least=0.2, most=4)
    assert [trees.text_of(n) for n in found] == ["ax"]  # b is right, but the value model thought little of it
    assert [trees.text_of(n) for n in trees.traces(again, right, at_least=0.0, most=4)] == ["ax", "b"]
    assert [trees.text_of(n) for n in trees.traces(again, right, at_least=0.0, most=1)] == ["ax"]
    rows = trees.value_rows(again, inferred(again, right.__contains__))
    a, x, y, b = (ord(c) for c in "axyb")
    assert rows == [
        [([a], pytest.approx(0.5)), ([x], pytest.approx(1.0))],
        [([a], None), ([y], pytest.approx(0.25))],  # a has been told above; the dead y: .5 - .5 / 2
        [([b], pytest.approx(1.0))],
    ]
    assert trees.preferences(again, right, most=3) == [([a, x], [a, y])]
    with pytest.raises(BadInput, match="most: found 0"):
        trees.traces(again, right, at_least=0.0, most=0)
    with pytest.raises(BadInput, match="tree, node 1, field 'parent': found 1"):
        trees.tree_of([{**row, "parent": 1 if i == 1 else row["parent"]} for i, row in enumerate(trees.rows_of(root))])


def test_a_state_has_its_value_once_in_a_round():
    rng = np.random.default_rng(1)
    root, nodes = tree({a: {b: {c: bool(rng.random() < 0.5) for c in "abc"} for b in "abc"} for a in "abc"})
    right = {node for node in nodes.values() if node.ended and rng.random() < 0.5}
    labels = inferred(root, right.__contains__)
    told = [value for row in trees.value_rows(root, labels) for _, value in row if value is not None]
    assert sorted(told) == pytest.approx(sorted(label.value for label in labels.values()))


# --- the search -------------------------------------------------------------------------------------------------------
def test_searches_are_the_papers():
    limit = arms.Limit(cost=10)
    search = arms.mcts_star(Settings(), limit)
    assert isinstance(search, MCTS)
    assert (search.branches, search.end_at, search.rollout.steps, search.rollout.branches, search.rollout.mix) == (3, 0.9, 3, 1, 0.5)
    assert (search.score.exploration, search.score.unvisited) == (0.7, 1.0)
    assert arms.training_search(Settings(), limit).end_at == math.inf
    assert isinstance(arms.beam(Settings(), limit), Beam)
    assert isinstance(arms.best_of_n(Settings(), limit), Samples)
    assert Settings().temperature == 0.7


def test_the_value_model_sees_the_prompt_and_never_the_answer():
    items = text.problems(TINY, 1, "test", 4)
    for question, problem in zip(text.asked(items), items.values(), strict=True):
        assert question.data is None
        assert text.TOKENIZER.decode(text.prompt_of(question)) == problem.prompt
        assert problem.prompt.endswith(": ")


def test_a_written_solution_is_a_right_path_of_lines():
    (problem,) = text.problems(Settings(operations=(4,)), 1, "x", 1).values()
    lines = text.TASK.solution(problem).splitlines(keepends=True)
    path = tuple(Step(line) for line in lines)
    assert len(path) == 5
    assert text.answer_in(Question("q", ""), path) == f"> {problem.answer}"
    assert text.answer_in(Question("q", ""), path[:-1]) is None
    assert text.TASK.sound(problem, "".join(lines))
    most = max(len(text.TOKENIZER.encode(p.prompt + text.TASK.solution(p))) for p in text.problems(Settings(), 1, "x", 300).values())
    assert most + 1 <= Settings().context
    assert text.TOKENIZER.vocab == Settings().vocab


def test_questions_are_never_the_tests():
    small = replace(TINY, operations=(1,))
    test = text.problems(small, 1, "test", 30, test=True)
    others = text.problems(small, 1, "round 1", 300) | text.problems(small, 1, "demonstrations", 300)
    assert not {text.chain_of(p) for p in test.values()} & {text.chain_of(p) for p in others.values()}
    assert len({p.prompt for p in others.values()}) > len({text.chain_of(p) for p in others.values()})  # scrambled in several ways
    text.check_disjoint(others, test)
    with pytest.raises(BadInput, match="questions: found '.*' of the test"):
        text.check_disjoint(test, test)


def test_the_teacher_is_unsure_of_some_operations_and_goes_on_with_what_he_wrote():
    settings = Settings(demonstrations=1)
    said = {(v, sign, n): text.results(1, v, sign, n, settings) for v in range(10) for sign in "+-*" for n in range(2, 10)}
    assert all(found[0] == text.apply(*operation) for operation, found in said.items())
    assert {len(found) for found in said.values()} == {1, settings.choices}
    assert np.mean([len(found) > 1 for found in said.values()]) == pytest.approx(settings.unsure, abs=0.1)
    rights, chances = [], []
    for problem in text.problems(settings, 1, "demonstrations", 200).values():
        value = problem.data["start"][1]
        *lines, answer = text.taught_solution(problem, settings, 1).split("\n")
        for line, (name, _, sign, n) in zip(lines, problem.data["steps"], strict=True):
            assert line.startswith(f"{name}={value}{sign}{n}=")
            rights.append(int(line[-1]) == text.apply(value, sign, n))
            chances.append(1 / len(said[(value, sign, n)]))
            assert int(line[-1]) in said[(value, sign, n)]
            value = int(line[-1])
        assert answer == f"> {value}"
    assert np.mean(rights) == pytest.approx(np.mean(chances), abs=0.05)  # each result as often


def test_renamed_chains_are_the_same_chains():
    for problem in text.problems(Settings(), 1, "x", 30).values():
        again = text.TASK.problem(derive(1, "x"), int(problem.id.split("/")[-1]), problem.difficulty)
        assert problem.answer == again.answer
        assert [step[2:] for step in problem.data["steps"]] == [step[2:] for step in again.data["steps"]]
        assert text.TASK.sound(problem, text.TASK.solution(problem))
        *rows, asked = problem.prompt.split(" ; ")
        assert sorted(rows[0].split()) == sorted(
            [f"a={again.data['start'][1]}", *(f"{n}={b}{s}{o}" for n, b, s, o in problem.data["steps"])]
        )
        assert asked == f"{problem.data['steps'][-1][0]}: "


# --- the loop ---------------------------------------------------------------------------------------------------------
WORDS = {f"q{i}": np.array([1, 2, 3 + i % 5]) for i in range(8)}


class Stopped(Exception):
    pass


def steps(seed=3, **more):
    """A loop over a model that is taught nothing yet; a solution is right where it begins with an even token."""
    base = text.base_model(TINY, 5)
    settings = replace(TINY, temperature=1.0)
    made = {
        "policy": frozen_copy(base.model), "value": text.first_value(base, TINY, 5).model, "questions": lambda number: list(WORDS.items()),
        "right": lambda name, solution: len(solution) % 2 == 0, "search": arms.training_search(settings, arms.Limit(rounds=5)),
        "limit": arms.Limit(rounds=5), "learning": Learning(context=TINY.context, at_least=-1.0, updates=2, value_updates=2, batch=4),
        "expand": lambda model, number, ledger: text.steps_of(model, settings, derive(seed, number), ledger),
        "evaluate": lambda model, ledger: text.values_of(model, TINY, ledger), "seed": seed, "size": 3,
    }  # fmt: skip
    return SelfTraining(**(made | more))


def begun(loop):
    return loop.begin(loop.policy, loop.value)


def same(one, other):
    return all(torch.equal(one[part][name], other[part][name]) for part in ("policy", "value") for name in one[part])


def spent(state):
    return {(c, q): amount for c, row in state["ledger"].items() for q, amount in row.items() if q != "seconds"}


def test_a_killed_loop_comes_out_as_an_unbroken_one(tmp_path):
    loop = steps()
    whole, reports = run_loop(loop, begun(loop), 2, tmp_path / "whole")
    assert reports[0]["traces"] > 0
    assert reports[0]["ways"] > 0
    for at, what in ((2, "expand"), (4, "expand"), (5, "right")):
        count = 0

        def counted(call, at=at):
            nonlocal count
            count += 1
            if count == at:
                raise Stopped
            return call

        makers = {
            "expand": {"expand": lambda *given, counted=counted: counted(loop.expand)(*given)},
            "right": {"right": lambda *given, counted=counted: counted(loop.right)(*given)},
        }
        broken = steps(**makers[what])
        with pytest.raises(Stopped):
            run_loop(broken, begun(broken), 2, tmp_path / f"{what} {at}")
        again = steps()
        state, told = run_loop(again, begun(again), 2, tmp_path / f"{what} {at}")
        assert same(state, whole)
        assert told == reports
        assert spent(state) == spent(whole)


def test_a_round_trains_both_models_on_what_was_inferred(tmp_path):
    loop = steps()
    before = begun(loop)
    after, (report,) = run_loop(loop, before, 1, tmp_path)
    for part in ("policy", "value"):
        assert any(not torch.equal(before[part][name], after[part][name]) for name in before[part])
    rows = [json.loads(line) for line in (tmp_path / "round-001" / "data.jsonl").read_text().splitlines()]
    assert report["traces"] == sum(len(row["traces"]) for row in rows)
    assert report["questions solved"] == np.mean([row["solved"] for row in rows])
    for row in rows:
        assert all(len(t) % 2 == 0 for t in row["texts"])  # right traces alone
        assert bool(row["values"]) == row["solved"]  # no right leaf: skipped
    assert after["ledger"]["train"]["steps"] == 2
    assert after["ledger"]["value"]["steps"] == 2
    assert {"search", "generate", "judge"} <= after["ledger"].keys()


def test_without_value_updates_the_value_model_stays_bit_for_bit(tmp_path):
    loop = steps(learning=Learning(context=TINY.context, at_least=-1.0, updates=2, value_updates=0, batch=4))
    before = begun(loop)
    after, _ = run_loop(loop, before, 1, tmp_path)
    assert all(torch.equal(before["value"][name], after["value"][name]) for name in before["value"])


def test_nothing_right_teaches_nothing(tmp_path):
    loop = steps(right=lambda name, solution: False)
    before = begun(loop)
    after, (report,) = run_loop(loop, before, 1, tmp_path)
    assert same(before, after)
    assert (report["traces"], report["ways"], report["questions solved"]) == (0, 0, 0)


def test_preferences_train_on_right_and_wrong_ends(tmp_path):
    learning = Learning(context=TINY.context, at_least=-1.0, updates=2, value_updates=0, batch=4, preference=True)
    loop = steps(learning=learning, search=arms.self_consistency(TINY, arms.Limit(rounds=6)))
    _, (report,) = run_loop(loop, begun(loop), 1, tmp_path)
    assert report["pairs"] > 0


# --- arms -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def outcomes():
    return {name: run(name) for name in STUDY.arms}


def test_trained_arms_spend_what_is_planned(outcomes):
    roomy = replace(TINY, questions=12, rounds=1, training_limit=120.0, operations=(1,))
    plan = STUDY.arms["ReST-EM"].planned(roomy)
    for name in ("ReST-MCTS*", "ReST-EM", "DPO"):
        ledger = run(name, roomy).ledger
        assert ledger["search"]["cost"] == pytest.approx(plan["search.cost"], rel=0.15), name
        assert ledger["search"]["cost"] == ledger["generate"]["generated_tokens"] + TINY.per_call * ledger.get("judge", {}).get("calls", 0)
    assert "judge" not in outcomes["ReST-EM"].ledger
    assert "judge" not in outcomes["self-consistency"].ledger


def test_search_arms_spend_their_limits(outcomes):
    roomy = replace(TINY, limits=(100.0, 200.0), num_test=16)
    for name in ("best of n", "self-consistency"):
        outcome = run(name, roomy)
        assert outcome.curves["solve rate / cost"][0] == pytest.approx([100, 200], rel=0.15)
        assert outcome.ledger["search"]["cost"] == pytest.approx(16 * sum(outcome.curves["solve rate / cost"][0]))


def test_claims_have_their_metrics_and_arms(outcomes):
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    for claim in STUDY.claims:
        for name in claim.arms_named:
            curve = getattr(claim, "curve", "")
            assert curve in outcomes[name].curves if curve else claim.metric in outcomes[name].metrics


def test_the_first_value_model_begins_as_the_base():
    settings = replace(TINY, operations=(1,), first_value_updates=2)
    base = text.base_model(settings, 3)
    one = text.first_value(base, settings, 3).model.body
    body = text.grow_depth(base.model, 2 * settings.depth, "zero", seed=derive(3, "value model"))[0]
    moved = [float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), body.parameters(), strict=True)]
    assert 0 < max(moved) < 0.1


def test_the_solutions_that_the_value_model_is_taught_from_are_shown_to_an_arm_without_values():
    settings = replace(TINY, value_questions=5)
    bench = arms.Bench(Job(study="rest-mcts", arm="x", scale="smoke", seed=5, settings=settings), valued=False)
    steps = arms.self_training(bench, arms.self_consistency, valued=False, preference=False, written=True)
    items = list(text.value_problems(settings, 5).values())
    for problem, (prompt, solution) in zip(items, steps.written, strict=True):
        assert text.TOKENIZER.decode(prompt) == problem.prompt
        assert text.TOKENIZER.decode(solution[:-1]) == text.TASK.solution(problem)
        assert solution[-1] == text.END
    assert not {text.chain_of(p) for p in items} & {text.chain_of(p) for p in bench.test.problems.values()}
    assert not arms.self_training(bench, arms.self_consistency, valued=False, preference=False).written


def test_written_solutions_teach_where_nothing_right_was_found(tmp_path):
    written = [(np.array([1, 2, 3]), np.array([4, 5]))]
    loop = steps(right=lambda name, solution: False, written=written)
    before = begun(loop)
    after, (report,) = run_loop(loop, before, 1, tmp_path)
    assert report["traces"] == 0
    assert any(not torch.equal(before["policy"][name], after["policy"][name]) for name in before["policy"])


def test_the_first_value_model_learns_what_was_inferred():
    settings = replace(TINY, operations=(1,), value_questions=40, first_value_updates=1, base_updates=200, demonstrations=400)
    base = text.base_model(settings, 3)
    one = text.first_value(base, settings, 3)
    again = text.first_value(base, settings, 3)
    assert all(torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), again.model.state_dict().values(), strict=True))
    assert one.ledger.total("generated_tokens") > 0


def test_values_are_clipped_and_charged():
    base = text.base_model(TINY, 5)
    ledger = Ledger()
    evaluate = text.values_of(text.first_value(base, TINY, 5).model, TINY, ledger)
    items = text.problems(TINY, 1, "test", 3)
    found = run_searches(arms.best_of_n(TINY, arms.Limit(rounds=2)), text.asked(items), text.steps_of(base.model, TINY, 1, None), evaluate)
    assert all(0 <= one.value <= 1 for one in found)
    assert ledger.entries["judge"]["calls"] == sum(one.spent.calls for one in found)


# --- settings ---------------------------------------------------------------------------------------------------------
def test_what_settings_refuse():
    with pytest.raises(BadInput, match="settings: found no operations, or a count below 1"):
        Settings(rounds=0)
    with pytest.raises(BadInput, match="settings.limits: found .*, expected costs above 0 in rising order"):
        Settings(limits=(200.0, 100.0))
    with pytest.raises(BadInput, match="Learning: found a count below 1"):
        Learning(context=8, most_traces=0)
    with pytest.raises(BadInput, match="MCTS.branches: found 0"):
        arms.training_search(Settings(branches=0), arms.Limit(rounds=1))
    with pytest.raises(BadInput, match=r"Rollout.mix: found 1.5, expected a number from 0 to 1"):
        arms.training_search(Settings(mix=1.5), arms.Limit(rounds=1))


def test_the_papers_model_and_the_sources():
    scale = STUDY.scales["paper"]
    with torch.device("meta"):
        model = STUDY.build_paper_model(scale.settings)
    count, _ = STUDY.paper_parameters["Mistral-7B"]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(count, rel=0.02)
    assert set(scale.sources) == {f.name for f in fields(Settings)}
