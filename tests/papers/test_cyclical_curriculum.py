import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys import Stop

from etude.data.samplers import Shuffle, draw_without_replacement
from etude.data.sources import TensorSource, WindowSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.protocols import Method
from etude.engine.streams import initialise, numpy_rng
from etude.engine.trainer import Interrupted, Trainer
from etude.errors import BadInput
from etude.evidence.study import Job
from etude.learn.language import CausalLM
from etude.learn.supervised import Supervised
from etude.nn.mlp import MLP
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.order.cyclical_curriculum import STUDY, CyclicalCurriculum, PacedDraw, Pacing, easy_scores, hard_scores
from etude.papers.order.cyclical_curriculum.scores import KeepLosses
from etude.papers.order.cyclical_curriculum.study import PAPER, picked

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "cyclical-curriculum.json").read_text())
N = 40
DATA = TensorSource(x=torch.linspace(-1, 1, N * 3).reshape(N, 3), y=torch.arange(N) % 4)


# --- sizes ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["cycle", "grow", "shrink"])
def test_sizes_are_those_of_the_authors_code(kind):
    for case in GOLDEN[kind]:
        settings = {k: case[k] for k in ("start", "end", "factor", "repeat") if k in case}
        found = Pacing(kind=kind, **settings).shares(case["epochs"])
        # The one-way functions look at the sum only after every stay of `repeat`, and so go on for a few epochs more.
        assert 0 <= len(case["sizes"]) - len(found) < case.get("repeat", 1)
        assert found == pytest.approx(case["sizes"][: len(found)], abs=1e-9)


def test_thirty_epochs_make_54_short_ones_with_exactly_as_many_samples():
    shares = Pacing().shares(30)
    assert shares[:9] == [0.25, 0.5, 1, 0.5, 0.25, 0.5, 1, 0.5, 0.25]
    assert len(shares) == 54
    assert sum(shares) == 30


def test_a_cycle_from_its_peak_leaves_out_the_first_rise():
    assert Pacing(from_peak=True).shares(3) == [1, 0.5, 0.25, 0.5, 1]
    assert Pacing(from_peak=True, repeat=2).shares(3) == [1, 1, 0.5, 0.5]
    assert Pacing(start=0.3, end=0.7, factor=0.5, from_peak=True).shares(1.4) == [0.7, 0.35, 0.3, 0.6]


# --- scores ---------------------------------------------------------------------------------------------------------------
def test_scores_of_losses():
    assert easy_scores([0.5, 2.0]).tolist() == [2.0, 0.5]
    assert hard_scores([0.5, 2.0]).tolist() == [0.5, 2.0]
    exponential = easy_scores([0.5, 2.0, 3.0], rate=2.0)
    written_out = 2 * np.exp(-2 * np.array([0.5, 2.0, 3.0]))
    assert exponential / exponential.sum() == pytest.approx(written_out / written_out.sum())


def test_a_loss_of_zero_has_a_finite_score_and_an_underflow_can_still_be_drawn():
    assert easy_scores([0.0, 1.0]).tolist() == [1e7, 1.0]
    assert hard_scores([0.0, 1.0])[0] > 0
    scores = easy_scores([0.0, 700.0, 1e6], rate=1.0)
    assert scores[2] == scores[1] > 0


@pytest.mark.parametrize("weigh", [easy_scores, hard_scores])
@pytest.mark.parametrize(
    ("losses", "message"), [([0.1, float("nan")], "nan at sample 1"), ([-0.5], "-0.5 at sample 0"), ([], "one loss a sample")]
)
def test_refuses_losses(weigh, losses, message):
    with pytest.raises(BadInput, match=message):
        weigh(losses)


