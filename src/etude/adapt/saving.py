"""The methods' state beside a trainer's checkpoint, in `checkpoint-N/etude`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etude.engine import checkpoint
from etude.engine.protocols import Stage
from etude.errors import BadInput

FOLDER = "etude"
THEIRS = "trainer_state.json"
"""What a trainer writes last: a checkpoint without it was not finished."""


def save(folder: Path, adapter: Any) -> None:
    run = adapter.run
    state = {
        "identity": dict(adapter.parts),
        "step": run.step,
        "stage": None if run.stage is None else [run.stage.name, run.stage.index],
        "ledger": run.ledger.as_dict(),
        "stream": run.stream.state_dict() if adapter.drives else None,
        "repeated": [adapter.repeated, adapter.repeats_left],
        "methods": {m.name: m.state_dict() for m in run.hooks.methods},
    }
    checkpoint.save(folder / FOLDER, run.step, state, keep=1)


def newest(folder: Path) -> Path:
    """The newest whole checkpoint under a trainer's output folder. Raises BadInput where there is none."""
    found = [p for p in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name) and (p / THEIRS).exists()]
    whole = [p for p in found if any((p / FOLDER).glob("step-*"))]
    if not whole:
        raise BadInput(str(folder), "no checkpoint with methods' state", "one written by a trainer that etude.adapt.hf has adapted")
    return max(whole, key=lambda p: int(p.name.removeprefix("checkpoint-")))


def restore(path: Path, adapter: Any) -> None:
    """Puts methods, order and counts into the state of a checkpoint. Raises BadInput for one of another run, or without that state."""
    folder = path / FOLDER
    if not folder.is_dir():
        raise BadInput(str(path), "a checkpoint without methods' state", "one written by a trainer that etude.adapt.hf has adapted")
    state: Mapping[str, Any] = checkpoint.load(checkpoint.latest(folder)[0])
    differing = [k for k in {**state["identity"], **adapter.parts} if state["identity"].get(k) != adapter.parts.get(k)]
    if differing:
        raise BadInput(str(path), f"a checkpoint of another {' and '.join(differing)}", "one of the run being resumed")
    run = adapter.run
    run.step = state["step"]
    run.stage = None if state["stage"] is None else Stage(*state["stage"])
    run.ledger = type(run.ledger).from_dict(state["ledger"])
    if adapter.drives:
        run.stream.load_state_dict(state["stream"])
    adapter.repeated, adapter.repeats_left = state["repeated"]
    for method in run.hooks.methods:
        method.load_state_dict(state["methods"][method.name])
