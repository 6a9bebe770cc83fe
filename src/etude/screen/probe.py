"""The first updates of an arm, to see whether it begins at all and what it takes: FLOPs, time, memory and disk of each update."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from etude.engine.checkpoint import write_atomic
from etude.engine.result import Interrupted, NonFinite
from etude.engine.run import Run
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence import fingerprint, jobs
from etude.recipe.config import parse
from etude.screen.candidates import Candidate
from etude.screen.certificates import code_of
from etude.screen.trial import halved, trainer_of, with_budget

STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Whole:
    """What a whole run is expected to come to. tokens: trained on. seconds: with its evaluations. disk: bytes that it keeps."""

    updates: float
    tokens: float
    flops: float
    seconds: float
    disk: int


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the first updates of a whole run took.

    flops, tokens, seconds: of one update, on average (tokens: trained on). begin_flops, begin_seconds: before the first update
    (scoring the data, short runs that teach a method something). budget: updates that the run's own budget is enough for.
    evaluating: seconds of one of `evaluations`, as many as the whole run makes. memory: bytes, of the process at its peak;
    device_memory: of a CUDA device, else 0. kept: bytes of a run's checkpoints; disk: bytes that an update adds to its logs.
    metrics: what is measured. halves: evaluators that can measure on half of what is held out. samples, domains: of the training
    data. parameters: of the model. device: "cpu".

    Not seen: what begins later in a run (a model that grows, a scoring at a later stage's beginning), and so the pace and the
    memory of a run's end.
    """

    flops: float
    tokens: float
    seconds: float
    begin_flops: float
    begin_seconds: float
    budget: float
    evaluating: float
    evaluations: int
    memory: int
    device_memory: int
    kept: int
    disk: float
    metrics: tuple[str, ...]
    halves: tuple[str, ...]
    samples: int
    domains: int
    parameters: int
    device: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"metrics": list(self.metrics), "halves": list(self.halves)}

    def updates(self, flops: float, begin: float = 1.0) -> float:
        """How many a run of so many FLOPs makes. begin: times what this one spent before its first update."""
        return max(flops - begin * self.begin_flops, 0.0) / self.flops if self.flops else 0.0

    def whole(self, updates: float, begin: float = 1.0) -> Whole:
        """A run of so many updates."""
        return Whole(
            updates=updates,
            tokens=updates * self.tokens,
            flops=begin * self.begin_flops + updates * self.flops,
            seconds=begin * self.begin_seconds + updates * self.seconds + self.evaluations * self.evaluating,
            disk=self.kept + round(updates * self.disk),
        )


def probe(document: Mapping[str, Any]) -> Probe | str:
    """What `begin` measures, or why the run does not begin: the engine's own refusal."""
    try:
        return begin(document)
    except NonFinite as error:
        return f"it diverged within {STEPS} updates ({error})"
    except BadInput as error:
        return f"{error.where}: found {error.found}, expected {error.expected}"


