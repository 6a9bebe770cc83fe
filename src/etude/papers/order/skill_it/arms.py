"""What each arm does: the same training of the same model on the same data, its skills drawn in a way of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from etude.papers.order.skill_it.mixture import exchanged
from etude.papers.order.skill_it.sampler import Fixed, InOrder, Skills, skills_of
from etude.papers.order.skill_it.settings import BedSettings, Settings
from etude.papers.order.skill_it.testbeds import BEDS, Testbed

PREFIX = {"addition": "", "lego": "LEGO ", "genres": "genre "}
"""Of a testbed's metrics and curves, as arms of one study share their names."""
HELD = ("skill-it", "held")
"""The stream of random numbers that the method chooses its held-back samples by: all arms hold the same ones back."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """How an arm draws.

    kind:   "natural" (as the data has the skills), "steeper" (each twice as often as the one before), "even", "in order" and "in
            reverse" (one skill after another, then all), or of Skill-It, by its graph: "learnt", "identity", "exchanged" (the learnt one
            with its rows at others' places).
    longer: trains on for as many more samples as the learnt graph and the checks cost.
    """

    kind: str
    longer: bool = False


def optimizer(s: BedSettings) -> OptimizerSpec:
    plain = AdamW(lr=s.lr, weight_decay=s.weight_decay)
    return Muon(lr=s.muon_lr, weight_decay=s.weight_decay, rest=plain) if s.muon_lr else plain


def method_of(s: BedSettings, graph: str | Sequence[Sequence[float]]) -> SkillIt:
    return SkillIt(
        graph=graph, eta=s.eta, window=s.window, update_every=s.update_every, checks=s.checks, held=s.held, probe_steps=s.probe_steps,
        margin=s.margin,
    )  # fmt: skip


def trainer(
    s: BedSettings, bed: Testbed, seed: int, steps: int, sampler: Mixture | None, methods: Sequence[SkillIt], **more: Any
) -> Trainer:
    # A sampler, if any, is the stream's; with the method, the run gives the stream the method's.
    stream = DataStream(bed.source, s.batch, seed, sampler=sampler)
    return Trainer(
        bed.model, stream, CausalLM(), optimizer=optimizer(s), schedule=Cosine(warmup=s.warmup), methods=methods,
        budget=Budget(steps=steps), seed=seed, **more,
    )  # fmt: skip


def graph_of(bed: str, s: BedSettings, seed: int) -> tuple[np.ndarray, Ledger]:
    """The graph that the method learns at this seed and what that cost, learnt once for all arms that use it."""
    here = Path(__file__).parent
    made_of = {
        "what": "skill graph", "bed": bed, "settings": asdict(s), "seed": seed,
        "paper": code_hash({path.name: path.read_text(encoding="utf-8") for path in sorted(here.glob("*.py"))}),
    }  # fmt: skip

    def learn() -> dict[str, Any]:
        # One stretch and no check: all that is under "prepare" is the graph's.
        short = replace(s, steps=s.stretch, update_every=s.stretch, checks=1)
        method = method_of(short, s.probes)
        result = trainer(short, BEDS[bed](s, seed), seed, s.stretch, None, [method]).run()
        return {"graph": method.sampler.graph, "spent": dict(result.ledger.entries["prepare"])}

    _, state = kept(made_of, learn)
    return np.asarray(state["graph"]), Ledger.from_dict({"prepare": state["spent"]})


def drawn(s: BedSettings, way: Way, bed: Testbed, skills: Skills, steps: int) -> Mixture:
    """The sampler of an arm without the method."""
    num, size = len(skills.names), s.batch * s.stretch
    if way.kind == "natural":
        return Fixed(skills, size, bed.natural.tolist())
    if way.kind == "steeper":
        return Fixed(skills, size, [2.0**k for k in range(num)])
    if way.kind == "even":
        return Fixed(skills, size, [1.0] * num)
    order = range(num) if way.kind == "in order" else range(num)[::-1]
    return InOrder(skills, size, steps // s.stretch, order)


def train(job: Job, name: str, way: Way) -> Outcome:
    """An arm on the testbed of this name."""
    s: BedSettings = getattr(job.settings, name)
    bed, ledger, steps = BEDS[name](s, job.seed), Ledger(), s.steps
    ledger.merge(bed.ledger)
    methods: list[SkillIt] = []
    sampler: Mixture | None = None
    job.progress(0.1, None)
    if way.kind in ("learnt", "exchanged", "identity"):
        graph = np.eye(len(bed.natural))
        if way.kind != "identity":
            graph, spent = graph_of(name, s, job.seed)
            charge(ledger, spent)
        if way.kind == "exchanged":
            graph = exchanged(graph, numpy_rng(job.seed, "exchanged rows"))
        methods = [method_of(s, graph.tolist())]
    else:
        if way.longer:
            _, spent = graph_of(name, s, job.seed)
            checks = (s.steps // s.stretch - 1) * s.held * len(bed.natural)
            steps += round((spent.total("samples") + checks) / s.batch)
        sampler = drawn(s, way, bed, skills_of(bed.source, s.held, numpy_rng(job.seed, *HELD)), steps)
    result = trainer(
        s, bed, job.seed, steps, sampler, methods, evaluators={"test": bed.evaluator}, evaluate_every=1 / s.evaluations,
        progress=lambda share, loss: job.progress(0.1 + 0.9 * min(share, 1.0), loss),
    ).run()  # fmt: skip
    before = ledger.total("flops", ("prepare",))
    ledger.merge(result.ledger)
    metrics = measured(result.history) | edges(methods)
    drawing = methods[0].sampler if methods else sampler
    found = curves(result.history, before, list(bed.source.domain_names), drawing, s.stretch)
    return Outcome(
        metrics={PREFIX[name] + key: value for key, value in metrics.items()},
        curves={PREFIX[name] + key: curve for key, curve in found.items()},
        ledger=ledger.as_dict(),
        parameters=result.parameters,
    )


def measured(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """accuracy, loss: of the last evaluation, mean over skills. area: of accuracy (or loss) over the run. Each skill's own."""
    what = headline(history)
    values, shares = np.array([row[f"test/{what}"] for row in history]), np.array([row["share"] for row in history])
    found = {name.removeprefix("test/").replace("/", ", "): float(v) for name, v in history[-1].items() if name.startswith("test/")}
    return found | {"area": float(np.trapezoid(values, shares) / (shares[-1] - shares[0]))}


