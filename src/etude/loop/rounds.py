"""Rounds: state -> state, kept on disk after each, so that a killed loop goes on with the round that it was in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etude.engine import checkpoint
from etude.errors import BadInput

State = dict[str, Any]
"""What passes from round to round: tensors, arrays, numbers, strings, lists and dicts of them."""
Report = dict[str, float]
Step = Callable[[int, State], tuple[State, Report]]
"""(round number from 1, state before it) -> (state after it, what it measured)."""


def run_rounds(step: Step, state: State, num_rounds: int, *, folder: Path | None = None, identity: str = "") -> tuple[State, list[Report]]:
    """Runs rounds 1 .. num_rounds and returns the last state and every round's report.

    A step must depend on nothing but its two arguments (random streams derived from the round's number), so that a round begun
    anew after a kill comes out the same. folder: holds `rounds/round`s as checkpoints and `rounds.jsonl`, a readable line for
    each report; None keeps nothing. identity: what must be equal for a folder to belong to this loop (settings, seed).
    Raises BadInput for no rounds, and for a folder with the rounds of another loop or with more of them than asked for.
    """
    if num_rounds < 1:
        raise BadInput("num_rounds", repr(num_rounds), "a whole number >= 1")
    reports: list[Report] = []
    kept = None if folder is None else folder / "rounds"
    if kept is not None and any(kept.glob("step-*")):
        saved = checkpoint.load(checkpoint.latest(kept)[0])
        if saved["identity"] != identity:
            raise BadInput(str(kept), "the rounds of another loop", "an empty folder, or the loop being resumed")
        state, reports = saved["state"], saved["reports"]
        if len(reports) > num_rounds:
            raise BadInput(str(kept), f"{len(reports)} rounds", f"at most the {num_rounds} asked for")
        _tell(kept, reports)  # a kill may have come between the last round's checkpoint and its line
    for number in range(len(reports) + 1, num_rounds + 1):
        state, report = step(number, state)
        reports = [*reports, report]
        if kept is not None:
            checkpoint.save(kept, number, {"identity": identity, "state": state, "reports": reports}, keep=num_rounds)
            _tell(kept, reports)
    return state, reports


def _tell(kept: Path, reports: list[Report]) -> None:
    """Writes the reports as readable lines beside the checkpoints."""
    lines = (json.dumps({"round": i, **r}) for i, r in enumerate(reports, start=1))
    checkpoint.write_atomic(kept.parent / "rounds.jsonl", "".join(line + "\n" for line in lines))
