"""What each arm does: ways of searching with the base as it is, and ways of training it on what it finds.

"accuracy" is the share of the test that an arm answers rightly, as it answers: a search at its greatest limit, a trained policy greedily.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from etude.engine.ledger import Ledger
from etude.engine.streams import derive
from etude.evidence.study import Job, Outcome
from etude.generate.search import MCTS, UCT, Beam, Limit, Rollout, Samples, run_searches
from etude.generate.search.asking import Search
from etude.learn.logprobs import frozen_copy
from etude.loop.loop import Progress, run_loop
from etude.papers.improvement.rest_mcts import text
from etude.papers.improvement.rest_mcts.settings import Settings
from etude.papers.improvement.rest_mcts.training import Learning, SelfTraining, identity

Make = Callable[[Settings, Limit], Search]


def mcts_star(s: Settings, limit: Limit) -> MCTS:
    """MCTS* of algorithm 2: ends once a selected leaf is worth `end_at`; an answer without an end is gone on with."""
    return replace(training_search(s, limit), end_at=s.end_at, finish=s.max_depth)


def training_search(s: Settings, limit: Limit) -> MCTS:
    """The same without the end, for trees to learn from: all of the limit is spent."""
    return MCTS(
        limit=limit, branches=s.branches, score=UCT(exploration=s.exploration, unvisited=s.unvisited),
        rollout=Rollout(steps=s.rollout_steps, branches=1, mix=s.mix), max_depth=s.max_depth, restart=True,
    )  # fmt: skip


def beam(s: Settings, limit: Limit) -> Beam:
    """The breadth-first tree of thoughts, begun again until the limit is spent or an end is worth `end_at`."""
    return Beam(
        limit=limit, width=s.beam_width, branches=s.branches, end_at=s.end_at, max_depth=s.max_depth, restart=True, finish=s.max_depth
    )


def best_of_n(s: Settings, limit: Limit) -> Samples:
    return Samples(limit=limit, max_depth=s.max_depth)


def gated_best_of_n(s: Settings, limit: Limit) -> Samples:
    return Samples(limit=limit, max_depth=s.max_depth, end_at=s.end_at)


def self_consistency(s: Settings, limit: Limit) -> Samples:
    return Samples(limit=limit, max_depth=s.max_depth, vote=text.answer_in)


class Bench:
    """A job's base, first value model, test, and the ledger that all is charged to. valued: whether the arm uses the value model."""

    def __init__(self, job: Job, *, valued: bool = True) -> None:
        self.job, self.settings = job, job.settings
        self.ledger = Ledger()
        # No loss is told: whether the base is taught now or was before must not show in what a run reports.
        base = text.base_model(self.settings, job.seed, lambda share, loss: job.progress(0.1 * share, None))
        base.charge(self.ledger)
        self.base = frozen_copy(base.model)
        first = text.first_value(base, self.settings, job.seed)
        if valued:
            self.ledger.merge(first.ledger, category="base:value model")
        self.value = first.model.eval()
        self.test = text.Test.of(self.settings, job.seed)
        job.progress(0.2, None)

    def limit(self, cost: float) -> Limit:
        return Limit(cost=cost, per_token=1.0, per_call=self.settings.per_call)

    def outcome(self, metrics: dict[str, float], curves: dict[str, tuple[list[float], list[float]]]) -> Outcome:
        return Outcome(
            metrics=metrics, curves=curves, ledger=self.ledger.as_dict(), parameters=sum(p.numel() for p in self.base.parameters())
        )


def base(job: Job) -> Outcome:
    """The base, untrained: greedy, and one sample at the searches' temperature."""
    bench = Bench(job, valued=False)
    metrics = bench.test.greedy(bench.base, bench.settings) | bench.test.sampled(bench.base, bench.settings, job.seed)
    return bench.outcome(metrics, {})