# --- the draw -------------------------------------------------------------------------------------------------------------
def test_a_short_epoch_holds_samples_as_often_as_drawing_one_by_one_would():
    scores, size, draws = np.array([4.0, 2.0, 1.0, 1.0]), 2, 4000
    expected = np.zeros(4)
    for order in permutations(range(4), size):  # each ordered draw with its probability, by the definition
        left, probability = scores.sum(), 1.0
        for i in order:
            probability *= scores[i] / left
            left -= scores[i]
        expected[list(order)] += probability
    sampler, source = PacedDraw(Pacing(start=0.5, end=0.5), scores), TensorSource(x=torch.zeros(4))
    plans = np.stack([sampler.plan(0, source, numpy_rng(0, "draw", k)) for k in range(draws)])
    found = np.bincount(plans.ravel(), minlength=4) / draws
    assert (plans[:, 0] != plans[:, 1]).all()
    assert found == pytest.approx(expected, abs=4 * 0.5 / draws**0.5)
    # Shuffled after the draw: the likeliest sample does not come first more often than second.
    assert (plans[:, 0] == 0).mean() == pytest.approx((plans[:, 1] == 0).mean(), abs=4 * 0.7 / draws**0.5)


def test_sizes_are_rounded_down_and_plans_differ_by_stage():
    sampler = PacedDraw(Pacing(start=0.26, end=0.9, factor=0.5), np.arange(1, N + 1))
    sizes = [len(sampler.plan(k, DATA, numpy_rng(0, k))) for k in range(4)]
    assert sizes == [10, 20, 36, 18]  # 10.4, 20.8, 36, 18 of 40
    assert not np.array_equal(sampler.plan(0, DATA, numpy_rng(0, 0)), sampler.plan(0, DATA, numpy_rng(0, 1)))
    for k in range(4):
        plan = sampler.plan(k, DATA, numpy_rng(0, k))
        assert len(set(plan.tolist())) == len(plan)


def test_a_whole_epoch_is_the_default_shuffles_epoch_of_that_number():
    sampler = PacedDraw(Pacing(), np.arange(1, N + 1))
    assert np.array_equal(sampler.plan(2, DATA, numpy_rng(0, "data", 2)), Shuffle().plan(2, DATA, numpy_rng(0, "data", 2)))


# --- in a run -------------------------------------------------------------------------------------------------------------
def train(methods, *, epochs=3.0, folder=None, resume=False, seed=0, budget=None):
    return Trainer(
        initialise(MLP((3, 8, 4)), 0),
        DataStream(DATA, 5, seed),
        Supervised(),
        methods=methods,
        budget=budget or Budget(weights={"train.samples": 1.0}, limit=epochs * N),
        folder=folder,
        checkpoint_every=0.2,
    ).run(resume=resume)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True))


class Order(Method):
    """What was trained on, stage by stage."""

    def __init__(self):
        self.stages = {}

    def batch(self, run, batch):
        self.stages.setdefault(run.stage.index, []).extend(batch.ids.tolist())


@pytest.mark.parametrize("scores", ["easy", "hard", "random", np.arange(1.0, N + 1)], ids=["easy", "hard", "random", "given"])
def test_with_both_shares_one_it_is_the_baseline_bit_for_bit(scores):
    switched_off = train([CyclicalCurriculum(scores, start=1.0, end=1.0)])
    plain = train([])
    assert same(plain, switched_off)
    assert plain.ledger.as_dict()["train"]["flops"] == switched_off.ledger.as_dict()["train"]["flops"]
    assert "prepare" not in switched_off.ledger.entries


def test_the_run_follows_the_sizes_and_whole_epochs_match_the_baselines():
    ours, plain = Order(), Order()
    result = train([CyclicalCurriculum(np.arange(1.0, N + 1)), ours])
    train([plain])
    assert [len(v) for v in ours.stages.values()] == [10, 20, 40, 20, 10, 20]
    assert ours.stages[2] == plain.stages[2]
    assert result.ledger.total("samples") == 3 * N
    assert "prepare" not in result.ledger.entries


