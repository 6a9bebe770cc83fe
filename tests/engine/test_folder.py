"""A run's folder: what blocks a new run, what does not, and that nothing that was there is lost."""

import json
import math
import os
import shutil
import signal

import pytest
from toys import Stop, ToyStream, squared, toy_model

from etude.engine.ledger import Budget
from etude.engine.optim import SGD
from etude.engine.protocols import Method, Output
from etude.engine.schedule import Constant
from etude.engine.trainer import Interrupted, NonFinite, Trainer
from etude.errors import BadInput


def trainer(folder, methods=(), steps=20, lr=0.05, **settings):
    return Trainer(
        toy_model(), ToyStream(), squared, optimizer=SGD(lr=lr), schedule=Constant(), methods=methods, budget=Budget(steps=steps),
        folder=folder, evaluators={"e": lambda model: {"v": 1.0}}, **({"checkpoint_every": 0.5} | settings),
    )  # fmt: skip


class Fails(Method):
    """Raises after update `at`, or kills the process."""

    def __init__(self, at, error):
        self.at, self.error = [at], [error]

    def gradients(self, run):
        if run.step in self.at:
            if self.error[0] is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise self.error[0]


class Refuses(Method):
    def start(self, run):
        raise BadInput("Refuses", "a model", "another")


