"""What a study will take, said before it starts: time, memory, disk, and the smallest effect that its seeds can show.

Time, memory and disk come from finished runs of the same study and scale where there are any (in the output folder, then on
record; old records hold times alone). What is left is probed: each such arm runs for a few seconds in a process of its own, on
a seed that is for tuning, and its time follows from the progress that it reports. Where it reports none the time stays unknown,
and the plan says so.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from etude.engine.ledger import Ledger
from etude.errors import BadInput
from etude.evidence import jobs, output, records, requirements
from etude.evidence.estimate import NotJudged, Seeds
from etude.evidence.jobs import Task
from etude.evidence.places import Place
from etude.evidence.pool import Pool
from etude.evidence.reference import Reference
from etude.evidence.registration import TUNING_FROM
from etude.evidence.statistics import smallest_detectable
from etude.evidence.study import Study
from etude.evidence.verdict import primary_of


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one run of an arm. seconds, memory (bytes, peak), disk (bytes): None where unknown; source: where they come from.

    begun: memory and disk are those of a run's beginning, which the whole run may exceed. spent: quantity -> amount over all
    categories, on average, of runs that are finished or on record; empty where there are none.
    """

    seconds: float | None
    memory: int | None
    disk: int | None
    source: str
    begun: bool = False
    spent: dict[str, float] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        return None not in (self.seconds, self.memory, self.disk)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """runs, kept: how many in all, and finished before. seconds: wall time on `workers` processes; None where an arm is unknown.

    memory: bytes, all workers at their peak. disk: bytes to come; disk_free: bytes. detectable: the smallest effect of the
    primary claim (of entrants, the first) that `n` seeds show with 80 % probability, in the claim's unit, or in standard deviations of it.
    budgets: arm -> quantity -> what one run plans to spend, for arms that say it.
    """

    slug: str
    scale: str
    size: str
    arms: dict[str, Cost]
    seeds: list[int]
    workers: int
    runs: int
    kept: int
    seconds: float | None
    memory: int | None
    disk: int | None
    disk_free: int
    detectable: float
    detectable_unit: str
    budgets: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def make(
    study: Study, reference: Reference | None, tasks: Sequence[Task], workers: int, out: Path, place: Place,
    budgets: Mapping[str, Mapping[str, float]], probe_seconds: float = 8.0, say: Callable[[str], None] = lambda text: None,
) -> Plan:  # fmt: skip
    """The plan of these tasks. Probes only arms of which something is not known; 0 probe seconds leave it so.

    say: told before it probes, which takes a while.
    """
    scale, arms, seeds = tasks[0].scale, list(dict.fromkeys(t.arm for t in tasks)), list(dict.fromkeys(t.seed for t in tasks))
    todo = [task for task in tasks if jobs.load(task) is None]
    costs = {arm: _from_runs(out / scale, arm) or _from_record(place.record(study.slug), scale, arm) for arm in arms}
    unknown = [arm for arm in dict.fromkeys(t.arm for t in todo) if not ((cost := costs[arm]) and cost.known)]
    if unknown and reference is not None and probe_seconds > 0:
        costs |= _probed(study, reference, scale, {arm: costs[arm] for arm in unknown}, workers, probe_seconds, say)
    known = {arm: cost or Cost(seconds=None, memory=None, disk=None, source="unknown") for arm, cost in costs.items()}
    each = [known[task.arm].seconds for task in todo]
    peaks = sorted((c.memory for c in known.values() if c.memory), reverse=True)
    disk = [known[task.arm].disk for task in todo]
    earlier = [place.record(study.slug), out / scale / "record.json", out / "quick" / "record.json"]
    detectable, unit = _detectable(study, scale, len(seeds), earlier)
    return Plan(
        slug=study.slug, scale=scale, size=study.scales[scale].size, arms=known, seeds=seeds, workers=workers, runs=len(tasks),
        kept=len(tasks) - len(todo), seconds=None if None in each else makespan([s for s in each if s is not None], workers),
        memory=sum((peaks * workers)[: min(workers, len(todo))]) if peaks else None,
        disk=None if None in disk else sum(d for d in disk if d is not None),
        disk_free=shutil.disk_usage(_existing(out)).free, detectable=detectable, detectable_unit=unit,
        budgets={arm: dict(amounts) for arm, amounts in budgets.items()},
    )  # fmt: skip


