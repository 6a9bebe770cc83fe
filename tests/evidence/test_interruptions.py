"""A study that is killed or interrupted in the middle: no orphans, nothing finished is lost, and the rest is the same to the bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from etude.evidence import records
from etude.evidence.places import Place
from etude.evidence.runner import run_study

DRIVER = """
import sys
from etude.evidence.reference import FILE, Reference
from etude.evidence.runner import StudyInterrupted, run_study
try:
    run_study(Reference(sys.argv[1], FILE), out=sys.argv[2], workers=2)
except StudyInterrupted as error:
    sys.exit(f"{error} [{error.exit_code}]")
"""

LOOP = (
    "    steps = 20\n",
    """    from etude.loop.rounds import run_rounds
    def step(number, state):
        if number == 3 and gain == 2.0 and not os.path.exists("MARK"):
            open("MARK", "w").close()
            os.kill(os.getpid(), 9)
        with open("MARK.rounds", "a") as told:
            told.write(f"{job.arm} {number}\\n")
        return {"sum": state["sum"] + number * gain * float(numpy_rng(job.seed, number).random())}, {}
    summed = run_rounds(step, {"sum": 0.0}, 4, folder=job.folder)[0]["sum"]
    steps = 20
""",
)

pytestmark = pytest.mark.usefixtures("stub_figures")


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
            except (OSError, IndexError):
                continue
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes through /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_in_the_middle_and_taken_up_again(how, tiny, tmp_path):
    # One arm's runs end at once; the others wait for a file that only comes after the stop, which so is in the middle.
    go = tmp_path / "go"
    waiting = f"        while job.arm != 'plain' and not os.path.exists({str(go)!r}):\n            time.sleep(0.01)\n"
    study = tiny(("import time\n", "import os\nimport time\n"), ("        time.sleep(job.settings.pause)\n", waiting))
    out = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, study.word, str(out)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in a shell's background
    )  # fmt: skip
    runs = out / "quick" / "runs"
    deadline = time.monotonic() + 600  # importing torch takes minutes on a machine that is busy
    while not list(runs.glob("[!.]*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = children(process.pid)
    assert len(workers) == 2
    process.send_signal(how)
    told = process.communicate(timeout=120)[1]
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.02)
    go.touch()
    finished = {path: path.stat().st_mtime_ns for path in runs.glob("[!.]*.json")}
    assert 1 <= len(finished) < 9
    if how is signal.SIGINT:
        assert process.returncode == 1  # of this driver; the exit code for the shell is in the text
        assert f"tiny: interrupted with {len(finished)} of 9 runs finished" in told
        assert told.rstrip().endswith("[130]")
    resumed = run_study(study, out=out, workers=1, seeds=1, quiet=True, place=Place(tmp_path))
    fresh = run_study(study, out=tmp_path / "fresh", workers=1, seeds=1, quiet=True, place=Place(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    for arm in fresh["arms"]:
        assert records.without_times(records.run_of(resumed, arm, 0)) == records.without_times(records.run_of(fresh, arm, 0))


def test_a_loop_killed_in_its_third_round_goes_on_there(tiny, tmp_path):
    mark = tmp_path / "mark"
    change = (LOOP[0], LOOP[1].replace("MARK", str(mark)))
    study = tiny(change, ("import time\n", "import os\nimport time\n"), ('"seed seen": float(job.seed)', '"seed seen": summed'))
    where = {"place": Place(tmp_path), "quiet": True, "seeds": 1, "arms": ["plain", "fast"], "workers": 1}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    driver = DRIVER.replace("workers=2", "workers=1, seeds=1, arms=['plain', 'fast']")
    killed = subprocess.run(
        [sys.executable, "-c", driver, study.word, str(tmp_path / "out")], env=environment, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run_study(study, out=tmp_path / "out", **where)
    told = (mark.parent / "mark.rounds").read_text().splitlines()
    assert [line for line in told if line.startswith("fast")] == ["fast 1", "fast 2", "fast 3", "fast 4"]
    fresh = run_study(study, out=tmp_path / "fresh", **where)
    assert resumed["arms"]["fast"]["resumed"] == [True]
    for arm in fresh["arms"]:
        assert records.without_times(records.run_of(resumed, arm, 0)) == records.without_times(records.run_of(fresh, arm, 0))
