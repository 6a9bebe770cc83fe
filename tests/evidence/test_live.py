import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from etude.evidence import live
from etude.evidence.jobs import Task
from etude.evidence.live import Row


def row(arm: str, seed: int = 0, **more) -> Row:
    return Row(Task(arm=arm, scale="quick", seed=seed, config="", file=Path(), folder=Path()), **more)


def test_clock():
    assert [live.clock(s) for s in (None, 0.04, 9.94, 10.2, 65, 3723.4)] == ["–", "0.0 s", "9.9 s", "0:10", "1:05", "1:02:03"]


def test_time_left_uses_what_runs_of_the_same_arm_took():
    rows = [row("a", 0, state="done", seconds=10.0), row("b", 0, state="kept", seconds=2.0), row("a", 1), row("b", 1), row("c", 0)]
    assert live.time_left(rows, 1) == pytest.approx(10 + 2 + 6)  # an arm not seen yet takes what the others take
    assert live.time_left(rows, 2) == pytest.approx(10)  # never less than the longest run
    assert live.time_left([row("a"), row("b")], 2) is None
    assert live.time_left(rows[:2], 2) == 0


def test_time_left_follows_the_progress_of_a_running_one():
    running = row("a", state="running", fraction=0.25, started=time.monotonic() - 5)
    assert live.time_left([running], 1) == pytest.approx(15, rel=0.05)
    assert live.time_left([running, row("a", 1)], 1) == pytest.approx(35, rel=0.05)


def test_plain_lines_where_there_is_no_terminal():
    file = io.StringIO()
    rows = [row("a", 0, state="kept", seconds=1.0), row("a", 1)]
    with live.Lines(rows, "tiny at quick scale", "metric", 1, Console(file=file)) as view:
        rows[1].state = "running"
        view.changed(rows[1])
        view.tick()
        rows[1].state, rows[1].seconds = "done", 2.0
        view.changed(rows[1])
    assert file.getvalue() == "tiny at quick scale: 2 runs, 1 kept from before\n[2/2] a, seed 1: done in 2.0 s\n"


def test_a_log_is_no_flood(monkeypatch):
    """140 runs of a tenth of a second each, then one of an hour that is told of four times a second."""
    file, clock = io.StringIO(), [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    rows = [row("a", seed) for seed in range(140)] + [row("long")]
    with live.Lines(rows, "tiny at quick scale", "metric", 1, Console(file=file)) as view:
        for one in rows[:-1]:
            clock[0] += 0.1
            one.state, one.seconds = "diverged" if one.task.seed == 70 else "done", 0.1
            view.changed(one)
        rows[-1].state, rows[-1].started = "running", clock[0]
        view.changed(rows[-1])
        for tick in range(4 * 3600):
            clock[0] += 0.25
            rows[-1].fraction = (tick + 1) / (4 * 3600)
            view.tick()
        rows[-1].state, rows[-1].seconds = "done", 3600.0
        view.changed(rows[-1])
    lines = file.getvalue().splitlines()
    assert lines[0] == "tiny at quick scale: 141 runs"
    assert sum("done in 0.1 s" in line for line in lines) <= 15
    assert sum("a, seed 70: diverged" in line for line in lines) == 1  # what is out of the ordinary is always told
    assert 55 <= sum("running long, seed 0" in line for line in lines) <= 64
    assert lines[-1] == "[141/141] long, seed 0: done in 1:00:00"


def test_what_a_run_says_and_what_it_ends_with_stand_apart():
    file = io.StringIO()
    console = Console(file=file, force_terminal=False, width=100, height=20)
    rows = [row("a", 0, state="done", seconds=4.0, metric=0.987), row("a", 1, state="running", fraction=0.5, metric=2.345,
            started=time.monotonic() - 30), row("a", 2)]  # fmt: skip
    console.print(live.LiveTable(rows, "title", "accuracy", 2, console)._draw())
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert lines[1].split() == ["arm", "seed", "progress", "time", "now", "accuracy"]
    done, running = lines[2], lines[3]
    assert done.endswith(" 0.987")
    assert len(done) == len(lines[1])  # under "accuracy"
    assert "4.0 s" in done
    assert "50%" in running
    assert "0:30 left" in running
    assert running.index("2.345") + 5 == lines[1].index("now") + 3
    assert lines[4].split()[:3] == ["a", "2", "waiting"]


def test_the_table_shows_running_ones_first_where_room_is_short():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, height=9)
    rows = [row("a", seed, state="done", seconds=1.0, fraction=1.0) for seed in range(20)]
    rows[-1] = row("last", 19, state="running", fraction=0.5, metric=1.2345, started=time.monotonic() - 30)
    table = live.LiveTable(rows, "title", "metric", 2, console)
    console.print(table._draw())
    text = file.getvalue()
    assert "last" in text
    assert "1.234" in text or "1.235" in text
    assert "19 of 20 runs, about 0:30 left" in text
    assert "(15 more not shown)" in text