def _probed(
    study: Study, reference: Reference, scale: str, costs: Mapping[str, Cost | None], workers: int, seconds: float,
    say: Callable[[str], None],
) -> dict[str, Cost]:  # fmt: skip
    """The costs, completed by probes. Where data is missing, what is known of the time has to do; raises BadInput where nothing is."""
    try:
        requirements.require(study, scale)
    except BadInput as missing:
        if None in costs.values():
            raise
        say(f"memory is not probed: {missing}")
        return {arm: cost for arm, cost in costs.items() if cost is not None}
    say(f"probing {len(costs)} arms for a few seconds each, {min(workers, len(costs))} at a time ...")
    found = _probe(reference, scale, [arm for arm, cost in costs.items() if cost is None], workers, seconds)
    # Memory is at its peak as soon as a few updates are made, which may take a while to begin.
    found |= _probe(reference, scale, [arm for arm, cost in costs.items() if cost is not None], workers, 2 * seconds, reports=3)
    return {arm: _completed(costs[arm], cost) for arm, cost in found.items()}


HOUR = 3600.0
"""Seconds of work over which `--yes` is asked for."""
PATIENCE = 6
"""How many times its limit a probe goes on for arms that have not reported progress twice."""


def makespan(seconds: Sequence[float], workers: int) -> float:
    """How long `workers` take over runs of these lengths, each free one taking the next in order."""
    busy = [0.0] * workers
    for one in seconds:
        busy[busy.index(min(busy))] += one
    return max(busy)


def extrapolate(points: Sequence[tuple[float, float]], spent: float) -> float | None:
    """Seconds of a whole run from (seconds, fraction done) reports of its beginning: setting up counts once, the pace goes on.

    None where fewer than two reports, or no progress between them.
    """
    if points and points[-1][1] >= 1.0:
        return spent
    if len(points) < 2 or points[-1][1] <= points[0][1]:
        return None
    (t0, f0), (t1, f1) = points[0], points[-1]
    return t1 + (1.0 - f1) * (t1 - t0) / (f1 - f0)


