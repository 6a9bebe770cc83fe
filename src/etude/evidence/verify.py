"""Is what is on record still true? `check` looks at all studies, `verify` reruns one arm and seed of one of them.

Broken: what the record says does not follow from its raw values. Unproven: git does not show that the claims were registered
before the record. Stale: the paper's parsed code, its settings or its data have changed since, or its smoke fingerprint has
moved by more than 1e-4. Older: only the floors below it (etude's shared code) have changed; the record stays valid.

A rerun must give equal bits on the same instruction set and libraries. Elsewhere rounding differs, and training multiplies it: a
whole run may drift far although nothing is wrong. There the run's beginning must agree within 1e-4 (its probe, or the smoke
fingerprint where the record keeps none); the whole run's distance is told, and whether the verdicts stand with it in its place.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.errors import BadInput, one_of
from etude.evidence import attempts, derived, fingerprint, output, places, records, registration, requirements, runner, tuning
from etude.evidence.derived import difference
from etude.evidence.places import Place
from etude.evidence.reference import Reference, reference_of
from etude.evidence.study import Study

TOLERANCE = 1e-4
STATES = ("unregistered", "unrecorded", "broken", "unproven", "stale", "older", "current")
PARTS = ("size", "paper_size", "baseline", "headline", "lower_is_better")
"""What a record repeats of its study."""


PART_WORDS = {"code": "the paper's code", "settings": "the settings", "data": "the data", "floors": "etude's shared code"}
"""The parts of a fingerprint, as their user would call them."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """state: the first of `STATES` that is true. broken: the record cannot be read or what it says does not follow from its values.

    findings: a line each. notes: what cannot be checked here, which is no failure. verdict: as recorded.
    attempts, abandoned: how many cpu runs were started, and how many never ended.
    """

    slug: str
    state: str
    verdict: str = ""
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    attempts: int = 0
    abandoned: int = 0

    @property
    def sound(self) -> bool:
        return self.state in ("older", "current")


def check(studies: Iterable[Study], place: Place | None = None, smoke: bool = True) -> list[Standing]:
    """The standing of each study's record. `smoke` also reruns the smoke scale (seconds each) and holds it against the record."""
    place = place or places.find()
    return [_standing(study, place, smoke) for study in studies]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """verdicts_agree: those recomputed from the raw values are those recorded. rerun: which (arm, seed).

    same_machine: same instruction set and library versions, so that equal bits were asked for; else 1e-4 of the `probe`.
    largest: the largest relative difference of the whole run (0.0: equal bits). probe: that of its beginning, None where there
    was no need of it. verdicts_stand: whether every claim keeps its verdict with this run in the recorded one's place.
    agrees: whether all is as asked for.
    """

    slug: str
    agrees: bool
    verdicts_agree: bool
    rerun: str
    same_machine: bool
    largest: float
    lines: list[str]
    probe: float | None = None
    verdicts_stand: bool = True


