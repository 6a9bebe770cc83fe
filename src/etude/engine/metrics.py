"""The files of a run that grow: `metrics.jsonl` (a line per logged update and evaluation), `order.bin` (ids seen, int64), and
what a stream adds (`rollouts.jsonl`).

They hold only what is determined by the seed, so that two equal runs have equal files; times are in the ledger and in
`timing.jsonl`, which a run has whose stream takes time of its own (generating). A checkpoint remembers their lengths, and
resuming cuts them there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from etude.engine.trackers import Mirror
from etude.errors import BadInput


class MetricsLog:
    """Appends to the two files of `folder`; with no folder it keeps nothing. mirror: is given each record of `metrics.jsonl` too."""

    def __init__(self, folder: Path | None, mirror: Mirror | None = None) -> None:
        self.mirror = mirror
        self.pending: dict[str, float] = {}
        self.files: dict[str, BinaryIO] = {}
        self.folder = folder
        for name in ("metrics.jsonl", "order.bin"):
            self.open(name)

    def open(self, name: str) -> None:
        """One more file that grows with the run; opened before a checkpoint is restored, so that resuming cuts it too."""
        if self.folder is not None and name not in self.files:
            self.files[name] = (self.folder / name).open("ab")

    def append(self, name: str, record: dict[str, Any]) -> None:
        """A line of JSON for an opened file, text kept readable."""
        if self.files:
            self.files[name].write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def add(self, name: str, value: float) -> None:
        self.pending[name] = float(value)

    def write(self, record: dict[str, Any]) -> None:
        """One line: the record and whatever hooks have added since the last one."""
        if self.files:
            self.files["metrics.jsonl"].write(json.dumps(record | self.pending).encode() + b"\n")
        if self.mirror is not None:
            self.mirror.write(record | self.pending)
        self.pending.clear()

    def times(self, step: int, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """A line of `timing.jsonl`: an update's seconds, whole and by category of the ledger, and the share spent generating.

        All is then given to the system: such updates are slow, and whoever watches the run reads what it made.
        """
        parts = {k: v - before.get(k, 0.0) for k, v in after.items()}
        whole = sum(parts.values())
        record = {"step": step, "seconds": whole} | {k: v for k, v in parts.items() if k != "train"}
        self.append("timing.jsonl", record | {"generate_share": parts.get("generate", 0.0) / whole if whole else 0.0})
        self.flush()

    def order(self, ids: np.ndarray) -> None:
        if self.files:
            self.files["order.bin"].write(np.ascontiguousarray(ids, dtype="<i8").tobytes())

    def lengths(self) -> dict[str, int]:
        """Flushes to disk and returns each file's length, for the checkpoint."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self.files.items()}

    def flush(self) -> None:
        for file in self.files.values():
            file.flush()

    def cut(self, lengths: dict[str, int]) -> None:
        for name, file in self.files.items():
            length = lengths.get(name, 0)
            if file.seek(0, os.SEEK_END) < length:
                raise BadInput(name, f"{file.tell()} bytes", f"at least the {length} that the checkpoint remembers")
            file.truncate(length)
            file.seek(length)

    def close(self) -> None:
        for file in self.files.values():
            file.close()
        if self.mirror is not None:
            self.mirror.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
