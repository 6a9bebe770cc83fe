"""A run's folder says what the run is from its first update on, and resuming holds to it."""

import hashlib
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from etude.cli import main
from etude.errors import BadInput
from etude.recipe import build as building
from etude.recipe.config import load
from etude.recipe.train import train_recipe

RECIPE = """
schema = 1
[data]
text = "a.txt"
context = 16
batch = 8
[model]
width = 8
depth = 1
heads = 2
[budget]
steps = 40
[run]
folder = "run"
device = "cpu"
evaluate_every = 1
checkpoint_every = 0.1
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(f"{name}.txt").write_text(f"{name} cat sat on the mat; the dog ran to the sea.\n" * 60)
    Path("r.toml").write_text(RECIPE)
    return tmp_path


def hashes(folder):
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def killed(step):
    """Trains in another process, which kills itself without warning in the update after `step`."""
    program = f"""
        import os, signal
        from etude.engine.protocols import Method
        from etude.recipe.train import train_recipe

        class Kill(Method):
            def gradients(self, run):
                if run.step == {step}:
                    os.kill(os.getpid(), signal.SIGKILL)

        Kill.__name__ = "Quiet"
        train_recipe("r.toml", resolve=lambda slug: {{"Quiet": Kill}}, overrides=("methods=[{{use='q'}}]",), quiet=True)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_kill_in_the_first_update_leaves_recipe_tokenizer_and_data(here):
    killed(0)
    assert {p.name for p in (here / "run").iterdir()} >= {"run.json", "recipe.toml", "tokenizer.json", "data.json"}
    assert not any((here / "run").glob("checkpoints/step-*"))
    assert load("run/recipe.toml").data.text == "a.txt"
    assert (
        json.loads((here / "run" / "data.json").read_text())["sources"][""]["sha256"]
        == hashlib.sha256((here / "a.txt").read_bytes()).hexdigest()
    )


def test_resuming_a_killed_run_on_other_data_is_refused_and_nothing_lost(here, capsys):
    killed(20)
    before = hashes(here / "run")
    assert any("step-" in name for name in before)
    methods = "methods=[{use='q'}]"
    assert main(["train", "r.toml", "data.text=b.txt", "data.batch=4", methods, "--resume"]) == 2
    said = capsys.readouterr().err
    found, expected = ("data.text = 'b.txt', data.batch = 4", "data.text = 'a.txt', data.batch = 8")
    assert said == f"error: command line: found {found}, expected {expected}, as in run/recipe.toml\n"
    (here / "a.txt").write_text((here / "b.txt").read_text())
    with pytest.raises(
        BadInput, match=r"data, a\.txt: found sha256 '.*, expected sha256 '.*, as in run/data\.json: the data of the run being"
    ):
        train_recipe("r.toml", resolve=lambda slug: {"Quiet": building.Method}, overrides=(methods,), resume=True, quiet=True)
    assert hashes(here / "run") == before
    (here / "run" / "tokenizer.json").write_text('{"kind": "bpe", "inner": {}}')
    with pytest.raises(BadInput, match=r"run/tokenizer\.json: found content that is no tokenizer"):
        train_recipe("r.toml", resolve=lambda slug: {"Quiet": building.Method}, overrides=(methods,), resume=True, quiet=True)


def test_a_run_that_was_killed_before_its_first_checkpoint_does_not_block_the_next(here, capsys):
    killed(0)
    assert main(["train", "r.toml", "optimizer.lr=0.01", "budget.steps=2"]) == 0
    assert load("run/recipe.toml").optimizer.lr == 0.01
    assert main(["train", "r.toml", "optimizer.lr=0.02", "budget.steps=2"]) == 2
    assert "run: found a run already" in capsys.readouterr().err
    assert load("run/recipe.toml").optimizer.lr == 0.01


