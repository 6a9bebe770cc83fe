"""Search against brute force on small trees, and the selection and the backups against values worked out by hand."""

import itertools
import math

import numpy as np
import pytest

from etude.errors import BadInput
from etude.generate.search import (
    MCTS,
    UCT,
    Beam,
    Limit,
    Node,
    Question,
    Rollout,
    Samples,
    Spent,
    Step,
    mean_of_returns,
    merged,
    run_searches,
    visit_weighted_mean,
)
from etude.generate.search.tree import best_child


class Toy:
    """A tree of `depth` levels with `branches` moves a level; a state's value is a fixed number drawn for (question, path)."""

    def __init__(self, depth=3, branches=3, value=None):
        self.depth, self.branches = depth, branches
        self.value = value or (lambda name, path: np.random.default_rng([ord(c) for c in name + path]).random())
        self.expansions, self.evaluations, self.log = [], [], []

    def expand(self, requests):
        self.expansions.append(len(requests))
        out = []
        for request in requests:
            self.log.append((request.question.id, "".join(s.text for s in request.path), request.number))
            letters = "abcdefgh"[: min(self.branches, request.num_steps)]
            out.append([Step(c, ended=len(request.path) + 1 == self.depth, num_tokens=2) for c in letters])
        return out

    def evaluate(self, requests):
        self.evaluations.append(sum(len(r.paths) for r in requests))
        return [[self.value(r.question.id, "".join(s.text for s in path)) for path in r.paths] for r in requests]

    def run(self, search, names=("q",)):
        return run_searches(search, [Question(name, "") for name in names], self.expand, self.evaluate)

    def best_leaf(self, name):
        leaves = ["".join(path) for path in itertools.product("abcdefgh"[: self.branches], repeat=self.depth)]
        return max(leaves, key=lambda leaf: self.value(name, leaf))


NAMES = [f"question {i}" for i in range(12)]


def test_a_search_of_the_whole_tree_finds_what_brute_force_finds():
    for depth, branches in ((1, 3), (2, 4), (3, 3)):
        toy = Toy(depth, branches)
        for search in (
            MCTS(limit=Limit(rounds=2000), branches=branches, score=UCT(exploration=4.0)),
            MCTS(limit=Limit(rounds=2000), branches=branches, score=UCT(exploration=4.0), backup=mean_of_returns, rollout=Rollout()),
            Beam(limit=Limit(rounds=1), width=branches**depth, branches=branches),
        ):
            for found in toy.run(search, NAMES):
                assert found.text == toy.best_leaf(found.question.id)
                assert found.ended
                assert found.reason == "exhausted"
                (root,) = found.roots
                leaves = [n for n in root.walk() if not n.children]
                assert len(leaves) == branches**depth
                assert found.value == toy.value(found.question.id, found.text)


def test_a_beam_of_one_is_greedy_and_wider_beams_are_level_by_level():
    toy = Toy(4, 3)
    for name, found in zip(NAMES, toy.run(Beam(limit=Limit(rounds=1), width=1), NAMES), strict=True):
        path = ""
        for _ in range(4):
            path = max((path + c for c in "abc"), key=lambda p: toy.value(name, p))
        assert found.text == path
    for name, found in zip(NAMES, toy.run(Beam(limit=Limit(rounds=1), width=2), NAMES), strict=True):
        level = [""]
        for _ in range(4):
            level = sorted((p + c for p in level for c in "abc"), key=lambda p: -toy.value(name, p))[:2]
        made = {"".join(s.text for s in n.path) for n in found.roots[0].walk()}
        assert set(level) <= made
        assert toy.value(name, found.text) == max(toy.value(name, p) for p in made if len(p) == 4)