def begin(document: Mapping[str, Any]) -> Probe:
    """Begins a recipe's run, of its whole budget and with its whole schedule, and stops it after its first updates as Ctrl-C would.

    Raises BadInput and NonFinite as the run does.
    """
    with tempfile.TemporaryDirectory(prefix="etude-probe-") as name:
        folder = Path(name) / "run"
        made = copy.deepcopy(dict(document))
        # What a whole run does now and then is measured once and counted apart, so that updates are timed alone.
        made["run"] |= {"folder": str(folder), "trackers": [], "evaluate_every": 1.0, "checkpoint_every": 1.0}
        jobs.forget_peak()
        trainer = trainer_of(parse(made, "probe"))
        cuda = trainer.device if trainer.device.type == "cuda" else None
        if cuda is not None:
            torch.cuda.reset_peak_memory_stats(cuda)
        watch = _Watch(trainer)
        with contextlib.suppress(Interrupted):  # as it was asked to, with a checkpoint
            trainer.run()
        run, steps = watch.run, len(watch.times)
        source = getattr(trainer.stream, "source", None)
        checkpoints = list((folder / "checkpoints").glob("step-*"))
        share = (run.share - watch.begun_share) / steps
        return Probe(
            flops=(run.ledger.total("flops") - watch.begun) / steps,
            tokens=run.ledger.entries["train"].get("tokens", 0) / steps,
            seconds=watch.update_seconds(),
            begin_flops=watch.begun,
            begin_seconds=watch.first - watch.evaluated,
            budget=(1 - watch.begun_share) / share,
            evaluating=watch.evaluated - watch.started if run.history else 0.0,
            evaluations=1 + math.ceil(1 / document["run"]["evaluate_every"]) if run.history else 0,
            memory=jobs.peak_bytes(),
            device_memory=0 if cuda is None else torch.cuda.max_memory_allocated(cuda),
            kept=jobs.bytes_below(folder / "checkpoints") // len(checkpoints) * document["run"]["keep_checkpoints"],
            disk=sum(path.stat().st_size for path in folder.glob("*.*") if path.suffix in (".jsonl", ".bin")) / steps,
            metrics=tuple(key for key in run.history[-1] if "/" in key) if run.history else (),
            halves=tuple(halved(trainer.evaluators, 0)),
            samples=0 if source is None else len(source),
            domains=len(getattr(source, "domain_names", ())),
            parameters=sum(p.numel() for p in run.model.parameters()),
            device=str(trainer.device),
        )


class _Watch:
    """Times a run's beginning, and ends it after its first updates. begun, begun_share: FLOPs, and of the budget, before the first.

    started, evaluated, first: seconds on one clock, when methods had started, when the untrained model was measured, and when the first
    batch was there. times: when each update was done.
    """

    run: Run

    def __init__(self, trainer: Trainer[nn.Module]) -> None:
        self.trainer = trainer
        self.started = self.evaluated = self.first = self.begun = self.begun_share = 0.0
        self.times: list[float] = []
        for event in ("start", "evaluate", "batch", "updated"):
            trainer.hooks.lists[event].append(getattr(self, event))

    def start(self, run: Run) -> None:
        self.run = run
        self.started = self.evaluated = time.perf_counter()

    def evaluate(self, run: Run, metrics: object) -> None:
        if not self.times:
            self.evaluated = time.perf_counter()

    def batch(self, run: Run, batch: object) -> None:
        if not self.first:
            self.first, self.begun, self.begun_share = time.perf_counter(), run.ledger.total("flops"), run.share

    def updated(self, run: Run) -> None:
        self.times.append(time.perf_counter())
        if len(self.times) == STEPS:
            self.trainer.request_stop()

    def update_seconds(self) -> float:
        """Of one update, without the first where there are more: it counts FLOPs, and much is set up in it."""
        if len(self.times) == 1:
            return self.times[0] - self.first
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)


class Probes:
    """Probes kept in OUT/screen.json, by what was probed."""

    def __init__(self, out: Path, document: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self.path, self.document, self.say = out / "screen.json", document, say
        self.kept: dict[str, Any] = {}
        if self.path.exists():
            try:
                self.kept = json.loads(self.path.read_text(encoding="utf-8"))
            except ValueError:
                self.kept = {}

    def of(self, made: Candidate, budget: Mapping[str, float]) -> Probe | str:
        """budget: of the run that is begun, one quantity as in a recipe."""
        changed = with_budget(made.of(self.document), budget)
        key = fingerprint.digest([changed, *code_of(made.parts), sorted(field.name for field in fields(Probe))])
        if key not in self.kept:
            self.say(f"probing {made.name} ...")
            with jobs.one_thread():  # as the runs of a screen
                found = probe(changed)
            self.kept[key] = found if isinstance(found, str) else found.as_dict()
            write_atomic(self.path, json.dumps(self.kept, indent=1))
        told = self.kept[key]
        return told if isinstance(told, str) else Probe(**{**told, "metrics": tuple(told["metrics"]), "halves": tuple(told["halves"])})
