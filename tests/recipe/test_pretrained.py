"""A transformers folder as a recipe's model: its tokenizer reads the text, its weights are where training begins."""

import json
import shutil
import tomllib

import pytest
import torch
from hf_folders import WORDS, qwen_folder

from etude.cli import main
from etude.data.tokenizers import load as load_tokenizer
from etude.errors import BadInput
from etude.generate.hub import locate
from etude.generate.pretrained import pretrained
from etude.papers.loading import load_methods, load_models
from etude.recipe.build import build
from etude.recipe.config import dump, load, parse
from etude.recipe.train import train_recipe

RECIPE = """
schema = 1
[model]
pretrained = "qwen"
[data]
text = "words.txt"
context = 32
batch = 4
held_out = 0.2
[optimizer]
lr = 3e-3
[budget]
steps = 10
[run]
folder = "out"
device = "cpu"
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text(WORDS * 60)
    (tmp_path / "r.toml").write_text(RECIPE)
    qwen_folder(tmp_path / "qwen")
    return tmp_path


def train(*overrides, **settings):
    return train_recipe("r.toml", resolve=load_methods, models=load_models, overrides=overrides, quiet=True, **settings)


def test_training_begins_with_its_weights_and_ends_better(place):
    recipe = load("r.toml")
    assert recipe.data.tokenizer == "model"
    assert parse(tomllib.loads(dump(recipe))) == recipe
    trainer = build(recipe, load_methods, load_models)
    given = pretrained(place / "qwen").state_dict()
    assert all(torch.equal(value, given[name]) for name, value in trainer.model.state_dict().items())
    result = train()
    lines = map(json.loads, (place / "out" / "metrics.jsonl").read_text().splitlines())
    losses = [line["held-out/loss"] for line in lines if "held-out/loss" in line]
    assert losses[-1] < losses[0] - 0.1
    assert result["ledger"]["train"]["flops"] > 0
    kept = load_tokenizer(place / "out" / "tokenizer.json")
    assert kept.decode(kept.encode(WORDS)) == WORDS
    facts = json.loads((place / "out" / "data.json").read_text())["model"]
    assert facts == {"name": "qwen", "commit": "", "bytes": {"model.safetensors": (place / "qwen" / "model.safetensors").stat().st_size}}


def test_init_on_a_plain_text(place, capsys):
    assert main(["init", "--model", "qwen", "--data", "words.txt", "--out", "plain.toml"]) == 0
    assert "--- words.txt, window 1\n[[" in capsys.readouterr().out
    assert main(["train", "plain.toml", "budget.steps=1", "run.device=cpu"]) == 0, capsys.readouterr().err


def test_a_corpus_and_methods(place):
    (place / "r.toml").write_text(RECIPE + '[[methods]]\nuse = "cyclical-curriculum"\n')
    assert train("data.corpus=sample", "budget.steps=3")["steps"] == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.pretrained=./none"], r"model\.pretrained: found \./none, which is not there, expected a folder with config\.json"),
        (["model.pretrained=words.txt"], r"model\.pretrained: found words\.txt, a file"),
        (["model.revision=main"], r"command line, model\.revision: found 'main' beside a folder"),
        (["data.context=200"], r"data\.context: found 200, expected at most 128, the context of qwen"),
        (["data.tokenizer=byte"], r"data\.tokenizer: found 'byte' for a pretrained model, expected model, its own"),
        (["model.kind=transformer", "data.tokenizer=model"], r"data\.tokenizer: found 'model' for a model without one"),
        (["model.width=8"], r"model\.width"),
        (["methods.0.use=stacking"], "found a Pretrained, expected a model whose layers"),
    ],
)
def test_bad_input(overrides, message):
    with pytest.raises(BadInput, match=message):
        train(*overrides)


def test_a_tokenizer_of_another_vocabulary_or_none(place):
    other = qwen_folder(place / "other", vocab=500, text=WORDS + (place / "r.toml").read_text() * 30)
    shutil.copy(other / "tokenizer.json", place / "qwen" / "tokenizer.json")
    with pytest.raises(BadInput, match=r"data\.tokenizer: found a vocabulary of \d+ tokens, expected at most the \d+ of qwen"):
        train()
    (place / "qwen" / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"tokenizer\.json: found unreadable content"):
        train()
    (place / "qwen" / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"no tokenizer\.json"):
        train()


def test_an_id_of_the_hub_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadInput, match="'no-one/nothing' at 'v1', no folder here,( and)? not in the Hub"):
        locate("no-one/nothing", "v1")
