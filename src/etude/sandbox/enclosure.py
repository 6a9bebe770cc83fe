"""Starts the launcher, reads what the program says up to its limits, and ends it."""

from __future__ import annotations

import atexit
import base64
import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from etude.errors import BadInput
from etude.sandbox.filter import program as call_filter
from etude.sandbox.groups import Group

SETUP_SECONDS = 60.0  # a loaded machine may take long to start three processes; the program's own time counts from its start
LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run may use. Memory and processes hold for the run as a whole where control groups can be written, else for each process
    (memory) and for the run's user (processes)."""

    seconds: float = 5.0  # on the clock, from the program's first instruction; the same of processor time for each process
    memory_mb: int = 512
    processes: int = 16  # threads included
    output_bytes: int = 1 << 16  # standard output and error together
    disk_mb: int = 16  # all of /tmp
    file_mb: int = 8  # one file
    files: int = 512

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise BadInput(f"limits.{item.name}", repr(value), "a number > 0")
            if item.name != "seconds" and not isinstance(value, int):
                raise BadInput(f"limits.{item.name}", repr(value), "a whole number > 0")


@dataclass(frozen=True, slots=True)
class Result:
    """What a run left.

    stdout, stderr: at most `output_bytes` together. exit: the exit status, or minus the signal that ended the program.
    why: "ended" by itself (whatever its exit), or stopped for its "time", "memory" or "output".
    seconds: on the clock. namespace, ended: the inode of its pid namespace and when that was gone (seconds since the machine started):
    by these a leftover process would be known.
    """

    stdout: str
    stderr: str
    exit: int
    why: str
    seconds: float
    namespace: int
    ended: float

    @property
    def ok(self) -> bool:
        return self.why == "ended" and self.exit == 0


class NotIsolated(Exception):
    """The isolation could not be set up; the program was not started."""


@cache
def _base() -> str:
    """An empty folder over which each run mounts its root, in a mount namespace of its own."""
    owner = os.getpid()
    _sweep()
    folder = tempfile.mkdtemp(prefix=f"etude-sandbox-{owner}-")
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder, ignore_errors=True))
    return folder


