import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile_programs import MARK, programs

from etude import sandbox
from etude.errors import BadInput
from etude.sandbox import enclosure, selftest
from etude.sandbox.enclosure import NotIsolated
from etude.sandbox.selftest import leftovers

try:
    sandbox.check()
    REFUSED = ""
except BadInput as error:
    REFUSED = str(error)
isolated = pytest.mark.skipif(bool(REFUSED), reason=f"the kernel offers no isolation here: {REFUSED[:200]}")


@pytest.mark.skipif(not REFUSED, reason="isolation works here")
def test_without_isolation_every_run_is_refused():
    with pytest.raises(BadInput, match="install bubblewrap"):
        sandbox.run("print(1)")


@isolated
def test_a_program_gets_its_input_and_gives_its_output():
    result = sandbox.run("import sys, math\nprint(math.factorial(int(input())))\nprint('é', file=sys.stderr)\nsys.exit(3)", "5\n")
    assert (result.stdout, result.stderr, result.exit, result.why, result.ok) == ("120\n", "é\n", 3, "ended", False)
    assert sandbox.run("print(1)").ok


@isolated
def test_many_side_by_side_answer_in_order():
    results = sandbox.run_many([("print(input())", str(i)) for i in range(6)], workers=3)
    assert [r.stdout for r in results] == [f"{i}\n" for i in range(6)]
    assert sandbox.run_many([]) == []


@isolated
def test_two_runs_share_nothing_and_repeat_each_other():
    code = "import os\nprint(os.listdir('.'), hash('a'))\nopen('x', 'w').write('kept?')"
    first, second = sandbox.run(code), sandbox.run(code)
    assert first.stdout == second.stdout
    assert first.stdout.startswith("[]")


@isolated
def test_a_working_folder_that_was_tidied_away_is_made_again():
    assert sandbox.run("print(1)").ok
    os.rmdir(enclosure._base())
    assert sandbox.run("print(2)").stdout == "2\n"


@isolated
def test_output_is_cut_while_it_is_read():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = sandbox.run("while True: print('x' * 10**6)", limits=sandbox.Limits(seconds=60, output_bytes=1000))
    assert result.why == "output"
    assert len(result.stdout) == 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@isolated
def test_too_much_memory_and_time_are_named():
    assert sandbox.run("while True: pass", limits=sandbox.Limits(seconds=0.3)).why == "time"
    hog = sandbox.run("x = bytearray(10**9)", limits=sandbox.Limits(seconds=30, memory_mb=200))
    assert "MemoryError" in hog.stderr
    assert hog.exit == 1


@isolated
@pytest.mark.skipif(REFUSED != "" or "memory" not in sandbox.check().groups, reason="no memory control group can be written here")
def test_the_memory_of_all_processes_together_is_limited():
    fill = "x = bytearray(90 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"
    code = f"import os\nfor _ in range(2): os.fork()\n{fill}\nwhile True:\n  try: os.wait()\n  except OSError: break"
    assert sandbox.run(code, limits=sandbox.Limits(seconds=60, memory_mb=120)).why == "memory"


