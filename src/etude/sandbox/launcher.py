"""Runs as a script, outside etude: puts itself into namespaces, shuts itself in, and starts the program.

Three processes. The outer one stays in the caller's namespaces, waits for the first inside, and kills it when told to (SIGTERM) or
when the caller dies. The first inside is process 1 of a new pid namespace: when it ends, the kernel kills every process in there,
daemons included. It builds the file system, starts the program as a third process, reaps orphans, and ends with the program.
Reads one JSON request from standard input (see `run.py`), writes lines of JSON about itself to the descriptor `request["status"]`.
Only the standard library, no import of etude: it starts in a few milliseconds, isolated from the user's environment (`python -I -S`).
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 24, 38, 22
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
CAPSET = {"x86_64": 126, "aarch64": 91}
# A mount brought in from outside may carry flags that a user namespace must not clear: statvfs bit -> mount flag.
LOCKED = {8: NOEXEC, 1024: 1024, 2048: 2048, 4096: 1 << 21}

libc = ctypes.CDLL(None, use_errno=True)


def call(what: str, *args: Any) -> None:
    """One C function; raises OSError naming it. Strings are passed as bytes, None as a null pointer."""
    encoded = [a.encode() if isinstance(a, str) else ctypes.c_ulong(a) if isinstance(a, int) else a for a in args]
    if getattr(libc, what)(*encoded) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    try:
        call("mount", source, target, kind, flags, options)
    except OSError as error:
        raise OSError(error.errno, f"mount {source} on {target}: {os.strerror(error.errno or 0)}") from None


def bring_in(source: str, base: str, *, device: bool = False) -> None:
    """The file or folder `source`, read-only, at its own path below `base`."""
    target = base + source
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.exists(target):
            open(target, "w").close()
    mount(source, target, "", BIND)
    locked = sum(flag for bit, flag in LOCKED.items() if os.statvfs(source).f_flag & bit)
    mount("", target, "", BIND | REMOUNT | RDONLY | NOSUID | locked | (NOEXEC if device else NODEV))


def file_system(request: dict[str, Any]) -> None:
    """A read-only root of nothing but the interpreter, a few devices, the program, its input and a private /tmp."""
    base = request["base"]
    mount("", "/", "", REC | PRIVATE)
    mount("tmpfs", base, "tmpfs", NOSUID | NODEV, "size=64m,mode=755")
    os.makedirs(base + "/tmp")
    limits = request["limits"]
    mount("tmpfs", base + "/tmp", "tmpfs", NOSUID | NODEV, f"size={limits['disk_mb']}m,nr_inodes={limits['files']},mode=1777")
    for path in request["links"]:
        os.makedirs(os.path.dirname(base + path), exist_ok=True)
        os.symlink(os.readlink(path), base + path)
    for path in request["read_only"]:
        bring_in(path, base)
    for path in request["hidden"]:
        mount("tmpfs", base + path, "tmpfs", NOSUID | NODEV | RDONLY, "size=4k")
    for name in ("null", "zero", "urandom", "random", "full"):
        bring_in(f"/dev/{name}", base, device=True)
    for name in ("main.py", "stdin"):
        with open(f"{base}/{name}", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(request[name])
        os.chmod(f"{base}/{name}", 0o444)
    os.chdir(base)
    if libc.syscall(ctypes.c_long(PIVOT_ROOT[os.uname().machine]), b".", b".") < 0:
        raise OSError(ctypes.get_errno(), f"pivot_root: {os.strerror(ctypes.get_errno())}")
    call("umount2", ".", 2)
    os.chdir("/")
    mount("", "/", "", REMOUNT | RDONLY | NOSUID | NODEV)


def give_up_rights(uid: int | None) -> None:
    """No identity of the caller's, no capability, and no way to gain one by executing a file."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("Ii", 0x20080522, 0)
    if libc.syscall(ctypes.c_long(CAPSET[os.uname().machine]), header, bytes(24)) < 0:
        raise OSError(ctypes.get_errno(), "capset: cannot give up capabilities")
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def set_limits(limits: dict[str, Any]) -> None:
    """Limits of each process (of the whole run where a control group holds it too)."""
    mb = 1 << 20
    seconds = int(limits["seconds"]) + 1
    for what, value in (
        (resource.RLIMIT_AS, limits["memory_mb"] * mb), (resource.RLIMIT_FSIZE, limits["file_mb"] * mb), (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, limits["processes"]), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0), (resource.RLIMIT_SIGPENDING, 128), (resource.RLIMIT_RTPRIO, 0), (resource.RLIMIT_NICE, 0),
    ):  # fmt: skip
        resource.setrlimit(what, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def filter_calls(program: bytes) -> None:
    """Installs a BPF program over system calls, for good, for this process and all that come from it."""
    buffer = ctypes.create_string_buffer(program, len(program))
    address = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    call("prctl", PR_SET_SECCOMP, 2, address)


def program(request: dict[str, Any], uid: int | None, groups: list[int]) -> None:
    """The third process: gives everything up, then becomes the program. Never returns."""
    try:
        os.setsid()
        for group in groups:
            os.write(group, b"0")
        os.dup2(os.open("/stdin", os.O_RDONLY), 0)
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_DFL)
        os.umask(0o077)
        os.chdir("/tmp")
        # The descriptor of `status` closes on exec; all others but the three are closed here.
        status = request["status"]
        os.closerange(3, status)
        os.closerange(status + 1, 4096)
        os.set_inheritable(status, False)
        give_up_rights(uid)
        set_limits(request["limits"])
        filter_calls(base64.b64decode(request["filter"]))
        os.write(status, b'{"ready": true}\n')
        os.execve(request["argv"][0], request["argv"], request["environment"])
    except BaseException as error:
        tell(request, setup=f"{type(error).__name__}: {error}")
    os._exit(125)