class Poisons(Method):
    def loss(self, run, batch, output):
        return Output(output.loss * math.nan, None, output.weight) if run.step == 3 else None


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def killed(folder, at, **settings):
    child = os.fork()
    if not child:
        trainer(folder, [Fails(at, None)], **settings).run()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_is_refused_before_the_first_update_leaves_nothing(tmp_path):
    folder = tmp_path / "a" / "b"
    for error in (BadInput("here", "this", "that"), ValueError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            trainer(folder, [Fails(0, error)]).run()
        assert not (tmp_path / "a").exists()
    folder.mkdir(parents=True)
    with pytest.raises(BadInput):
        trainer(folder, [Refuses()]).run()
    assert list(folder.iterdir()) == []
    assert trainer(folder).run().steps == 20


@pytest.mark.parametrize("changes", [{}, {"lr": 0.01}], ids=["the same again", "with other settings"])
@pytest.mark.parametrize("how", ["NaN", "an error", "Ctrl-C", "a kill"])
def test_a_run_without_a_checkpoint_does_not_block_the_next(tmp_path, how, changes):
    folder = tmp_path / "run"
    if how == "a kill":
        killed(folder, 3)
    else:
        kind, method = {
            "NaN": (NonFinite, Poisons()),
            "an error": (RuntimeError, Fails(3, RuntimeError())),
            "Ctrl-C": (KeyboardInterrupt, Fails(3, KeyboardInterrupt())),
        }[how]
        with pytest.raises(kind):
            trainer(folder, [method]).run()
    (folder / "notes.txt").write_text("lr too high?")
    left = {name: content for name, content in files(folder).items() if name != "notes.txt"}
    assert not (folder / "checkpoints").exists()
    result = trainer(folder, **changes).run()
    assert result.steps == 20
    assert result.set_aside == (str(folder / "earlier-1") if left["order.bin"] else "")
    trainer(tmp_path / "clean", **changes).run()
    for name in ("metrics.jsonl", "order.bin"):
        assert (folder / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()
    now = files(folder)
    assert now["notes.txt"] == b"lr too high?"
    if left["order.bin"]:
        assert {name: now[f"earlier-1/{name}"] for name in left} == left
    else:  # the kill came before anything was on disk
        assert how == "a kill"
        assert not (folder / "earlier-1").exists()
    with pytest.raises(BadInput, match="found a run already"):
        trainer(folder).run()


def test_each_earlier_run_is_kept(tmp_path):
    for _ in range(2):
        with pytest.raises(NonFinite):
            trainer(tmp_path / "r", [Poisons()]).run()
    with pytest.raises(BadInput):  # refused at once: what is there stays as it is
        trainer(tmp_path / "r", [Refuses()]).run()
    trainer(tmp_path / "r").run()
    assert {p.name for p in (tmp_path / "r").iterdir()} == {
        "run.json",
        "metrics.jsonl",
        "order.bin",
        "checkpoints",
        "earlier-1",
        "earlier-2",
    }


def test_a_checkpoint_is_never_begun_anew(tmp_path):
    folder = tmp_path / "r"
    with pytest.raises(Interrupted):
        trainer(folder, [Stop(3)]).run()
    before = files(folder)
    for changes in ({}, {"lr": 0.01}, {"methods": [Refuses()]}):
        with pytest.raises(BadInput, match="found a run already"):
            trainer(folder, **changes).run()
    assert files(folder) == before
    # Even a damaged one, or one that somebody has removed: the history of a run that came so far is worth keeping.
    (next((folder / "checkpoints").iterdir()) / "tensors.safetensors").write_bytes(b"short")
    with pytest.raises(BadInput, match="found a run already"):
        trainer(folder).run()
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(BadInput, match="found a run already"):
        trainer(folder).run()
    assert (folder / "metrics.jsonl").read_bytes() == before["metrics.jsonl"]


def test_a_finished_run_stays_one_without_its_checkpoints(tmp_path):
    trainer(tmp_path / "r").run()
    shutil.rmtree(tmp_path / "r" / "checkpoints")
    with pytest.raises(BadInput, match="found a run already"):
        trainer(tmp_path / "r").run()


def test_a_checkpoint_cut_short_by_a_kill_is_none(tmp_path):
    killed(tmp_path / "r", 3)
    torn = tmp_path / "r" / "checkpoints" / ".writing-000000003-1"
    torn.mkdir(parents=True)
    (torn / "state.json").write_text("{")
    assert trainer(tmp_path / "r").run().steps == 20
    assert len(list((tmp_path / "r" / "checkpoints").iterdir())) == 2


def test_a_folder_in_which_another_run_is_at_work_is_refused(tmp_path):
    seen = []

    class Second(Method):
        def gradients(self, run):
            if run.step == 2:
                for resume in (False, True):
                    with pytest.raises(BadInput, match="found another run at work in it") as caught:
                        trainer(tmp_path / "r").run(resume=resume)
                    seen.append(str(caught.value))

    assert trainer(tmp_path / "r", [Second()]).run().steps == 20
    assert len(seen) == 2


def test_a_kill_between_the_mark_and_what_lies_beside_it(tmp_path):
    first = trainer(tmp_path / "r")
    first.beside = {"recipe.toml": "old", "tokenizer.json": "t"}
    first.hooks = trainer(None, [Refuses()]).hooks
    with pytest.raises(BadInput, match="Refuses"):
        first.run()
    assert not (tmp_path / "r").exists()
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "run.json").write_text(json.dumps({"identity": {}, "files": ["recipe.toml"]}))
    again = trainer(tmp_path / "r")
    again.beside = {"recipe.toml": "new"}
    again.run()
    assert (tmp_path / "r" / "recipe.toml").read_text() == "new"
    assert not (tmp_path / "r" / "earlier-1").exists()  # there was nothing to keep


def test_resuming_says_what_differs_with_both_values(tmp_path):
    with pytest.raises(Interrupted):
        trainer(tmp_path / "r", [Stop(3)]).run()
    for changes, said in (
        ({"lr": 0.01}, r"a run of another optimizer \(lr: 0.05, here 0.01\)"),
        ({"steps": 30}, r"a run of another budget \(1?:? ?.*20.0.*30.0.*\)"),
        ({"seed": 1, "clip": None}, r"a run of another seed \(0, here 1\) and clip \(1.0, here None\)"),
    ):
        with pytest.raises(BadInput, match=said):
            trainer(tmp_path / "r", [Stop(0)], **changes).run(resume=True)
    wide = Trainer(toy_model(width=8), ToyStream(), squared, budget=Budget(steps=20), folder=tmp_path / "r", methods=[Stop(0)])
    with pytest.raises(BadInput, match=r"another model \(0.weight: \[16, 6\], here \[8, 6\]; .*\) and optimizer"):
        wide.run(resume=True)
    assert trainer(tmp_path / "r", [Stop(0)]).run(resume=True).steps == 20


def test_folders_that_cannot_be_had(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="found a file, expected a folder for the run"):
        trainer(tmp_path / "file").run()
    with pytest.raises(BadInput, match="file"):
        trainer(tmp_path / "file" / "below").run()
    (tmp_path / "mark").mkdir()
    (tmp_path / "mark" / "run.json").write_text("[]")
    with pytest.raises(BadInput, match="found unreadable content"):
        trainer(tmp_path / "mark").run()
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "mark" / "run.json").read_text() == "[]"
    with pytest.raises(BadInput, match="folder: found an empty text"):
        trainer("")
    with pytest.raises(BadInput, match="folder: found none"):
        trainer(None).run(resume=True)
