"""The first updates of an arm, to see whether it begins at all and what it takes: FLOPs, time, memory and disk of each update."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from etude.engine.result import NonFinite
from etude.errors import BadInput
from etude.evidence import jobs
from etude.recipe.config import parse
from etude.screen.trial import trainer_of

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