def _from_runs(base: Path, arm: str) -> Cost | None:
    found = []
    for path in sorted((base / "runs").glob("*.json")):
        try:
            run = jobs.loads(path.read_text(encoding="utf-8"))
            if run["arm"] == arm and not run.get("resumed"):  # of one that was killed, only its last part was timed
                size = path.stat().st_size + jobs.bytes_below(base / "folders" / path.stem)
                found.append((run["seconds"], run["peak_bytes"], size, run["ledger"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    if not found:
        return None
    seconds, memory, disk, ledgers = (list(column) for column in zip(*found, strict=True))
    source = f"{len(found)} finished run{'s' * (len(found) > 1)}"
    return Cost(seconds=float(np.mean(seconds)), memory=max(memory), disk=int(np.mean(disk)), source=source, spent=_spent(ledgers))


def _from_record(path: Path, scale: str, arm: str) -> Cost | None:
    try:
        record = records.read(path)
    except BadInput:
        return None
    if record["scale"] != scale or arm not in record["arms"]:
        return None
    told, source = record["arms"][arm], f"the record of {record['provenance']['date'][:10]}"
    peaks, sizes = ([v for v in told.get(name) or () if v is not None] for name in ("peak_bytes", "disk_bytes"))
    return Cost(
        seconds=float(np.mean(told["seconds"])), memory=max(peaks, default=None), disk=int(np.mean(sizes)) if sizes else None,
        source=source, spent=_spent(told["ledger"]),
    )  # fmt: skip


def _spent(ledgers: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Tokens and FLOPs of a run, on average over ledgers that hold them."""
    told = {}
    for quantity in ("tokens", "flops"):
        totals = [Ledger.from_dict(ledger).total(quantity) for ledger in ledgers]
        if any(totals):
            told[quantity] = float(np.mean([total for total in totals if total]))
    return told


def _completed(told: Cost | None, probed: Cost) -> Cost:
    """What is on record, with memory and disk of a probe where it has none."""
    if told is None:
        return probed
    memory = probed.memory if told.memory is None else told.memory
    disk = probed.disk if told.disk is None else told.disk
    return replace(told, memory=memory, disk=disk, source=f"{told.source}; memory: {probed.source}", begun=probed.begun)


def _probe(
    reference: Reference, scale: str, arms: Sequence[str], workers: int, limit: float, reports: float = math.inf
) -> dict[str, Cost]:  # fmt: skip
    """The costs of arms from their first `limit` seconds; less where each has reported progress `reports` times."""
    costs: dict[str, Cost] = {}
    for first in range(0, len(arms), workers):
        group = arms[first : first + workers]
        with tempfile.TemporaryDirectory(prefix="etude-plan-") as folder:
            base = Path(folder)
            tasks = [output.task(base, scale, arm, TUNING_FROM, "probe") for arm in group]
            costs |= _probe_group(reference, tasks, base, limit, reports)
    return costs


def _probe_group(reference: Reference, tasks: Sequence[Task], base: Path, limit: float, reports: float) -> dict[str, Cost]:
    started: dict[int, float] = {}
    points: dict[int, list[tuple[float, float]]] = {i: [] for i in range(len(tasks))}
    spent: dict[int, float] = {}
    peaks = [0] * len(tasks)
    with Pool(reference, len(tasks), base / "logs") as pool:
        for event in pool.run(tasks):
            now = time.monotonic()
            if event.kind == "started":
                started[event.index] = now
            elif event.kind in ("progress", "done"):
                spent[event.index] = now - started[event.index]
                points[event.index].append((spent[event.index], event.fraction))
                peaks[event.index] = event.peak
            if len(started) < len(tasks):
                continue
            # On a busy machine setting up alone may take longer than the limit: two reports of each are waited for.
            late = PATIENCE * limit if any(len(told) < 2 for told in points.values()) else limit
            if now - max(started.values()) > late or all(len(told) >= reports for told in points.values()):
                break
        for i, peak in pool.peaks().items():  # also of those that have not said anything yet
            peaks[i] = max(peaks[i], peak)
    costs: dict[str, Cost] = {}
    for i, task in enumerate(tasks):
        finished = task.file.exists()
        seconds = extrapolate(points[i], spent.get(i, 0.0))
        source = "a whole run" if finished else f"its first {spent.get(i, limit):.0f} s"
        if seconds is None:
            source += " (no progress reported)"
        disk = jobs.bytes_below(task.folder) + (task.file.stat().st_size if finished else 0)
        costs[task.arm] = Cost(seconds=seconds, memory=peaks[i] or None, disk=disk, source=source, begun=not finished)
    return costs


def _detectable(study: Study, scale: str, n: int, places: Sequence[Path]) -> tuple[float, str]:
    claim = study.claims[primary_of(study.claims) or 0] if study.claims else None
    for path in places:
        try:
            record = records.read(path)
            if claim is None:
                break
            estimate = claim.estimate(record)
        except (BadInput, NotJudged):
            continue
        if isinstance(estimate.sample, Seeds) and estimate.n > 1:
            sd = float(np.std(estimate.sample.values, ddof=1))
            least = estimate.shown(smallest_detectable(sd, n, estimate.d))
            if record["scale"] == scale:
                return least, f"in the primary claim's unit, from the {scale} record's spread"
            return least, f"in the primary claim's unit, if seeds differ here as they do in the {record['scale']} record"
    return smallest_detectable(1.0, n), "standard deviations of the per-seed effect, beyond d (its spread is not known yet)"


def _existing(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
