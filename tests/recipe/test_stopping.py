"""Ctrl-C, as a real signal at a chosen update: a checkpoint, a line that says how to go on, and the same bits after that."""

import os
import signal
import threading

import pytest
import torch

import etude
from etude.engine import checkpoint
from etude.engine.protocols import Method
from etude.recipe.train import train_recipe

GO_ON = "`resume=True` goes on from"


class Press(Method):
    """Sends its own process SIGINT `times` times in update `at`."""

    def __init__(self, at=0, times=1):
        self.pressed = [at, times]  # in a list: no setting of the run that resuming compares

    def gradients(self, run):
        at, times = self.pressed
        if run.step + 1 == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def usual_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's workers ignore Ctrl-C
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def train(folder, at=0, times=1, resume=False):
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1)), torch.randn(40, 4)
    return etude.train(
        model, (x, x.sum(1)), methods=Press(at, times), budget=etude.Budget(steps=30), batch_size=4, folder=folder, resume=resume,
        device="cpu", quiet=False, checkpoint_every=0.5, evaluators={"e": lambda m: {"w": float(m[0].weight.sum())}},
    )  # fmt: skip


def test_the_first_writes_a_checkpoint_from_which_the_run_goes_on_bit_for_bit(tmp_path, capsys):
    unbroken = train(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step 4 at 13% of the budget, with a checkpoint in .*b: {GO_ON} there"):
        train(tmp_path / "b", at=4)
    assert "stopping after this update, with a checkpoint; Ctrl-C again stops at once\n" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "b" / "checkpoints").iterdir()] == ["step-000000004"]
    with pytest.raises(KeyboardInterrupt, match="after step 17"):
        train(tmp_path / "b", at=17, resume=True)
    resumed = train(tmp_path / "b", resume=True)
    assert resumed.resumed_from == "step-000000017"
    for name in ("metrics.jsonl", "order.bin"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    states = [checkpoint.load(checkpoint.latest(tmp_path / run / "checkpoints")[0]) for run in ("a", "b")]
    for part in ("model", "optimizers"):
        first, second = ({}, {})
        assert checkpoint.pack(states[0][part], first) == checkpoint.pack(states[1][part], second)
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(torch.equal(p, q) for p, q in zip(unbroken.model.parameters(), resumed.model.parameters(), strict=True))


def test_the_second_ends_at_once_and_says_where_the_run_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt, match=f"interrupted: {GO_ON} the beginning, as there is no checkpoint yet"):
        train(tmp_path / "a", at=4, times=2)
    assert not (tmp_path / "a" / "checkpoints").exists()
    with pytest.raises(KeyboardInterrupt, match=f"interrupted: {GO_ON} checkpoint step-000000015"):
        train(tmp_path / "a", at=20, times=2, resume=True)
    assert train(tmp_path / "a", resume=True).steps == 30


def test_in_the_last_update_the_run_has_ended_anyway(tmp_path):
    assert train(tmp_path / "a", at=30).steps == 30


def test_nothing_changes_without_a_folder_or_under_a_handler_of_the_programs_own(tmp_path):
    with pytest.raises(KeyboardInterrupt) as interrupted:
        train(None, at=4)
    assert str(interrupted.value) == ""
    seen = []
    signal.signal(signal.SIGINT, lambda *_: seen.append("mine"))
    assert train(tmp_path / "a", at=4).steps == 30
    assert seen == ["mine"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=train, args=(tmp_path / "b",))
    thread.start()
    thread.join()
    assert (tmp_path / "b" / "checkpoints" / "step-000000030").is_dir()


def test_a_recipe_names_the_whole_command(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 60)
    path = tmp_path / "my recipe.toml"
    path.write_text(
        'schema = 1\n[data]\ntext = "a.txt"\ncontext = 16\nbatch = 4\n[model]\nwidth = 8\ndepth = 1\nheads = 2\n[budget]\nsteps = 6\n'
        f'[run]\nfolder = "{tmp_path}/run"\ndevice = "cpu"\n[[methods]]\nuse = "press"\nat = 2\n'
    )
    text = f"data.text={tmp_path}/a.txt"
    with pytest.raises(KeyboardInterrupt) as stopped:
        train_recipe(path, resolve=lambda slug: {"Press": Press}, overrides=(text,), quiet=True)
    assert str(stopped.value).endswith(f"run: `etude train '{path}' {text} --resume` goes on from there")
