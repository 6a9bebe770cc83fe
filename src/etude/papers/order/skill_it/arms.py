"""What each arm does: the same training of the same model on the same data, its skills drawn in a way of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.samplers import Mixture
from etude.data.stream import DataStream
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW, Muon, OptimizerSpec
from etude.engine.schedule import Cosine
from etude.engine.streams import numpy_rng
from etude.engine.trainer import Trainer
from etude.evidence.fingerprint import code_hash
from etude.evidence.study import Arm, Job, Outcome
from etude.learn.language import CausalLM
from etude.learn.warmstart import kept
from etude.papers.order.skill_it.method import SkillIt, charge
from etude.papers.order.skill_it.mixture import shuffled
from etude.papers.order.skill_it.sampler import Fixed, InOrder, Skills, skills_of
from etude.papers.order.skill_it.settings import Settings
from etude.papers.order.skill_it.testbeds import Testbed

Make = Callable[[Any, int], Testbed]
HELD = ("skill-it", "held")
"""The stream of random numbers that the method chooses its held-back samples by: all arms hold the same ones back."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How an arm draws.

    kind:   "natural" (as the data has the skills), "even", "in order" and "in reverse" (one skill after another, then all), or of
            Skill-It, by its graph: "learnt", "identity", "shuffled" (the learnt one's edges elsewhere).
    longer: trains on for as many more samples as the learnt graph and the checks cost.
    """

    kind: str
    longer: bool = False


def optimizer(s: Settings) -> OptimizerSpec:
    plain = AdamW(lr=s.lr, weight_decay=s.weight_decay)
    return Muon(lr=s.muon_lr, weight_decay=s.weight_decay, rest=plain) if s.muon_lr else plain


def method_of(s: Settings, graph: str | Sequence[Sequence[float]]) -> SkillIt:
    return SkillIt(
        graph=graph, eta=s.eta, window=s.window, update_every=s.update_every, checks=s.checks, held=s.held, probe_steps=s.probe_steps,
        margin=s.margin,
    )  # fmt: skip


def trainer(s: Settings, bed: Testbed, seed: int, steps: int, sampler: Mixture | None, methods: Sequence[SkillIt], **more: Any) -> Trainer:
    # A sampler, if any, is the stream's; with the method, the run gives the stream the method's.
    stream = DataStream(bed.source, s.batch, seed, sampler=sampler)
    return Trainer(
        bed.model, stream, CausalLM(), optimizer=optimizer(s), schedule=Cosine(warmup=s.warmup), methods=methods,
        budget=Budget(steps=steps), seed=seed, **more,
    )  # fmt: skip


def graph_of(s: Settings, make: Make, seed: int) -> tuple[np.ndarray, Ledger]:
    """The graph that the method learns at this seed and what that cost, learnt once for all arms that use it."""
    here = Path(__file__).parent
    made_of = {
        "what": "skill graph", "bed": make.__name__, "settings": asdict(s), "seed": seed,
        "paper": code_hash({path.name: path.read_text(encoding="utf-8") for path in sorted(here.glob("*.py"))}),
    }  # fmt: skip

    def learn() -> dict[str, Any]:
        bed, method = make(s, seed), method_of(replace(s, steps=s.stretch, update_every=s.stretch, checks=1), s.probes)
        # One stretch and no check: all that is under "prepare" is the graph's.
        result = trainer(replace(s, steps=s.stretch, update_every=s.stretch, checks=1), bed, seed, s.stretch, None, [method]).run()
        return {"graph": method.sampler.graph, "spent": dict(result.ledger.entries["prepare"])}

    _, state = kept(made_of, learn)
    return np.asarray(state["graph"]), Ledger.from_dict({"prepare": state["spent"]})


def drawn(s: Settings, way: Way, bed: Testbed, skills: Skills, steps: int) -> Mixture:
    """The sampler of an arm without the method."""
    num, size = len(skills.names), s.batch * s.stretch
    if way.kind == "natural":
        return Fixed(skills, size, bed.natural.tolist())
    if way.kind == "even":
        return Fixed(skills, size, [1.0] * num)
    order = range(num) if way.kind == "in order" else range(num)[::-1]
    return InOrder(skills, size, steps // s.stretch, order)


def train(job: Job, make: Make, way: Way) -> Outcome:
    s: Settings = job.settings
    bed, ledger, steps = make(s, job.seed), Ledger(), s.steps
    ledger.merge(bed.ledger)
    methods: list[SkillIt] = []
    sampler: Mixture | None = None
    job.progress(0.1, None)
    if way.kind in ("learnt", "shuffled", "identity"):
        graph = np.eye(len(bed.natural))
        if way.kind != "identity":
            graph, spent = graph_of(s, make, job.seed)
            charge(ledger, spent)
        if way.kind == "shuffled":
            graph = shuffled(graph, numpy_rng(job.seed, "shuffled graph"))
        methods = [method_of(s, graph.tolist())]
    else:
        if way.longer:
            _, spent = graph_of(s, make, job.seed)
            checks = (s.steps // s.stretch - 1) * s.held * len(bed.natural)
            steps += round((spent.total("samples") + checks) / s.batch)
        sampler = drawn(s, way, bed, skills_of(bed.source, s.held, numpy_rng(job.seed, *HELD)), steps)
    result = trainer(
        s, bed, job.seed, steps, sampler, methods, evaluators={"test": bed.evaluator}, evaluate_every=1 / s.evaluations,
        progress=lambda share, loss: job.progress(0.1 + 0.9 * min(share, 1.0), loss),
    ).run()  # fmt: skip
    before = ledger.total("flops", ("prepare",))
    ledger.merge(result.ledger)
    return Outcome(
        metrics=measured(s, bed, result.history) | edges(methods),
        curves=curves(bed, result.history, before, methods[0].sampler if methods else sampler, s.stretch),
        ledger=ledger.as_dict(),
        parameters=result.parameters,
    )


def measured(s: Settings, bed: Testbed, history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """accuracy, loss: of the last evaluation, mean over skills. area: of accuracy (or loss) over the run. Each skill's own."""
    what = headline(history)
    values, shares = np.array([row[f"test/{what}"] for row in history]), np.array([row["share"] for row in history])
    found = {name.removeprefix("test/").replace("/", ", "): float(v) for name, v in history[-1].items() if name.startswith("test/")}
    return found | {"area": float(np.trapezoid(values, shares) / (shares[-1] - shares[0]))}


def headline(history: Sequence[Mapping[str, float]]) -> str:
    return "accuracy" if "test/accuracy" in history[-1] else "loss"


def edges(methods: Sequence[SkillIt]) -> dict[str, float]:
    """The graph that the run was drawn by: "graph, row i, column j" from 1."""
    graph = [] if not methods or methods[0].sampler.graph is None else methods[0].sampler.graph
    return {f"graph, row {i + 1}, column {j + 1}": float(v) for i, row in enumerate(graph) for j, v in enumerate(row)}


def curves(
    bed: Testbed, history: Sequence[Mapping[str, float]], before: float, sampler: Mixture | None, stretch: int
) -> dict[str, tuple[list[float], list[float]]]:
    """The mean and each skill's over steps, the mean over all FLOPs (the graph's included), and each skill's share over steps."""
    what, names = headline(history), list(bed.source.domain_names)
    steps = [float(row["step"]) for row in history]
    mean = [float(row[f"test/{what}"]) for row in history]
    found = {f"{what} / steps": (steps, mean), f"{what} / flops": ([row["flops"] + before for row in history], mean)}
    for name in names:
        found[f"{what}, {name} / steps"] = (steps, [float(row[f"test/{what}/{name}"]) for row in history])
    rows = sampler.history if sampler is not None else []
    for k, name in enumerate(names):
        found[f"share, {name} / steps"] = ([float(i * stretch) for i in range(len(rows))], [row[k] for row in rows])
    return found


def planned(s: Settings) -> Mapping[str, float]:
    return {"train.samples": s.steps * s.batch}


def arm(make: Make, way: Way, about: str, **more: Any) -> Arm:
    return Arm(run=lambda job: train(job, make, way), about=about, planned=None if way.longer else planned, **more)
