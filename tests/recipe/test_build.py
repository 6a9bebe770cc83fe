"""What a recipe says becomes the parts that Python would compose."""

import numpy as np
import pytest
import torch

from etude.data.packing import PackedSource
from etude.data.samplers import FixedMixture, OnlineMixture, Shuffle, WeightedDraw
from etude.data.sources import MixtureSource, WindowSource
from etude.data.tokenizers import make
from etude.data.tokens import TokenWriter, write_documents
from etude.engine.optim import SGD, AdamW, Muon
from etude.engine.protocols import Method
from etude.engine.schedule import Infinite
from etude.errors import BadInput
from etude.nn.convolution import Convolution
from etude.nn.mlp import MLP
from etude.nn.recurrent import RecurrentClassifier
from etude.papers.loading import load_models
from etude.recipe.build import build
from etude.recipe.config import parse
from etude.recipe.optimizers import Covering

SIZES = {"width": 8, "depth": 1, "heads": 2}


class OwnObjective(Method):
    """For the tests."""

    slots = ("objective",)


class OwnSampler(Method):
    """For the tests."""

    slots = ("sampler",)


def resolve(slug):
    return {"own": {"OwnSampler": OwnSampler}, "loss": {"OwnObjective": OwnObjective}}[slug]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two texts of short documents, and a token folder with domains, in the present folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"{name} document number {i}" for i in range(120)))
    with TokenWriter(tmp_path / "tokens", vocab=256, domain_names=("x", "y")) as writer:
        for i in range(200):
            writer.add(np.frombuffer(f"text {i} of tokens".encode(), np.uint8), "xy"[i % 2])
    return tmp_path


def built(**tables):
    run = {"device": "cpu", "folder": "run"} | tables.pop("run", {})
    data = {"context": 16, "batch": 4} | tables.pop("data")
    if data.keys() & {"images", "table"}:
        del data["context"]
    if not data.keys() & {"images", "table"}:
        tables = {"model": SIZES} | tables
    return build(parse({"schema": 1, "run": run, "data": data, **tables}), resolve, load_models)


TEXT = {"text": "a.txt"}
TWO = {"domains": {"a": {"text": "a.txt"}, "b": {"text": "b.txt"}}}


def test_documents_joined_masked_and_packed(folder):
    joined = built(data=TEXT).stream.next().data
    assert list(joined) == ["tokens"]
    masked = built(data=TEXT | {"separator": "\n\n", "documents": "masked"}).stream.next().data
    assert set(masked) == {"tokens", "document_ids"}
    trainer = built(data=TEXT | {"separator": "\n\n", "documents": "packed", "context": 64})
    assert isinstance(trainer.stream.source, PackedSource)
    batch = trainer.stream.next().data
    assert set(batch) == {"tokens", "document_ids", "loss_mask"}
    assert trainer.objectives[""](trainer.model, trainer.stream.next()).loss.isfinite()
    with pytest.raises(BadInput, match="data.documents: found 'packed' where there is one document"):
        built(data=TEXT | {"documents": "packed"})


def test_a_token_folder_with_domains(folder):
    tokens = {"tokens": "tokens"}
    trainer = built(data=tokens, evaluate={"measures": ["loss", "domains"]})
    assert isinstance(trainer.stream.source, WindowSource)
    assert trainer.stream.source.domain_names == ("x", "y")
    assert set(trainer.evaluators["domains"](trainer.model)) == {"x", "y"}
    assert "tokenizer.json" in trainer.beside
    packed = built(data=tokens | {"documents": "packed", "context": 32}, sampler={"kind": "mixture", "weights": {"y": 1}})
    assert isinstance(packed.stream.source.source, MixtureSource)
    assert packed.stream.source.domain_names == ("x", "y")
    ids = packed.stream.next().ids
    assert (packed.stream.source.domains[ids] == 1).all()
    write_documents(folder / "pairs", ["some text"] * 90, make("bpe", "some text", 300))
    assert built(data={"tokens": "pairs"}).model.config.vocab == make("bpe", "some text", 300).vocab
    assert "tokenizer.json" not in built(data={"tokens": "pairs"}).beside
    with pytest.raises(BadInput, match="no header.json"):
        built(data={"tokens": "."})


def test_a_corpus_with_its_own_domains(folder):
    trainer = built(data={"corpus": "sample+code"}, sampler={"kind": "online"} | {"update_every": 64}, evaluate={"measures": ["domains"]})
    assert isinstance(trainer.stream.sampler, OnlineMixture)
    assert set(trainer.evaluators["domains"](trainer.model)) == {"sample", "sample-code"}


