"""The sandbox proves itself before it is trusted: a program tries to break out, and must fail at everything."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from etude.errors import BadInput
from etude.sandbox.enclosure import Limits, NotIsolated, Result, execute
from etude.sandbox.groups import places, sweep

BUBBLEWRAP = ("--unshare-user", "--cap-add", "ALL", "--bind", "/", "/", "--dev-bind", "/dev", "/dev", "--die-with-parent")
"""Only to enter a user namespace, on systems that let bubblewrap make one but not Python; the rest is the launcher's."""

REMEDY = (
    "a kernel that isolates: run as root with CAP_SYS_ADMIN, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1 "
    "user.max_user_namespaces=10000), or install bubblewrap (apt-get install bubblewrap); in a container, start it with --privileged"
)

PROBE = r"""
import json, os, resource, socket, sys, time
given = json.load(sys.stdin)
escaped = {}

def attempt(name, what):
    try:
        escaped[name] = str(what())[:80]
    except (Exception, SystemExit):
        pass

def connect(family, address):
    s = socket.socket(family)
    s.settimeout(1)
    s.connect(address)
    return "connected"

def fill():
    x = bytearray(given["memory_mb"] << 21)
    return len(x)

def fork():
    made = []
    try:
        for _ in range(given["processes"] + 8):
            pid = os.fork()
            if pid == 0:
                os.setsid()
                time.sleep(60)
                os._exit(0)
            made.append(pid)
    except OSError:
        pass
    if not made and given["processes"] > 1:
        raise SystemExit
    if len(made) >= given["processes"]:
        return len(made)
    raise OSError

attempt("reached the network", lambda: connect(socket.AF_INET, ("127.0.0.1", given["port"])))
attempt("opened an internet socket", lambda: socket.socket(socket.AF_INET))
attempt("opened a vsock", lambda: socket.socket(socket.AF_VSOCK))
attempt("reached a socket in the file system", lambda: connect(socket.AF_UNIX, given["folder"] + "/socket"))
attempt("read another file", lambda: open(given["folder"] + "/secret").read())
attempt("read /etc/passwd", lambda: open("/etc/passwd").read())
attempt("wrote to the root", lambda: open("/escape", "w"))
attempt("wrote to the library", lambda: open(os.path.dirname(os.__file__) + "/escape.py", "w"))
attempt("deleted the library", lambda: os.remove(os.__file__))
attempt("wrote outside", lambda: open(given["folder"] + "/escape", "w"))
attempt("saw /proc", lambda: os.listdir("/proc")[0])
attempt("signalled a process outside", lambda: os.kill(given["canary"], 9))
attempt("signalled its group outside", lambda: os.killpg(given["canary"], 9))
if os.environ.get("ETUDE_CANARY"):
    escaped["saw the caller's environment"] = "yes"
if os.getuid() == 0:
    escaped["is root"] = "yes"
attempt("became root", lambda: os.setuid(0))
attempt("allocated too much memory", fill)
attempt("wrote too large a file", lambda: [f := open("/tmp/x", "wb"), f.write(bytes(given["file_mb"] + 1 << 20)), f.flush()][1])
attempt("raised its limits", lambda: resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6)))
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
calls = {"unshare": (0x10000000,), "ptrace": (16, 1, 0, 0), "chroot": (b"/tmp",), "mount": (b"x", b"/tmp", b"tmpfs", 0, 0)}
for name, args in calls.items():
    if getattr(libc, name)(*args) == 0:
        escaped["called " + name] = "yes"
try:
    os.kill(-1, 9)
except OSError:
    pass
attempt("started too many processes", fork)
print(json.dumps(escaped))
"""


@dataclass(frozen=True)
class Isolation:
    """How programs are isolated here.

    prefix: the command that enters a user namespace first (empty where none is needed). own_user: whether each run has a host user of
    its own. groups: the control groups ("memory", "pids") that limit a run as a whole.
    """

    prefix: tuple[str, ...]
    own_user: bool
    groups: tuple[str, ...]

    def __str__(self) -> str:
        how = "through bubblewrap" if self.prefix else "namespaces"
        user = "a host user of its own for each run" if self.own_user else "the caller's user, without rights"
        return f"{how}; {user}; limits on the whole run: {', '.join(self.groups) or 'none (on each process only)'}"


