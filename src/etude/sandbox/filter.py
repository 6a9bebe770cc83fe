"""System calls that a sandboxed program may not make, as a BPF program. A second wall behind the namespaces.

Namespaces hide files, processes and networks; they do not hide the kernel. Refused here is what reaches past them (vsock and other
socket families that no network namespace holds, keyrings, memory that no limit counts) or what only an attack on the kernel needs.
"""

from __future__ import annotations

import os
import struct

# name: (x86_64, aarch64); -1 where the architecture lacks it
NUMBERS: dict[str, tuple[int, int]] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186),
    "mq_open": (240, 180), "memfd_create": (319, 279), "memfd_secret": (447, 447), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "open_tree": (428, 428), "move_mount": (429, 429),
    "mount_setattr": (442, 442), "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "mknod": (133, -1),
    "mknodat": (259, 33), "personality": (135, 92), "vhangup": (153, 58), "iopl": (172, -1), "ioperm": (173, -1),
    "modify_ldt": (154, -1), "sethostname": (170, 161), "setdomainname": (171, 162),
}  # fmt: skip
SOCKET, CLONE, CLONE3 = (41, 198), (56, 220), (435, 435)
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NEW_NAMESPACES = 0x80 | 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38


def program() -> bytes | None:
    """The BPF program, 8 bytes an instruction; None on an architecture whose call numbers are not known here."""
    machine = os.uname().machine
    if machine not in AUDIT:
        return None
    column = list(AUDIT).index(machine)
    denied = [numbers[column] for numbers in NUMBERS.values() if numbers[column] >= 0]

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    deny, allow = step(_RETURN, _EPERM), step(_RETURN, _ALLOW)
    steps = [step(_LOAD, 4), step(_EQUAL, AUDIT[machine], yes=1), deny, step(_LOAD, 0)]  # another architecture's entry: nothing
    if machine == "x86_64":
        steps += [step(_AT_LEAST, 0x40000000, no=1), deny]  # the x32 numbers
    for number in denied:
        steps += [step(_EQUAL, number, no=1), deny]
    # glibc falls back to `clone`, whose flags can be looked at, when `clone3` is unknown.
    steps += [step(_EQUAL, CLONE3[column], no=1), step(_RETURN, _ENOSYS)]
    steps += [step(_EQUAL, CLONE[column], no=4), step(_LOAD, 16), step(_ANY_BIT, NEW_NAMESPACES, no=1), deny, allow]
    # socket(family, ...): only AF_UNIX, which the mount and network namespaces hold
    steps += [step(_EQUAL, SOCKET[column], no=3), step(_LOAD, 16), step(_EQUAL, 1, yes=1), deny, allow]
    return b"".join(steps)