def test_uct_by_hand():
    root = Node()
    root.visits = 9
    for text, value, visits in (("a", 0.5, 4), ("b", 0.2, 1), ("c", 0.1, 4), ("d", 0.3, 0)):
        root.add(Step(text), value, False).visits = visits
    score = UCT(exploration=0.7, unvisited=1.0)
    scores = [score(root, child) for child in root.children]
    # 0.7 sqrt(2 ln 9 / 4) = 0.7 * 1.04815, 0.7 sqrt(2 ln 9 / 1) = 0.7 * 2.09629
    assert scores == pytest.approx([0.5 + 0.733702, 0.2 + 1.467404, 0.1 + 0.733702, 1.3], abs=1e-5)
    assert best_child(root, score).step == Step("b")  # an unvisited child is no infinity: V + 1 loses to an old, rare one
    assert best_child(root, UCT(exploration=0.7)).step == Step("d")
    assert best_child(root, UCT(exploration=0.0, unvisited=0.0)).step == Step("a")
    twins = Node()
    for text in "ab":
        twins.add(Step(text), 0.5, False)
    assert best_child(twins, score).step == Step("a")


def test_backups_by_hand():
    root = Node()
    left, right = root.add(Step("l"), 0.4, False), root.add(Step("r"), 0.8, False)
    left.visits, right.visits = 3, 1
    low, high = left.add(Step("x"), 0.1, False), left.add(Step("y"), 0.9, True)
    low.visits, high.visits = 1, 3
    visit_weighted_mean(left, 0.0)
    assert left.value == pytest.approx((0.1 + 3 * 0.9) / 4)  # 0.7, and visited once more, 4 times
    assert root.value == pytest.approx((4 * 0.7 + 0.8) / 5)
    assert (left.visits, root.visits, high.visits) == (4, 1, 3)
    visit_weighted_mean(high, 0.9)
    assert (high.value, high.visits) == (0.9, 4)
    assert left.value == pytest.approx((0.1 + 4 * 0.9) / 5)

    root = Node()
    child = root.add(Step("a"), 0.3, False)
    child.visits = 1
    mean_of_returns(child, 0.9)
    mean_of_returns(child, 0.6)
    assert child.value == pytest.approx((0.3 + 0.9 + 0.6) / 3)
    assert root.value == pytest.approx((0.9 + 0.6) / 2)


def test_iterations_by_hand():
    """Two branches, V(a) = .6, V(b) = .5; below a: .2 and .1, below b: .9 and .3 (ends). c = .7, an unvisited child V + 1."""
    values = {"a": 0.6, "b": 0.5, "aa": 0.2, "ab": 0.1, "ba": 0.9, "bb": 0.3}
    toy = Toy(2, 2, lambda name, path: values[path])

    def after(rounds, **more):
        search = MCTS(limit=Limit(rounds=rounds), branches=2, score=UCT(exploration=0.7, unvisited=1.0), **more)
        (found,) = toy.run(search)
        (root,) = found.roots
        return root, {"".join(s.text for s in n.path): n for n in root.walk()}

    root, nodes = after(1)  # a has the greater V + 1: visited once, the root takes its value
    assert (root.visits, root.value, nodes["a"].visits, nodes["b"].visits) == (1, 0.6, 1, 0)
    root, nodes = after(2)  # a: .6 + .7 sqrt(2 ln 1 / 1) = .6; b: 1.5. b is expanded, its better child counts once
    assert nodes["b"].visits == 1
    assert nodes["b"].value == 0.9
    assert nodes["ba"].visits == 1
    assert root.value == pytest.approx((0.6 + 0.9) / 2)
    root, nodes = after(3)  # b: .9 + .7 sqrt(2 ln 2) = 1.72 beats a: 1.42; below b, the unvisited bb: 1.3, ba: .9 + 0
    assert nodes["bb"].visits == 1
    assert nodes["b"].visits == 2
    assert nodes["b"].value == pytest.approx((0.9 + 0.3) / 2)
    assert root.value == pytest.approx((1 * 0.6 + 2 * 0.6) / 3)

    # Rollouts: from a, both branches are looked at (.2, .1), the better one is seen: V(a) <- (1 - .5) .6 + .5 * .2
    root, nodes = after(1, rollout=Rollout(steps=3, branches=2, mix=0.5))
    assert nodes["a"].value == pytest.approx(0.4)
    assert nodes["a"].estimate == 0.6
    assert root.value == pytest.approx(0.4)
    assert "aa" not in nodes  # what a rollout sees is no part of the tree
    root, nodes = after(1, rollout=Rollout(mix=0.0))
    assert nodes["a"].value == 0.6
    root, nodes = after(1, rollout=Rollout(mix=1.0))
    assert nodes["a"].value == pytest.approx(0.2)


