"""A loop of self-improvement: propose -> judge -> select -> learn, again and again, and all of a round on disk before the next begins.

A round's folder `round-003/` holds, in readable JSON: `plan.json` (the requests in their batches), `candidates.jsonl`, `judgements.jsonl`,
`data.jsonl` (what is learned from) and `report.json` (metrics and samples). A killed loop opens the folder again and goes on: the
recorded plan is repeated, what is on disk is neither asked for nor judged again, and a step cut short is done anew from what was before.
Where a metric or sample is one that JSON cannot hold (NaN), the loop stops with its name and keeps what was learned.
A judge that fails on a candidate is named with it (`run_loop`, failures).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

from etude.data.jsonl import Row, jsonl, read_jsonl, unwritable
from etude.data.tasks.judging import Failure, VerifierFailed, said
from etude.engine import checkpoint
from etude.engine.checkpoint import write_atomic
from etude.engine.folder import locked
from etude.errors import BadInput, choice
from etude.loop.journal import Journal, read_json, write_json
from etude.loop.rounds import Report, State, run_rounds
from etude.loop.wording import cut, metrics_in_words, row_in_words

Batch = Sequence[Row]
"""Requests that are answered together. A request is plain JSON with an `id` of its own in its round."""


class Steps(Protocol):
    """What a loop does in a round. Every step may depend on its arguments alone, random streams being derived from the round's number.

    plan:    the round's requests, in the batches in which they are answered; recorded before the first is.
    propose: answers of a batch: for each request one row with `id` (its own) and `request` (the request's id), given out as they
             come. `wanted` is the whole batch, or, where `independent`, those not answered yet.
    judge:   for each candidate one row with `id` (the candidate's) and whatever was found, given out as they come. A candidate's row
             does not depend on which others it is given with.
    select:  what is learned from, out of candidates with their judgements under "judgement", in the plan's order.
    learn:   (state after, metrics). `folder` is the round's: a trainer keeps its checkpoints in it.
    """

    independent: bool
    """Whether an answer does not depend on which others are in its batch (a server), so that half a batch is completed rather than
    made anew (local decoding, whose bits depend on the batch)."""

    def plan(self, number: int, state: State) -> Sequence[Batch]: ...
    def propose(self, number: int, state: State, wanted: Batch) -> Iterable[Row]: ...
    def judge(self, number: int, state: State, candidates: Sequence[Row]) -> Iterable[Row]: ...
    def select(self, number: int, state: State, judged: Sequence[Row]) -> Sequence[Row]: ...
    def learn(self, number: int, state: State, data: Sequence[Row], folder: Path) -> tuple[State, Report]: ...


@runtime_checkable
class Sampled(Protocol):
    """Steps that choose which rows are shown of a round; otherwise the first ones judged."""

    def samples(self, number: int, judged: Sequence[Row]) -> Sequence[Row]: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done: round `number` of `num_rounds`, `phase` (propose, judge, select, learn, done), so many of so many.

    latest: the row just made; at "done": report, and samples of the round.
    """

    number: int
    num_rounds: int
    phase: str
    done: int
    total: int
    latest: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, float] = field(default_factory=dict)
    samples: Sequence[Row] = ()


SHOWN = 3
LEARNED = "learned"
"""The folder in a round's that holds what was learned, where its metrics or samples could not be written."""
WAYS = ("stop", "skip")
FAILED = "failure"
"""The field of a judgement that says what the judge did wrong; it has no other but the id."""


def run_loop(
    steps: Steps,
    state: State,
    num_rounds: int,
    folder: Path,
    *,
    identity: str = "",
    failures: str = "stop",
    progress: Callable[[Progress], None] | None = None,
) -> tuple[State, list[Report]]:
    """Runs rounds 1 .. num_rounds and returns the last state and every round's metrics; called again after a kill it goes on.

    identity: what must be equal for the folder to belong to this loop (settings, seed).
    failures: what a judge that raises on a candidate, or gives what is no finite number, does: "stop" raises VerifierFailed naming the
    candidate, which stays in `candidates.jsonl` and is judged again on resume; "skip" writes the failure to `judgements.jsonl`, keeps
    the candidate from `select`, and counts it in the round's metrics ("verifier_failures"). What fails inside `propose` stops the
    loop; what it failed on is kept in `failed.jsonl`.
    progress: told of everything; without one, `Printed` shows it on stderr, each round with its metrics and samples.
    Raises BadInput for another loop's folder or one that another process is at work in, for malformed records (file, line, field), for
    what JSON cannot hold (file, id, field), and where a step gives a row twice, too many or too few.
    """
    if failures not in WAYS:
        raise choice("failures", failures, WAYS)
    folder.mkdir(parents=True, exist_ok=True)
    lock = locked(folder)
    try:
        return _run(steps, state, num_rounds, folder, identity, failures, progress)
    finally:
        if lock is not None:
            os.close(lock)


def _run(
    steps: Steps,
    state: State,
    num_rounds: int,
    folder: Path,
    identity: str,
    failures: str,
    progress: Callable[[Progress], None] | None,
) -> tuple[State, list[Report]]:
    for torn in (*folder.glob(".*.tmp"), *folder.glob("round-*/.*.tmp")):  # of a file that a kill kept from its name
        torn.unlink()
    say = progress or Printed()

    def one(number: int, before: State) -> tuple[State, Report]:
        here = folder / f"round-{number:03d}"
        here.mkdir(parents=True, exist_ok=True)
        _belongs(here / "loop.json", identity)

        def tell(phase: str, done: int, total: int, **more: Any) -> None:
            say(Progress(number, num_rounds, phase, done, total, **more))

        batches = _planned(here / "plan.json", lambda: steps.plan(number, before))
        candidates = _proposed(steps, number, before, here, batches, tell)
        judged, failed = _judged(steps, number, before, here, candidates, tell, failures)
        data = _selected(steps, number, before, here / "data.jsonl", judged)
        tell("select", len(data), len(judged))
        tell("learn", 0, len(data))
        after, report = _learned(here / LEARNED) or steps.learn(number, before, data, here)
        if failed:
            report = {**report, "verifier_failures": float(failed)}
        try:
            samples = list(steps.samples(number, judged) if isinstance(steps, Sampled) else judged[:SHOWN])
            write_json(here / "report.json", {"round": number, "metrics": report, "samples": samples})
        except Exception as error:
            checkpoint.save(here / LEARNED, number, {"state": after, "metrics": report})
            if not isinstance(error, BadInput):
                raise
            again = f"; what was learned is kept in {here / LEARNED}: delete it to learn again"
            raise BadInput(error.where, error.found, error.expected + again) from None
        shutil.rmtree(here / LEARNED, ignore_errors=True)
        tell("done", len(data), len(data), report=report, samples=samples)
        return after, report

    return run_rounds(one, state, num_rounds, folder=folder, identity=identity)


def _learned(kept: Path) -> tuple[State, Report] | None:
    """What an earlier process has learned in a round that it could not report on, so that it is not learned again."""
    if not any(kept.glob("step-*")):
        return None
    saved = checkpoint.load(checkpoint.latest(kept)[0])
    return saved["state"], saved["metrics"]


def _belongs(path: Path, identity: str) -> None:
    """A round begun by another loop is refused, before anything of it is mixed with this one's."""
    if path.exists() and read_json(path) == {"identity": identity}:
        return
    if path.exists() and any(other != path for other in path.parent.iterdir()):
        raise BadInput(str(path.parent), "a round of another loop", "an empty folder, or the loop being resumed")
    write_json(path, {"identity": identity})  # over the mark of a loop that never got further


def _planned(path: Path, make: Callable[[], Sequence[Batch]]) -> list[list[Row]]:
    """The recorded plan, or a new one, recorded."""
    if not path.exists():
        batches = [[dict(request) for request in batch] for batch in make()]
        _check_plan(path, batches)
        write_json(path, batches)
    recorded = read_json(path)
    _check_plan(path, recorded)
    return recorded


def _check_plan(path: Path, batches: Any) -> None:
    if not isinstance(batches, list) or not all(isinstance(batch, list) for batch in batches):
        raise BadInput(str(path), "something else", "a list of batches, each a list of requests")
    ids: set[str] = set()
    for request in (r for batch in batches for r in batch):
        name = request.get("id") if isinstance(request, dict) else None
        if not isinstance(name, str) or name in ids:
            found = "the id again" if isinstance(name, str) else "no id of its own"
            raise BadInput(f"{path}, request {name!r}", found, "a text that no other request has")
        ids.add(name)


def _proposed(steps: Steps, number: int, state: State, here: Path, batches: list[list[Row]], tell: Callable[..., None]) -> list[Row]:
    """All candidates, those on disk and the missing ones, in the plan's order."""
    journal = Journal(here / "candidates.jsonl", "id", {"request": str})
    total = sum(len(batch) for batch in batches)
    answered = {row["request"] for row in journal.rows.values()}
    planned = {request["id"] for batch in batches for request in batch}
    if stray := answered - planned:
        raise BadInput(str(journal.path), f"an answer to '{min(stray)}'", f"answers to the requests of {here / 'plan.json'}")
    if len(answered) < len(journal.rows):
        raise BadInput(str(journal.path), "a request answered twice", "one answer to each request")
    tell("propose", len(answered), total)
    for batch in batches:
        missing = [request for request in batch if request["id"] not in answered]
        if not missing:
            continue
        if not steps.independent and len(missing) < len(batch):
            again = {request["id"] for request in batch}
            journal.keep(lambda row, again=again: row["request"] not in again)
            answered -= again
            missing = batch
        open_ = {request["id"] for request in missing}
        # A batch of local decoding comes at once; its lines are written one by one, and a torn batch is dropped above.
        for row in _keeping(steps.propose(number, state, missing), here / "failed.jsonl"):
            if row.get("request") not in open_:
                raise BadInput(f"{journal.path}, field 'request'", repr(row.get("request")), "a request of this batch, answered once")
            open_.discard(row["request"])
            journal.append(row)
            answered.add(row["request"])
            tell("propose", len(answered), total, latest=row)
        if open_:
            raise BadInput(f"{journal.path}, round {number}", f"no answer to '{min(open_)}'", "an answer to each request")
    place = {request["id"]: i for i, request in enumerate(r for batch in batches for r in batch)}
    return sorted(journal.rows.values(), key=lambda row: place[row["request"]])


def _keeping(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """The rows; what a verifier failed on before they could be given out is kept at `path`."""
    try:
        yield from rows
    except VerifierFailed as error:
        write_atomic(path, jsonl([asdict(error.failure)], str(path)))
        raise


def _until(judge: Callable[..., Iterable[Row]], number: int, state: State, rows: list[Row], raised: list[Exception]) -> Iterator[Row]:
    """A judge's rows up to the first error, which goes to `raised`."""
    try:
        yield from judge(number, state, rows)
    except Exception as error:
        raised.append(error)


def _judged(
    steps: Steps, number: int, state: State, here: Path, candidates: list[Row], tell: Callable[..., None], failures: str
) -> tuple[list[Row], int]:
    """Candidates with their judgements, and how many the judge failed on; what is on disk is not judged again."""
    journal = Journal(here / "judgements.jsonl", "id", {})
    known = {row["id"]: row for row in candidates}
    if stray := journal.rows.keys() - known.keys():
        raise BadInput(str(journal.path), f"a judgement of '{min(stray)}'", f"judgements of {here / 'candidates.jsonl'}")

    def fail(name: str, what: str) -> None:
        if failures == "stop":
            where = f"{here}, the judge of candidate '{name}'"
            raise VerifierFailed(Failure(where, json.dumps(known[name], ensure_ascii=False), what))
        journal.append({"id": name, FAILED: what})

    def judge(rows: list[Row]) -> None:
        raised: list[Exception] = []
        for row in _until(steps.judge, number, state, rows, raised):
            if row.get("id") not in known:
                raise BadInput(f"{journal.path}, field 'id'", repr(row.get("id")), "the id of a candidate")
            if wrong := unwritable(row):
                fail(row["id"], f"{wrong[1]} in the field '{wrong[0]}'")
            else:
                journal.append(row)
            tell("judge", len(journal.rows), len(candidates), latest=row)
        left = [row for row in rows if row["id"] not in journal.rows]
        for error in raised:
            inner = error.failure if isinstance(error, VerifierFailed) else None
            if not left or (failures == "stop" if inner else isinstance(error, BadInput)):
                raise error
            if len(rows) == 1:
                fail(left[0]["id"], inner.what if inner else said(error))
            else:  # on which candidate it failed is certain only of one judged alone: halved until it is found
                half = (len(left) + 1) // 2
                judge(left[:half])
                judge(left[half:])
                if failures == "stop":  # each was judged by itself after all: what was raised then is for the user to see
                    raise error

    tell("judge", len(journal.rows), len(candidates))
    if missing := [row for row in candidates if row["id"] not in journal.rows]:
        judge(missing)
    if unjudged := known.keys() - journal.rows.keys():
        raise BadInput(f"{journal.path}, round {number}", f"no judgement of '{min(unjudged)}'", "a judgement of each candidate")
    failed = {name for name, row in journal.rows.items() if row.keys() == {"id", FAILED}}
    return [{**row, "judgement": journal.rows[row["id"]]} for row in candidates if row["id"] not in failed], len(failed)


def _selected(steps: Steps, number: int, state: State, path: Path, judged: list[Row]) -> list[Row]:
    """What is learned from: as recorded, or chosen and recorded."""
    if not path.exists():
        write_atomic(path, jsonl([dict(row) for row in steps.select(number, state, judged)], str(path)))
    return read_jsonl(path)


@dataclass
class Printed:
    """Progress as lines of text: at most a line for each phase and tenth of it, and each round's metrics and samples."""

    out: TextIO = field(default_factory=lambda: sys.stderr)
    _last: tuple[int, str, int] = (0, "", -1)

    def __call__(self, event: Progress) -> None:
        tenth = 10 * event.done // max(event.total, 1)
        if (event.number, event.phase, tenth) == self._last:
            return
        self._last = (event.number, event.phase, tenth)
        head = f"round {event.number}/{event.num_rounds}"
        if event.phase != "done":
            print(f"{head}  {event.phase} {event.done}/{event.total}", file=self.out, flush=True)
            return
        print(f"{head}  done: {metrics_in_words(event.report)}", file=self.out)
        for row in event.samples:
            print(f"    {cut(row_in_words(row), 160)}", file=self.out, flush=True)


def history(folder: Path) -> list[Row]:
    """What each finished round reported, from disk: rows of `round`, `metrics`, `samples`. Raises BadInput for a damaged report."""
    return [read_json(path) for path in sorted(folder.glob("round-*/report.json"))]
