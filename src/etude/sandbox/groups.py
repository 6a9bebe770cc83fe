"""Control groups: limits on memory and processes for a run as a whole, where they can be written. Versions 1 and 2."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_count = itertools.count()
FILES = {"memory": ("memory.limit_in_bytes", "memory.max"), "pids": ("pids.max", "pids.max")}
"""controller -> the file that sets its limit, in version 1 and in version 2"""


def unescape(path: str) -> str:
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), path)


@cache
def places() -> dict[str, tuple[Path, int]]:
    """controller -> (folder under which a group can be made, version); those that cannot be written are left out."""
    mounts: list[tuple[str, str, Path, set[str]]] = []  # kind, root, mount point, options
    found: dict[str, tuple[Path, int]] = {}
    try:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            left, _, right = line.partition(" - ")
            fields, (kind, _, options) = left.split(), right.split()
            if kind in ("cgroup", "cgroup2"):
                mounts.append((kind, unescape(fields[3]), Path(unescape(fields[4])), set(options.split(","))))
        own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except (OSError, ValueError):
        return found
    for controller in FILES:
        for _, names, path in own:
            version = 2 if names == "" else 1
            if version == 1 and controller not in names.split(","):
                continue
            for kind, root, point, options in mounts:
                if (kind == "cgroup2") != (version == 2) or (version == 1 and controller not in options):
                    continue
                inside = os.path.relpath(path, root) if path.startswith(root) else "."
                here = point / inside
                for folder in (here, here.parent) if version == 2 and inside != "." else (here,):
                    if controller not in found and _can_hold(folder, controller, version):
                        found[controller] = (folder, version)
    return found


def _can_hold(folder: Path, controller: str, version: int) -> bool:
    """Tries it: makes a group below `folder`, sets a limit, removes it."""
    trial = folder / f"etude-trial-{os.getpid()}"
    try:
        if version == 2 and controller not in (folder / "cgroup.subtree_control").read_text().split():
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        trial.mkdir()
    except OSError:
        return False
    try:
        (trial / FILES[controller][version - 1]).write_text(str(1 << 26 if controller == "memory" else 64))
        return os.access(trial / "cgroup.procs", os.W_OK)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            trial.rmdir()


@dataclass(slots=True)
class Group:
    """The groups of one run. `entries`: files into which a process writes "0" to join."""

    folders: dict[str, tuple[Path, int]] = field(default_factory=dict)

    @property
    def entries(self) -> list[str]:
        return sorted({str(folder / "cgroup.procs") for folder, _ in self.folders.values()})

    @classmethod
    def make(cls, memory_mb: int, processes: int) -> Group:
        """Groups with these limits, or fewer or none where they cannot be written."""
        group, number = cls(), next(_count)
        for controller, (parent, version) in places().items():
            folder = parent / f"etude-{os.getpid()}-{number}"
            limit = memory_mb << 20 if controller == "memory" else processes
            try:
                folder.mkdir(exist_ok=True)
                (folder / FILES[controller][version - 1]).write_text(str(limit))
            except OSError:
                continue
            group.folders[controller] = (folder, version)
            for swap in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
                if controller == "memory" and (folder / swap).exists():
                    with contextlib.suppress(OSError):
                        (folder / swap).write_text("0" if version == 2 else str(limit))
        return group

    def out_of_memory(self) -> bool:
        """Whether the kernel killed a process of this run for its memory."""
        if "memory" not in self.folders:
            return False
        folder, version = self.folders["memory"]
        try:
            text = (folder / ("memory.events" if version == 2 else "memory.oom_control")).read_text()
        except OSError:
            return False
        return any(re.fullmatch(r"oom_kill [1-9]\d*", line) for line in text.splitlines())

    def remove(self, patience: float = 2.0) -> None:
        """Removes the groups; a process that has just died may hold one for some milliseconds more."""
        end = time.monotonic() + patience
        for folder in {folder for folder, _ in self.folders.values()}:
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > end:
                        break
                    time.sleep(0.005)
        self.folders.clear()


def sweep() -> None:
    """Removes groups that killed callers left behind."""
    for folder, _ in places().values():
        for old in folder.glob("etude-*-*"):
            pid = old.name.split("-")[1]
            if pid.isdigit() and not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(OSError):
                    old.rmdir()