def test_a_search_ends_at_a_value_and_says_why_it_ended():
    values = {"a": 0.6, "b": 0.95, "aa": 0.2, "ab": 0.1, "ba": 0.9, "bb": 0.3}
    toy = Toy(2, 2, lambda name, path: values[path])
    (found,) = toy.run(MCTS(limit=Limit(rounds=50), branches=2, end_at=0.9))
    assert (found.text, found.reason, found.ended, found.rounds, found.value) == ("b", "found", False, 1, 0.95)
    (found,) = toy.run(MCTS(limit=Limit(rounds=50), branches=2, end_at=0.9, finish=3))
    assert (found.text, found.ended) == ("ba", True)
    (found,) = toy.run(MCTS(limit=Limit(rounds=1), branches=2))
    assert (found.text, found.reason) == ("b", "rounds")  # nothing has ended: the best state
    (found,) = toy.run(MCTS(limit=Limit(rounds=50), branches=2))
    assert (found.text, found.reason) == ("ba", "exhausted")
    assert len(found.roots) == 1
    (found,) = toy.run(MCTS(limit=Limit(rounds=9), branches=2, restart=True))
    assert found.reason == "rounds"
    assert len(found.roots) > 1
    (found,) = toy.run(MCTS(limit=Limit(rounds=50), branches=2, max_depth=1))
    assert (found.text, found.ended) == ("b", True)
    (found,) = toy.run(MCTS(limit=Limit(rounds=50), branches=2, ending=lambda question, path: path[-1].ended or path[-1].text == "b"))
    assert (found.text, found.ended) == ("b", True)


def test_steps_that_say_the_same_are_one_child_and_cost_each():
    toy = Toy(2, 2)
    plain = toy.expand
    toy.expand = lambda requests: [steps + steps[:1] for steps in plain(requests)]
    (found,) = toy.run(MCTS(limit=Limit(rounds=1), branches=3))
    assert [c.step.text for c in found.roots[0].children] == ["a", "b"]
    assert (found.spent.tokens, found.spent.calls) == (6, 2)


def test_a_state_is_valued_once():
    toy = Toy(3, 2)
    (found,) = toy.run(MCTS(limit=Limit(rounds=300), branches=2, rollout=Rollout(branches=2), restart=True))
    assert len(found.roots) > 2
    assert found.spent.calls == 2 + 4 + 8  # rollouts and further trees meet states that are known
    assert sum(toy.evaluations) == 14


def test_spending_is_counted_and_comes_out_at_the_limit_on_average():
    for search in (MCTS, Beam, lambda limit, restart: Samples(limit=limit)):
        limit = Limit(cost=150, per_token=1.0, per_call=3.0)
        toy = Toy(6, 3, lambda name, path: np.random.default_rng([*map(ord, name + path)]).random())
        found = toy.run(search(limit=limit, restart=True), [f"q{i}" for i in range(60)])
        costs = [limit.of(f.spent) for f in found]
        assert np.mean(costs) == pytest.approx(150, rel=0.12)
        assert sum(f.spent.calls for f in found) == sum(toy.evaluations)
        assert {f.reason for f in found} <= {"cost", "exhausted"}
    half = Limit(cost=100)
    assert half.room(Spent(tokens=75), 1) is False  # 25 left, a round costs 75
    assert half.room(Spent(tokens=80), 2) is True  # 20 left, a round costs 40: exactly half of it
    assert half.room(Spent(tokens=81), 2) is False
    assert half.room(Spent(), 0) is True