def first_inside(request: dict[str, Any], uid: int | None, groups: list[int], alive: int) -> None:
    """Process 1 of the pid namespace. Never returns."""
    code = 125
    try:
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.write(alive, b"1")  # dies here if the outer process died before the line above
        os.close(alive)
        tell(request, namespace=os.stat("/proc/self/ns/pid").st_ino)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        file_system(request)
        call("sethostname", "sandbox", 7)
        child = os.fork()
        if child == 0:
            program(request, uid, groups)
        os.dup2(os.open("/dev/null", os.O_RDWR), 1)
        os.dup2(1, 2)
        while True:
            pid, status = os.wait()
            if pid == child:
                break
        tell(request, exit=-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
        code = 0
    except BaseException as error:
        tell(request, setup=f"{type(error).__name__}: {error}")
    os._exit(code)


def tell(request: dict[str, Any], **what: Any) -> None:
    os.write(request["status"], (json.dumps(what) + "\n").encode())


def mapped(uid: int) -> bool:
    """Whether this user namespace has the id `uid`."""
    with open("/proc/self/uid_map") as file:
        rows = [[int(field) for field in line.split()] for line in file]
    return any(first <= uid < first + count for first, _, count in rows)


def unshare() -> int | None:
    """New namespaces for the children. Returns a host uid for the program that nobody else has, or None (then: the caller's own)."""
    kinds = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    uids = (1_879_048_192 + os.getpid(), 40_000 + os.getpid() % 20_000)
    uid = next((u for u in uids if mapped(u)), None) if os.geteuid() == 0 else None
    try:
        call("unshare", kinds)
        return uid
    except OSError:
        inside, group = os.geteuid() or 1000, os.getegid() or 1000
        outside, outside_group = os.geteuid(), os.getegid()
        call("unshare", kinds | NEWUSER)
    for name, text in (
        ("setgroups", "deny"), ("uid_map", f"{inside} {outside} 1"), ("gid_map", f"{group} {outside_group} 1"),
    ):  # fmt: skip
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return None


def main() -> None:
    request = json.load(sys.stdin)
    first = 0
    try:
        call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        groups = [os.open(path, os.O_WRONLY) for path in request["groups"]]
        uid = unshare()
        reading, alive = os.pipe()
        first = os.fork()
        if first == 0:
            os.close(reading)
            first_inside(request, uid, groups, alive)
        os.close(alive)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGKILL))
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.waitpid(first, 0)
    except OSError as error:
        tell(request, setup=f"{type(error).__name__}: {error}")
        if first:
            os.kill(first, signal.SIGKILL)
        sys.exit(125)


if __name__ == "__main__":
    main()