def _sweep() -> None:
    """Removes the folders that killed callers of this user left behind. They are empty: what was mounted over them went with its run."""
    for old in Path(tempfile.gettempdir()).glob("etude-sandbox-*-*"):
        pid = old.name.split("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                old.rmdir()


@cache
def interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@cache
def visible() -> dict[str, list[str]]:
    """What of the host's file system a program sees, read-only: the interpreter, its standard library, the system's shared libraries."""
    links, folders = [], []
    for path in ("/lib", "/lib64", "/usr/lib", "/usr/lib64"):
        if os.path.islink(path):
            links.append(path)
        elif os.path.isdir(path):
            folders.append(path)
    base = {"platbase": sys.base_exec_prefix}  # not a virtual environment's
    library = list({sysconfig.get_path(name, vars=base) for name in ("stdlib", "platstdlib")})
    shared = [str(p) for root in {sys.base_prefix, sys.base_exec_prefix} for p in Path(root, "lib").glob("libpython*.so*")]
    for path in (interpreter(), *library, *shared, "/etc/ld.so.cache"):
        if os.path.exists(path) and not any(os.path.realpath(path).startswith(f"{folder}/") or path == folder for folder in folders):
            folders.append(path)
    hidden = [f"{root}/{name}" for root in {*library, "/usr/lib/python3"} for name in ("site-packages", "dist-packages")]
    return {"links": links, "read_only": folders, "hidden": [path for path in hidden if os.path.isdir(path)]}


def execute(code: str, stdin: str, limits: Limits, prefix: tuple[str, ...]) -> Result:
    """Runs Python `code` enclosed. prefix: a command that enters a user namespace first, or nothing.

    Raises NotIsolated where the kernel refuses a part of the isolation: the code has then not run at all.
    """
    filtering = call_filter()
    if filtering is None:
        raise NotIsolated(f"no filter of system calls for the architecture {os.uname().machine}")
    group = Group.make(limits.memory_mb, limits.processes)
    os.makedirs(_base(), mode=0o700, exist_ok=True)  # whoever tidies the temporary folder may have removed it
    reading, writing = os.pipe()
    request = visible() | {
        "base": _base(),
        "main.py": code,
        "stdin": stdin,
        "limits": asdict(limits),
        "filter": base64.b64encode(filtering).decode(),
        "groups": group.entries,
        "status": writing,
        "argv": [interpreter(), "-s", "-S", "-P", "-B", "/main.py"],
        "environment": {
            "PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONHASHSEED": "0",
        },
    }  # fmt: skip
    try:
        outer = subprocess.Popen(
            [*prefix, interpreter(), "-I", "-S", str(LAUNCHER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=[writing], start_new_session=True, env={"PATH": os.defpath}, cwd="/",
        )  # fmt: skip
    except OSError as error:
        os.close(reading)
        group.remove()
        raise NotIsolated(f"cannot start a process: {error}") from error
    finally:
        os.close(writing)
    try:
        with contextlib.suppress(BrokenPipeError), outer.stdin:  # type: ignore[union-attr]
            outer.stdin.write(json.dumps(request).encode())  # type: ignore[union-attr]
        watched = _Watched(outer, reading, limits)
        watched.follow()
        _end(outer)
        return watched.result(group.out_of_memory())
    finally:
        _end(outer)
        for pipe in (outer.stdout, outer.stderr):
            pipe.close()  # type: ignore[union-attr]
        os.close(reading)
        group.remove()


def _end(outer: subprocess.Popen[bytes]) -> None:
    """The launcher kills and reaps the program's process 1 and with it everything inside; only then does it end itself."""
    if outer.poll() is None:
        outer.send_signal(signal.SIGTERM)
        try:
            outer.wait(10)
        except subprocess.TimeoutExpired:
            outer.kill()
            outer.wait()


class _Watched:
    """Reads a run's output, error and status until all three are closed or a limit is passed."""

    def __init__(self, outer: subprocess.Popen[bytes], status: int, limits: Limits) -> None:
        self.outer, self.status, self.limits = outer, status, limits
        self.texts = {"out": bytearray(), "err": bytearray(), "status": bytearray()}
        self.why = "ended"
        self.started: float | None = None
        self.seconds = 0.0

    def follow(self) -> None:
        deadline = time.monotonic() + SETUP_SECONDS
        stopping = False
        with selectors.DefaultSelector() as selector:
            for name, file in (("out", self.outer.stdout), ("err", self.outer.stderr), ("status", self.status)):
                selector.register(file, selectors.EVENT_READ, name)  # type: ignore[arg-type]
            while selector.get_map():
                left = deadline - time.monotonic()
                for key, _ in selector.select(max(left, 0)) if left > 0 else ():
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif not stopping or key.data == "status":
                        self.texts[key.data] += data
                if self.started is None and b'"ready"' in self.texts["status"]:
                    self.started = time.monotonic()
                    deadline = self.started + self.limits.seconds
                over = len(self.texts["out"]) + len(self.texts["err"]) > self.limits.output_bytes
                late = time.monotonic() > deadline
                if (over or late) and stopping and late:
                    break  # the launcher did not obey within its seconds: `_end` kills it
                if (over or late) and not stopping:
                    self.why, stopping = "output" if over else "time", True
                    self.outer.send_signal(signal.SIGTERM)
                    deadline = time.monotonic() + 10
        self.seconds = time.monotonic() - (self.started or time.monotonic())

    def result(self, out_of_memory: bool) -> Result:
        said: dict[str, Any] = {}
        for line in self.texts["status"].decode().splitlines():
            said |= json.loads(line)
        if "setup" in said or self.started is None:
            noise = self.texts["err"].decode(errors="replace").strip().splitlines()
            raise NotIsolated(said.get("setup") or (noise[-1] if noise else f"no start within {SETUP_SECONDS:.0f} s"))
        code = said.get("exit", -signal.SIGKILL)
        why = self.why
        if why == "ended" and out_of_memory:
            why = "memory"
        elif why == "ended" and code in (-signal.SIGXCPU, -signal.SIGKILL) and self.seconds >= self.limits.seconds:
            why = "time"
        room = self.limits.output_bytes
        out = bytes(self.texts["out"][:room])
        err = bytes(self.texts["err"][: room - len(out)])
        texts = (out.decode(errors="replace"), err.decode(errors="replace"))
        return Result(*texts, code, why, self.seconds, said.get("namespace", 0), time.clock_gettime(time.CLOCK_BOOTTIME))
