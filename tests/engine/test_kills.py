"""SIGKILL at any moment: what is resumed equals what was never broken, bit for bit."""

import json
import os
import random
import signal
import time

import pytest
import torch
from toys import ToyStream, squared, toy_model

from etude.engine import checkpoint
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.protocols import Method
from etude.engine.trainer import Trainer

EVENTS = ("batch", "forward", "loss", "backward", "gradients", "clipped", "updated", "stage_start", "stage_end", "evaluate")


class Count(Method):
    """Counts its events, and kills its own process at the one asked for."""

    def __init__(self, kill_at=None):
        self.kill_at, self.events = [kill_at], 0  # in a list: no setting of the run that resuming compares

    def _event(self, *_):
        self.events += 1
        if self.events in self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    batch = forward = loss = backward = gradients = clipped = updated = stage_start = stage_end = evaluate = _event


def train(folder, resume, kill_at=None):
    torch.set_num_threads(1)
    stream = ToyStream(n=40, batch=4)  # five updates an epoch, so that many kills fall on a stage's end
    trainer = Trainer(
        toy_model(dropout=0.2), stream, squared, optimizer=AdamW(lr=0.01), budget=Budget(steps=120), accumulate=2, folder=folder,
        methods=[Count(kill_at)], evaluators={"e": lambda m: {"bias": float(m[3].bias.sum())}}, checkpoint_every=0.02,
    )  # fmt: skip
    return trainer.run(resume=resume)


def in_child(folder, resume, kill_at=None, kill_after=None):
    """Runs `train` in a forked process; returns its exit status (negative: the signal that ended it)."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(folder, resume, kill_at)
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def state_of(folder):
    path, _ = checkpoint.latest(folder / "checkpoints")
    state = checkpoint.load(path)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in state["history"]]
    for categories in state["ledger"].values():
        categories.pop("seconds", None)
    tensors: dict = {}
    tree = checkpoint.pack({k: state[k] for k in ("model", "optimizers", "stream", "ledger", "step", "carried")}, tensors)
    return json.dumps([tree, rows]), tensors


def assert_same(unbroken, broken):
    expected, found = state_of(unbroken), state_of(broken)
    assert expected[0] == found[0]
    assert all(torch.equal(t, found[1][name]) for name, t in expected[1].items())
    for name in ("metrics.jsonl", "order.bin"):
        assert (unbroken / name).read_bytes() == (broken / name).read_bytes()


@pytest.mark.parametrize("how", ["at events", "at moments"])
def test_twenty_kills_change_nothing(tmp_path, how):
    """A run that ends before its twentieth kill (a fast machine) is compared all the same, and another takes the kills left."""
    started = time.perf_counter()
    assert in_child(tmp_path / "unbroken", resume=False) == 0
    whole = time.perf_counter() - started
    rng, kills, number = random.Random(how), 0, 0
    while kills < 20:
        folder, status = tmp_path / f"broken-{number}", None
        while kills < 20 and status != 0:
            resume = (folder / "run.json").exists()
            if how == "at events":
                status = in_child(folder, resume, kill_at=rng.randint(1, 60))
            else:
                status = in_child(folder, resume, kill_after=rng.uniform(0.02, 0.25) * whole)
            kills += status != 0
            assert status in (0, -signal.SIGKILL)
        if status != 0:
            assert in_child(folder, resume=True) == 0
        assert_same(tmp_path / "unbroken", folder)
        number += 1


def test_a_damaged_last_checkpoint_falls_back_says_so_and_still_ends_equal(tmp_path):
    train(tmp_path / "a", resume=False)
    in_child(tmp_path / "b", resume=False, kill_at=400)
    found = sorted((tmp_path / "b" / "checkpoints").glob("step-*"))
    (found[-1] / "tensors.safetensors").write_bytes(b"short")
    result = train(tmp_path / "b", resume=True)
    assert result.resumed_from == found[-2].name
    assert found[-1].name in result.passed_over[0]
    assert state_of(tmp_path / "a")[0] == state_of(tmp_path / "b")[0]
