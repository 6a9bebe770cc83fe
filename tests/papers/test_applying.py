"""What `etude show` prints to apply a method is run here, for each that runs, on a model and data of a moment."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import etude
from etude.cli import main
from etude.data.sources import MixtureSource, WindowSource
from etude.engine.streams import initialise
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.applying import DOMAINS, lines
from etude.papers.card import Card
from etude.papers.catalogue import cards
from etude.papers.loading import load_methods, load_models
from etude.recipe.train import train_recipe

READY = [c for c in cards() if c.origin == "etude" and c.ready]
APPLIED = [c for c in READY if c.use]
TEXT = "the cat sat on the mat; the dog ran to the sea.\n"
RECIPE = """schema = 1
[data]
context = 16
batch = 8
{data}
{model}
[budget]
tokens = 4000
[run]
device = "cpu"
evaluate_every = 1
folder = "run"
"""
SMALL = '[model]\nkind = "transformer"\nwidth = 16\ndepth = 2\nheads = 2'


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "more"):
        (tmp_path / f"{name}.txt").write_text(TEXT * 60)


def by(card):
    return card.slug


@pytest.mark.parametrize("card", READY, ids=by)
def test_a_card_says_what_its_module_has_for_a_run(card):
    methods, models = load_methods(card.slug), load_models(card.slug)
    assert card.use == ("model" if models else "method" if methods else "")


@pytest.mark.parametrize("card", APPLIED, ids=by)
def test_the_lines_of_a_recipe(card, tmp_path):
    data = (
        '[data.domains.mine]\ntext = "mine.txt"\n[data.domains.more]\ntext = "more.txt"' if DOMAINS in card.needs else 'text = "mine.txt"'
    )
    told = lines(card)["recipe"]
    whole = RECIPE.format(data=data, model=told if card.use == "model" else f"{SMALL}\n{told}")
    (tmp_path / "recipe.toml").write_text(whole)
    summary = train_recipe(tmp_path / "recipe.toml", resolve=load_methods, models=load_models, quiet=True)
    assert summary["steps"] > 0
    assert np.isfinite(list(summary["metrics"].values())).all()


@pytest.mark.parametrize("card", [c for c in APPLIED if c.use == "method" and "sampler" in c.slots], ids=by)
def test_the_lines_of_a_recipe_on_rows_of_ones_own(card, tmp_path):
    rows = [{"text": TEXT * (1 + i % 2), "source": ("mine", "more")[i % 2], "level": i % 5} for i in range(60)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = RECIPE.format(data='rows = "mine.jsonl"\ndomain = "source"\ndifficulty = "level"', model=f"{SMALL}\n{lines(card)['recipe']}")
    (tmp_path / "recipe.toml").write_text(whole)
    assert train_recipe(tmp_path / "recipe.toml", resolve=load_methods, models=load_models, quiet=True)["steps"] > 0


def small():
    return initialise(Transformer(TransformerConfig(vocab=256, width=16, depth=2, heads=2, context=128)), 0)


@pytest.mark.parametrize("card", [c for c in READY if "python" in lines(c)], ids=by)
def test_the_lines_of_python(card, monkeypatch):
    tokens = np.frombuffer((TEXT * 60).encode(), dtype=np.uint8)
    source = WindowSource(tokens, 16)
    results, own = [], etude.train

    def brief(*args, **kwargs):
        results.append(own(*args, budget=etude.Budget(steps=8), batch_size=4, device="cpu", quiet=True, **kwargs))

    names = {
        "etude": SimpleNamespace(train=brief, method=etude.method),
        "model": small(),
        "data": MixtureSource({"mine": source, "more": source}) if DOMAINS in card.needs else source,
    }
    exec(lines(card)["python"], names)
    (result,) = results
    assert result.steps == 8


@pytest.mark.parametrize("card", [c for c in APPLIED if "trainer" in lines(c)], ids=by)
def test_the_lines_of_a_trainer(card, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=16, max_position_embeddings=16, **sizes))
    tokens = torch.randint(16, (20, 8))
    rows = [{"input_ids": t, "labels": t, "source": "even" if i % 2 else "odd"} for i, t in enumerate(tokens)]
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, report_to="none", save_strategy="no", disable_tqdm=True,
        use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=args, train_dataset=rows)
    exec(lines(card)["trainer"], {"etude": etude, "trainer": trainer})
    assert [type(m).__name__ for m in trainer._etude.hooks.methods] == list(load_methods(card.slug))
    assert trainer.train().global_step == 4


def test_show_prints_them_as_they_are(capsys):
    assert main(["show", "dump"]) == 0
    shown = capsys.readouterr().out
    for text in lines(next(c for c in READY if c.slug == "dump")).values():
        assert text in shown


def test_only_what_can_be_applied_has_lines():
    about = {"slug": "mine", "title": "Mine", "use": "method", "settings": ("rate = 0.5", 'how = "a"')}
    assert lines(Card(**about)) == {}
    assert lines(Card(**about | {"use": ""}, ready=True)) == {}
    assert lines(Card(**about | {"use": "", "python": "rows = 1"}, ready=True)) == {"python": "rows = 1"}
    assert lines(Card(**about | {"use": "", "python": "rows = 1"})) == {}
    told = lines(Card(**about, slots=("objective", "sampler"), ready=True, module="mine.py", origin="file"))
    assert told == {
        "recipe": '[[methods]]\nuse = "mine.py"\nrate = 0.5\nhow = "a"',
        "python": 'etude.train(model, data, methods=[etude.method("mine.py")(rate=0.5, how="a")])',
    }
    assert lines(Card(**about, slots=("gradients",), ready=True))["trainer"].startswith("etude.adapt.hf(trainer, [")
