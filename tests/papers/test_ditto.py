"""DITTO: the rows it makes, the loss by hand and as the authors' code gives it, what happens where there are no sentences, the study."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import etude
from etude.cli import main
from etude.data.sources import TensorSource, WindowSource
from etude.data.stream import DataStream
from etude.data.tokenizers import BytePairs, Bytes, Characters
from etude.engine.ledger import Budget
from etude.engine.protocols import Batch
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.language import CausalLM
from etude.learn.supervised import Supervised
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.loading import load_methods
from etude.papers.objective.ditto import (
    Continuations,
    Ditto,
    PseudoRepetition,
    SelfReinforcement,
    Settings,
    end_ids,
    penalty,
    repeated,
    sentences,
)
from etude.papers.objective.ditto.probe import probe_pairs
from etude.papers.objective.ditto.repetition import PATIENCE, fitting
from etude.recipe.train import train_recipe

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ditto.json").read_text())
DOT = 9
ENDS = np.array([DOT])
TEXT = "The cat sat. The dog ran. A bird flew off! Who saw it go? I did not. It was dark. "


def small(vocab=256, context=96, seed=0):
    return initialise(Transformer(TransformerConfig(vocab=vocab, width=16, depth=1, heads=2, context=context)), seed)


def windows(context=95):
    return WindowSource(np.frombuffer((TEXT * 40).encode(), dtype=np.uint8), context)


def batch_of(source, ids, key=5):
    return Batch(source.get(np.array(ids)), np.array(ids), key=key)


# --- the rows ---------------------------------------------------------------------------------------------------------
def test_sentences_are_between_ends_and_have_a_whole_one_before():
    tokens = np.array([1, DOT, 2, 3, DOT, 4, DOT, 5, 6, 7, DOT, 8])
    assert sentences(tokens, ENDS).tolist() == [[2, 5, 7], [5, 7, 11]]
    assert sentences(tokens[:6], ENDS).tolist() == []
    documents = np.array([0] * 6 + [1] * 6)
    assert sentences(tokens, ENDS, documents).tolist() == []
    assert sentences(tokens, ENDS, np.zeros(12)).tolist() == [[2, 5, 7], [5, 7, 11]]
    assert fitting(sentences(tokens, ENDS), 9).tolist() == [[2, 5, 7]]  # 3 + 2 x 2 fits, 2 + 2 x 4 does not


def test_a_row_is_the_prefix_and_the_sentence_to_its_end():
    assert repeated(np.array([1, DOT]), np.array([4, 5, DOT]), 10).tolist() == [1, DOT, 4, 5, DOT, 4, 5, DOT, 4, 5]
    with pytest.raises(BadInput, match="half of a row"):
        repeated(np.array([1]), np.arange(6), 11)
    with pytest.raises(BadInput, match="at most 4"):
        repeated(np.arange(5), np.arange(3), 10)


def test_the_objective_makes_every_row_of_a_sentence_of_its_own():
    source = windows()
    batch = batch_of(source, range(8))
    made, periods, penalised = PseudoRepetition(end_ids(Bytes(), ".?!")).repeat(batch)
    for row, old, period, mask in zip(made.data["tokens"], batch.data["tokens"], periods.tolist(), penalised, strict=True):
        text, original = (bytes(t.tolist()).decode() for t in (row, old))
        first = int(mask.nonzero()[0]) + 1 - period  # where the first copy begins
        copy, prefix = text[first : first + period], text[:first]
        assert prefix + copy in original
        assert copy[-1] in ".?!"
        assert prefix[-1] in ".?!"
        assert (prefix + copy * 20)[: len(text)] == text
        assert mask.nonzero().flatten().tolist() == list(range(first + period - 1, 95))  # from the second copy's first token on
    again = PseudoRepetition(end_ids(Bytes(), ".?!")).repeat(batch_of(source, range(8)))[0]
    other = PseudoRepetition(end_ids(Bytes(), ".?!")).repeat(batch_of(source, range(8), key=6))[0]
    assert torch.equal(made.data["tokens"], again.data["tokens"])
    assert not torch.equal(made.data["tokens"], other.data["tokens"])


# --- the loss ---------------------------------------------------------------------------------------------------------
def test_the_penalty_by_hand_and_no_gradient_through_the_copy_before():
    now, before = torch.tensor([0.6, 0.1, 1.0], requires_grad=True), torch.tensor([0.8, 0.8, 0.0], requires_grad=True)
    loss = penalty(now, before, 0.5)
    assert loss[:2].tolist() == pytest.approx([-math.log(0.8), -math.log(0.7)])
    assert float(loss[2].detach()) == pytest.approx(-math.log(1e-20), rel=1e-4)
    loss[:2].sum().backward()
    assert before.grad is None
    assert now.grad.tolist() == pytest.approx([1 / 0.8, -1 / 0.7, 0])  # above its target pushed down, below it up
    assert penalty(now, before, 0.5, "square")[:2].tolist() == pytest.approx([3 * 0.04, 3 * 0.09])
    assert penalty(now, before, 0.5, "clip")[:2].tolist() == pytest.approx([-math.log(0.8), 0])


class Told(nn.Module):
    """Gives the same logits [B, T, V] whatever it reads."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, tokens):
        return self.logits


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['form']} {c['decay']}")
def test_rows_and_losses_are_those_of_the_authors_code(case, monkeypatch):
    """Their functions were run on these rows and logits, with the sentence of each row that their generator drew."""
    ends = np.array([GOLDEN["end"]])
    rows = np.array(GOLDEN["rows"])
    tokens = np.concatenate([rows, np.zeros((3, 1), dtype=np.int64)], 1)  # their sentences are of the inputs alone
    picks = []
    for row, made, prefix, length in zip(rows, GOLDEN["made"], GOLDEN["prefixes"], GOLDEN["lengths"], strict=True):
        found = fitting(sentences(row, ends), 25)
        whole = [repeated(row[before:start], row[start:end], 25).tolist() for before, start, end in found]
        (pick,) = [k for k, own in enumerate(whole) if own == made]
        before, start, end = found[pick]
        assert (start - before, end - start) == (prefix + 1, length)  # they count the end before a sentence to it, not its own
        picks.append(pick)

    class Drawn:
        def __init__(self, key, name, sample):
            self.pick = picks[sample]

        def integers(self, high):
            return self.pick

    monkeypatch.setattr("etude.papers.objective.ditto.repetition.numpy_rng", Drawn)
    form = {"nl": "log", "nl_clip": "clip"}[case["form"]]
    model = Told(torch.tensor(GOLDEN["logits"]))
    output = PseudoRepetition(ends.tolist(), decay=case["decay"], form=form)(
        model, Batch({"tokens": torch.from_numpy(tokens)}, np.arange(3))
    )
    assert output.weight == case["tokens"]
    assert float(output.loss.detach()) * output.weight == pytest.approx(case["loss"], rel=1e-5)