def headline(history: Sequence[Mapping[str, float]]) -> str:
    return "accuracy" if "test/accuracy" in history[-1] else "loss"


def edges(methods: Sequence[SkillIt]) -> dict[str, float]:
    """The graph that the run was drawn by: "graph, row i, column j" from 1."""
    graph = methods[0].sampler.graph if methods else None
    return {} if graph is None else {f"graph, row {i + 1}, column {j + 1}": float(v) for (i, j), v in np.ndenumerate(graph)}


def curves(
    history: Sequence[Mapping[str, float]], before: float, names: Sequence[str], sampler: Mixture | None, stretch: int
) -> dict[str, tuple[list[float], list[float]]]:
    """The mean and each skill's over steps, the mean over all FLOPs (the graph's included), and each skill's share over steps."""
    what = headline(history)
    steps = [float(row["step"]) for row in history]
    mean = [float(row[f"test/{what}"]) for row in history]
    found = {f"{what} / steps": (steps, mean), f"{what} / flops": ([row["flops"] + before for row in history], mean)}
    rows = sampler.history if sampler is not None else []
    for k, name in enumerate(names):
        found[f"{what}, {name} / steps"] = (steps, [float(row[f"test/{what}/{name}"]) for row in history])
        found[f"share, {name} / steps"] = ([float(i * stretch) for i in range(len(rows))], [row[k] for row in rows])
    return found


def arm(bed: str, way: Way, about: str, **more: Any) -> Arm:
    def planned(settings: Settings) -> Mapping[str, float]:
        s: BedSettings = getattr(settings, bed)
        return {"train.samples": s.steps * s.batch}

    return Arm(run=lambda job: train(job, bed, way), about=about, planned=None if way.longer else planned, **more)
