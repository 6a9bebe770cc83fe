"""A run's folder read back: to generate with, and as a transformers folder."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from hf_folders import WORDS, qwen_folder

from etude.errors import BadInput
from etude.papers.loading import load_methods, load_models
from etude.recipe.export import export_run
from etude.recipe.finished import finished
from etude.recipe.sampled import sampled
from etude.recipe.train import train_recipe

RECIPE = """
schema = 1
[model]
width = 16
depth = 2
heads = 4
kv_heads = 2
[data]
text = "words.txt"
context = 24
batch = 4
[budget]
steps = 4
[run]
folder = "out"
device = "cpu"
"""
KNOWN = {"resolve": load_methods, "models": load_models}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text(WORDS * 60)
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


def train(*overrides):
    return train_recipe("r.toml", overrides=overrides, quiet=True, **KNOWN)


CASES = {
    "bytes": (),
    "characters, a head of its own": ("data.tokenizer=character", "model.tied=false"),
    "byte pairs": ("data.tokenizer=bpe", "data.vocab=280", "model.kv_heads=4"),
    "grown": ("methods.0.use=stacking", "methods.0.at=0.5", "methods.0.factor=2"),
    "pretrained": ("model.pretrained=qwen",),
}


@pytest.mark.parametrize("case", CASES)
def test_export_reads_back_with_the_same_logits_and_tokens(place, case):
    if case == "pretrained":
        qwen_folder(place / "qwen")
    train(*CASES[case])
    told = export_run("out", "exported", **KNOWN)
    assert told["largest_difference"] < 1e-5
    assert told["tokenizer"]
    done = finished("out", load_methods, load_models, device="cpu")
    again = transformers.AutoModelForCausalLM.from_pretrained(place / "exported")
    reader = transformers.AutoTokenizer.from_pretrained(place / "exported")
    text = "the lazy dog. nine wizards"
    ids = reader.encode(text, add_special_tokens=False)
    assert reader.decode(ids) == text
    assert ids == done.tokenizer.encode(text).tolist()
    ours = done.model.head(done.model(torch.tensor([ids[:24]]))["hidden"])
    assert torch.allclose(again(torch.tensor([ids[:24]])).logits, ours, atol=1e-5)
    if case == "grown":
        assert again.config.num_hidden_layers == 4
    card = (place / "exported" / "README.md").read_text()
    assert "words.txt" in card
    assert "[budget]\nsteps = 4" in card
    assert not list(place.glob(".exported*"))


def test_what_cannot_be_exported_leaves_nothing(place, monkeypatch):
    train("model.kind=gru")
    with pytest.raises(BadInput, match=r"a RecurrentLM, expected a `transformer` or a pretrained model"):
        export_run("out", "exported", **KNOWN)
    train("run.folder=shifted", "model.shifted=true")
    assert finished("shifted", load_methods, load_models, device="cpu").model.config.shifted
    with pytest.raises(BadInput, match=r"tokens come with the one before \(shifted\)"):
        export_run("shifted", "exported", **KNOWN)
    (place / "full").mkdir()
    (place / "full" / "mine").write_text("x")
    with pytest.raises(BadInput, match=r"full: found something there already, expected a new or empty folder"):
        export_run("out", "full", **KNOWN)
    train("run.folder=other", "model.kind=transformer", "model.kv_heads=2", "model.width=16")
    monkeypatch.setattr("etude.recipe.export.TOLERANCE", -1.0)
    with pytest.raises(BadInput, match="logits that differ by"):
        export_run("other", "exported", **KNOWN)
    assert not (place / "exported").exists()
    assert not list(place.glob(".exported*"))


def test_samples_are_the_same_for_a_seed_and_end_where_told(place):
    train("budget.steps=60", "optimizer.lr=0.01")
    (place / "p.jsonl").write_text('{"prompt": "nine "}\n')
    rows = sampled("out", ["the quick"], file=place / "p.jsonl", samples=2, max_tokens=12, quiet=True, out=place / "s.jsonl", **KNOWN)
    assert [row["prompt"] for row in rows] == ["the quick"] * 2 + ["nine "] * 2
    assert rows == [json.loads(line) for line in (place / "s.jsonl").read_text().splitlines()]
    again = sampled("out", ["the quick", "nine "], samples=2, max_tokens=12, quiet=True, **KNOWN)
    assert again == rows
    other = sampled("out", ["the quick", "nine "], samples=2, max_tokens=12, seed=1, quiet=True, **KNOWN)
    assert [r["completion"] for r in other] != [r["completion"] for r in rows]
    assert all(row["tokens"] == 12 and row["finish"] == "length" and row["logprob"] < 0 for row in rows)
    stopped = sampled("out", ["the quick"], samples=8, max_tokens=12, stop=["e"], quiet=True, **KNOWN)
    assert any(row["finish"] == "stop" and row["completion"].endswith("e") for row in stopped)


def test_a_transformers_folder_ends_at_its_end_token(place):
    qwen_folder(place / "qwen")
    done = finished("qwen", load_methods, device="cpu")
    assert done.stop_tokens == (2,)
    with torch.no_grad():
        done.model.inner.get_input_embeddings().weight[2] *= 40  # the head is tied: the end token is likely now
    assert len(sampled("qwen", ["the"], max_tokens=5, quiet=True, **KNOWN)) == 1


@pytest.mark.parametrize(
    ("run", "prompts", "settings", "message"),
    [
        ("none", ["a"], {}, "none: found nothing there, expected the folder of a run"),
        ("words.txt", ["a"], {}, "found a file"),
        ("empty", ["a"], {}, r"no recipe\.toml"),
        ("out", [], {}, "prompts: found none"),
        ("out", ["a", ""], {}, "prompt 1: found an empty text"),
        ("out", ["a" * 30], {}, "prompt 0: found 30 tokens, expected at most 24"),
        ("out", ["a"], {"out": "words.txt"}, "a file that is there already"),
        ("out", ["a"], {"temperature": -1.0}, "temperature"),
        ("out", ["a"], {"file": "words.txt"}, "line 1: found no JSON"),
    ],
)
def test_bad_input(place, run, prompts, settings, message):
    train()
    (place / "empty").mkdir()
    settings = {k: Path(v) if isinstance(v, str) else v for k, v in settings.items()}
    with pytest.raises(BadInput, match=message):
        sampled(run, prompts, quiet=True, **settings, **KNOWN)


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(place, capsys):
    train()
    older, newest = sorted((place / "out" / "checkpoints").glob("step-*"))
    (newest / "tensors.safetensors").write_bytes((newest / "tensors.safetensors").read_bytes()[:-7])
    capsys.readouterr()
    done = finished("out", load_methods, load_models, device="cpu")
    assert done.passed_over == (f"{newest.name}: tensors.safetensors does not match its checksum",)
    assert f"passed over {newest.name}: tensors.safetensors does not match its checksum; read {older.name}" in capsys.readouterr().err
    sampled("out", ["a"], quiet=True, **KNOWN)
    assert f"passed over {newest.name}" in capsys.readouterr().err


def test_a_damaged_run_is_named(place):
    train()
    for tensors in (place / "out" / "checkpoints").glob("*/tensors.safetensors"):
        tensors.write_bytes(tensors.read_bytes()[:-7])
    with pytest.raises(BadInput, match="does not match its checksum"):
        finished("out", load_methods)
    for content in ("{", "[]", "{}", '{"vocab": "many"}'):
        (place / "out" / "data.json").write_text(content)
        with pytest.raises(BadInput, match="files that cannot be read"):
            finished("out", load_methods)