def test_the_prefix_and_the_first_copy_have_no_loss_and_no_gradient():
    source = windows()
    batch = batch_of(source, [0, 1])
    objective = PseudoRepetition(end_ids(Bytes(), ".?!"))
    _, _, penalised = objective.repeat(batch)
    model = Told(torch.randn(2, 95, 256, generator=torch.Generator().manual_seed(0)))
    output = objective(model, batch)
    output.loss.backward()
    touched = model.logits.grad.abs().sum(2) > 0
    assert torch.equal(touched, penalised)


def test_the_loss_is_the_mean_over_the_penalised_tokens_of_a_real_model():
    model, source = small(), windows()
    batch = batch_of(source, range(4))
    objective = PseudoRepetition(end_ids(Bytes(), ".?!"), decay=0.7)
    made, periods, penalised = objective.repeat(batch)
    tokens = made.data["tokens"]
    probabilities = model.head(model(tokens[:, :-1])["hidden"]).softmax(-1).detach()
    total, count = 0.0, 0
    for row, (place, period) in enumerate(zip(penalised, periods.tolist(), strict=True)):
        for t in place.nonzero().flatten().tolist():
            token = int(tokens[row, t + 1])
            assert token == int(tokens[row, t + 1 - period])
            total -= math.log(1 - abs(float(probabilities[row, t, token]) - 0.7 * float(probabilities[row, t - period, token])))
            count += 1
    output = objective(model, batch)
    assert output.weight == count
    assert float(output.loss.detach()) == pytest.approx(total / count, rel=1e-4)
    assert float(output.signals["repetition"]) == pytest.approx(total / count, rel=1e-4)


