"""Keys of a recipe that change how a run is computed: alone they change no number, together they go with every kind of row."""

import importlib.util
import json
import re

import pytest
import torch
from hf_folders import WORDS

from etude.cli import main
from etude.engine import checkpoint
from etude.engine.metrics import read_metrics
from etude.errors import BadInput
from etude.papers.loading import load_methods, load_models
from etude.recipe.config import load
from etude.recipe.starting import SETTINGS
from etude.recipe.train import train_recipe

pytest.importorskip("transformers")
RECIPE = """
schema = 1
[model]
pretrained = "qwen"
[data]
rows = "r.jsonl"
context = 40
batch = 4
held_out = 0.2
[optimizer]
lr = 3e-3
[budget]
steps = 3
[run]
folder = "plain"
device = "cpu"
"""
PAIRS = [{"prompt": f"{i}?", "chosen": " the fox" * (1 + i % 3), "rejected": " no"} for i in range(20)]
COMPLETIONS = [{"prompt": f"count {i}", "completion": " the fox" * (1 + i % 3)} for i in range(20)]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, qwen):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen").symlink_to(qwen)
    (tmp_path / "r.toml").write_text(RECIPE)
    write(COMPLETIONS)
    return tmp_path


def write(rows):
    with open("r.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def train(*overrides, recipe="r.toml", **settings):
    return train_recipe(recipe, resolve=load_methods, models=load_models, overrides=overrides, quiet=True, **settings)


def weights(place, folder):
    return checkpoint.load(checkpoint.latest(place / folder / "checkpoints")[0])["model"]


@pytest.mark.parametrize("rows", [COMPLETIONS, PAIRS])
@pytest.mark.parametrize(("override", "same"), [("run.activation_checkpointing=true", True), ("run.micro_batch=3", False)])
def test_alone_they_change_no_number(place, rows, override, same):
    write(rows)
    train()
    train(override, "run.folder=other")
    losses = [[line["loss"] for line in read_metrics(place / folder) if "loss" in line] for folder in ("plain", "other")]
    assert losses[1] == (losses[0] if same else pytest.approx(losses[0], abs=1e-5))
    plain, other = (weights(place, folder) for folder in ("plain", "other"))
    assert all(torch.equal(v, other[n]) if same else torch.allclose(v, other[n], atol=1e-3) for n, v in plain.items())


@pytest.mark.parametrize("rows", [COMPLETIONS, PAIRS, [{"text": WORDS}] * 20])
def test_together_they_run_and_are_told(place, rows):
    write(rows)
    told = train(
        "lora.r=4", "run.micro_batch=auto", "run.activation_checkpointing=true", "run.precision=bfloat16", "run.accumulate=2",
        "data.too_long=cut", "data.held_out=0",
    )  # fmt: skip
    assert told["micro_batch"] == 4
    found = [line for line in read_metrics(place / "plain") if line.get("event") == "micro_batch"]
    assert found == [{"event": "micro_batch", "rows": 4, "of": 4, "how": "estimated"}]


def test_what_may_differ_on_resume(place):
    train()
    for override in ("run.micro_batch=2", "run.activation_checkpointing=true"):
        key = override.partition("=")[0]
        with pytest.raises(BadInput, match=rf"command line: found {key} = (2|True), expected {key} = ('nothing'|False), as in"):
            train(override, resume=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.micro_batch=0", r"command line, run\.micro_batch: found 0, expected a whole number >= 1, or \"auto\""),
        ("run.micro_batch=most", r"run\.micro_batch: found 'most', expected a whole number >= 1, or \"auto\""),
        ("run.trackers=['tensorbord']", r"run\.trackers.*found 'tensorbord', expected .*did you mean 'tensorboard'"),
        ("run.precision=half", r"run\.precision: found 'half', expected 'auto', 'float32' or 'bfloat16'"),
        ("run.activation_checkpoint=true", r"run\.activation_checkpoint.*did you mean 'activation_checkpointing'"),
    ],
)
def test_bad_input(override, message):
    with pytest.raises(BadInput, match=message):
        train(override)


def test_a_model_without_blocks_is_named(place):
    text = RECIPE.replace('pretrained = "qwen"', 'kind = "gru"').replace('rows = "r.jsonl"', 'text = "words.txt"')
    (place / "words.txt").write_text(WORDS * 20)
    (place / "r.toml").write_text(text)
    with pytest.raises(BadInput, match=r"run\.activation_checkpointing: found it for a RecurrentLM"):
        train("run.activation_checkpointing=true")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_init_writes_in_comments_works(place, capsys):
    assert main(["init", "--model", "qwen", "--data", "r.jsonl", "--out", "mine.toml"]) == 0
    text = (place / "mine.toml").read_text()
    changed = text
    for line in SETTINGS:
        assert line in text
        changed = changed.replace(line, line.removeprefix("# "))
    if importlib.util.find_spec("tensorboard") is None:
        changed = re.sub(r"(?m)^trackers.*", "", changed)
    (place / "changed.toml").write_text(changed)
    recipe = load(place / "changed.toml")
    assert (recipe.lora.r, recipe.lora.targets, recipe.run.precision, recipe.run.micro_batch) == (16, "all-linear", "bfloat16", "auto")
    assert recipe.run.activation_checkpointing
    assert (load(place / "mine.toml").lora, load(place / "mine.toml").run.micro_batch) == (None, None)
    told = train("budget.samples=8", "run.device=cpu", recipe="changed.toml")
    assert told["steps"] >= 1
    assert (place / told["folder"] / "trackers" / "tensorboard").exists() == ("trackers = [" in changed)
