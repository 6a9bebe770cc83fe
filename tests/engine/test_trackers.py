"""Trackers show what is in `metrics.jsonl`, read back from what each of them has written."""

import json
import math
import subprocess
import sys
import time

import pytest
from toys import Stop, ToyStream, squared, toy_model

from etude.engine import trackers
from etude.engine.ledger import Budget
from etude.engine.metrics import read_metrics
from etude.engine.result import Interrupted
from etude.engine.trackers import numbers_of
from etude.engine.trainer import Trainer
from etude.errors import BadInput


def run(folder, names, at=0, resume=False, **more):
    made = Trainer(
        toy_model(), ToyStream(), squared, budget=Budget(steps=6), folder=folder, trackers=names, methods=Stop(at=at),
        evaluators={"held-out": lambda model: {"loss": float(next(model.parameters()).detach().sum())}}, evaluate_every=0.5,
        checkpoint_every=1 / 6, **more,
    )  # fmt: skip
    made.config = {"run.seed": 0, "model.kind": "toy"}
    return made.run(resume=resume)


def expected(folder):
    """(step, name) -> value of the run's own file; of two records of a step, the later."""
    return {(line["step"], name): value for line in read_metrics(folder) for name, value in numbers_of(line).items()}


def tensorboard_of(folder):
    read = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(
        str(folder / "trackers" / "tensorboard")
    )
    read.Reload()
    return {(event.step, name): event.value for name in read.Tags()["scalars"] for event in read.Scalars(name)}


def check(found, folder):
    told = expected(folder)
    assert found.keys() == told.keys()
    assert all(math.isclose(found[key], told[key], rel_tol=1e-6) for key in told)  # event files hold float32
    assert {(0, "held-out/loss"), (3, "held-out/loss"), (6, "train/loss"), (6, "train/lr")} <= found.keys()


def test_names():
    record = {"step": 3, "loss": 1.5, "held-out/loss": 2, "stage": "epoch-0", "event": "evaluate", "flag": True}
    assert numbers_of(record) == {"train/loss": 1.5, "held-out/loss": 2.0}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    plain, shown = run(tmp_path / "plain", ()), run(tmp_path / "shown", ["tensorboard"])
    check(tensorboard_of(tmp_path / "shown"), tmp_path / "shown")
    assert (tmp_path / "shown" / "metrics.jsonl").read_bytes() == (tmp_path / "plain" / "metrics.jsonl").read_bytes()
    assert plain.metrics == shown.metrics


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_of_a_resumed_run(tmp_path, monkeypatch):
    """A run killed two updates after its checkpoint: what it had shown of them is hidden, and shown again."""
    pytest.importorskip("tensorboard")
    with pytest.raises(Interrupted):
        run(tmp_path / "run", ["tensorboard"], at=4, keep_checkpoints=9)
    for late in ("step-000000003", "step-000000004"):
        (tmp_path / "run" / "checkpoints" / late / "COMMIT.json").unlink()
    assert run(tmp_path / "run", ["tensorboard"], resume=True, keep_checkpoints=9).resumed_from == "step-000000002"
    check(tensorboard_of(tmp_path / "run"), tmp_path / "run")


@pytest.mark.filterwarnings("ignore")
def test_trackio_read_back(tmp_path, monkeypatch):
    """In a process of its own: trackio fixes its folder when it is imported."""
    pytest.importorskip("trackio")
    code = f"""
import os, sys
os.environ |= {{"TRACKIO_DIR": r"{tmp_path / "db"}", "HF_HUB_OFFLINE": "1"}}
sys.path[:0] = {sys.path!r}
from pathlib import Path
from test_trackers import run
run(Path(r"{tmp_path / "run"}"), ["trackio"])
import json
from trackio.sqlite_storage import SQLiteStorage
(name,) = SQLiteStorage.get_runs("etude")
print(json.dumps([name, SQLiteStorage.get_logs("etude", name)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=__file__.rpartition("/")[0], check=False)
    assert done.returncode == 0, done.stderr
    name, logs = json.loads(done.stdout)  # trackio's own words are on stderr
    assert name.startswith("run-")
    check({(line["step"], k): v for line in logs for k, v in line.items() if k not in ("step", "timestamp")}, tmp_path / "run")


def records_of(data):
    """The records of a W&B file, which is a log as LevelDB writes it: blocks of 32 KiB, each piece after checksum, length and kind."""
    at, parts = 7, b""  # after the file's own head
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield parts
            parts = b""


@pytest.mark.filterwarnings("ignore")
def test_wandb_is_offline_and_read_back(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.delenv("WANDB_MODE", raising=False)
    run(tmp_path / "run", ["wandb"])
    (file,) = (tmp_path / "run" / "trackers" / "wandb").glob("offline-run-*/*.wandb")
    found, ended, late = {}, False, time.monotonic() + 30
    while not ended and time.monotonic() < late:  # a process of W&B's own writes the file
        for data in records_of(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            ended = ended or record.HasField("exit")
            if record.HasField("history"):
                values = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
                found |= {(values["_step"], k): v for k, v in values.items() if not k.startswith("_")}
    check(found, tmp_path / "run")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tracker_that_fails_does_not_end_the_run(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    with pytest.raises(Interrupted):
        run(tmp_path / "run", (), at=2)
    (tmp_path / "run" / "trackers").write_text("no folder")
    assert run(tmp_path / "run", ["tensorboard"], resume=True).steps == 6
    assert capsys.readouterr().err.startswith("tensorboard shows no more of this run (")


def test_bad_input(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"trackers: found 'tensorbord', expected tensorboard, wandb or trackio; did you mean 'tensorboard'"):
        run(tmp_path / "run", ["tensorbord"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"trackers: found 'wandb', which is not installed, expected pip install wandb \(or all"):
        run(tmp_path / "run", ["wandb"])
    monkeypatch.undo()
    with pytest.raises(BadInput, match=r"trackers: found '\w+' for a run without a folder"):
        run(None, [next((n for n in trackers.TRACKERS if trackers.find_spec(n)), None) or pytest.skip("no tracker here")])
    assert not (tmp_path / "run").exists()