def verify(
    study: Study | str | Reference, place: Place | None = None, arm: str | None = None, seed: int | None = None, quiet: bool = False
) -> Verification:
    """Recomputes the verdicts of a study's record and reruns one arm and seed at its scale (default: the quickest arm, first seed).

    Raises BadInput where there is no record, or no such arm or seed in it.
    """
    study, reference = runner.resolved(study)
    place = place or places.find()
    record = records.read(place.record(study.slug))
    lines = derived.differences(study, record)
    verdicts_agree = not lines
    lines = lines or ["every verdict follows from the raw values"]
    scale = record["scale"]
    if scale not in study.scales:
        raise one_of(f"{study.slug}, scale of the record", scale, study.scales)
    arm = arm or min(record["arms"], key=lambda name: math.fsum(record["arms"][name]["seconds"]))
    seed = int(record["seeds"][0]) if seed is None else seed
    if arm not in record["arms"] or arm not in study.arms:
        raise one_of(f"{study.slug}, arm", arm, record["arms"])
    if seed not in record["seeds"]:
        raise BadInput(f"{study.slug}, seed", str(seed), f"one of {', '.join(map(str, record['seeds']))}")
    requirements.require(study, scale)
    hashes = fingerprint.study_hashes(study, scale)
    with tempfile.TemporaryDirectory(prefix="etude-verify-") as folder:
        task = output.task(Path(folder), scale, arm, seed, fingerprint.run_hash(study, scale, arm, seed, hashes))
        done = runner.perform(study, reference, [task], 1, Path(folder), quiet)[arm][0]
        largest, where = difference(_comparable(records.run_of(record, arm, seed)), _comparable(done))
        machine = _machine_differences(record["provenance"])
        rerun = f"{arm}, seed {seed}"
        probe, stand = None, True
        if largest == 0:
            lines.append(f"rerun of {rerun}: equal bits" + ("" if not machine else f", though {machine}"))
        elif machine:
            probe, said = _probe(study, reference, record, arm, seed, done, Path(folder))
            stand, verdicts = _in_place(study, record, arm, seed, done)
            lines.append(f"another machine ({machine}): the run's beginning must agree within {TOLERANCE:g}, not its bits")
            lines.append(said)
            lines.append(f"rerun of {rerun}: {where} differs by {largest:.1e} at most; {verdicts}")
        else:
            lines.append(f"rerun of {rerun}: {where} differs by {largest:.1e}; same instruction set and libraries, equal bits expected")
    moved = [
        f"{PART_WORDS.get(part, part)} changed since the record"
        for part, old in record["provenance"]["hashes"].items()
        if hashes.get(part) != old
    ]
    near = probe if probe is not None else largest
    agrees = verdicts_agree and (largest == 0 or (bool(machine) and near <= TOLERANCE))
    return Verification(
        slug=study.slug, agrees=agrees, verdicts_agree=verdicts_agree, rerun=rerun, same_machine=not machine, largest=largest,
        lines=lines + moved, probe=probe, verdicts_stand=stand,
    )  # fmt: skip


def _standing(study: Study, place: Place, smoke: bool) -> Standing:
    tried = attempts.read(place, study.slug)
    counts: dict[str, Any] = {"attempts": len(tried), "abandoned": sum(a["state"] == "abandoned" for a in tried)}
    try:
        registered = registration.load(place, study.slug)
        if registered is None:
            return Standing(slug=study.slug, state="unregistered", findings=["no registration"], **counts)
        differ = [f"registration: {d}" for d in registration.differences(registered, study)]
        if not place.record(study.slug).exists():
            return Standing(slug=study.slug, state="unrecorded", findings=[*differ, "no record"], **counts)
        record = records.read(place.record(study.slug))
    except BadInput as error:
        return Standing(slug=study.slug, state="broken", findings=[str(error)], **counts)
    broken, judged = derived.head_differences(place, record), derived.differences(study, record)
    if differ:
        differ += judged  # the study's claims are no longer those that the record was judged by
    else:
        broken = judged + broken
    unproven, notes = registration.unproven(study, place, record)
    try:
        if tuning.load(place, study.slug) is None:
            notes.append(f"what tuning cost is not on file: {place.tuning(study.slug).relative_to(place.root)}")
    except BadInput as error:
        broken.append(str(error))
    try:
        stale = differ + _stale(study, record, smoke)
        older = record["provenance"]["hashes"]["floors"] != fingerprint.floors_code()
    except (KeyError, TypeError, AttributeError) as error:
        stale, older = differ, False
        broken.append(f"the record is damaged ({error!r})")
    state = "broken" if broken else "unproven" if unproven else "stale" if stale else "older" if older else "current"
    findings = [*broken, *unproven, *stale, *(["etude's shared code has changed since; the record stays valid"] if older else [])]
    return Standing(slug=study.slug, state=state, verdict=str(record.get("verdict", "")), findings=findings, notes=notes, **counts)