def searching(job: Job, make: Make, *, valued: bool = True) -> Outcome:
    """The test's questions, searched with the base and the first value model at each limit."""
    bench = Bench(job, valued=valued)
    s: Settings = job.settings
    questions = text.asked(bench.test.problems)
    costs, rates, told = [], [], {}
    for number, cost in enumerate(s.limits):
        limit = bench.limit(cost)
        expand = text.steps_of(bench.base, s, derive(job.seed, "test search"), bench.ledger)
        found = run_searches(make(s, limit), questions, expand, text.values_of(bench.value, s, bench.ledger))
        spent = [limit.of(one.spent) for one in found]
        bench.ledger.charge("search", cost=sum(spent))
        told = bench.test.answered([one.text for one in found])
        costs.append(float(np.mean(spent)))
        rates.append(told["solve rate"])
        told |= {"accuracy": rates[-1], "cost": costs[-1], "rounds": float(np.mean([one.rounds for one in found]))}
        told |= {"ended by the gate": float(np.mean([one.reason == "found" for one in found]))}
        job.progress(0.2 + 0.8 * (number + 1) / len(s.limits), rates[-1])
    return bench.outcome(told, {"solve rate / cost": (costs, rates)})


def training(job: Job, make: Make, *, valued: bool = True, preference: bool = False, written: bool = False) -> Outcome:
    """Rounds of self-training with a search: ReST-MCTS* by its own, ReST-EM and DPO by samples.

    written: the policy is shown the written solutions that the first value model was taught from, in every round.
    """
    bench = Bench(job, valued=valued)
    s: Settings = job.settings
    steps = self_training(bench, make, valued=valued, preference=preference, written=written)
    start = bench.test.greedy(bench.base, s)

    def tell(event: Progress) -> None:
        done = (event.number - 1 + (event.done / max(event.total, 1) if event.phase == "propose" else 0.9)) / event.num_rounds
        job.progress(0.2 + 0.8 * done, event.report.get("greedy accuracy"))

    with tempfile.TemporaryDirectory() as elsewhere:
        folder = Path(elsewhere) if job.folder is None else job.folder / "loop"
        named = identity(settings=asdict(s), seed=job.seed, arm=job.arm)
        state, reports = run_loop(steps, steps.begin(steps.policy, steps.value), s.rounds, folder, identity=named, progress=tell)
    bench.ledger.merge(Ledger.from_dict(state["ledger"]))
    told = [start, *reports]
    traces = [r["traces"] + 1e-9 for r in reports]
    metrics = dict(reports[-1]) | {
        "accuracy": reports[-1]["greedy accuracy"],
        "wrong-step traces": float(np.average([r["wrong-step traces"] for r in reports], weights=traces)),
        "gain": reports[-1]["greedy accuracy"] - start["greedy accuracy"],
    }
    curve = [r["greedy accuracy"] for r in told]
    return bench.outcome(metrics, {"greedy accuracy / round": ([float(i) for i in range(len(told))], curve)})


def self_training(bench: Bench, make: Make, *, valued: bool, preference: bool, written: bool = False) -> SelfTraining:
    """The loop's steps, with the base and the first value model to begin with."""
    s, seed = bench.settings, bench.job.seed
    learning = Learning(
        context=s.context, at_least=s.at_least if valued else float("-inf"), most_traces=s.most_traces, updates=s.updates, batch=s.batch,
        lr=s.dpo_lr if preference else s.lr, value_updates=s.value_updates if valued else 0, value_batch=s.value_batch,
        value_lr=s.value_lr, preference=preference, beta=s.beta,
    )  # fmt: skip
    rounds = {number: text.problems(s, seed, f"round {number}", s.questions) for number in range(1, s.rounds + 1)}
    posed = {name: problem for items in rounds.values() for name, problem in items.items()}
    text.check_disjoint(posed, bench.test.problems)
    limit = bench.limit(s.training_limit)
    shown = text.value_problems(s, seed).values() if written else ()
    return SelfTraining(
        policy=frozen_copy(bench.base).requires_grad_(True), value=bench.value, search=make(s, limit), limit=limit, learning=learning,
        seed=seed, questions=lambda number: [(name, text.encoded(problem)) for name, problem in rounds[number].items()],
        right=lambda name, solution: text.TASK.verify(posed[name], solution) == 1.0,
        audit=lambda name, solution: text.TASK.sound(posed[name], solution),
        expand=lambda model, number, ledger: text.steps_of(model, s, derive(seed, "search", number), ledger),
        evaluate=lambda model, ledger: text.values_of(model, s, ledger),
        measure=lambda model: bench.test.greedy(model, s),
        written=[(text.encoded(p), np.array([t for step in text.written_path(p) for t in step.tokens])) for p in shown],
    )  # fmt: skip
