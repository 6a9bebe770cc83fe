"""What a record derives from its raw values: is it so, and writing it anew.

Verdicts, intervals, levels, effects at equal cost and the verdict's line follow from the per-seed values and the study's claims alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from etude.errors import BadInput
from etude.evidence import jobs, records, registration
from etude.evidence.places import Place
from etude.evidence.study import Study

SAME = 1e-8  # relative; what is computed again from the same raw values by another numpy or scipy


def rejudge(study: Study, place: Place) -> list[str]:
    """Writes verdicts, effects at equal cost, line and head of a record anew from its raw values; returns what has changed.

    For records that an older rule has judged, or that have no head. Raises BadInput where the study has departed from its
    registration, which must not enter a verdict this way.
    """
    record = records.read(place.record(study.slug))
    registered = registration.load(place, study.slug)
    differ = ["there is none"] if registered is None else registration.differences(registered, study)
    if differ:
        raise BadInput(f"{study.slug}, registration", "; ".join(differ), "the study as it was registered")
    changed = differences(study, record)
    size = study.scales[record["scale"]].size if record["scale"] in study.scales else record["size"]
    texts = {"size": size, "paper_size": study.paper_size}
    changed += [f"{name}: {record.get(name)!r} becomes {text!r}" for name, text in texts.items() if record.get(name) != text]
    changed += head_differences(place, record) if place.head(study.slug).exists() else ["its head was missing"]
    if changed:
        record |= texts
        records.write(place.record(study.slug), record | records.judged(record, study.claims), place.head(study.slug))
    return changed


def differences(study: Study, record: Mapping[str, Any]) -> list[str]:
    """Whatever in the record does not follow from its raw values, a line each."""
    try:
        again = records.judged(record, study.claims)
    except (BadInput, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return [f"the record cannot be judged: {error}" if isinstance(error, BadInput) else f"the record is damaged ({error!r})"]
    told = [
        f"{part} '{record.get(part)}' on record, '{again[part]}' from its values"
        for part in ("verdict", "line")
        if again[part] != record.get(part)
    ]
    olds = record.get("claims") or []
    if len(again["claims"]) != len(olds):
        return [*told, f"{len(olds)} claims on record, {len(again['claims'])} in the study"]
    for i, (old, new) in enumerate(zip(olds, again["claims"], strict=True)):
        if old.get("verdict") != new["verdict"] or _differ(old.get("estimate"), new["estimate"]):
            before, after = (f"{c.get('verdict')} ({c.get('estimate')})" for c in (old, new))
            told.append(f"claims[{i}]: {before} on record, {after} from its values")
        told += _parts(f"claims[{i}]", old, new, ("verdict", "estimate"))
    old, new = record.get("matched") or {}, again["matched"]
    for quantity in {**old, **new}:
        for arm in {**old.get(quantity, {}), **new.get(quantity, {})}:
            where = f"matched.{quantity}.{arm}"
            before, after = (side.get(quantity, {}).get(arm) for side in (old, new))
            if before and after and (before["estimate"] is None) == (after["estimate"] is None):
                told += _parts(where, {"reason": "", **before}, after)  # entries of old have no reason
            elif before or after:
                told.append(f"{where}: {_entry(before)} on record, {_entry(after)} from its values")
    if _differ(record.get("ranking"), again.get("ranking")):
        told.append("the ranking on record is not that of its values")
    return told


def _entry(entry: Mapping[str, Any] | None) -> str:
    if not entry:
        return "nothing"
    return f"no estimate ({entry.get('reason')})" if entry["estimate"] is None else f"{entry['estimate']:.4g} (n {entry.get('n')})"


def _parts(where: str, old: Mapping[str, Any], new: Mapping[str, Any], apart: Iterable[str] = ()) -> list[str]:
    names = [name for name in {**new, **old} if name not in set(apart)]
    pairs = [(name, old.get(name), new.get(name)) for name in names]
    return [f"{where}.{name}: {one} on record, {other} from its values" for name, one, other in pairs if _differ(one, other)]


def _differ(old: Any, new: Any) -> bool:
    return difference(old, new)[0] > SAME


def head_differences(place: Place, record: Mapping[str, Any]) -> list[str]:
    """Whether the record's head, where it has one, says what the record says."""
    path = place.head(record["slug"])
    if not path.exists():
        return []  # records of old have none, and are read themselves
    try:
        kept = jobs.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"{path.name} in heads is unreadable ({error})"]
    expected = records.head(record, place.record(record["slug"]).stat().st_size)
    return [] if difference(kept, expected)[0] == 0 else ["its head (what `etude list` shows) is not that of the record"]


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
