"""Rows in a recipe and in Python: what is learnt follows from their columns."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hf_folders import WORDS, chat_folder

import etude
from etude.cli import main
from etude.engine.protocols import Batch
from etude.errors import BadInput
from etude.generate.pretrained import pretrained
from etude.learn.finetune import Finetune
from etude.learn.preference import DPO, Preference
from etude.papers.loading import load_methods, load_models
from etude.recipe.build import build
from etude.recipe.config import load
from etude.recipe.export import export_run
from etude.recipe.rows import parted
from etude.recipe.train import train_recipe

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
folder = "out"
device = "cpu"
"""
ROWS = {
    "text": lambda i: {"text": WORDS[: 20 + 3 * i]},
    "completion": lambda i: {"prompt": f"count {i}", "completion": " the fox" * (1 + i % 3)},
    "messages": lambda i: {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "lazy" + " dog" * (i % 4)}]},
    "preference": lambda i: {"prompt": f"{i}?", "chosen": " the fox" * (1 + i % 3), "rejected": " no"},
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, qwen):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen").symlink_to(qwen)
    (tmp_path / "r.toml").write_text(RECIPE)
    write("messages")
    return tmp_path


def write(kind, count=20, name="r.jsonl"):
    with open(name, "w") as out:
        for i in range(count):
            out.write(json.dumps(ROWS[kind](i)) + "\n")


def train(*overrides, **settings):
    return train_recipe("r.toml", resolve=load_methods, models=load_models, overrides=overrides, quiet=True, **settings)


@pytest.mark.parametrize("kind", ROWS)
def test_a_kind_is_trained_stopped_resumed_and_exported(place, kind):
    write(kind)
    whole = train("run.folder=whole", "budget.steps=4", "run.checkpoint_every=0.5")
    assert set(whole["metrics"]) == {f"held-out/{n}" for n in (("loss", "accuracy", "margin") if kind == "preference" else ("loss",))}
    facts = json.loads((place / "whole" / "data.json").read_text())
    assert (facts["rows"]["kind"], facts["rows"]["rows"], facts["dropped"]) == (kind, 20, 0)
    shutil.rmtree(max((place / "whole" / "checkpoints").glob("step-*")))
    again = train("run.folder=whole", "budget.steps=4", "run.checkpoint_every=0.5", resume=True)
    assert again["resumed_from"] == "step-000000002"
    assert again["metrics"] == whole["metrics"]
    done = export_run("whole", place / "hf", resolve=load_methods, models=load_models)
    assert done["tokenizer"]
    assert transformers.AutoTokenizer.from_pretrained(place / "hf").chat_template
    assert f"r.jsonl (20 rows, {kind})" in (place / "hf" / "README.md").read_text()


def test_the_loss_is_transformers_own_on_the_assistants_tokens(qwen):
    model, source = pretrained(qwen), etude.rows("r.jsonl", tokenizer=qwen, context=40)
    ids = np.array([3])
    ours = float(Finetune()(model, Batch(source.get(ids), ids)).loss.detach())
    read = transformers.AutoTokenizer.from_pretrained(qwen).apply_chat_template(
        ROWS["messages"](3)["messages"], return_assistant_tokens_mask=True, return_dict=True
    )
    labels = [i if own else -100 for i, own in zip(read["input_ids"], read["assistant_masks"], strict=True)]
    theirs = model.inner(input_ids=torch.tensor([read["input_ids"]]), labels=torch.tensor([labels])).loss
    assert ours == pytest.approx(float(theirs.detach()), abs=1e-5)


def test_preferences_keep_to_a_frozen_copy(place):
    write("preference")
    trainer = build(load("r.toml"), load_methods, load_models)
    objective = trainer.objectives[""]
    assert isinstance(objective, Preference)
    assert objective.loss == DPO()
    assert objective.reference is not trainer.model
    first = next(iter(trainer.stream.batches_of(None, 4)))
    assert float(objective(trainer.model, first).loss.detach()) == pytest.approx(np.log(2), abs=1e-6)
    assert build(load("r.toml", ["objective.kind=simpo", "objective.beta=2.5"]), load_methods, load_models).objectives[""].reference is None


@pytest.mark.parametrize("kind", ROWS)
def test_from_python(qwen, kind):
    write(kind)
    model = pretrained(qwen)
    result = etude.train(
        model, etude.rows("r.jsonl", tokenizer=model, context=40), budget=etude.Budget(steps=2), batch_size=4, device="cpu", quiet=True
    )
    assert result.steps == 2


