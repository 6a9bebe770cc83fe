"""A run that is killed and resumed, again and again, against the same run that never was: SIGKILL, in processes of their own.

One process imports what is needed and forks a child for each attempt, so that ten attempts take no ten starts.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from etude.engine import checkpoint
from etude.errors import BadInput
from etude.evidence import jobs
from etude.recipe.config import parse
from etude.screen.trial import trainer_of

COUNTED = ("batch", "gradients", "clipped", "updated", "stage_end", "evaluate")
"""Events at which a kill may come: inside an update's batches, before and after its step, at a stage's end, at an evaluation."""


def kept_exactly(document: Mapping[str, Any], folder: Path, kills: int, where: str) -> str:
    """Empty where a run killed `kills` times and resumed ends in the same bits; else what differs. where: names the random moments.

    Raises BadInput where the run itself is refused or diverges.
    """
    made = {**document, "run": {**document["run"], "checkpoint_every": 0.1}}
    asked = {"document": made, "folder": str(folder), "kills": kills, "where": where}
    done = subprocess.run(
        [sys.executable, "-m", "etude.screen.kills"], input=json.dumps(asked), capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise BadInput(where, f"a run that ends with an error ({last})", "one that trains to its end")
    return _difference(folder / "whole", folder / "killed")


def main() -> None:
    """Reads one question from stdin and runs it: a run without kills in FOLDER/whole, one with them in FOLDER/killed."""
    asked = json.loads(sys.stdin.read())
    folder, rng = Path(asked["folder"]), random.Random(asked["where"])
    with jobs.one_thread():
        events = folder / "events"
        _attempt(asked["document"], folder / "whole", False, 0, events)
        total, started = int(events.read_text()), False
        # In order of the run, so that each finds it further on; the last attempt is left alone.
        for number in range(asked["kills"]):
            at = rng.randint(1, max(1, total // (asked["kills"] - number)))
            _attempt(asked["document"], folder / "killed", started, at, events)
            started = True
        _attempt(asked["document"], folder / "killed", started, 0, events)


def _attempt(document: Mapping[str, Any], folder: Path, resume: bool, kill_at: int, events: Path) -> None:
    """A child that trains and kills itself at its `kill_at`th event (0: never). Ends this process where it ends with an error."""
    child = os.fork()
    if not child:
        _child(document, folder, resume, kill_at, events)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        sys.exit(1)


def _child(document: Mapping[str, Any], folder: Path, resume: bool, kill_at: int, events: Path) -> None:
    code = 1
    try:
        made = {**document, "run": {**document["run"], "folder": str(folder)}}
        trainer = trainer_of(parse(made, "check"))
        seen = 0

        def count(*_: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        for event in COUNTED:
            trainer.hooks.lists[event].append(count)
        trainer.run(resume=resume and folder.exists())
        if not kill_at:
            events.write_text(str(seen))
        code = 0
    except Exception as error:
        print(error, file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _difference(whole: Path, killed: Path) -> str:
    """What the newest checkpoints, the metrics and the order of samples of two runs do not share; empty where they are the same."""
    (a, tensors_a), (b, tensors_b) = _state(whole), _state(killed)
    for part in a:
        if a[part] != b[part]:
            return f"'{part}' of the last checkpoint"
    for name, tensor in tensors_a.items():
        if name not in tensors_b or not torch.equal(tensor, tensors_b[name]):
            return f"the tensor {name} of the last checkpoint"
    return next((name for name in ("metrics.jsonl", "order.bin") if (whole / name).read_bytes() != (killed / name).read_bytes()), "")


def _state(folder: Path) -> tuple[dict[str, str], Mapping[str, torch.Tensor]]:
    path, _ = checkpoint.latest(folder / "checkpoints")
    state = checkpoint.load(path)
    state["history"] = [{k: v for k, v in row.items() if k != "seconds"} for row in state["history"]]
    for amounts in state["ledger"].values():
        amounts.pop("seconds", None)
    tensors: dict[str, torch.Tensor] = {}
    return {part: json.dumps(checkpoint.pack(value, tensors), sort_keys=True) for part, value in state.items()}, tensors


if __name__ == "__main__":
    main()