_lock = threading.Lock()
_proved: list[Isolation] = []


def check(*, again: bool = False) -> Isolation:
    """Tests the isolation once a process (a fraction of a second) and says how it is done.

    A program tries to reach the network, vsock, other files, the caller's environment, processes outside, root's rights and
    namespaces, and to pass its limits; it kills all it can and leaves daemons behind, none of which may be left.
    Raises BadInput with what failed and what to install or allow.
    """
    with _lock:
        if again:
            _proved.clear()
        if not _proved:
            _proved.append(_prove())
        return _proved[0]


def _prove() -> Isolation:
    if not sys.platform.startswith("linux"):
        raise BadInput("sandbox", f"the system {sys.platform}", "Linux: generated code is isolated by its namespaces (use a container)")
    sweep()
    wrapper = shutil.which("bwrap")
    failures = []
    for prefix in ((), (wrapper, *BUBBLEWRAP)) if wrapper else ((),):
        try:
            escaped = _probe(prefix)
        except NotIsolated as error:
            failures.append(str(error))
            continue
        if not escaped:
            return Isolation(prefix, os.geteuid() == 0, tuple(sorted(places())))
        failures.append("a test program " + "; ".join(f"{what} ({how})" for what, how in escaped.items()))
    raise BadInput("sandbox", f"no isolation ({'; '.join(failures)})", REMEDY)


def _probe(prefix: tuple[str, ...]) -> dict[str, str]:
    """What the probe managed to do that it must not."""
    limits = Limits(seconds=10, memory_mb=256, processes=6, file_mb=1)
    canary = subprocess.Popen(["sleep", "60"], start_new_session=True)
    secret = secrets.token_hex(8)
    try:
        with tempfile.TemporaryDirectory() as folder, socket.socket() as server, socket.socket(socket.AF_UNIX) as local:
            os.chmod(folder, 0o755)
            Path(folder, "secret").write_text(secret)
            server.bind(("127.0.0.1", 0))
            local.bind(f"{folder}/socket")
            os.chmod(f"{folder}/socket", 0o777)
            server.listen()
            local.listen()
            given = {
                "folder": folder, "port": server.getsockname()[1], "canary": canary.pid, "processes": limits.processes,
                "memory_mb": limits.memory_mb, "file_mb": limits.file_mb,
            }  # fmt: skip
            result = execute(PROBE, json.dumps(given), limits, prefix)
            try:
                escaped = json.loads(result.stdout.splitlines()[0])
            except (ValueError, IndexError):
                lines = result.stderr.strip().splitlines()
                raise NotIsolated(f"the test program ended early: {lines[-1] if lines else result.why}") from None
            if canary.poll() is not None:
                escaped["killed a process outside"] = "yes"
            if sorted(os.listdir(folder)) != ["secret", "socket"]:
                escaped["changed a folder outside"] = "yes"
        if left := leftovers([result]):
            escaped["left processes"] = str(left)
        return escaped
    finally:
        canary.kill()
        canary.wait()


def leftovers(results: Sequence[Result], patience: float = 2.0) -> list[int]:
    """Processes of these runs that are still alive after `patience` seconds: members of their pid namespaces that began before their end.

    (The kernel gives a namespace's number away again once it is gone: who began later is another run's.)
    """
    ended = {result.namespace: max(r.ended for r in results if r.namespace == result.namespace) for result in results}
    tick = os.sysconf("SC_CLK_TCK")
    end = time.monotonic() + patience
    while True:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    inode = os.stat(entry / "ns" / "pid").st_ino
                    began = int((entry / "stat").read_text().rpartition(")")[2].split()[19]) / tick
                except OSError:
                    continue
                if began < ended.get(inode, -1.0):
                    found.append(int(entry.name))
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.02)
