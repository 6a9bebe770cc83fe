"""200 programs that try to do harm. Each prints ESCAPED where it managed something that it must not; the outside is checked apart.

FILL in a family's code is replaced by each of its choices. They know a folder outside, a process outside and a port listened on.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD = """
import os, sys, time, signal, socket, threading, subprocess, ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
FOLDER, CANARY, PORT = {folder!r}, {canary}, {port}
def escaped(what): print('ESCAPED', what, flush=True)
def attempt(f):
    try: r = f()
    except Exception as e: return
    escaped(repr(r)[:60])
"""


MARK = "DONE"
"""The last line of a program that made its attack to the end."""


@dataclass(frozen=True)
class Family:
    """code with FILL replaced by each of `choices`.

    why: how the run must end ("any" where both endings are right). marked: whether each must come to its last line, which prints MARK.
    """

    name: str
    code: str
    choices: tuple[str, ...]
    why: str = "ended"
    marked: bool = False


@dataclass(frozen=True)
class Program:
    """ends: by itself, in its own time; otherwise it must be cut off, or may be."""

    name: str
    code: str
    why: str
    marked: bool

    @property
    def ends(self) -> bool:
        return self.why in ("ended", "output")


FAMILIES = (
    Family(
        "fork bomb",
        "while True:\n    try: FILL\n    except (OSError, RuntimeError): pass",
        (
            "os.fork()",
            "os.fork() or os.fork()",
            "os.fork() or os.setsid()",
            "threading.Thread(target=time.sleep, args=(9,)).start()",
            "subprocess.Popen([sys.executable, '-S', '/main.py'])",
            "os.posix_spawn(sys.executable, [sys.executable, '/main.py'], {})",
            "signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.fork()",
            "os.fork(); x = bytearray(10**6)",
            "os.fork(); os.nice(1)",
            "libc.vfork() or os._exit(0)",
        ),
        "any",
    ),
    Family(
        "memory hog",
        "kept = []\nwhile True:\n    FILL",
        (
            "kept.append(bytearray(10**7))",
            "kept.append([0] * 10**6)",
            "kept.append('x' * 10**7)",
            "kept.append(bytes(10**9))",
            "kept.append({i: str(i) for i in range(10**5)})",
            "kept = [kept, kept]; x = 10**(10**7)",
            "import mmap; kept.append(mmap.mmap(-1, 10**8))",
            "libc.malloc.restype = ctypes.c_void_p; ctypes.memset(libc.malloc(10**7), 1, 10**7)",
            "os.fork(); kept.append(bytearray(10**7))",
            "kept.append(b'x' * 3 * 10**7)",
        ),
        "any",
    ),
    Family(
        "deleting",
        "FILL",
        (
            "import shutil; shutil.rmtree('/', ignore_errors=True); os.path.exists(os.__file__) or escaped('library')",
            "attempt(lambda: os.remove(os.__file__))",
            "attempt(lambda: os.remove(sys.executable))",
            "attempt(lambda: os.rename('/usr', '/tmp/usr'))",
            "attempt(lambda: os.rmdir('/dev'))",
            "attempt(lambda: os.remove('/dev/null'))",
            "attempt(lambda: os.unlink(FOLDER + '/secret'))",
            "attempt(lambda: os.truncate('/main.py', 0))",
            "attempt(lambda: os.rmdir('/tmp'))",
            "attempt(lambda: os.chmod('/', 0o777))",
        ),
        marked=True,
    ),
    Family(
        "sockets",
        "s = lambda *a: socket.socket(*a)\nFILL",
        (
            "attempt(lambda: s().connect(('127.0.0.1', PORT)))",
            "attempt(lambda: s(socket.AF_INET6).connect(('::1', PORT)))",
            "attempt(lambda: s(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53)))",
            "attempt(lambda: s().bind(('0.0.0.0', 0)))",
            "attempt(lambda: s(socket.AF_INET, socket.SOCK_RAW, 1))",
            "attempt(lambda: s(socket.AF_PACKET, socket.SOCK_RAW))",
            "attempt(lambda: s(socket.AF_VSOCK))",
            "attempt(lambda: s(socket.AF_NETLINK, socket.SOCK_RAW))",
            "attempt(lambda: s(socket.AF_UNIX).connect(FOLDER + '/socket'))",
            "attempt(lambda: s(socket.AF_UNIX).connect('\\0etude-abstract'))",
            "attempt(lambda: s(socket.AF_ALG))",
            "attempt(lambda: __import__('urllib.request').request.urlopen('http://example.com', timeout=1))",
        ),
        marked=True,
    ),
    Family(
        "endless output",
        "while True:\n    FILL",
        (
            "print('x' * 1000)",
            "os.write(1, bytes(10**6))",
            "sys.stderr.write('x' * 9999)",
            "sys.stdout.write('\\x00' * 70000)",
            "os.write(2, b'\\xff' * 10**5)",
            "print('y'); sys.stdout.flush()",
            "os.write(1, b'a' * 4096); os.write(2, b'b' * 4096)",
            "os.getpid() == 2 and not os.path.exists('x') and (open('x', 'w'), os.fork()); print('z' * 99999)",
            "print('\\n' * 10**6)",
            "sys.stdout.buffer.write(os.urandom(1 << 16))",
        ),
        "output",
    ),
    Family(
        "signals",
        "FILL\ntime.sleep(0.05)",
        (
            "os.kill(-1, 9)",
            "attempt(lambda: os.kill(CANARY, 9))",
            "attempt(lambda: os.killpg(CANARY, 9))",
            "os.kill(os.getppid(), 9)",
            "os.kill(1, 15)",
            "[os.kill(p, 9) for p in (1,) if p != os.getpid()]",
            "os.killpg(0, 9)",
            "for p in range(1, 70000):\n    if p != os.getpid():\n        try: os.kill(p, 9)\n        except OSError: pass",
            "attempt(lambda: signal.pidfd_send_signal(os.pidfd_open(CANARY), 9))",
            "os.kill(os.getpid(), 11)",
            "attempt(lambda: os.setpgid(0, CANARY))",
        ),
    ),
    Family(
        "busy loop",
        "FILL",
        (
            "while True: pass",
            "x = 0\nwhile True: x += 1",
            "9 ** 9 ** 9",
            "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
            "[threading.Thread(target=lambda: sum(iter(int, 1))).start() for _ in range(4)]",
            "sum(iter(int, 1))",
            "while True: os.getppid()",
            "try:\n    while True: pass\nfinally:\n    while True: pass",
            "time.sleep(10**6)",
            "threading.Event().wait()",
            "os.read(os.pipe()[0], 1)",
            "import select; select.select([], [], [])",
        ),
        "time",
    ),
    Family(
        "daemon",
        "if os.fork() == 0:\n    FILL\n    while True: time.sleep(0.01)\ntime.sleep(0.05)",
        (
            "os.setsid()",
            "os.setsid(); os.fork()",
            "[os.close(i) for i in range(3)]; os.setsid()",
            "os.setsid(); os.fork() and os._exit(0)",
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); os.setsid()",
            "[signal.signal(i, signal.SIG_IGN) for i in range(1, 32) if i not in (9, 19)]",
            "os.setsid(); [os.fork() for _ in range(2)]",
            "os.setpgid(0, 0)",
            "os.dup2(os.open('/dev/null', 2), 1); os.setsid()",
            "os.setsid(); os.fork() and os._exit(0); os.fork() and os._exit(0)",
        ),
        "any",
    ),
    Family(
        "proc",
        "attempt(lambda: FILL)",
        (
            "os.listdir('/proc')",
            "open('/proc/1/environ').read()",
            "open('/proc/self/mem', 'wb')",
            "open('/proc/sysrq-trigger', 'w')",
            "os.readlink('/proc/self/exe')",
            "os.listdir('/proc/1/root')",
            "open('/proc/self/oom_score_adj', 'w')",
            "open('/sys/kernel/notes').read()",
            "open('/proc/kcore', 'rb').read(1)",
            "os.open('/proc/self/ns/net', os.O_RDONLY)",
            "os.listdir('/sys/fs/cgroup')",
        ),
        marked=True,
    ),
    Family(
        "kernel calls",
        "if FILL == 0: escaped('call')",
        (
            "libc.ptrace(16, 1, 0, 0)",
            "libc.ptrace(16, os.getppid(), 0, 0)",
            "libc.unshare(0x10000000)",
            "libc.unshare(0x20000)",
            "libc.mount(b'x', b'/tmp', b'tmpfs', 0, 0)",
            "libc.mount(b'proc', b'/tmp', b'proc', 0, 0)",
            "libc.umount2(b'/tmp', 2)",
            "libc.chroot(b'/tmp')",
            "libc.setns(0, 0)",
            "libc.syscall(272, 0x10000000)",
            "libc.sethostname(b'x', 1)",
            "libc.personality(0x400000)",
            "(0 if libc.syscall(435, bytes(88), 88) > 0 else 1)",
            "(0 if libc.shmget(0, 10**8, 0o1600) >= 0 else 1)",
            "(0 if libc.syscall(319, b'x', 0) >= 0 else 1)",
            "libc.setuid(0)",
            "libc.setgroups(1, bytes(8))",
            "libc.reboot(0xfee1dead)",
            "libc.syscall(56, 0x10000011, 0, 0, 0, 0)",
            "(0 if libc.syscall(425, 4, bytes(200)) >= 0 else 1)",
        ),
        marked=True,
    ),
    Family(
        "links",
        "os.symlink(FILL, 'link')\nattempt(lambda: open('link').read())\nattempt(lambda: open('link', 'w'))",
        (
            "FOLDER + '/secret'",
            "'/etc/passwd'",
            "'../' * 20 + 'etc/shadow'",
            "'/tmp/../root/.ssh'",
            "'/proc/1/environ'",
            "'/dev/../etc/hosts'",
            "'/old/etc/passwd'",
            "'/usr/lib/../../etc/passwd'",
            "'/stdin/../etc/passwd'",
            "FOLDER",
            "FOLDER + '/../..'",
        ),
        marked=True,
    ),
    Family(
        "writing",
        "attempt(lambda: open(FILL, 'a').write('x'))",
        (
            "'/etc/passwd'",
            "'/root/.bashrc'",
            "os.path.expanduser('~root/.profile')",
            "FOLDER + '/new'",
            "'/main.py'",
            "os.__file__",
            "os.path.dirname(os.__file__) + '/new.py'",
            "'/usr/lib/new'",
            "'/new'",
            "'/dev/new'",
            "'/stdin'",
            "'/etc/ld.so.preload'",
            "'/home/x'",
            "'/var/spool/cron/root'",
        ),
        marked=True,
    ),
    Family(
        "filling the disk",
        "n = 0\ntry:\n    FILL\nexcept OSError: pass\ntime.sleep(0.05)",
        (
            "f = open('x', 'wb')\n    while True: n += f.write(bytes(10**6)); n > 10**8 and escaped('one file')",
            "while n < 10**5: open(f'{n}', 'w').close(); n += 1\n    escaped('files')",
            "while n < 10**5: os.mkdir(f'{n}'); n += 1\n    escaped('folders')",
            "while n < 100: open(f'{n}', 'wb').write(bytes(7 * 10**6)); n += 1\n    escaped('many files')",
            "os.truncate(os.open('x', os.O_CREAT | os.O_RDWR), 10**12); escaped('sparse')",
            "os.posix_fallocate(os.open('x', os.O_CREAT | os.O_RDWR), 0, 10**9); escaped('allocated')",
            "[os.symlink('a' * 4000, f's{i}') for i in range(10**5)]; escaped('links')",
        ),
        "ended",
        marked=True,
    ),
    Family(
        "reading",
        "attempt(lambda: FILL)",
        (
            "open(FOLDER + '/secret').read()",
            "open('/etc/passwd').read()",
            "open('/etc/shadow').read()",
            "os.listdir('/root/.ssh')",
            "os.listdir('/home')",
            "os.environ['ETUDE_SECRET']",
            "open('/dev/mem', 'rb').read(1)",
            "open('/dev/vda', 'rb').read(1)",
            "os.listdir(FOLDER)",
            "os.listdir('/var')",
            "open('/etc/hostname').read()",
            "os.read(3, 1)",
            "[os.fstat(i) for i in range(3, 64)]",
            "os.listdir('/run')",
            "__import__('torch')",
            "os.open('/', os.O_TMPFILE | os.O_RDWR)",
        ),
        marked=True,
    ),
    Family(
        "ignoring the end",
        "[signal.signal(i, FILL) for i in range(1, 32) if i not in (9, 17, 19)]\nwhile True: time.sleep(0.01)",
        (
            "signal.SIG_IGN",
            "lambda *a: None",
            "lambda *a: os.fork()",
        ),
        "any",
    ),
    Family(
        "executing",
        "attempt(lambda: subprocess.run(FILL, check=True, capture_output=True))",
        (
            "['/usr/bin/su', '-c', 'id']",
            "['/bin/sh', '-c', 'id']",
            "['sudo', 'id']",
            "['/usr/bin/passwd']",
            "['mount']",
            "['/bin/ls', '/']",
        ),
        marked=True,
    ),
    Family(
        "raising limits",
        "import resource\nattempt(lambda: resource.setrlimit(FILL, (2**40, 2**40)))",
        (
            "resource.RLIMIT_AS",
            "resource.RLIMIT_NPROC",
            "resource.RLIMIT_FSIZE",
            "resource.RLIMIT_CPU",
            "resource.RLIMIT_NOFILE",
            "resource.RLIMIT_CORE",
        ),
        marked=True,
    ),
    Family(
        "odd ends",
        "FILL",
        (
            "os.abort()",
            "sys.exit(3)",
            "raise RuntimeError('x')",
            "def broken(:",
            "ctypes.string_at(0)",
            "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
            "os._exit(0)",
            "raise SystemExit('\\ud800')",
            "print(input())",
            "eval('(' * 10**5)",
            "os.close(1); os.close(2)",
            "os.execv(sys.executable, [sys.executable, '-c', 'print(1)'])",
            "open('/dev/full', 'w').write('x' * 10**5)",
            "sys.stdin = None; input()",
            "os.kill(os.getpid(), signal.SIGSTOP)",
            "import gc; gc.get_objects()",
            "print('\\udcff')",
            "os.setpriority(os.PRIO_PROCESS, 0, 10)",
            "os.sched_setaffinity(0, {0})",
            "attempt(lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))",
            "attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))",
            "time.sleep(0.1)",
        ),
        "any",
    ),
)


def programs(folder: str, canary: int, port: int) -> list[Program]:
    """All of them."""
    head = HEAD.format(folder=folder, canary=canary, port=port)
    return [
        Program(
            f"{family.name}: {choice}",
            head + family.code.replace("FILL", choice) + (f"\nprint({MARK!r}, flush=True)" if family.marked else ""),
            family.why,
            family.marked,
        )
        for family in FAMILIES
        for choice in family.choices
    ]