def test_a_refused_method_leaves_nothing_and_its_line_stands_alone(here, capsys):
    for changes, line in (
        (["model.kind=gru", "methods=[{use='stacking'}]"], "command line, methods.0: found a RecurrentLM, expected a model whose layers"),
        (["methods=[{use='stacking', warmup=-3}]"], "command line, methods.0.warmup: found -3.0, expected a share of the budget"),
        (["methods.0.use=cyclical-curriculum", "methods.0.scores=[1, 2]"], "command line, methods.0.scores: found 2 of them, expected one"),
        (["methods.0.use=stakcing"], "command line, methods.0.use: found 'stakcing', expected a known name; did you mean 'stacking'?"),
        (["data.corpus=kjvv"], "command line, data.corpus: found 'kjvv', expected a known name; did you mean 'kjv'?"),
        (["run.device=cuda:9"], "command line, run.device: found 'cuda:9', which this machine does not have, expected"),
    ):
        assert main(["train", "r.toml", *changes]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {line}")
        assert said.count("\n") == 1
        assert not Path("run").exists()
    assert main(["train", "r.toml", "budget.steps=2"]) == 0
    assert "parameters, on cpu, into run" in capsys.readouterr().err


def test_a_text_that_is_too_short_is_named_with_the_share_held_out(here, capsys):
    for size, changes, line in (
        (
            15,
            [],
            "c.txt: found 13 tokens for training (data.held_out = 0.1 of the text is measured on), expected at least one window of 17",
        ),
        (100, [], "c.txt: found 10 tokens held out (data.held_out = 0.1 of the text is measured on), expected at least one window of 17"),
        (100, ["data.held_out=0.2"], "c.txt: found 4 windows of 16 tokens for training (data.held_out = 0.2 of the text is measured on)"),
    ):
        Path("c.txt").write_text("x" * size)
        assert main(["train", "r.toml", "data.text=c.txt", *changes]) == 2
        assert capsys.readouterr().err.startswith(f"error: {line}")


def test_where_a_run_is_computed_may_change(here):
    train_recipe("r.toml", resolve=dict, quiet=True)
    (here / "run").rename(here / "moved")
    changes = ("run.folder=moved", "run.keep_checkpoints=1", "run.device=auto")
    assert train_recipe("r.toml", resolve=dict, overrides=changes, resume=True, quiet=True)["steps"] == 40
    Path("moved/recipe.toml").unlink()
    with pytest.raises(BadInput, match="moved/recipe.toml: found no such file, expected the recipe that the run was begun with"):
        train_recipe("r.toml", resolve=dict, overrides=changes, resume=True, quiet=True)
    with pytest.raises(BadInput, match="found no run, expected a run to resume"):
        train_recipe("r.toml", resolve=dict, overrides=("run.folder=none",), resume=True, quiet=True)
    assert not Path("none").exists()


def test_errors_name_the_recipe_and_the_key(here, capsys):
    for changes, message in (
        (["methods=[{use='stacking', at='x'}]"], "error: command line, methods.0.at: found 'x', expected a number"),
        (["model.heads=3"], "error: r.toml, model.width and command line, model.heads: found 8 and 3, expected"),
        (["data.text=none.txt"], "error: none.txt: found no such file"),
        (["sampler.kind=online"], "error: command line, sampler.kind: found 'online'"),
    ):
        assert main(["train", "r.toml", *changes]) == 2
        assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_the_migration_door(here, capsys):
    assert main(["recipe", "migrate", "r.toml"]) == 0
    assert capsys.readouterr().out == "r.toml: schema 1 already, the newest; nothing to do\n"
    Path("old.toml").write_text(RECIPE.replace("schema = 1\n", ""))
    assert main(["recipe", "migrate", "old.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == "old.schema-0.toml"
    assert load("old.toml") == load("r.toml")
    assert main(["recipe", "migrate", "none.toml"]) == 2
    assert capsys.readouterr().err == "error: none.toml: found no such file, expected a recipe (TOML)\n"