def test_what_is_scored_high_is_seen_more_often():
    order = Order()
    scores = np.where(np.arange(N) < N // 2, 100.0, 1.0)
    train([CyclicalCurriculum(scores), order], epochs=9.0)
    small = [i for ids in order.stages.values() if len(ids) == 10 for i in ids]
    assert np.mean(np.array(small) < N // 2) > 0.9


def test_the_self_paced_cycle_scores_parts_only_with_the_present_model_and_charges_it():
    asked = []

    def weigh(losses):
        asked.append(losses)
        return easy_scores(losses)

    order = Order()
    result = train([CyclicalCurriculum(weigh), order])
    assert [len(v) for v in order.stages.values()] == [40, 20, 10, 20, 30]
    assert len(asked) == 3  # before the stages of 20, 10 and 20
    assert all(len(losses) == N for losses in asked)
    assert not np.allclose(asked[0], asked[1])
    assert result.ledger.entries["prepare"]["samples"] == 3 * N
    assert result.ledger.entries["prepare"]["flops"] > 0
    assert result.ledger.entries["train"]["samples"] == 3 * N


def test_the_default_is_self_paced_easy_first():
    assert same(train([CyclicalCurriculum()]), train([CyclicalCurriculum(easy_scores)]))
    assert same(train([CyclicalCurriculum(None)]), train([CyclicalCurriculum("easy")]))
    assert not same(train([CyclicalCurriculum()]), train([CyclicalCurriculum("hard")]))


@pytest.mark.parametrize("scores", ["easy", "random", np.arange(1.0, N + 1)], ids=["self-paced", "random", "given"])
@pytest.mark.parametrize("stop", [1, 2, 7, 8, 14, 20])
def test_resumed_bit_for_bit_inside_and_between_short_epochs(tmp_path, scores, stop):
    whole = train([CyclicalCurriculum(scores), Stop(0)])
    with pytest.raises(Interrupted):
        train([CyclicalCurriculum(scores), Stop(stop)], folder=tmp_path / "r")
    resumed = train([CyclicalCurriculum(scores), Stop(0)], folder=tmp_path / "r", resume=True)
    assert same(whole, resumed)
    assert whole.ledger.total("flops") == resumed.ledger.total("flops")


def test_refuses_to_resume_with_other_scores(tmp_path):
    with pytest.raises(Interrupted):
        train([CyclicalCurriculum(np.arange(1.0, N + 1)), Stop(5)], folder=tmp_path / "r")
    with pytest.raises(BadInput, match="a run of another set of methods"):
        train([CyclicalCurriculum(np.arange(2.0, N + 2)), Stop(0)], folder=tmp_path / "r", resume=True)


def test_kept_losses_are_those_of_the_trained_model_on_every_sample_and_charged():
    keep = KeepLosses()
    result = train([keep])
    with torch.no_grad():
        each = nn.functional.cross_entropy(result.model(DATA.data["x"]), DATA.data["y"], reduction="none")
    assert keep.losses == pytest.approx(each.numpy(), rel=1e-5)
    assert result.ledger.entries["prepare"]["samples"] == N
    assert result.ledger.entries["train"]["samples"] == 3 * N


@pytest.mark.parametrize("scores", ["easy", np.arange(1.0, 62.0)], ids=["self-paced", "given"])
def test_samples_may_be_windows_of_text(scores):
    source = WindowSource(np.arange(977) % 29, 16)
    assert len(source) == 61
    order = Order()
    model = initialise(Transformer(TransformerConfig(vocab=32, width=16, depth=1, heads=2, context=16)), 0)
    Trainer(model, DataStream(source, 4, 0), CausalLM(), methods=[CyclicalCurriculum(scores), order], budget=Budget(steps=40)).run()
    sizes = [len(v) for v in order.stages.values()]
    assert sizes[:3] == ([61, 30, 15] if isinstance(scores, str) else [15, 30, 61])


# --- bad input ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 0.0}, "CyclicalCurriculum.start: found 0.0, expected a share above 0 and at most 1"),
        ({"start": 1.5}, "CyclicalCurriculum.start"),
        ({"start": float("nan")}, "CyclicalCurriculum.start: found nan"),
        ({"start": 0.5, "end": 0.4}, r"CyclicalCurriculum.end: found 0.4, expected a share from start \(0.5\) to 1"),
        ({"end": 1.1}, "CyclicalCurriculum.end"),
        ({"factor": 1.0}, "CyclicalCurriculum.factor: found 1.0, expected a number above 0 and below 1"),
        ({"factor": 0.0}, "CyclicalCurriculum.factor"),
        ({"pacing": "cyle"}, "did you mean 'cycle'"),
        ({"repeat": 0}, "CyclicalCurriculum.repeat"),
        ({"scores": "eazy"}, "did you mean 'easy'"),
        ({"scores": [1.0, float("nan")]}, "finite numbers"),
        ({"scores": [1.0, -2.0]}, "-2 at 1"),
        ({"scores": [1.0, 0.0, 0.0, 0.0], "end": 0.5}, "found 1 of 4 above zero, expected at least the 2 that the largest epoch draws"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(BadInput, match=message):
        CyclicalCurriculum(**settings)


def test_refuses_scores_of_other_data_and_epochs_without_a_sample():
    with pytest.raises(BadInput, match=f"7 of them, expected one for each of {N} samples"):
        train([CyclicalCurriculum(np.ones(7))])
    with pytest.raises(BadInput, match="a share of 0.01 of 40 samples"):
        train([CyclicalCurriculum("random", start=0.01)])
    with pytest.raises(BadInput, match="at least the 3 to be drawn"):
        draw_without_replacement(np.array([1.0, 1.0, 0.0]), 3, numpy_rng(0))


# --- the study ------------------------------------------------------------------------------------------------------------
def smoke(arm, seed=1, **changed):
    settings = replace(STUDY.scales["smoke"].settings, **changed)
    return STUDY.arms[arm].run(Job(study=STUDY.slug, arm=arm, scale="smoke", seed=seed, settings=settings))


@pytest.mark.parametrize("arm", list(STUDY.arms))
def test_smoke(arm):
    outcome = smoke(arm)
    claimed = {claim.metric for claim in STUDY.claims} | {"wrong labels seen"}
    assert claimed <= set(outcome.metrics)
    assert all(np.isfinite(v) for v in outcome.metrics.values())
    assert {plot.curve for plot in STUDY.plots if plot.curve} <= set(outcome.curves)
    samples = outcome.ledger["train"]["samples"]
    assert samples == pytest.approx((2 if arm == "vanilla-double" else 1) * 1.5 * 2 * 1097, rel=0.02)
    assert ("prepare" in outcome.ledger) == (arm in ("ccl", "easy-up", "hard-up", "self-paced"))


def test_arms_that_share_a_scorer_pay_the_same_for_it():
    ccl, easy = smoke("ccl"), smoke("easy-up")
    assert ccl.ledger["prepare"]["flops"] == easy.ledger["prepare"]["flops"]
    assert ccl.ledger["prepare"]["samples"] == pytest.approx(2 * (1.5 + 1) * 1097, rel=0.02)
    # The scoring comes first, so that a curve over FLOPs does not begin at none.
    assert ccl.curves["noisy accuracy / flops"][0][0] > 0
    assert ccl.curves["noisy accuracy / samples"][0][0] == 0


def test_a_run_that_overflows_is_a_failure_at_chance_with_the_same_metrics():
    outcome = smoke("vanilla", lr_noisy=1e30)
    assert outcome.diverged
    assert outcome.metrics.keys() == smoke("vanilla").metrics.keys()
    assert outcome.metrics["noisy accuracy"] == 0.1
    assert outcome.ledger == {"train": {"samples": 1.5 * 2 * 1097}}


def test_the_epoch_is_picked_on_validation_only():
    class Told:
        history = [
            {"validation/accuracy": 0.9, "test/accuracy": 0.9},  # before training: never picked
            {"validation/accuracy": 0.5, "test/accuracy": 0.7},
            {"validation/accuracy": 0.6, "test/accuracy": 0.1},
            {"validation/accuracy": 0.6, "test/accuracy": 0.8},
        ]

    assert picked(Told())["test/accuracy"] == 0.1


def test_the_paper_scale_has_the_published_size():
    with torch.device("meta"):
        model = STUDY.build_paper_model(PAPER)
    assert sum(p.numel() for p in model.parameters()) == 66_890
    assert set(STUDY.scales["paper"].sources) == set(PAPER.__dataclass_fields__)
    assert model(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 10)
