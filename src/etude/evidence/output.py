"""The output folder of a study: OUT/study.json marks whose it is; below OUT/SCALE/ lie finished runs, logs, record and plots.

OUT/SCALE/runs/ARM-seedK-HASH.json   a finished run, reused by later calls
OUT/SCALE/folders/ARM-seedK-HASH/    what the run itself wrote
OUT/SCALE/record.json, plots/, logs/
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput, reason
from etude.evidence.jobs import Task

MARK = "study.json"


def claim(out: Path, slug: str) -> Path:
    """Makes the folder and marks it as the study's. Raises BadInput where it is not writable or holds something else."""
    mark = out / MARK
    try:
        if out.exists() and not out.is_dir():
            raise BadInput(str(out), "a file", "a folder for the study's runs")
        if mark.exists():
            try:
                holder = json.loads(mark.read_text())["study"]
            except (ValueError, KeyError, TypeError) as error:
                raise BadInput(str(mark), "unreadable content", "the mark of a study's folder, or an empty folder") from error
            if holder != slug:
                if _holds_something(out):
                    raise BadInput(str(out), f"runs of the study '{holder}'", f"runs of '{slug}', or an empty folder")
                with alone(out):  # its study was refused before anything ran
                    write_atomic(mark, json.dumps({"study": slug}) + "\n")
        elif out.exists() and any(not p.name.startswith(".") for p in out.iterdir()):
            raise BadInput(str(out), "files that no study wrote", "an empty or new folder")
        out.mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            write_atomic(mark, json.dumps({"study": slug}) + "\n")
        if not os.access(out, os.W_OK):
            raise BadInput(str(out), "no permission to write", "a folder that can be written")
    except OSError as error:
        raise BadInput(str(out), reason(error), "a folder that can be written") from error
    return out


def _holds_something(out: Path) -> bool:
    """Whether there is anything but the mark and workers' logs: a run, what one has begun, a record, a file of the user's."""
    found = (p.relative_to(out).parts for p in out.rglob("*") if p.is_file() and not p.name.startswith("."))
    return any(parts != (MARK,) and parts[1:2] != ("logs",) for parts in found)


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Holds the folder against a second etude at the same time; the system lets go of it however this process ends."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(str(out), "another etude at work in it", "a folder that nobody is writing to") from error
        yield


def task(out: Path, scale: str, arm: str, seed: int, config: str) -> Task:
    """The task with its places."""
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', arm)}-seed{seed}-{config}"
    base = out / scale
    return Task(arm=arm, scale=scale, seed=seed, config=config, file=base / "runs" / f"{name}.json", folder=base / "folders" / name)
