"""Attempts: every cpu run in a source checkout leaves lines in `evidence/attempts/SLUG.jsonl`, abandoned ones too.

A line is appended when a run starts and another when it ends; a start without an end is an abandoned attempt.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etude.errors import BadInput, reason
from etude.evidence.dates import now
from etude.evidence.places import Place


def start(
    place: Place, slug: str, configuration: Mapping[str, Any], reason: str, seeds: Sequence[int], arms: Sequence[str]
) -> int:  # fmt: skip
    """Appends the start of an attempt and returns its number, from 1 on. `configuration`: name -> value; what changed is noted."""
    before = read(place, slug)
    number = 1 + max((a["attempt"] for a in before), default=0)
    told = {**configuration, "seeds": list(seeds), "arms": list(arms)}
    last: Mapping[str, Any] = before[-1]["configuration"] if before else {}
    changed = [key for key in told if last.get(key) != told[key]] if before else ["the first attempt"]
    line = {"attempt": number, "state": "started", "date": now(), "difference": changed, "reason": reason, "configuration": told}
    _append(place, slug, line)
    return number


def end(place: Place, slug: str, number: int, state: str, result: str, seconds: float) -> None:
    """Appends the end. state: finished, interrupted or failed; result: the verdict, or what happened."""
    _append(place, slug, {"attempt": number, "state": state, "date": now(), "result": result, "seconds": round(seconds, 1)})


def read(place: Place, slug: str) -> list[dict[str, Any]]:
    """The attempts in order, each with state "abandoned" where its end is missing. A torn last line is passed over."""
    path = place.attempts(slug)
    if not path.exists():
        return []
    merged: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            told = json.loads(line)
            number = int(told["attempt"])
        except (ValueError, KeyError, TypeError):
            continue
        if told.get("state") == "started":
            merged[number] = {**told, "state": "abandoned", "result": ""}
        elif number in merged:
            merged[number] |= {"state": told["state"], "result": told["result"], "seconds": told["seconds"], "ended": told["date"]}
    return list(merged.values())


def _append(place: Place, slug: str, line: Mapping[str, Any]) -> None:
    path = place.attempts(slug)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if file.tell() and not path.read_bytes().endswith(b"\n"):
                file.write(b"\n")  # a kill may have torn the last line
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadInput(str(path), reason(error), "a file that can be written") from error
