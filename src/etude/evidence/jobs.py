"""One run: an arm of a study at one seed, executed on one thread and kept as a file once it is finished.

A finished run is a JSON file whose name holds the hash of all that the run depends on, written whole or not at all; a
later call with the same hash reuses it. Numbers are written so that reading gives the same bits; NaN and Inf as text.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from etude.engine.checkpoint import write_atomic
from etude.engine.streams import derive, global_streams
from etude.engine.trainer import NonFinite
from etude.errors import BadInput
from etude.evidence import planned
from etude.evidence.dates import now
from etude.evidence.fingerprint import plain
from etude.evidence.study import PARTS, Job, Outcome, Study

SCHEMA = 1
PROBE = 20
"""So many metrics from a run's beginning are kept: by then rounding differences have not grown yet."""
Progress = Callable[[float, float | None], None]


@dataclass(frozen=True)
class Task:
    """arm, scale, seed: which run. config: the hash of what it depends on. file: where it is kept; folder: its own folder."""

    arm: str
    scale: str
    seed: int
    config: str
    file: Path
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.arm}, seed {self.seed}"


def job_seed(seed: int, scale: str) -> int:
    """The plain number at cpu and paper scale; elsewhere one hashed with the scale, so that nothing there shows cpu data."""
    return seed if scale in ("cpu", "paper") else derive(seed, scale) % 2**31


def execute(study: Study, task: Task, progress: Progress) -> dict[str, Any]:
    """Runs the task on this thread, keeps the finished run at `task.file` and returns it.

    An arm stopped by `NonFinite` counts as diverged, with what the study declares as `failure` and its planned ledger. The folder
    of an earlier, unfinished run of this very hash is handed on. Raises BadInput for an outcome that cannot be recorded, and
    whatever else the arm raises.
    """
    resumed = _leftover(task.folder)
    probe: list[float] = []

    def told(fraction: float, metric: float | None = None) -> None:
        if metric is not None and len(probe) < PROBE and math.isfinite(metric):
            probe.append(float(metric))
        progress(fraction, metric)

    seed = job_seed(task.seed, task.scale)
    job = Job(
        study=study.slug, arm=task.arm, scale=task.scale, seed=seed, settings=study.scales[task.scale].settings,
        folder=task.folder, progress=told,
    )  # fmt: skip
    forget_peak()
    started = time.perf_counter()
    with global_streams(derive(seed, "job")):  # an arm that forgets to seed something is repeatable all the same
        try:
            outcome = study.arms[task.arm].run(job)
        except NonFinite:
            outcome = Outcome(metrics={}, ledger={}, diverged=True)
    seconds = time.perf_counter() - started
    run = {
        "schema": SCHEMA, "study": study.slug, "arm": task.arm, "scale": task.scale, "seed": task.seed, "config": task.config,
        **_checked(study, task, outcome), "probe": [] if resumed else probe, "resumed": resumed,
        "seconds": seconds, "peak_bytes": peak_bytes(), "date": now(),
    }  # fmt: skip
    run["disk_bytes"] = len(dumps(run)) + bytes_below(task.folder)
    write_atomic(task.file, dumps(run))
    return run


def _leftover(folder: Path) -> bool:
    """Whether an unfinished run has left something to go on from. What a Trainer left outside of `Job.part` is removed.

    The Trainer of a finished round stays: rounds behind it may read what it wrote.
    """
    if not folder.is_dir():
        return False
    rounds = [path.stat().st_mtime_ns for path in folder.glob("rounds/step-*")]
    for mark in list(folder.rglob("run.json")):
        inside_part = PARTS in mark.relative_to(folder).parts
        if mark.exists() and not inside_part and mark.stat().st_mtime_ns > max(rounds, default=0):
            _remove_trainer(mark.parent, folder)
    return any(folder.iterdir())


