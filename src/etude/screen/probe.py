"""The first updates of an arm, to see whether it begins at all and what it takes: FLOPs, time, memory and disk of each update."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from etude.engine.checkpoint import write_atomic
from etude.engine.result import NonFinite
from etude.errors import BadInput
from etude.evidence import fingerprint, jobs
from etude.recipe.config import parse
from etude.screen.candidates import Candidate
from etude.screen.certificates import code_of
from etude.screen.trial import trainer_of, with_budget

STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Of one update, on average: flops and tokens (all categories) and seconds of training. memory: bytes, of the process at its peak;
    disk: bytes that the run keeps. metrics: what it measures. samples, domains: of the training data."""

    flops: float
    tokens: float
    seconds: float
    memory: int
    disk: int
    metrics: tuple[str, ...]
    samples: int
    domains: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"metrics": list(self.metrics)}


def probe(document: Mapping[str, Any]) -> Probe | str:
    """Runs a recipe whose budget is its first updates, or says why it does not begin: the engine's own refusal."""
    with tempfile.TemporaryDirectory(prefix="etude-probe-") as folder:
        made = copy.deepcopy(dict(document))
        made["run"] |= {"folder": str(Path(folder) / "run"), "trackers": [], "evaluate_every": 1.0}
        jobs.forget_peak()
        try:
            trainer = trainer_of(parse(made, "screen"))
            stream: Any = trainer.stream
            source = getattr(stream, "source", None)
            result = trainer.run()
        except NonFinite as error:
            return f"it diverged within {STEPS} updates ({error})"
        except BadInput as error:
            return f"{error.where}: found {error.found}, expected {error.expected}"
        train = result.ledger.entries["train"]
        names = getattr(source, "domain_names", ())
        return Probe(
            flops=result.ledger.total("flops") / result.steps,
            tokens=train.get("tokens", 0) / result.steps,
            seconds=train.get("seconds", 0.0) / result.steps,
            memory=jobs.peak_bytes(),
            disk=jobs.bytes_below(Path(folder)),
            metrics=tuple(result.metrics),
            samples=0 if source is None else len(source),
            domains=len(names),
        )


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

    def of(self, made: Candidate) -> Probe | str:
        changed = with_budget(made.of(self.document), {"steps": STEPS})
        key = fingerprint.digest([changed, *code_of(made.parts)])
        if key not in self.kept:
            self.say(f"probing {made.name} ...")
            found = probe(changed)
            self.kept[key] = found if isinstance(found, str) else found.as_dict()
            write_atomic(self.path, json.dumps(self.kept, indent=1))
        told = self.kept[key]
        return told if isinstance(told, str) else Probe(**{**told, "metrics": tuple(told["metrics"])})