@pytest.mark.parametrize(
    ("sampler", "kind"),
    [
        ({}, Shuffle),
        ({"replacement": True}, Shuffle),
        ({"kind": "weighted", "weights": {"a": 1, "b": 3}, "share": 0.2}, WeightedDraw),
        ({"kind": "mixture", "weights": {"a": 1, "b": 3}}, FixedMixture),
        ({"kind": "online", "weigh": "softmax", "temperature": 2}, OnlineMixture),
    ],
)
def test_samplers_over_domains(folder, sampler, kind):
    stream = built(data=TWO, sampler=sampler).stream
    assert type(stream.sampler) is kind
    assert len(stream.next()) == 4
    assert stream.state_dict()


def test_optimizers(folder):
    sgd = built(data=TEXT, optimizer={"kind": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0})
    assert sgd.optimizer == SGD(lr=0.1, momentum=0.9, nesterov=True)
    muon = built(data=TEXT, optimizer={"kind": "muon", "rest": {"betas": [0.8, 0.9], "eps": 1e-6}})
    assert muon.optimizer == Muon(rest=AdamW(lr=2e-3, betas=(0.8, 0.9), eps=1e-6))
    assert built(data=TEXT, schedule={"kind": "infinite", "warmup": 0.01}).schedule == Infinite(warmup=0.01)
    several = {"head": {"lr": 0.1, "over": ["embedding."]}, "rest": {"kind": "muon"}}
    trainer = built(data=TEXT, optimizers=several)
    assert isinstance(trainer.optimizer, Covering)
    parameters = dict(trainer.model.named_parameters())
    built_ones = trainer.optimizer.build(parameters)
    assert set(built_ones) == {"head.adamw", "rest.muon", "rest.adamw"}
    owned = [p for o in built_ones.values() for g in o.param_groups for p in g["params"]]
    assert {id(p) for p in owned} == {id(p) for p in parameters.values()}
    assert len(owned) == len(parameters)
    with pytest.raises(BadInput, match="optimizers: found none for embedding.weight"):
        built(data=TEXT, optimizers={"blocks": {"over": ["blocks."]}}).optimizer.build(parameters)
    with pytest.raises(BadInput, match="found a and b without `over`"):
        built(data=TEXT, optimizers={"a": {}, "b": {}})


def test_a_weighted_budget_and_what_a_run_is_told(folder):
    budget = {"limit": 1000, "weights": {"tokens": 1, "steer.tokens": 0.5}}
    run = {"clip": "none", "accumulate": 2, "feedback_every": 3, "log_every": 2, "keep_checkpoints": 1, "precision": "bfloat16"}
    trainer = built(data=TEXT, budget=budget, run=run)
    assert trainer.budget.weights == {"tokens": 1.0, "steer.tokens": 0.5}
    assert (trainer.clip, trainer.accumulate, trainer.feedback_every, trainer.log_every) == (None, 2, 3, 2)
    assert trainer.autocast
    with pytest.raises(BadInput, match="budget.weights: found 'tokenz'"):
        built(data=TEXT, budget={"limit": 5, "weights": {"tokenz": 1}})


@pytest.mark.parametrize(
    ("data", "model", "kind"),
    [
        ({"images": "digits"}, {"kind": "cnn"}, Convolution),
        ({"images": "digits"}, {"kind": "mlp", "hidden": []}, MLP),
        ({"images": "digits"}, {"kind": "gru", "width": 4}, RecurrentClassifier),
    ],
)
def test_models_of_images(folder, data, model, kind):
    trainer = built(data=data, model=model)
    assert isinstance(trainer.model, kind)
    assert set(trainer.evaluators["held-out"](trainer.model)) == {"accuracy", "loss"}


def test_a_table_of_numbers_to_predict(folder):
    (folder / "n.csv").write_text("a,b,y\n" + "".join(f"{i},1,{2 * i}\n" for i in range(40)))
    data = {"table": "n.csv", "target": "y", "classify": False, "held_out": 0.25}
    trainer = built(data=data, model={"kind": "mlp", "hidden": [4]})
    assert trainer.model.sizes == (2, 4, 1)
    assert list(trainer.evaluators["held-out"](trainer.model)) == ["loss"]
    x = trainer.stream.source.data["x"]
    assert len(x) == 30
    assert torch.allclose(x[:, 0].mean(), torch.zeros(()), atol=1e-5)
    assert x[:, 1].abs().max() == 0
    with pytest.raises(BadInput, match="found 'accuracy', expected loss, where a number is predicted"):
        built(data=data, model={"kind": "mlp"}, evaluate={"measures": ["accuracy"]})


