"""Is what is on record still true? `check` looks at all studies, `verify` reruns one arm and seed of one of them.

Stale: the paper's parsed code, its settings or its data have changed since, or its smoke fingerprint has moved by more than
1e-4. Older: only the floors below it have changed; the record stays valid.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.errors import BadInput, one_of
from etude.evidence import attempts, fingerprint, output, places, records, registration, runner
from etude.evidence.places import Place
from etude.evidence.reference import Reference, reference_of
from etude.evidence.study import Study

TOLERANCE = 1e-4
STATES = ("unregistered", "unrecorded", "broken", "stale", "older", "current")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """state: the first of `STATES` that is true. broken: the record cannot be read or its verdict does not follow from its values.

    findings: a line each. verdict: as recorded. attempts, abandoned: how many cpu runs were started, and how many never ended.
    """

    slug: str
    state: str
    verdict: str = ""
    findings: list[str] = field(default_factory=list)
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

    same_machine: same instruction set and library versions, so that equal bits were asked for; else 1e-4.
    largest: the largest relative difference found (0.0: equal bits). agrees: all of it.
    """

    slug: str
    agrees: bool
    verdicts_agree: bool
    rerun: str
    same_machine: bool
    largest: float
    lines: list[str]


def verify(
    study: Study | str | Reference, place: Place | None = None, arm: str | None = None, seed: int | None = None, quiet: bool = False
) -> Verification:
    """Recomputes the verdicts of a study's record and reruns one arm and seed at its scale (default: the quickest arm, first seed).

    Raises BadInput where there is no record, or no such arm or seed in it.
    """
    study, reference = runner.resolved(study)
    place = place or places.find()
    record = records.read(place.record(study.slug))
    lines = _verdict_differences(study, record)
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
    hashes = fingerprint.study_hashes(study, scale)
    with tempfile.TemporaryDirectory(prefix="etude-verify-") as folder:
        task = output.task(Path(folder), scale, arm, seed, fingerprint.run_hash(study, scale, arm, seed, hashes))
        done = runner.perform(study, reference, [task], 1, Path(folder), quiet)[arm][0]
    largest, where = difference(_comparable(records.run_of(record, arm, seed)), _comparable(done))
    machine = _machine_differences(record["provenance"])
    rerun = f"{arm}, seed {seed}"
    if largest == 0:
        lines.append(f"rerun of {rerun}: equal bits" + ("" if not machine else f", though {machine}"))
    elif machine:
        lines.append(f"rerun of {rerun}: {where} differs by {largest:.1e} (up to {TOLERANCE:g} allowed, as {machine})")
    else:
        lines.append(f"rerun of {rerun}: {where} differs by {largest:.1e}; same instruction set and libraries, equal bits expected")
    moved = [f"{part} changed since the record" for part, old in record["provenance"]["hashes"].items() if hashes.get(part) != old]
    agrees = verdicts_agree and (largest == 0 or (bool(machine) and largest <= TOLERANCE))
    return Verification(
        slug=study.slug, agrees=agrees, verdicts_agree=verdicts_agree, rerun=rerun, same_machine=not machine, largest=largest,
        lines=lines + moved,
    )  # fmt: skip


def difference(old: Any, new: Any, where: str = "") -> tuple[float, str]:
    """The largest difference between two nested JSON values, relative to max(1, |old|), and where it is; inf for another shape."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if old.keys() != new.keys():
            return math.inf, f"{where or 'the run'} ({', '.join(sorted(map(str, old.keys() ^ new.keys())))})"
        return max((difference(old[k], new[k], f"{where}.{k}".lstrip(".")) for k in old), default=(0.0, where), key=lambda found: found[0])
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return math.inf, f"{where} (lengths {len(old)} and {len(new)})"
        return max((difference(a, b, where) for a, b in zip(old, new, strict=True)), default=(0.0, where), key=lambda found: found[0])
    if isinstance(old, (int, float)) and isinstance(new, (int, float)):
        if old == new or (math.isnan(old) and math.isnan(new)):
            return 0.0, where
        gap = abs(new - old) / max(1.0, abs(old))
        return (gap if math.isfinite(gap) else math.inf), where
    return (0.0 if old == new else math.inf), where


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
    broken = _verdict_differences(study, record)
    stale = differ + _stale(study, record, smoke)
    older = record["provenance"]["hashes"]["floors"] != fingerprint.floors_code()
    state = "broken" if broken else "stale" if stale else "older" if older else "current"
    findings = [*broken, *stale, *(["the floors below have changed since"] if older else [])]
    return Standing(slug=study.slug, state=state, verdict=record["verdict"], findings=findings, **counts)


def _stale(study: Study, record: Mapping[str, Any], smoke: bool) -> list[str]:
    kept = record["provenance"]
    if record["scale"] not in study.scales:
        return [f"the {record['scale']} scale is gone"]
    now = fingerprint.study_hashes(study, record["scale"])
    said = {"code": "the paper's code has changed", "settings": "the settings have changed", "data": "the data has changed"}
    stale = [text for part, text in said.items() if kept["hashes"][part] != now[part]]
    if smoke and kept.get("smoke"):
        with tempfile.TemporaryDirectory(prefix="etude-check-") as folder:
            moved, where = difference(kept["smoke"], runner.smoke_fingerprint(study, reference_of(study), 1, Path(folder)))
        if moved > TOLERANCE:
            stale.append(f"the smoke fingerprint has moved by {moved:.1e} ({where})")
    return stale


def _verdict_differences(study: Study, record: Mapping[str, Any]) -> list[str]:
    try:
        again = records.verdicts(record, study.claims)
    except BadInput as error:
        return [f"the record cannot be judged: {error}"]
    told: list[str] = []
    if again["verdict"] != record["verdict"]:
        told.append(f"verdict '{record['verdict']}' on record, '{again['verdict']}' from its values")
    if len(again["claims"]) != len(record["claims"]):
        return [*told, f"{len(record['claims'])} claims on record, {len(again['claims'])} in the study"]
    for i, (old, new) in enumerate(zip(record["claims"], again["claims"], strict=True)):
        if old["verdict"] != new["verdict"] or difference(old["estimate"], new["estimate"])[0] > 1e-9:
            before, after = (f"{c['verdict']} ({c['estimate']})" for c in (old, new))
            told.append(f"claims[{i}]: {before} on record, {after} from its values")
    return told


def _comparable(run: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in records.without_times(run).items() if k != "arrays"}


def _machine_differences(kept: Mapping[str, Any]) -> str:
    """ "torch is 2.12 there and 2.13 here", or "" on a like machine."""
    here = {**fingerprint.libraries(), "instruction_set": fingerprint.instruction_set()}
    kept = {**kept, "python": ".".join(str(kept["python"]).split(".")[:2])}
    return " and ".join(f"{k.replace('_', ' ')} is {kept.get(k)} there and {v} here" for k, v in here.items() if kept.get(k) != v)