def test_too_long(place):
    rows = [ROWS["messages"](i) for i in range(18)]
    rows.insert(5, {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": WORDS}]})
    rows.insert(9, {"messages": [{"role": "user", "content": WORDS}, {"role": "assistant", "content": "far"}]})
    (place / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        BadInput, match=r"r\.jsonl, line 6: found \d+ tokens; 2 of 20 samples are too long, expected at most 41, the data\.context"
    ):
        train()
    for policy, told in (("drop", (2, 0)), ("cut", (1, 1))):  # what the second row says lies behind the cut
        train(f"data.too_long={policy}", f"run.folder={policy}")
        facts = json.loads((place / policy / "data.json").read_text())
        assert (facts["dropped"], facts["cut"]) == told
        assert facts["samples"] + facts["held_out_samples"] == 20 - told[0]


def test_held_out(place):
    assert [part.tolist() for part in parted(10, 0.2)] == [[0, 1, 2, 3, 5, 6, 7, 8], [4, 9]]
    assert [len(part) for part in parted(10, 0.01)] == [9, 1]
    write("messages", 6, "other.jsonl")
    (place / "r.toml").write_text(RECIPE.replace("held_out = 0.2", 'held_out_rows = "other.jsonl"'))
    train()
    facts = json.loads((place / "out" / "data.json").read_text())
    assert (facts["samples"], facts["held_out_samples"]) == (20, 6)
    write("text", 6, "other.jsonl")
    with pytest.raises(BadInput, match="held_out_rows: found rows of the kind 'text', expected 'messages', as r.jsonl"):
        train("run.folder=b")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.rows=none.jsonl"], "data.rows: found none.jsonl, which is not there"),
        (["data.context=400"], "data.context: found 400, expected at most 128, the context of qwen"),
        (["data.batch=50"], "r.jsonl: found 16 samples for training, expected at least one batch of 50"),
        (["objective.kind=dpo"], "objective.kind: found it for rows of the kind 'messages'"),
        (["objective.kind=dop"], "objective.kind: found 'dop', expected .*did you mean 'dpo'"),
        (["data.too_long=wrap"], "data.too_long"),
        (["data.tokenizer=byte"], "data.tokenizer"),
        (["model.kind=transformer"], "r.jsonl, line 1: found messages, expected a tokenizer with a chat template, or texts"),
        (["data.held_out_rows=r.jsonl"], "data.held_out: found it beside held_out_rows"),
        (["evaluate.measures=['accuracy']"], "evaluate.measures: found 'accuracy' of rows"),
    ],
)
def test_bad_input(overrides, message):
    with pytest.raises(BadInput, match=message):
        train(*overrides)


def test_bad_objectives():
    write("preference")
    with pytest.raises(BadInput, match="objective.gamma: found it for the kind 'dpo', expected what that has: beta, normalised"):
        train("objective.gamma=1")
    with pytest.raises(BadInput, match="tokenizer: found nowhere, which is neither|nowhere"):
        etude.rows("r.jsonl", tokenizer="./nowhere")


@pytest.mark.parametrize("kind", ROWS)
def test_init_writes_a_recipe_that_runs_and_shows_what_is_learnt(place, kind, capsys):
    write(kind)
    assert main(["init", "--model", "qwen", "--data", "r.jsonl", "--out", "mine.toml"]) == 0
    shown = capsys.readouterr().out
    learnt = {"text": WORDS[:20], "completion": " the fox", "messages": "lazy", "preference": " the fox"}[kind]
    assert f"[[{learnt}<|im_end|>]]" in shown
    assert shown.count("--- r.jsonl, line") == (6 if kind == "preference" else 3)
    assert train_recipe(
        "mine.toml", resolve=load_methods, models=load_models, overrides=["budget.samples=8", "run.device=cpu"], quiet=True
    )["steps"] in (1, 2, 3, 4)
    assert main(["init", "--model", "qwen", "--data", "r.jsonl", "--out", "mine.toml"]) == 2
    assert "error: mine.toml: found a file that is there already" in capsys.readouterr().err


def test_init_refuses_what_train_would(place, capsys):
    write("completion")
    Path("one.jsonl").write_text(Path("r.jsonl").read_text().splitlines()[0] + "\n")
    assert main(["init", "--model", "qwen", "--data", "one.jsonl", "--out", "mine.toml"]) == 2
    assert "error: one.jsonl: found 1 row, expected at least 2: one to learn from" in capsys.readouterr().err
    for change, told in (({"model_type": "mambafoo"}, "architecture 'mambafoo'"), (None, "pickle files alone")):
        shutil.copytree("qwen", "other", dirs_exist_ok=True)
        if change is None:
            Path("other/model.safetensors").rename("other/pytorch_model.bin")
        else:
            config = json.loads(Path("other/config.json").read_text())
            Path("other/config.json").write_text(json.dumps(config | change))
        assert main(["init", "--model", "other", "--data", "r.jsonl", "--out", "mine.toml"]) == 2
        assert told in capsys.readouterr().err
        assert not Path("mine.toml").exists()


THOUGHTFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>{{ m.thought }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_conversations_under_a_template_that_rewrites_earlier_turns(place, tmp_path_factory):
    folder = chat_folder(tmp_path_factory.mktemp("thoughtful") / "qwen", THOUGHTFUL)
    with open("r.jsonl", "w") as out:
        for i in range(12):
            turns = [("user", f"{i}?"), ("assistant", "lazy"), ("user", "more"), ("assistant", "dog")]
            told = [{"role": r, "content": c} | ({"thought": f"t{k}"} if r == "assistant" else {}) for k, (r, c) in enumerate(turns)]
            out.write(json.dumps({"messages": told}) + "\n")
    result = train(f"model.pretrained={folder}", "data.context=100", "data.held_out=0.25")
    facts = json.loads((place / "out" / "data.json").read_text())
    assert (facts["rows"]["rows"], facts["samples"], facts["held_out_samples"]) == (12, 18, 6)  # both turns of a row on one side
    assert result["steps"] == 3
    source = etude.rows("r.jsonl", tokenizer=folder, context=100)
    data = source.get(np.array([1]))
    learnt = data["tokens"][:, 1:][data["loss_mask"]]
    assert transformers.AutoTokenizer.from_pretrained(folder).decode(learnt) == "<think>t3</think>dog<|im_end|>"