@isolated
def test_hostile_programs_neither_escape_nor_hang_nor_stay(tmp_path, monkeypatch):
    """200 of them, side by side."""
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("do not tell 4711")
    monkeypatch.setenv("ETUDE_SECRET", "do not tell 4711")
    canary = subprocess.Popen(["sleep", "600"], start_new_session=True)
    watched = [Path(p) for p in ("/etc/passwd", os.__file__, os.path.expanduser("~"))]
    before = [(p.stat().st_mtime_ns, p.stat().st_size) for p in watched]
    try:
        with socket.socket() as server, socket.socket(socket.AF_UNIX) as local, socket.socket(socket.AF_UNIX) as abstract:
            server.bind(("127.0.0.1", 0))
            short = os.path.relpath(tmp_path / "socket")  # a socket's path holds 107 characters at most
            local.bind(short)
            abstract.bind("\0etude-abstract")
            for s in (server, local, abstract):
                s.listen()
                s.setblocking(False)
            made = programs(str(tmp_path), canary.pid, server.getsockname()[1])
            assert len(made) >= 200
            started = time.monotonic()
            # Those that end by themselves have all the time that a loaded machine may need; those that never do are cut off soon.
            limits = [sandbox.Limits(seconds=60 if p.ends else 0.8, memory_mb=128, processes=8, output_bytes=1 << 16) for p in made]
            with ThreadPoolExecutor(6) as pool:
                results = list(pool.map(lambda p, limit: sandbox.run(p.code, "line", limit), made, limits))
            seconds = time.monotonic() - started
            for s in (server, local, abstract):
                with pytest.raises(BlockingIOError):
                    s.accept()
        escapes = [(p.name, r.stdout[:200]) for p, r in zip(made, results, strict=True) if "ESCAPED" in r.stdout]
        assert escapes == []
        assert not any("4711" in r.stdout + r.stderr for r in results)
        wrong = [(p.name, p.why, r) for p, r in zip(made, results, strict=True) if p.why not in ("any", r.why)]
        assert wrong == []
        undone = [(p.name, r) for p, r in zip(made, results, strict=True) if p.marked and MARK not in r.stdout]
        assert undone == [], "an attack that was not made to its end proves nothing"
        assert sum(p.marked for p in made) >= 100
        slow = [(p.name, r.seconds) for p, r in zip(made, results, strict=True) if r.seconds > 90]
        assert slow == []
        assert seconds < 1200, "on a machine that does little else it is well under a minute"
        assert leftovers(results, patience=5.0) == []
        assert canary.poll() is None
        assert sorted(p.name for p in tmp_path.iterdir()) == ["secret", "socket"]
        assert before == [(p.stat().st_mtime_ns, p.stat().st_size) for p in watched]
    finally:
        canary.kill()
        canary.wait()


@isolated
def test_a_killed_caller_leaves_nothing():
    code = "from etude import sandbox; print('go', flush=True); sandbox.run('while True: pass', limits=sandbox.Limits(seconds=600))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert caller.stdout is not None
    assert caller.stdout.readline() == b"go\n"
    end = time.monotonic() + 30
    while not (inside := _descendants(caller.pid)[2:]):
        assert time.monotonic() < end
        time.sleep(0.02)
    caller.kill()
    caller.wait()
    caller.stdout.close()
    end = time.monotonic() + 10
    while any(_alive(pid) for pid in inside):
        assert time.monotonic() < end
        time.sleep(0.02)
    left = list(Path(tempfile.gettempdir()).glob(f"etude-sandbox-{caller.pid}-*"))
    assert len(left) == 1  # until the next caller comes
    kept = Path(tempfile.mkdtemp(prefix=f"etude-sandbox-{os.getpid()}-"))
    enclosure._sweep()
    assert not left[0].exists()
    assert kept.exists()
    kept.rmdir()


def _descendants(pid: int) -> list[int]:
    found = []
    try:
        children = Path(f"/proc/{pid}/task").glob("*/children")
        for child in (int(c) for file in children for c in file.read_text().split()):
            found += [child, *_descendants(child)]
    except OSError:
        pass
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_leaky_enclosure_is_refused(monkeypatch):
    """The self-test itself is tested: what gets out is named, and nothing is run."""
    monkeypatch.setattr(selftest, "_proved", [])
    monkeypatch.setattr(selftest, "_probe", lambda prefix: {"reached the network": "connected"})
    with pytest.raises(BadInput, match=r"a test program reached the network \(connected\).*apt-get install bubblewrap"):
        sandbox.run("print(1)")

    def refuse(prefix):
        raise NotIsolated("unshare: Operation not permitted")

    monkeypatch.setattr(selftest, "_probe", refuse)
    with pytest.raises(BadInput, match="unshare: Operation not permitted.*apt-get install bubblewrap") as caught:
        sandbox.run("print(1)")
    assert "\n" not in str(caught.value)


@isolated
def test_the_probe_notices_an_unfiltered_kernel(monkeypatch):
    """Without the filter of system calls the probe opens sockets, and says so."""
    import struct

    monkeypatch.setattr("etude.sandbox.enclosure.call_filter", lambda: struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))
    assert "opened an internet socket" in selftest._probe(sandbox.check().prefix)


def test_bad_limits():
    with pytest.raises(BadInput, match=r"limits.seconds: found 0, expected a number > 0"):
        sandbox.Limits(seconds=0)
    with pytest.raises(BadInput, match=r"limits.memory_mb: found 1.5, expected a whole number > 0"):
        sandbox.Limits(memory_mb=1.5)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"sandbox.run: code: found \d+ characters"):
        sandbox.run("x" * (9 << 20))
