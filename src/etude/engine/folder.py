"""A run's folder on disk: whose it is, who is writing to it, and whether a new run may begin in it.

`run.json` marks the folder as a run's; the folder itself is locked while a run writes to it. What holds a checkpoint is never
begun anew. A run that came to none (it failed, or was killed early) does not block the next: what it had logged is moved to
`earlier-1/`, `earlier-2/`, ... beside the new run. A run that is refused before its first update leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etude.engine import checkpoint
from etude.engine.identity import difference, digests
from etude.errors import BadInput, reason

MARK = "run.json"
LOGS = ("metrics.jsonl", "order.bin")
TRACKERS = "trackers"


class RunFolder:
    """The folder of one run; `held` makes it.

    told:    what the run is, part by part, in plain values (`identity`): compared on resume and named where it differs.
    beside:  name -> content of files that say what the run is made of, written with the mark.
    methods: full names of the methods' classes, for whoever asks later what the run stood on.
    """

    def __init__(self, path: Path, told: Mapping[str, Any], beside: Mapping[str, str], methods: Sequence[str] = ()) -> None:
        self.path, self.told, self.beside, self.methods = path, told, beside, list(methods)
        self.mark, self.checkpoints = path / MARK, path / "checkpoints"
        self.worked = False  # whether an update was done: what is on disk is then worth keeping
        self.aside: Path | None = None  # where an earlier run's logs were moved
        self._made: list[Path] = []  # folders that were not there before
        self._begun = self._kept = False

    def begin(self, resume: bool) -> None:
        """Makes the folder this run's. Raises BadInput where it is another's, or a run's that is not being resumed."""
        if self.mark.exists():
            self._kept = self._is_kept()
            if not resume and self._kept:
                raise BadInput(str(self.path), "a run already", "an empty folder, or to resume it (--resume)")
            if resume:
                self._same()
            else:
                self._set_aside()
        elif resume:
            raise BadInput(str(self.path), "no run", "a run to resume")
        elif any(not _ours(p) for p in self.path.iterdir()):
            raise BadInput(str(self.path), "files that no run of etude wrote", "an empty or new folder")
        if not resume:
            self._begun = True
            self._write_mark()
        for name, content in self.beside.items():
            # A resumed run has them; they are missing only where a kill came between the mark and them.
            if not resume or not (self.path / name).exists():
                checkpoint.write_atomic(self.path / name, content)

    def keep(self) -> None:
        """Remembers that there has been a checkpoint: from then on the folder is never begun anew, even if someone removes them."""
        if not self._kept:
            self._kept = True
            self._write_mark()

    def withdraw(self) -> None:
        """Removes what this run has written, unless it has done something: an update, or rollouts."""
        logs = [p for p in self.path.glob("*.jsonl") if p.name not in LOGS]
        if not self._begun or self.worked or any(p.stat().st_size for p in logs):
            return
        for name in (*LOGS, *self.beside, *(p.name for p in logs), MARK):
            (self.path / name).unlink(missing_ok=True)

    def drop(self) -> None:
        """Removes the folders that were made for this run and are empty."""
        for folder in reversed(self._made):
            try:
                folder.rmdir()
            except OSError:
                break

    def make(self) -> None:
        """Makes the folder and remembers what of it is new."""
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            self._made.append(folder)

    def _write_mark(self) -> None:
        told = json.loads(json.dumps(self.told, default=str))
        facts = {"methods": self.methods, "files": list(self.beside), "kept": self._kept}
        checkpoint.write_atomic(self.mark, json.dumps({"identity": digests(self.told), "told": told, **facts}))

    def _read_mark(self) -> dict[str, Any]:
        try:
            content = json.loads(self.mark.read_text())
            if not isinstance(content["identity"], dict):
                raise TypeError
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(str(self.mark), "unreadable content", "the mark of a run, or an empty folder") from error
        return content

    def _is_kept(self) -> bool:
        return bool(self._read_mark().get("kept")) or any(self.checkpoints.glob("step-*"))

    def _same(self) -> None:
        mark, ours = self._read_mark(), digests(self.told)
        differing = [k for k in ours if mark["identity"].get(k) != ours[k]]
        if differing:
            there, here = mark.get("told", {}), json.loads(json.dumps(self.told, default=str))
            said = [f"{k}{difference(there.get(k), here[k])}" for k in differing]
            raise BadInput(str(self.path), f"a run of another {' and '.join(said)}", "the run being resumed")

    def _set_aside(self) -> None:
        """What an earlier run without a checkpoint has left: logs are moved away whole, the mark alone is written over."""
        names = {MARK, "checkpoints", TRACKERS, *LOGS, *self._read_mark().get("files", ()), *(p.name for p in self.path.glob("*.jsonl"))}
        left = [self.path / name for name in sorted(names) if (self.path / name).exists()]
        if not any(p.stat().st_size for p in left if p.name in LOGS or p.suffix == ".jsonl"):
            shutil.rmtree(self.checkpoints, ignore_errors=True)  # at most a checkpoint that a kill cut short
            shutil.rmtree(self.path / TRACKERS, ignore_errors=True)
            for path in left:
                if path.is_file() and path.name != MARK:
                    path.unlink()
            return
        number = 1
        while (aside := self.path / f"earlier-{number}").exists():
            number += 1
        aside.mkdir()
        self.aside = aside
        # The mark goes last: a kill in between leaves a folder that is still known as a run's.
        for path in sorted(left, key=lambda p: p.name == MARK):
            os.replace(path, aside / path.name)


@contextmanager
def held(path: Path, told: Mapping[str, Any], beside: Mapping[str, str], methods: Sequence[str], resume: bool) -> Iterator[RunFolder]:
    """The folder, locked and marked, while a run is at work in it; the arguments are those of `RunFolder`.

    A run that raises before its first update is withdrawn. Raises BadInput where the folder cannot be had, and touches nothing then.
    """
    folder = RunFolder(path, told, beside, methods)
    lock: int | None = None
    try:
        try:
            if path.exists() and not path.is_dir():
                raise BadInput(str(path), "a file", "a folder for the run")
            if resume and not path.exists():
                raise BadInput(str(path), "no run", "a run to resume")
            folder.make()
            lock = locked(path)
            folder.begin(resume)
        except OSError as error:
            raise BadInput(str(path), reason(error), "a folder that can be written") from error
        yield folder
    except BaseException:
        folder.withdraw()
        folder.drop()
        raise
    finally:
        if lock is not None:
            os.close(lock)


def locked(path: Path) -> int | None:
    """Holds the folder against a second run at the same time, until the handle is closed; the system lets go however this process ends.

    None: no locks here. Raises BadInput where another holds it.
    """
    try:
        import fcntl
    except ImportError:
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise BadInput(str(path), "another run at work in it", "a folder that nobody is writing to") from None
    except OSError:  # a file system without locks
        os.close(handle)
        return None
    return handle


def _ours(path: Path) -> bool:
    """What may lie in a folder in which a run begins: the system's own files, and what earlier runs have left."""
    return path.name.startswith(".") or re.fullmatch(r"earlier-\d+", path.name) is not None