def test_what_is_refused_at_once_stands_alone_and_a_silent_run_is_spoken_of(monkeypatch):
    file = io.StringIO()
    rows = [row("a", 0)]
    view = live.Lines(rows, "tiny at quick scale", "metric", 1, Console(file=file))
    refused = False
    try:
        with view:
            rows[0].state, rows[0].started = "running", time.monotonic()
            view.changed(rows[0])
            view.tick()
            raise ValueError
    except ValueError:
        refused = True
    assert refused
    assert file.getvalue() == ""
    later = time.monotonic() + 20
    monkeypatch.setattr(live.time, "monotonic", lambda: later)
    view.tick()
    assert file.getvalue().splitlines() == ["tiny at quick scale: 1 runs", "  running a, seed 0 0%; about – left"]


def looping(folder: Path, rounds: int) -> Row:
    """A run under way in `folder`, whose loop has reported so many rounds."""
    place = folder / "loop" / f"round-{rounds:03d}"
    place.mkdir(parents=True)
    sample = {"prompt": "3+4=", "completion": "7", "reward": 1.0}
    (place / "report.json").write_text(json.dumps({"round": rounds, "metrics": {"rows": 8.0, "accuracy": 0.5}, "samples": [sample]}))
    task = Task(arm="rise", scale="quick", seed=0, config="", file=Path(), folder=folder)
    return Row(task, state="running", fraction=0.5, started=time.monotonic())


def test_plain_lines_tell_each_round_once_with_a_sample_and_its_reward(monkeypatch, tmp_path):
    file, clock = io.StringIO(), [time.monotonic()]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    one = looping(tmp_path, 1)
    with live.Lines([one], "tiny at quick scale", "accuracy", 1, Console(file=file)) as view:
        for _ in range(12):
            clock[0] += 16
            view.tick()
        looping(tmp_path, 2)
        one.state, one.seconds = "done", 40.0
        view.changed(one)
    lines = file.getvalue().splitlines()
    assert lines.count("    rise, seed 0, round 1: accuracy 0.5  rows 8") == 1
    assert lines[-3:] == [
        "[1/1] rise, seed 0: done in 0:40", "    round 2: accuracy 0.5  rows 8", "      reward: 1  prompt: 3+4=  completion: 7",
    ]  # fmt: skip


def test_the_table_shows_the_last_round_of_runs_under_way(tmp_path):
    file = io.StringIO()
    console = Console(file=file, width=60, height=20)
    rows = [row("a", 0, state="done", seconds=4.0), looping(tmp_path, 3)]
    table = live.LiveTable(rows, "title", "accuracy", 2, console)
    console.print(table._draw())
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert lines[4:6] == ["rise, seed 0, round 3: accuracy 0.5  rows 8", "  reward: 1  prompt: 3+4=  completion: 7"]
    assert lines[6].startswith("1 of 2 runs")