def test_many_questions_are_asked_about_together_and_come_out_as_alone():
    for search in (MCTS(limit=Limit(rounds=20), rollout=Rollout()), Beam(limit=Limit(rounds=1))):
        together = Toy(4, 3)
        all_found = together.run(search, NAMES)
        assert together.expansions[0] == len(NAMES)
        assert together.evaluations[0] == 3 * len(NAMES)
        asked = {name: [entry for entry in together.log if entry[0] == name] for name in NAMES}
        for name, found in zip(NAMES, all_found, strict=True):
            alone = Toy(4, 3)
            (single,) = alone.run(search, [name])
            assert alone.log == asked[name]  # the same states, with the same numbers of requests
            assert single.text == found.text
            assert [n.value for n in single.roots[0].walk()] == [n.value for n in found.roots[0].walk()]


def test_progress_ends_with_all_done():
    toy, seen = Toy(2, 2), []
    questions = [Question(name, "") for name in NAMES]
    run_searches(MCTS(limit=Limit(rounds=5)), questions, toy.expand, toy.evaluate, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_dead_ends():
    def expand(requests):
        return [[] if len(r.path) == 1 else [Step("a", num_tokens=1), Step("b", num_tokens=1)] for r in requests]

    questions = [Question("q", "")]

    def value(requests):
        return [[0.5 for _ in r.paths] for r in requests]

    (found,) = run_searches(MCTS(limit=Limit(rounds=9), branches=2), questions, expand, value)
    assert (found.reason, found.ended, len(found.path)) == ("exhausted", True, 1)
    (found,) = run_searches(MCTS(limit=Limit(rounds=9), branches=2), questions, lambda requests: [[] for _ in requests], value)
    assert (found.path, found.reason, found.rounds) == ((), "exhausted", 1)
    (found,) = run_searches(Beam(limit=Limit(rounds=9), restart=True), questions, lambda requests: [[] for _ in requests], value)
    assert (found.path, found.reason) == ((), "exhausted")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MCTS(limit=Limit(rounds=1), branches=0), "MCTS.branches: found 0"),
        (lambda: MCTS(limit=Limit(rounds=1), max_depth=0), "MCTS.max_depth: found 0"),
        (lambda: Beam(limit=Limit(rounds=1), width=0), "Beam.width: found 0"),
        (lambda: Samples(limit=Limit(rounds=1), max_depth=0), "Samples.max_depth: found 0"),
        (lambda: Rollout(mix=1.5), "Rollout.mix: found 1.5, expected a number from 0 to 1"),
        (lambda: Rollout(steps=0), "Rollout: found 0 steps"),
        (lambda: UCT(exploration=-1.0), "UCT.exploration: found -1.0"),
        (lambda: UCT(unvisited=math.nan), "UCT.unvisited: found nan"),
        (lambda: Limit(), "Limit: found rounds inf, cost inf"),
        (lambda: Limit(cost=0), "Limit: found rounds inf, cost 0"),
        (lambda: Limit(cost=1, per_token=0, per_call=0), "two numbers >= 0, not both 0"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def test_answers_that_are_none():
    toy, search = Toy(), MCTS(limit=Limit(rounds=3))
    with pytest.raises(BadInput, match="id 'q' twice"):
        toy.run(search, ["q", "r", "q"])
    with pytest.raises(BadInput, match="questions: found none"):
        toy.run(search, [])
    bad = Toy(value=lambda name, path: math.nan)
    with pytest.raises(BadInput, match="value of question q, step 1: found nan"):
        bad.run(search)
    questions = [Question("q", "")]
    with pytest.raises(BadInput, match="expand: found 4 answers, expected at most 3"):
        run_searches(search, questions, lambda requests: [[Step(c) for c in "abcd"]], toy.evaluate)
    with pytest.raises(BadInput, match="evaluate: found 1 answers, expected 3"):
        run_searches(search, questions, toy.expand, lambda requests: [[0.5]])


class Scripted(Toy):
    """Answers of two steps, each question's in a fixed order: "xa", "ya", "xb", "xa" ... ; values as told."""

    def __init__(self, answers, values):
        super().__init__(2, 1, lambda name, path: values[path])
        self.answers = answers

    def expand(self, requests):
        return [[Step(self.answers[r.number // 2][len(r.path)], ended=len(r.path) == 1, num_tokens=3)] for r in requests]


def test_samples_by_hand():
    toy = Scripted(["xa", "yb", "xb", "yb", "xa", "yb"], {"xa": 0.7, "yb": 0.4, "xb": 0.9})
    (found,) = toy.run(Samples(limit=Limit(rounds=2)))
    assert (found.text, found.value, found.ended, found.rounds, found.reason) == ("xa", 0.7, True, 2, "rounds")
    (found,) = toy.run(Samples(limit=Limit(rounds=5)))
    assert (found.text, found.value) == ("xb", 0.9)
    assert (found.spent.tokens, found.spent.calls) == (30, 3)  # an answer that comes again is not valued again
    visits = {"".join(s.text for s in n.path): n.visits for n in found.roots[0].walk()}
    assert visits == {"": 5, "x": 3, "xa": 2, "xb": 1, "y": 2, "yb": 2}
    (found,) = toy.run(Samples(limit=Limit(rounds=5), end_at=0.9))
    assert (found.text, found.rounds, found.reason) == ("xb", 3, "found")
    (found,) = toy.run(Samples(limit=Limit(cost=19)))  # 6 tokens and a call each: 7, 14, and 5 left
    assert (found.rounds, found.reason) == (3, "cost")


def test_samples_go_on_from_given_steps_that_cost_nothing():
    toy = Scripted(["xa", "yb"], {"xa": 0.7, "yb": 0.4, "zb": 0.5, "zc": 0.9})
    toy.expand = lambda requests: [[Step("b", ended=True, num_tokens=3)] for _ in requests]
    given = [(Step("z"),), (Step("z"), Step("c", ended=True))]
    (found,) = toy.run(Samples(limit=Limit(rounds=2), begin=lambda question, number: given[number]))
    assert (found.text, found.spent.tokens, found.rounds) == ("zc", 3, 2)
    assert ["".join(s.text for s in n.path) for n in found.roots[0].walk()] == ["", "z", "zb", "zc"]


def test_a_vote_is_the_answer_given_most_often_and_values_nothing():
    toy = Scripted(["xa", "yb", "xb", "yb", "ya", "xa"], {})
    (found,) = toy.run(Samples(limit=Limit(rounds=4), vote=lambda question, path: path[-1].text))
    assert (found.text, found.value, found.spent.calls) == ("yb", 0.75, 0)
    (found,) = toy.run(Samples(limit=Limit(rounds=2), vote=lambda question, path: path[-1].text))
    assert (found.text, found.value) == ("xa", 0.5)  # the earlier of equals
    (found,) = toy.run(Samples(limit=Limit(rounds=6), vote=lambda question, path: None if path[-1].text == "b" else path[-1].text))
    assert (found.text, found.value) == ("xa", 0.5)  # shares are of all samples
    (found,) = toy.run(Samples(limit=Limit(rounds=2), vote=lambda question, path: None))
    assert (found.text, found.value, found.ended) == ("xa", 0.0, True)
    assert toy.evaluations == []


def test_merged_trees_hold_each_state_once():
    toy = Toy(3, 2)
    (found,) = toy.run(MCTS(limit=Limit(rounds=60), branches=2, restart=True))
    whole = merged(found.roots)
    assert len(found.roots) > 1
    paths = [n.path for n in whole.walk()]
    assert len(paths) == len(set(paths)) == 1 + 2 + 4 + 8
    assert set(paths) == {n.path for root in found.roots for n in root.walk()}
    assert whole.visits == sum(root.visits for root in found.roots)
    assert whole.closed
    for node in whole.walk():
        if node.path:
            assert node.estimate == toy.value("q", "".join(s.text for s in node.path))
            assert node.ended == (len(node.path) == 3)
    assert merged([]).children == []