def test_an_architecture_of_a_paper(folder):
    shape = SIZES | {"depth": 4}
    trainer = built(data=TEXT, model={"use": "mixture-of-recursions", "num_recursions": 2, "shape": shape})
    assert type(trainer.model).__name__ == "RecursiveTransformer"
    assert (trainer.model.config.shape.vocab, trainer.model.config.shape.context) == (256, 16)
    for model, message in (
        ({"use": "stacking"}, "model.use: found 'stacking', which has no architecture to train"),
        ({"use": "mixture-of-recursion"}, "did you mean 'mixture-of-recursions'"),
        ({"use": "mixture-of-recursions:other"}, "model.use: found 'other'"),
        ({"use": "mixture-of-recursions", "num_recursions": 5}, "model.num_recursions: found 5, expected a divisor"),
        (
            {"use": "mixture-of-recursions", "num_recursion": 2},
            "model.num_recursion: .*did you mean 'num_recursions'",
        ),
        ({"use": "mixture-of-recursions", "shape": {"widht": 8}}, "model.shape.widht: .*did you mean 'width'"),
        ({"use": "mixture-of-recursions", "shape": {"vocab": 8}}, "model.shape.vocab: found 8, expected no such key"),
        ({"use": "mixture-of-recursions", "alpha": "much"}, "model.alpha: found 'much', expected a number"),
    ):
        with pytest.raises(BadInput, match=message):
            built(data=TEXT, model=model)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"data": {"images": "digits"}}, "model.kind: found 'transformer' for images, expected mlp, cnn"),
        ({"data": TEXT, "model": {"kind": "cnn"}}, "model.kind: found 'cnn' for text, expected transformer"),
        ({"data": TEXT, "model": SIZES | {"heads": 3}}, "model.width and heads: found 8 and 3"),
        ({"data": {"images": "digits"}, "model": {"kind": "cnn", "channels": [3]}}, "model.channels, kernels, strides: found 1, 3 and 3"),
        ({"data": {"images": "digits"}, "model": {"kind": "mlp"}, "evaluate": {"measures": ["domains"]}}, "expected loss or accuracy"),
        ({"data": TEXT, "evaluate": {"measures": ["accuracy"]}}, "found 'accuracy' of text"),
        ({"data": TEXT, "evaluate": {"measures": ["domains"]}}, "found 'domains' where the data has none"),
        ({"data": TEXT, "sampler": {"kind": "online"}}, "sampler.kind: found 'online' for data without domains"),
        ({"data": TEXT, "sampler": {"kind": "weighted", "weights": {"a": 1}}}, "data without domains or classes"),
        (
            {"data": TWO, "sampler": {"kind": "mixture", "weights": {"aa": 1}}},
            "weights.aa: found 'aa', expected .*did you mean 'a'",
        ),
        ({"data": TWO, "sampler": {"kind": "mixture", "weights": {"a": 0}}}, "sampler.weights: found only zeros"),
        (
            {"data": TWO, "sampler": {"kind": "online", "update_every": 30}},
            r"update_every: found 30, expected a multiple of .*\(4\)",
        ),
        ({"data": TWO, "sampler": {"kind": "online"}, "methods": [{"use": "own"}]}, "beside OwnSampler, which brings its own"),
        ({"data": TEXT, "objective": {"kind": "masked"}, "methods": [{"use": "loss"}]}, "objective.kind: found it beside OwnObjective"),
        ({"data": TEXT, "objectives": {"a": {}}, "methods": [{"use": "loss"}]}, "objectives: found it beside OwnObjective"),
        ({"data": TWO | {"domains": {"a": {"text": "a.txt"}, "k": {"corpus": "sample"}}, "tokenizer": "bpe"}}, "for texts and corpora"),
        ({"data": {"table": "none.csv", "target": "y"}, "model": {"kind": "mlp"}}, "none.csv: found no such file"),
    ],
)
def test_what_does_not_go_together(folder, tables, message):
    with pytest.raises(BadInput, match=message):
        built(**tables)


@pytest.mark.parametrize(("kind", "least"), [("adamw", "175"), ("muon", "131"), ("sgd", "87.3")])
def test_a_model_for_which_there_is_no_memory_is_refused_with_what_it_would_take(folder, kind, least):
    # One block of width d = 1e6: 4 d**2 in attention, 3 d x 8/3 d in the rest, so 12e12 parameters of 16, 12 or 8 bytes.
    with pytest.raises(BadInput, match=rf"^model: found 12,000,\d+,\d+,000 parameters, which take at least {least} TiB to train, "):
        built(data=TEXT, model=SIZES | {"width": 1_000_000}, optimizer={"kind": kind})
