"""INGENIOUS: gains and probabilities as the authors' code has them, what is drawn and charged, that it resumes, and the study's arms."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import Stop

from etude.adapt import hf
from etude.cli import main
from etude.data.samplers import Shuffle
from etude.data.sources import TensorSource, WindowSource
from etude.data.stream import DataStream
from etude.data.submodular import FacilityLocation, GraphCut, Selection, positive_cosines
from etude.engine.ledger import Budget
from etude.engine.protocols import Method
from etude.engine.streams import initialise, numpy_rng
from etude.engine.trainer import Interrupted, Trainer
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.learn.language import CausalLM
from etude.nn.transformer import Transformer, TransformerConfig, count_parameters
from etude.papers.order.ingenious import STUDY, Ingenious, Settings, drawn, ranked, taylor_softmax
from etude.papers.order.ingenious.arms import HighestLoss, LargestGains, RandomSubset, same_flops
from etude.papers.order.ingenious.importance import largest, similarity_flops
from etude.papers.order.ingenious.pool import held_out, pool_of
from etude.papers.order.ingenious.sampler import ImportanceDraw, repeated

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ingenious.json").read_text())
N = 60
SOURCE = WindowSource(np.random.default_rng(0).integers(0, 30, 8 * N + 1), 8)
VECTORS = np.random.default_rng(1).normal(size=(N, 5))


# --- equations --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", ["lazy", "lazier"])
def test_gains_are_those_of_the_authors_code(way):
    """Their code at 932ddde over submodlib 0.0.3 on 24 vectors, six of them near copies: lazy greedy, and lazier than lazy.

    Gains are compared along their order. Two who are nearest to each other tie, and either may come first; theirs are in single precision.
    """
    members = np.array(GOLDEN["members"])
    function = FacilityLocation(positive_cosines(np.array(GOLDEN["vectors"])[members]))
    left = set(range(24))
    for item, gain in zip(GOLDEN[way]["items"], GOLDEN[way]["gains"], strict=True):
        place = int(np.flatnonzero(members == item)[0])
        gains = function.gains(np.array(sorted(left)))
        assert function.gains(np.array([place]))[0] == pytest.approx(gain, abs=1e-6)
        assert way == "lazier" or gains.max() == pytest.approx(gain, abs=1e-6)
        function.add(place)
        left.remove(place)
    assert len(left) == 1  # the last one has no gain in their code


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_probabilities_are_those_of_the_authors_code(temperature):
    gains = np.array(GOLDEN["lazier"]["gains"])
    assert taylor_softmax(gains, temperature) == pytest.approx(GOLDEN["softmax"][str(temperature)], rel=1e-9)


def test_probabilities_by_hand():
    assert taylor_softmax(np.array([0.0, 1.0, 2.0])) == pytest.approx(np.array([1, 2.5, 5]) / 8.5)
    assert taylor_softmax(np.array([0.0, 1.0, 2.0]), np.inf).tolist() == pytest.approx([1 / 3] * 3)
    assert (taylor_softmax(np.array([-1.0, -50.0, 0.0])) > 0).all()


def test_a_ranking_holds_every_sample_once_with_its_gain_in_the_order_of_choice():
    ranking = ranked(VECTORS, 25, numpy_rng(0, "r"))
    assert [len(p.items) for p in ranking] == [20, 20, 20]
    assert sorted(np.concatenate([p.items for p in ranking])) == list(range(N))
    for part in ranking:
        function = FacilityLocation(positive_cosines(VECTORS[part.items]))
        for place, gain in enumerate(part.gains):
            assert function.gains(np.array([place]))[0] == pytest.approx(gain, abs=1e-9)
            function.add(place)
    assert similarity_flops(ranking, 5) == 3 * 2 * 20 * 20 * 5
    (cut,) = ranked(VECTORS, 100, numpy_rng(0, "r"), make=GraphCut)
    assert (cut.gains[1:] < cut.gains[0]).all()


@pytest.mark.parametrize("share", [0.01, 0.25, 0.333, 0.99, 1.0])
def test_subsets_have_exactly_the_size_asked_for_and_no_sample_twice(share):
    ranking = ranked(VECTORS, 25, numpy_rng(0, "r"))
    for chosen in (drawn(ranking, share, 1.0, numpy_rng(0, "d")), largest(ranking, share)):
        assert len(chosen) == len(set(chosen.tolist())) == int(np.ceil(round(share * N, 9)))


def test_a_draw_is_no_top_k_and_follows_importance():
    ranking = [Selection(np.array([2, 0, 1, 3]), np.array([8.0, 2.0, 0.0, 0.0]))]
    draws = [drawn(ranking, 0.25, 1.0, numpy_rng(k, "d"))[0] for k in range(4_000)]
    found = np.bincount(draws, minlength=4) / len(draws)
    # Weights 1 + g + g^2 / 2: 41, 5, 1, 1.
    assert found == pytest.approx(np.array([5, 1, 41, 1]) / 48, abs=0.02)
    assert largest(ranking, 0.25).tolist() == [2]


def test_near_copies_are_drawn_less_at_a_low_temperature():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(50, 8)), np.repeat(rng.normal(size=(2, 8)), 25, axis=0) + 1e-3 * rng.normal(size=(50, 8))])
    ranking = ranked(vectors, 200, numpy_rng(0, "r"))
    copies = [np.mean(drawn(ranking, 0.3, temperature, numpy_rng(0, "d")) >= 50) for temperature in (np.inf, 0.01)]
    assert copies[0] > 0.35
    assert copies[1] < 0.1


# --- the sampler ------------------------------------------------------------------------------------------------------
def test_the_warm_start_is_the_beginning_of_the_default_shuffle():
    sampler = ImportanceDraw(0.25, 0.4, 1.0, 1, 1.0)
    plain = Shuffle().plan(0, SOURCE, numpy_rng(0, "p"))
    assert sampler.plan(0, SOURCE, numpy_rng(0, "p")).tolist() == plain[:24].tolist()
    assert len(ImportanceDraw(0.25, 2.5, 1.0, 1, 1.0).plan(0, SOURCE, numpy_rng(0, "p"))) == 150


def test_a_subset_is_repeated_whole_before_anything_comes_again():
    ids = np.array([3, 5, 8, 9])
    found = repeated(ids, 2.5, numpy_rng(0, "p"))
    assert sorted(found[:4]) == sorted(found[4:8]) == ids.tolist()
    assert len(found) == 10


def test_rankings_are_wanted_every_few_subsets():
    sampler = ImportanceDraw(0.25, 1.0, 1.0, 3, 1.0)
    sampler.ranking = ranked(VECTORS, 100, numpy_rng(0, "r"))
    assert [sampler.due(stage) for stage in range(8)] == [False, True, False, False, True, False, False, True]
    assert ImportanceDraw(0.25, 0.0, 1.0, 3, 1.0).due(0)
    assert not ImportanceDraw(1.0, 0.0, 1.0, 3, 1.0).due(0)


def test_what_the_other_arms_draw():
    random, fixed = (RandomSubset(0.25, 0.0, 1.0, f) for f in (False, True))
    assert [set(random.plan(k, SOURCE, numpy_rng(k, "p"))) for k in (0, 1)] != [set(random.plan(0, SOURCE, numpy_rng(0, "p")))] * 2
    assert set(fixed.plan(0, SOURCE, numpy_rng(0, "p"))) == set(fixed.plan(1, SOURCE, numpy_rng(1, "p")))
    loss = HighestLoss(0.1, 0.0, 1.0, 2)
    assert loss.wants(0) is not None
    assert loss.wants(1) is None
    loss.receive(None, np.arange(N, dtype=float))  # type: ignore[arg-type]
    assert sorted(loss.plan(0, SOURCE, numpy_rng(0, "p"))) == list(range(54, 60))
    gains = LargestGains(0.25, 0.0, 1.0, 1, 1.0)
    gains.ranking = ranked(VECTORS, 100, numpy_rng(0, "r"))
    assert not gains.due(1)
    assert set(gains.plan(0, SOURCE, numpy_rng(0, "p"))) == set(largest(gains.ranking, 0.25))


# --- in a run ---------------------------------------------------------------------------------------------------------
def train(methods, *, folder=None, resume=False, updates=24, source=SOURCE):
    return Trainer(
        initialise(Transformer(TransformerConfig(vocab=30, width=8, depth=2, heads=2, context=8)), 0),
        DataStream(source, 5, 0),
        CausalLM(),
        methods=methods,
        budget=Budget(weights={"train.samples": 1.0}, limit=updates * 5),
        folder=folder,
        checkpoint_every=0.2,
    ).run(resume=resume)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True))


class Order(Method):
    def __init__(self):
        self.stages = {}

    def batch(self, run, batch):
        self.stages.setdefault(run.stage.index, []).extend(batch.ids.tolist())


def test_a_share_of_one_is_the_baseline_bit_for_bit():
    off, plain = train([Ingenious(1.0)]), train([])
    assert same(off, plain)
    assert "prepare" not in off.ledger.as_dict()
    assert off.ledger.as_dict()["train"]["flops"] == plain.ledger.as_dict()["train"]["flops"]


def test_a_run_shows_all_first_and_then_subsets_that_are_drawn_anew():
    order = Order()
    result = train([Ingenious(0.25, passes=1, update_every=2, partition_size=30), order])
    assert sorted(order.stages[0]) == list(range(N))
    subsets = [order.stages[k] for k in (1, 2, 3, 4)]
    assert all(len(s) == len(set(s)) == 15 for s in subsets)
    assert len({frozenset(s) for s in subsets}) == 4
    prepared = result.ledger.as_dict()["prepare"]
    assert prepared["samples"] == 2 * N  # ranked before the first and the third subset
    assert prepared["seconds"] > 0
    # By vectors of one's own no model is asked: what is charged is their cosines alone.
    given = train([Ingenious(0.25, passes=1, update_every=2, partition_size=30, embeddings=VECTORS)]).ledger.as_dict()["prepare"]
    assert given["flops"] == 2 * (2 * 2 * 30 * 30 * 5)
    assert "samples" not in given


@pytest.mark.parametrize("embeddings", ["hidden", VECTORS], ids=["hidden", "given"])
@pytest.mark.parametrize("stop", [1, 12, 13, 17, 21])
def test_resumed_bit_for_bit_inside_and_between_subsets(tmp_path, embeddings, stop):
    made = {"passes": 1, "update_every": 2, "partition_size": 30, "embeddings": embeddings}
    whole = train([Ingenious(0.25, **made), Stop(0)])
    with pytest.raises(Interrupted):
        train([Ingenious(0.25, **made), Stop(stop)], folder=tmp_path / "r")
    resumed = train([Ingenious(0.25, **made), Stop(0)], folder=tmp_path / "r", resume=True)
    assert same(whole, resumed)
    assert whole.ledger.total("flops") == resumed.ledger.total("flops")


def test_refuses_to_resume_with_other_vectors(tmp_path):
    with pytest.raises(Interrupted):
        train([Ingenious(embeddings=VECTORS), Stop(3)], folder=tmp_path / "r")
    with pytest.raises(BadInput, match="a run of another set of methods"):
        train([Ingenious(embeddings=VECTORS + 1), Stop(0)], folder=tmp_path / "r", resume=True)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Ingenious(1.5), "share: found 1.5, expected a part of the samples: above 0 and at most 1"),
        (lambda: Ingenious(0.0), "share: found 0.0"),
        (lambda: Ingenious(passes=0.0), "passes: found 0.0"),
        (lambda: Ingenious(warm_start=-1.0), "warm_start: found -1.0"),
        (lambda: Ingenious(update_every=0), "update_every: found 0"),
        (lambda: Ingenious(partition_size=1), "partition_size: found 1, expected two samples at least"),
        (lambda: Ingenious(depth=1.2), "depth: found 1.2"),
        (lambda: Ingenious(temperature=0.0), "temperature: found 0.0"),
        (lambda: Ingenious(eps=1.0), "eps: found 1.0"),
        (lambda: Ingenious(embeddings="means"), "'hidden', or a .npy file"),
        (lambda: Ingenious(embeddings="nowhere.npy"), "nowhere.npy, which cannot be read"),
        (lambda: Ingenious(embeddings=np.array([[1.0], [np.nan]])), "NaN or Inf in row 1"),
        (lambda: train([Ingenious(embeddings=VECTORS[:-1])]), "59 of them, expected one for each of 60 samples"),
        (lambda: pool_of(replace(Settings(), corpora=("sample",), pool=100_000), 0, 0.5), "windows of 'sample', expected at most"),
        (lambda: Settings(updates=100), "more than the warm start's 250"),
        (lambda: Settings(originals=0.7), "a share below 1, and one of what is left"),
    ],
)
def test_what_cannot_be_used_is_told(call, told):
    with pytest.raises(BadInput, match=told):
        call()


def test_a_model_whose_states_are_not_finite_is_told():
    model = initialise(Transformer(TransformerConfig(vocab=30, width=8, depth=2, heads=2, context=8)), 0)

    class Spoil(Method):
        def updated(self, run):
            if run.step == 12:  # the last of the warm start
                with torch.no_grad():
                    run.model.blocks[1].feed_forward.down.weight.fill_(np.nan)

    with pytest.raises(BadInput, match="embeddings: found NaN or Inf in row 0"):
        Trainer(model, DataStream(SOURCE, 5, 0), CausalLM(), methods=[Ingenious(depth=1.0), Spoil()], budget=Budget(steps=20)).run()


RECIPE = """schema = 1
[data]
context = 16
batch = 8
text = "mine.txt"
[model]
kind = "transformer"
width = 16
depth = 2
heads = 2
[[methods]]
use = "ingenious"
{settings}
[budget]
tokens = 6000
[run]
device = "cpu"
folder = "run"
"""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("share = 1.5", "recipe.toml, methods[0].share: found 1.5, expected a part of the samples"),
        ("partition_size = 1", "recipe.toml, methods[0].partition_size: found 1"),
        ('embeddings = "nan.npy"', "recipe.toml, methods[0].embeddings: found NaN or Inf in row 2"),
        ('embeddings = "few.npy"', "embeddings: found 5 of them, expected one for each of "),
        ('embeddings = "good.npy"\npasses = 1.0', ""),
    ],
)
def test_in_a_recipe_on_rows_of_ones_own(tmp_path, monkeypatch, capsys, settings, told):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("the cat sat on the mat; the dog ran to the sea.\n" * 60)
    windows = (48 * 60 * 9 // 10 - 1) // 16  # a tenth of the text is held out
    vectors = np.random.default_rng(0).normal(size=(windows, 4))
    np.save("good.npy", vectors)
    np.save("few.npy", vectors[:5])
    vectors[2, 1] = np.nan
    np.save("nan.npy", vectors)
    Path("recipe.toml").write_text(RECIPE.format(settings=settings))
    assert main(["train", "recipe.toml"]) == (2 if told else 0)
    shown = capsys.readouterr().err.strip().splitlines()
    assert not told or told in shown[-1]


# --- the study --------------------------------------------------------------------------------------------------------
def test_the_pool_is_half_near_copies_of_a_few_texts_and_shares_nothing_with_the_test():
    s = STUDY.scales["quick"].settings
    pool = pool_of(s, 3, 0.5)
    tokens = pool.source.data["tokens"].numpy()
    assert len(tokens) == s.pool == 1_600
    assert len(pool.distinct) == 800
    counts = np.bincount(pool.texts)
    assert (counts > 1).sum() == round(s.originals * s.pool) == 32
    assert counts[counts > 1].tolist() == [26] * 32
    assert pool.copied.tolist() == (counts[pool.texts] > 1).tolist()
    text = np.flatnonzero(counts > 1)[0]
    first, *others = tokens[pool.texts == text]
    for other in others:  # the same text, a few characters on or back
        assert any(
            np.array_equal(first[max(0, k) : len(first) + min(0, k)], other[max(0, -k) : len(other) + min(0, -k)]) for k in range(-8, 9)
        )
    seen = {row.tobytes() for row in tokens}
    assert not any(row.tobytes() in seen for row in held_out(s).data["tokens"].numpy())
    assert len(np.unique(pool_of(s, 3, 0.0).texts)) == s.pool


def test_the_study_spends_what_it_says_and_its_arms_share_their_beginning():
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    smoke = STUDY.scales["smoke"].settings
    outcomes = {name: arm.run(Job(study=STUDY.slug, arm=name, scale="smoke", seed=0, settings=smoke)) for name, arm in STUDY.arms.items()}
    for name, outcome in outcomes.items():
        assert STUDY.arms[name].planned(smoke)["train.samples"] == outcome.ledger["train"]["samples"]
        assert 0 < outcome.metrics["distinct texts"] <= 1 + 1e-9
        assert np.isfinite(list(outcome.metrics.values())).all()
    assert outcomes["each text once"].metrics["copies seen"] < 0.3 < outcomes["full"].metrics["copies seen"]
    ours, longer = (sum(row.get("flops", 0) for row in outcomes[n].ledger.values()) for n in ("ingenious", "random, as many FLOPs"))
    assert same_flops(smoke) > smoke.updates
    assert longer == pytest.approx(ours, rel=0.05)  # whole updates of a run of a few
    assert outcomes["ingenious"].ledger["prepare"]["seconds"] > 0
    starts = {o.curves["loss / updates"][1][0] for name, o in outcomes.items()}
    assert len(starts) == 1


def test_the_paper_scale_has_a_source_for_every_setting_and_the_published_size():
    scale = STUDY.scales["paper"]
    assert set(scale.sources) == {f.name for f in fields(scale.settings)}
    assert len(scale.settings.corpora) == 2
    with torch.device("meta"):
        model = STUDY.build_paper_model(scale.settings)
    ((count, _),) = STUDY.paper_parameters.values()
    assert count_parameters(model) == pytest.approx(count, rel=0.02)


def test_in_a_trainer_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=16, max_position_embeddings=16, **sizes))
    rows = [{"input_ids": t, "labels": t, "attention_mask": torch.ones(8, dtype=torch.int64)} for t in torch.randint(16, (24, 8))]
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=12, per_device_train_batch_size=3, report_to="none", save_strategy="no", disable_tqdm=True,
        use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    method, order = Ingenious(0.25, passes=1, update_every=1, partition_size=12), Order()
    adapted = hf(transformers.Trainer(model=model, args=args, train_dataset=rows), [method, order])
    assert adapted.train().global_step == 12
    assert sorted(order.stages[0]) == list(range(24))
    assert len(set(order.stages[1])) == len(set(order.stages[2])) == 6
    assert sorted(np.concatenate([part.items for part in method.sampler.ranking])) == list(range(24))
    assert all((part.gains > 0).any() for part in method.sampler.ranking)


def test_samples_without_a_list_of_blocks_are_refused_before_anything_runs():
    with pytest.raises(BadInput, match="without a list of blocks"):
        Trainer(
            torch.nn.Linear(3, 2), DataStream(TensorSource(x=torch.zeros(8, 3), y=torch.zeros(8, dtype=torch.int64)), 4, 0), CausalLM(),
            methods=[Ingenious()], budget=Budget(steps=1),
        ).run()  # fmt: skip