def _remove_trainer(run: Path, top: Path) -> None:
    if run != top:
        shutil.rmtree(run)
        return
    for path in run.iterdir():  # its folder is the job's own, which may hold rounds and parts beside it
        if path.name not in (PARTS, "rounds", "rounds.jsonl"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def load(task: Task) -> dict[str, Any] | None:
    """The finished run of exactly this task, or None where there is none that can be read."""
    try:
        run = loads(task.file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(run, dict) and run.get("schema") == SCHEMA and run.get("config") == task.config
    return run if same else None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch and, where threadpoolctl is installed, numpy's libraries on one thread inside. Prints go to stderr."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        if can_pin():
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(1))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def can_pin() -> bool:
    """Whether this process can put numpy's libraries on one thread after they were loaded."""
    return find_spec("threadpoolctl") is not None


def bytes_below(folder: Path) -> int:
    """The size of all files in a folder, 0 where there is none."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else 0


def forget_peak() -> None:
    """Lets `peak_bytes` begin anew, where the system can (Linux), so that a run is not charged with the one before it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most memory this process has held, since `forget_peak` where that works."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_of(process: int) -> int:
    """The most memory that another process has held, 0 where the system does not tell (anything but Linux)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration, ValueError):
        return 0


def dumps(value: Any, **options: Any) -> str:
    """Strict JSON: what is not finite becomes "NaN", "Infinity" or "-Infinity"."""
    return json.dumps(_texts(value), allow_nan=False, **options)


def loads(text: str) -> Any:
    """The inverse of `dumps`."""
    return _numbers(json.loads(text))


def _texts(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {k: _texts(v) for k, v in value.items()}
    return [_texts(v) for v in value] if isinstance(value, (list, tuple)) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, str):
        return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    return [_numbers(v) for v in value] if isinstance(value, list) else value


def _checked(study: Study, task: Task, outcome: Any) -> dict[str, Any]:
    where = f"{study.slug}, {task.name}"
    if not isinstance(outcome, Outcome):
        raise BadInput(where, type(outcome).__name__, "an Outcome")
    if "ledger" in outcome.metrics:
        raise BadInput(where, "a metric named 'ledger'", "another name; that one is taken in the JSON output")
    if outcome.diverged:
        outcome = _failed(study, task, outcome)
    instead, found = study.arms[task.arm].instead, f"metrics {', '.join(outcome.metrics) or '(none)'}"
    if instead and study.headline in outcome.metrics:
        raise BadInput(where, found, f"no '{study.headline}' in an arm that is shown with other metrics instead")
    for name in () if outcome.diverged else instead or (study.headline,):
        if name not in outcome.metrics:
            raise BadInput(where, found, f"the {'metric' if instead else 'headline metric'} '{name}' among them")
    for name, (x, y) in outcome.curves.items():
        if len(x) != len(y) or " / " not in name:
            raise BadInput(f"{where}, curve '{name}'", f"{len(x)} x and {len(y)} y", "equal lengths, and a name such as 'loss / flops'")
    for name, (successes, trials) in outcome.counts.items():
        if not 0 <= successes <= trials:
            raise BadInput(f"{where}, count '{name}'", f"{successes} of {trials}", "0 <= successes <= trials")
    return {
        "metrics": {k: float(v) for k, v in outcome.metrics.items()},
        "ledger": plain(outcome.ledger),
        "curves": {k: [_floats(x), _floats(y)] for k, (x, y) in outcome.curves.items()},
        "counts": {k: [int(a), int(b)] for k, (a, b) in outcome.counts.items()},
        "arrays": plain(outcome.arrays),
        "diverged": bool(outcome.diverged),
        "parameters": int(outcome.parameters),
    }


def _failed(study: Study, task: Task, outcome: Outcome) -> Outcome:
    """A diverged outcome, completed by what the study declares; what the arm says itself goes before."""
    declared = study.failure_of(task.arm)
    metrics = {name: value for name, value in declared.items() if not isinstance(value, (tuple, list))}
    counts = {name: value for name, value in declared.items() if isinstance(value, (tuple, list))}
    return replace(
        outcome, metrics=metrics | outcome.metrics, counts=counts | outcome.counts,
        ledger=outcome.ledger or planned.ledger(planned.amounts(study, task.scale, task.arm)),
    )  # fmt: skip


def _floats(values: Any) -> list[float]:
    return [float(v) for v in values]