def test_rows_without_three_ends_learn_next_tokens_and_are_counted():
    plain = torch.full((2, 96), 65)
    plain[:, 40] = 46
    rows = torch.cat([windows().get(np.array([3]))["tokens"], plain])
    batch, model = Batch({"tokens": rows}, np.arange(3), key=5), small()
    objective = PseudoRepetition([46, 63, 33])
    output = objective(model, batch)
    assert objective.counts == {"asked": 3, "made": 1}
    assert float(output.signals["no sentence"]) == pytest.approx(2 / 3)
    causal = CausalLM()(model, Batch({"tokens": plain}, np.arange(2)))
    assert output.per_sample[1:].tolist() == pytest.approx(causal.per_sample.tolist())
    alone = PseudoRepetition([46, 63, 33])(model, Batch({"tokens": rows[:1]}, np.arange(1), key=5))
    assert output.weight == alone.weight + 2 * 95
    assert float(output.loss.detach()) == pytest.approx(
        (float(alone.loss.detach()) * alone.weight + float(causal.loss.detach()) * 190) / output.weight, rel=1e-5
    )
    nothing = PseudoRepetition([7])
    for step in range(PATIENCE // 2 - 1):
        nothing.repeat(Batch({"tokens": plain}, np.arange(2), key=step))
    with pytest.raises(BadInput, match=f"{PATIENCE} rows of 96 tokens"):
        nothing.repeat(Batch({"tokens": plain}, np.arange(2)))


def test_documents_fillings_and_rows_left_alone():
    tokens = windows().get(np.arange(6))["tokens"]
    documents = torch.arange(96).ge(60).long().repeat(6, 1)
    objective = PseudoRepetition([46, 63, 33])
    made, periods, _ = objective.repeat(Batch({"tokens": tokens, "document_ids": documents}, np.arange(6), key=1))
    assert (periods > 0).any()
    for row in (periods > 0).nonzero().flatten().tolist():
        assert made.data["document_ids"][row].unique().numel() == 1
    filled = Batch({"tokens": torch.cat([tokens, torch.full((6, 30), 46)], 1), "lengths": torch.full((6,), 96)}, np.arange(6), key=1)
    periods = objective.repeat(filled)[1]
    assert (periods > 1).all()  # the filling's dots are no sentences
    some = PseudoRepetition([46, 63, 33], share=0.5)
    periods = some.repeat(Batch({"tokens": tokens}, np.arange(6), key=1))[1]
    assert -1 in periods.tolist()
    assert some.counts["asked"] == int((periods != -1).sum()) < 6
    assert some(small(), Batch({"tokens": tokens, "loss_mask": torch.ones(6, 95, dtype=torch.bool)}, np.arange(6), key=1)).weight > 0


# --- in a run ---------------------------------------------------------------------------------------------------------
def trained(methods=(), folder=None, stop=None, resume=False, **more):
    class Killed(Exception):
        pass

    def progress(share, loss):
        if stop is not None and share > stop:
            raise Killed

    trainer = Trainer(
        small(), DataStream(windows(), 8, 0), CausalLM(), budget=Budget(steps=8), methods=methods, folder=folder, checkpoint_every=0.25,
        progress=progress, **more,
    )  # fmt: skip
    if stop is None:
        return trainer.run(resume=resume)
    with pytest.raises(Killed):
        trainer.run()
    return None


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


def test_rate_0_is_the_run_without_it_bit_for_bit():
    plain = trained()
    assert torch.equal(weights(plain), weights(trained([Ditto(rate=0)])))
    assert not torch.equal(weights(plain), weights(trained([Ditto(rate=1)])))


@pytest.mark.parametrize("coin", ["update", "row"])
def test_resumed_is_uninterrupted_and_pieces_are_the_batch(coin, tmp_path):
    whole, method = trained([first := Ditto(coin=coin)], tmp_path / "whole"), Ditto(coin=coin)
    trained([Ditto(coin=coin)], tmp_path / "broken", stop=0.6)
    resumed = trained([method], tmp_path / "broken", resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.ledger.as_dict()["train"]["flops"] == resumed.ledger.as_dict()["train"]["flops"]
    assert method.counts == first.counts
    assert 0 < first.counts["made"] < 64
    pieces = trained([Ditto(coin=coin)], micro_batch=1)
    assert torch.allclose(weights(whole), weights(pieces), atol=1e-4)


def test_the_recipe_finds_the_ends_by_its_own_tokenizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text(TEXT.replace(".", ".\n") * 60)
    Path("recipe.toml").write_text(
        'schema = 1\n[data]\ntext = "mine.txt"\ntokenizer = "bpe"\nvocab = 300\ncontext = 64\nbatch = 8\n'
        '[model]\nkind = "transformer"\nwidth = 16\ndepth = 1\nheads = 2\n[[methods]]\nuse = "ditto"\nends = ".?!"\n'
        '[budget]\nsteps = 8\n[run]\ndevice = "cpu"\nfolder = "run"\n'
    )
    assert train_recipe("recipe.toml", resolve=load_methods, quiet=True)["steps"] == 8
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    missing = [line["no sentence"] for line in lines if "no sentence" in line]
    assert 0 < len(missing) < 8
    assert missing == [0.0] * len(missing)


def test_the_lines_of_the_docstring_on_a_model_of_ones_own(capsys):
    tokenizer = BytePairs.train(TEXT * 20, 270)
    source = WindowSource(tokenizer.encode(TEXT * 40), 48)
    model = nn.Sequential(nn.Embedding(270, 16), nn.Linear(16, 270))
    names = {"etude": etude, "model": model, "source": source, "tokenizer": tokenizer, "Continuations": Continuations, "end_ids": end_ids}
    names["prompts"] = [source.get(np.array([0]))["tokens"][0].numpy()]
    doc = load_methods("ditto")["Ditto"].__module__.rpartition(".")[0]
    text = __import__(doc, fromlist=["x"]).__doc__
    code = "\n".join(line.strip() for line in text.splitlines() if line.startswith("    ") and not line.startswith("    x ="))
    assert code.count("\n") == 2
    exec(code.replace("steps=150", "steps=4, "), names)
    assert "'repetition'" in capsys.readouterr().out
    assert names["ditto"].counts["made"] > 0
    assert main(["show", "ditto"]) == 0
    shown = capsys.readouterr().out
    assert '[[methods]]\nuse = "ditto"\nends = ".?!"' in shown
    assert 'etude.method("ditto")(ends=".?!")' in shown


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Ditto(decay=1.5), "Ditto.decay: found 1.5"),
        (lambda: Ditto(rate=-0.1), "Ditto.rate"),
        (lambda: Ditto(form="logs"), "Ditto.form"),
        (lambda: Ditto(coin="token"), "Ditto.coin"),
        (lambda: Ditto(ends=[]), "Ditto.ends"),
        (lambda: PseudoRepetition([1], share=2), "share"),
        (lambda: end_ids(Characters("abc."), ".?"), r"'\?', in which no token"),
        (lambda: end_ids(Bytes(), ""), "ends"),
        (lambda: trained([Ditto(ends=[999])]), "Ditto.ends: found token 999"),
        (lambda: trained([Ditto(ends="§")]), "'§', in which no token"),
        (
            lambda: etude.train(
                small(300), WindowSource(np.full(2000, 299), 32), methods=[Ditto()], budget=Budget(steps=2), device="cpu", quiet=True
            ),
            "tokens go up to 299",
        ),
        (
            lambda: Trainer(
                nn.Linear(2, 2),
                DataStream(TensorSource(x=torch.zeros(4, 2), y=torch.zeros(4).long()), 2, 0),
                Supervised(),
                methods=[Ditto(rate=1, ends=[1])],
                budget=Budget(steps=2),
            ).run(),
            "samples of x, y",
        ),
        (lambda: SelfReinforcement([(np.arange(2), np.arange(3))], 3), "at least two"),
        (lambda: probe_pairs(np.arange(40), [3], num_copies=2, context=20, count=5), "0 that fit"),
        (lambda: Settings(context=100), "at least 149"),
    ],
)
def test_bad_input_is_told(call, told):
    with pytest.raises(BadInput, match=told):
        call()
