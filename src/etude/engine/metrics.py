"""The files of a run that grow: `metrics.jsonl` (a line per logged update and evaluation) and `order.bin` (ids seen, int64).

Both hold only what is determined by the seed, so that two equal runs have equal files; times are in the ledger. A
checkpoint remembers their lengths, and resuming cuts them there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from etude.errors import BadInput


class MetricsLog:
    """Appends to the two files of `folder`; with no folder it keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.pending: dict[str, float] = {}
        self.files: dict[str, BinaryIO] = {}
        if folder is not None:
            self.files = {name: (folder / name).open("ab") for name in ("metrics.jsonl", "order.bin")}

    def add(self, name: str, value: float) -> None:
        self.pending[name] = float(value)

    def write(self, record: dict[str, Any]) -> None:
        """One line: the record and whatever hooks have added since the last one."""
        if self.files:
            self.files["metrics.jsonl"].write(json.dumps(record | self.pending).encode() + b"\n")
        self.pending.clear()

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


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
