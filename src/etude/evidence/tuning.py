"""What choosing a study's settings cost before it was registered: `evidence/tuning/SLUG.toml`, beside the log SLUG.md.

Tuning is done once for a study and not once a run, so no ledger of a run holds it. It is written down in whole runs of an arm
at cpu scale, and shown, priced by the record, wherever the result is. Loads neither numpy nor torch.

    seeds = "100-103"      # all of 100 and above
    shared = 2.5           # runs of the baseline whose outcome served all arms alike (may be left out)
    note = "..."           # what the numbers leave out (may be left out)
    [runs]
    vanilla = 16
    ccl = 16
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etude.errors import BadInput, one_of
from etude.evidence import toml
from etude.evidence.places import Place
from etude.evidence.wording import amount


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """seeds: on which. runs: arm -> whole runs at cpu scale. shared: runs of the baseline that served all arms."""

    seeds: str
    runs: Mapping[str, float]
    shared: float = 0.0
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"seeds": self.seeds, "runs": dict(self.runs), "shared": self.shared, "note": self.note}


def load(place: Place, slug: str) -> Tuning | None:
    """The cost on file, or None. Raises BadInput where the file cannot be read or says something else."""
    path = place.tuning(slug)
    if not path.is_file():
        return None
    told = toml.read(path, "TOML")
    for key in told:
        if key not in ("seeds", "runs", "shared", "note"):
            raise one_of(str(path), key, ("seeds", "runs", "shared", "note"))
    runs = told.get("runs")
    if not isinstance(runs, dict) or not isinstance(told.get("seeds"), str):
        raise BadInput(str(path), ", ".join(told) or "nothing", 'seeds = "100-103" and a table [runs]')
    for name, value in {**runs, "shared": told.get("shared", 0)}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value >= 0):
            raise BadInput(f"{path}, {name}", repr(value), "a number of runs >= 0")
    return Tuning(seeds=told["seeds"], runs=runs, shared=told.get("shared", 0), note=str(told.get("note", "")))


def line(tuning: Tuning, record: Mapping[str, Any] | None = None) -> str:
    """One sentence: who was tuned on how many runs, with the FLOPs that a run of the arm took on record, where there are any."""
    parts = [_part(arm, runs, record, arm) for arm, runs in tuning.runs.items()]
    if tuning.shared:
        parts.append(_part("all alike", tuning.shared, record, str((record or {}).get("baseline", ""))))
    note = f"; {tuning.note}" if tuning.note else ""
    return f"tuned beforehand on seeds {tuning.seeds}, in no ledger: {', '.join(parts)}{note}"


def told(place: Place, slug: str) -> str:
    """`line` of a study's tuning by its record, "" where nothing is on file. Raises BadInput as `load` does."""
    tuning = load(place, slug)
    if tuning is None:
        return ""
    try:
        record = json.loads(place.record(slug).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    return line(tuning, record if isinstance(record, dict) else None)


def _part(name: str, runs: float, record: Mapping[str, Any] | None, arm: str) -> str:
    try:
        ledgers = (record or {})["arms"][arm]["ledger"]
        flops = runs * sum(row.get("flops", 0) for ledger in ledgers for row in ledger.values()) / len(ledgers)
    except (KeyError, TypeError, AttributeError, ZeroDivisionError):
        flops = 0.0
    return f"{name} {runs:.3g} runs" + (f" ({amount(flops)} FLOPs)" if flops else "")