def _stale(study: Study, record: Mapping[str, Any], smoke: bool) -> list[str]:
    kept = record["provenance"]
    if record["scale"] not in study.scales:
        return [f"the {record['scale']} scale is gone"]
    now = fingerprint.study_hashes(study, record["scale"])
    said = {"code": "the paper's code has changed", "settings": "the settings have changed", "data": "the data has changed"}
    stale = [text for part, text in said.items() if kept["hashes"][part] != now[part]]
    told = {"size": study.scales[record["scale"]].size, **{part: getattr(study, part) for part in PARTS if part != "size"}}
    stale += [f"{part}: {told[part]!r} in the study, {record.get(part)!r} on record" for part in PARTS if told[part] != record.get(part)]
    arms = {name: arm.reference for name, arm in study.arms.items() if record["scale"] in arm.scales}
    kept_arms = {name: arm.get("reference") for name, arm in record["arms"].items()}
    if arms != kept_arms:
        changed = [name for name in {**arms, **kept_arms} if arms.get(name) != kept_arms.get(name)]
        stale.append(f"other arms than on record: {', '.join(changed)}")
    if list(record["seeds"]) != list(range(study.scales[record["scale"]].seeds)):
        stale.append(f"seeds {record['seeds']} on record, {study.scales[record['scale']].seeds} in the study")
    if smoke and kept.get("smoke"):
        with tempfile.TemporaryDirectory(prefix="etude-check-") as folder:
            moved, where = difference(kept["smoke"], runner.smoke_fingerprint(study, reference_of(study), 1, Path(folder)))
        if moved > TOLERANCE:
            stale.append(f"the smoke fingerprint has moved by {moved:.1e} ({where})")
    return stale


def _probe(
    study: Study, reference: Reference | None, record: Mapping[str, Any], arm: str, seed: int, run: Mapping[str, Any], folder: Path
) -> tuple[float | None, str]:  # fmt: skip
    """How far a rerun's beginning is from the recorded one, with a sentence; None where the record keeps nothing to hold it against."""
    probes = record["arms"][arm].get("probe") or [[]] * len(record["seeds"])
    kept = probes[record["seeds"].index(seed)]
    if kept:
        gap, _ = difference(kept, run["probe"])
        what, where = f"the first {len(kept)} values of {arm}, seed {seed},", ""
    elif kept_smoke := record["provenance"].get("smoke"):
        gap, where = difference(kept_smoke, runner.smoke_fingerprint(study, reference, 1, folder))
        what = "the smoke fingerprint (the record keeps no beginning of this run)"
    else:
        return None, "neither a probe nor a smoke fingerprint on record: a run on this machine cannot be held against it"
    said = "within" if gap <= TOLERANCE else "not within"
    return gap, f"{what} {said} {TOLERANCE:g}: largest difference {gap:.1e}" + (f" ({where})" if where and gap else "")


def _in_place(study: Study, record: Mapping[str, Any], arm: str, seed: int, run: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the claims' verdicts are the same with `run` in the place of the recorded one, with a phrase that says so."""
    try:
        swapped = records.judged(records.with_run(record, arm, seed, run), study.claims)
    except BadInput as error:
        return False, f"with it in place of the recorded run nothing can be judged: {error}"
    pairs = enumerate(zip(records.judged(record, study.claims)["claims"], swapped["claims"], strict=True))
    changed = [f"claims[{i}] '{old['verdict']}' becomes '{new['verdict']}'" for i, (old, new) in pairs if old["verdict"] != new["verdict"]]
    if changed:
        return False, "with it in place of the recorded run " + "; ".join(changed)
    return True, "with it in place of the recorded run every verdict stands"


def _comparable(run: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in records.without_times(run).items() if k != "arrays"}


def _machine_differences(kept: Mapping[str, Any]) -> str:
    """ "torch is 2.12 there and 2.13 here", or "" on a like machine."""
    here = {**fingerprint.libraries(), "instruction_set": fingerprint.instruction_set()}
    kept = {**kept, "python": ".".join(str(kept["python"]).split(".")[:2])}
    return " and ".join(f"{k.replace('_', ' ')} is {kept.get(k)} there and {v} here" for k, v in here.items() if kept.get(k) != v)
