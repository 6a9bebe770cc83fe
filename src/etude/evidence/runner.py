"""Running a study: its arms and seeds over one-thread processes, then the record, the verdict and the figures.

A serial run in this process and one over many workers give the same bits. Finished runs are kept and reused; Ctrl-C and
kills lose at most the runs that were under way.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.engine.arguments import shown, typed
from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput, one_of
from etude.evidence import attempts, fingerprint, jobs, output, places, planned, plots, records, registration, report, requirements, tuning
from etude.evidence import plan as planning
from etude.evidence.jobs import Task
from etude.evidence.live import View, clock, view
from etude.evidence.places import Place
from etude.evidence.pool import Pool, RunFailed
from etude.evidence.provenance import provenance
from etude.evidence.reference import Reference, reference_of
from etude.evidence.seeds import MOST
from etude.evidence.study import SCALES, Study
from etude.evidence.verdict import check


class StudyInterrupted(KeyboardInterrupt):
    """Ctrl-C: the text says what is kept and how to go on. Nothing is left running. The command line exits with 130."""

    exit_code = 130

    def __init__(self, slug: str, done: int, runs: int, out: Path) -> None:
        super().__init__(f"{slug}: interrupted with {done} of {runs} runs finished and kept in {out}; run the same command to go on")
        self.done, self.runs, self.out = done, runs, out

    def of(self, what: str) -> StudyInterrupted:
        """The same, of something larger that the study is a part of."""
        return StudyInterrupted(what, self.done, self.runs, self.out)


@typed("run_study, ")
def run_study(
    study: Study | str | Reference,
    scale: str = "quick",
    seeds: int | Sequence[int] | None = None,
    arms: Sequence[str] | None = None,
    workers: int | None = None,
    out: Path | str | None = None,
    *,
    plan: bool = False,
    json: bool = False,
    quiet: bool = False,
    reason: str = "",
    yes: bool = False,
    place: Place | None = None,
) -> dict[str, Any]:
    """Runs what is not finished yet of a study, judges it, and returns the record (or, with `plan`, the plan, running nothing).

    study:   a Study, a word for the catalogue (slug or file), or a `Reference`.
    seeds:   a count n for seeds 0 .. n - 1, or the seeds; default: the scale's own number. From 100 on they are for tuning.
    arms:    default: all that the scale has.         workers: processes; default: one a core. 1 runs in this process.
    out:     the output folder, default runs/SLUG in the working directory; everything lies below OUT/SCALE.
    json:    prints exactly one JSON document on stdout; otherwise a table is printed there, unless `quiet`. Progress is on stderr.
    reason:  why a recorded cpu study is run again; needed there, and written to the attempts.
    yes:     goes on where the plan is over an hour, as far as earlier runs tell; a smoke run is never asked about.
    place:   where evidence lies (default: `places.find()`).

    What arms plan to spend (`Arm.planned`) is held against what claims hold equal before anything starts. At cpu scale in a source
    checkout the study must be registered; the run is listed in the attempts, and a complete one writes the record and figures to
    the evidence folder. Raises BadInput before anything starts, RunFailed where a run
    raises, StudyInterrupted on Ctrl-C.
    """
    study, reference = resolved(study)
    place = place or places.find()
    check(study.claims, {name: arm.reference for name, arm in study.arms.items()}) if study.claims else None
    if scale not in study.scales:
        raise one_of(f"{study.slug}, scale", scale, [s for s in SCALES if s in study.scales])
    chosen = _arms(study, scale, arms)
    numbers = _seeds(study, scale, seeds)
    if out is not None and not str(out).strip():
        raise BadInput(f"{study.slug}, out", "an empty text", "a folder")
    plans = planned.check(study, scale, chosen)
    size = workers_of(workers)
    if reference is None:
        size = 1  # a study that no other process could find
    base = Path(out) if out is not None else Path("runs") / study.slug
    hashes = fingerprint.study_hashes(study, scale)
    tasks = [
        output.task(base, scale, arm, seed, fingerprint.run_hash(study, scale, arm, seed, hashes)) for seed in numbers for arm in chosen
    ]  # seed by seed, so that an interrupted study has whole pairs
    size = min(size, max(len(tasks), 2))  # one task over two workers is still a process of its own
    if plan:
        return _plan(study, reference, tasks, size, base, place, plans, json, quiet)
    if any(jobs.load(task) is None for task in tasks):
        requirements.require(study, scale)
    gate = registration.require(study, place) if registration.needed(study, scale, numbers, place) else None
    if gate is not None and place.record(study.slug).exists() and not reason.strip():
        raise BadInput(f"{study.slug}, {scale} scale", "a record already, and no reason", 'why it is run again: --reason "TEXT"')
    if not (yes or scale == "smoke"):
        _short(study, planning.make(study, None, tasks, size, base, place, plans))
    output.claim(base, study.slug)
    with output.alone(base), _Attempt(study, scale, place, hashes, numbers, chosen, reason) as attempt:
        if gate is not None and not gate["code_unchanged"]:
            _say(quiet, f"{study.slug}: its code has changed since it was registered on {gate['date']}; the claims and settings have not")
        runs = perform(study, reference, tasks, size, base, quiet)
        record = records.build(study, scale, numbers, runs, provenance(study, scale))
        record["registration"] = gate
        record["complete"] = _complete(study, scale, chosen, numbers)
        recorded = gate is not None and record["complete"]
        if recorded:
            record["provenance"]["smoke"] = smoke_fingerprint(study, reference, size, base, quiet)
            records.write(place.record(study.slug), record, place.head(study.slug))
        records.write(base / scale / "record.json", record)
        figures = plots.draw_all(study, record, base / scale / "plots")
        for figure in figures if recorded else ():
            write_atomic(place.plots(study.slug) / figure.name, figure.read_bytes())
        attempt.result = record["verdict"]
    spent = tuning.load(place, study.slug) if scale == registration.SCALE else None
    if json:
        print(records.strict_json(records.document(record) | {"tuning": spent and spent.as_dict()}))
    elif not quiet:
        report.show(record, tuned=tuning.line(spent, record) if spent else "")
        _say(False, f"record and {len(figures)} figures in {base / scale}")
    return record


def perform(
    study: Study, reference: Reference | None, tasks: Sequence[Task], workers: int, out: Path, quiet: bool, title: str = ""
) -> dict[str, list[Any]]:  # fmt: skip
    """Runs the tasks that have no finished run and returns all of them, arm -> runs in the order of the tasks. title: of the live view."""
    title = title or f"{study.slug} at {tasks[0].scale} scale, {study.scales[tasks[0].scale].size}"
    shown = view(tasks, title, study.headline, workers, quiet)
    for row in shown.rows:
        kept = jobs.load(row.task)
        if kept is not None:
            row.state, row.seconds, row.metric = "kept", kept["seconds"], kept["metrics"].get(study.headline)
    todo = [row for row in shown.rows if row.state == "waiting"]
    try:
        with shown:
            if todo and ((workers == 1 and jobs.can_pin()) or reference is None):
                _serial(study, todo, shown)
            elif todo:
                _spread(study, reference, todo, shown, min(workers, len(todo)), out / tasks[0].scale / "logs")  # type: ignore[arg-type]
    except KeyboardInterrupt:
        done = sum(jobs.load(task) is not None for task in tasks)
        raise StudyInterrupted(study.slug, done, len(tasks), out) from None
    runs: dict[str, list[Any]] = {}
    for task in tasks:
        run = jobs.load(task)
        if run is None:
            raise RunFailed(task.name, f"its file {task.file} is gone")
        runs.setdefault(task.arm, []).append(run)
    return runs


def smoke_fingerprint(
    study: Study, reference: Reference | None, workers: int, out: Path, quiet: bool = True
) -> dict[str, dict[str, float]]:  # fmt: skip
    """arm -> metric -> value of the smoke scale at seed 0, without times: what a record is held against later.

    Empty for a study without smoke scale.
    """
    if "smoke" not in study.scales:
        return {}
    hashes = fingerprint.study_hashes(study, "smoke")
    names = [name for name, arm in study.arms.items() if "smoke" in arm.scales]
    tasks = [output.task(out, "smoke", name, 0, fingerprint.run_hash(study, "smoke", name, 0, hashes)) for name in names]
    runs = perform(study, reference, tasks, workers, out, quiet) if tasks else {}
    return {arm: records.without_times(done[0])["metrics"] for arm, done in runs.items()}


def _serial(study: Study, todo: Sequence[Any], shown: View) -> None:
    with jobs.one_thread():
        for row in todo:
            row.state, row.started = "running", time.monotonic()
            shown.changed(row)

            def progress(fraction: float, metric: float | None = None, row: Any = row) -> None:
                row.fraction, row.metric = fraction, metric
                shown.tick()

            try:
                run = jobs.execute(study, row.task, progress)
            except (BadInput, KeyboardInterrupt):
                raise
            except Exception as error:
                raise RunFailed(row.task.name, f"{type(error).__name__}: {error}") from error
            _finish(study, row, run, shown)


def _spread(study: Study, reference: Reference, todo: Sequence[Any], shown: View, workers: int, logs: Path) -> None:
    with Pool(reference, workers, logs) as pool:
        for event in pool.run([row.task for row in todo]):
            if event.kind == "tick":
                shown.tick()
                continue
            row = todo[event.index]
            if event.kind == "started":
                row.state, row.started = "running", time.monotonic()
                shown.changed(row)
            elif event.kind == "progress":
                row.fraction, row.metric = event.fraction, event.metric
                shown.tick()
            else:
                _finish(study, row, jobs.load(row.task), shown)


def _finish(study: Study, row: Any, run: Mapping[str, Any] | None, shown: View) -> None:
    if run is None:
        raise RunFailed(row.task.name, "it ended without its file, or the code changed in the meantime")
    row.state, row.seconds = "diverged" if run["diverged"] else "done", run["seconds"]
    row.metric = run["metrics"].get(study.headline)
    shown.changed(row)


class _Attempt:
    """Writes the start and the end of a cpu run in a checkout to the attempts; elsewhere it does nothing."""

    def __init__(
        self, study: Study, scale: str, place: Place, hashes: Mapping[str, str], seeds: Sequence[int], arms: Sequence[str], reason: str
    ) -> None:
        self.study, self.place, self.seeds, self.arms, self.reason = study, place, seeds, arms, reason
        self.configuration = {**hashes, **fingerprint.libraries(), "instruction_set": fingerprint.instruction_set()}
        self.counts = scale == registration.SCALE and place.checkout is not None
        self.number, self.result, self.started = 0, "", time.monotonic()

    def __enter__(self) -> _Attempt:
        if self.counts:
            self.number = attempts.start(self.place, self.study.slug, self.configuration, self.reason, self.seeds, self.arms)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.counts:
            state = "finished" if kind is None else "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
            result = self.result if kind is None else str(error)
            attempts.end(self.place, self.study.slug, self.number, state, result, time.monotonic() - self.started)


def resolved(study: Study | str | Reference) -> tuple[Study, Reference | None]:
    """The study, and how another process finds it (None where it cannot be told)."""
    if isinstance(study, Study):
        return study, reference_of(study)
    reference = study if isinstance(study, Reference) else Reference(study)
    return reference.study(), reference


def _arms(study: Study, scale: str, arms: Sequence[str] | None) -> list[str]:
    known = [name for name, arm in study.arms.items() if scale in arm.scales]
    if not known:
        raise BadInput(f"{study.slug}, scale", f"'{scale}'", "a scale at which some arm runs")
    for arm in arms or ():
        if arm not in study.arms:
            raise one_of(f"{study.slug}, arms", arm, known)
        if arm not in known:
            raise BadInput(f"{study.slug}, arms", f"'{arm}' at {scale} scale", f"one that runs there: {', '.join(known)}")
    return [name for name in known if not arms or name in arms]


def _seeds(study: Study, scale: str, seeds: int | Sequence[int] | None) -> list[int]:
    if seeds is None:
        seeds = study.scales[scale].seeds
    count = seeds if isinstance(seeds, int) else len(seeds)
    if count > MOST:
        raise BadInput(f"{study.slug}, seeds", f"{count:,} of them" if count < 10**15 else "a huge number of them", f"at most {MOST:,}")
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    if not numbers or any(n < 0 for n in numbers):
        raise BadInput(f"{study.slug}, seeds", shown(seeds), "a count of at least 1, or numbers >= 0")
    return numbers


def workers_of(workers: int | None) -> int:
    """So many processes, or one a core that this process may use. Raises BadInput below 1."""
    if workers is not None and workers < 1:
        raise BadInput("workers", str(workers), "at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return workers or cores or 1


def _complete(study: Study, scale: str, arms: Sequence[str], seeds: Sequence[int]) -> bool:
    return list(arms) == _arms(study, scale, None) and list(seeds) == list(range(study.scales[scale].seeds))


def _short(study: Study, made: planning.Plan) -> None:
    """Raises BadInput for a plan that is known to take over an hour."""
    if made.seconds is not None and made.seconds > planning.HOUR:
        expected = "--yes (yes=True) to go on, more --workers, or fewer --seeds or --arms"
        raise BadInput(f"{study.slug}, {made.scale} scale", f"about {clock(made.seconds)} of work", expected)


def _plan(
    study: Study, reference: Reference | None, tasks: Sequence[Task], workers: int, out: Path, place: Place,
    plans: Mapping[str, Mapping[str, float]], json: bool, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    made = planning.make(study, reference, tasks, workers, out, place, plans, say=lambda text: _say(quiet, text))
    if json:
        print(records.strict_json(made.as_dict()))
    elif not quiet:
        report.show_plan(made)
    return made.as_dict()


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr)
