import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from etude.engine.streams import generator
from etude.engine.trainer import NonFinite
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.generate.diffusion import NoiseSchedule, draw, linear_betas
from etude.nn.diffusion import NoiseNet, NoiseNetConfig
from etude.papers.analysis.mode_interpolation import STUDY, Settings, modes, study
from etude.papers.analysis.mode_interpolation.detector import auroc, keep_lowest, keep_random, num_drawn, removed_at, trajectory_variance

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "mode-interpolation.json").read_text())
PAPER_GRID = modes.grid((-4, -2, 0, 2, 4))
TINY = replace(STUDY.scales["smoke"].settings, num_samples=60, batch_size=30, num_updates=4, noise_levels=8, used_levels=8, width=4)


def run(arm, folder=None, settings=TINY, seed=3):
    return STUDY.arms[arm].run(Job(study="mode-interpolation", arm=arm, scale="smoke", seed=seed, settings=settings, folder=folder))


# --- the truth --------------------------------------------------------------------------------------------------------
def test_the_grid_is_divided_by_the_total_deviation():
    total = math.sqrt(0.05**2 + 8)  # variance of -4, -2, 0, 2, 4 is 8
    assert PAPER_GRID.means.shape == (25, 2)
    assert PAPER_GRID.sd == pytest.approx(0.05 / total)
    assert sorted(set(PAPER_GRID.means[:, 1].mul(total).round(decimals=9).tolist())) == [-4, -2, 0, 2, 4]
    assert modes.grid((1, 2, 3), dims=1).means.shape == (3, 1)
    x = PAPER_GRID.sample(50_000, generator(0, "x"))
    assert x.std(0).tolist() == pytest.approx([1, 1], rel=0.01)


def test_samples_have_fair_shares_and_the_modes_deviation():
    x = PAPER_GRID.sample(10_000, generator(1, "x"))
    distance, which = PAPER_GRID.nearest(x)
    assert torch.equal(torch.bincount(which), torch.full((25,), 400))
    assert distance.square().mean().sqrt().item() == pytest.approx(math.sqrt(2) * PAPER_GRID.sd, rel=0.03)
    assert not modes.off_support(x, PAPER_GRID).any()


def test_off_support_is_farther_than_six_deviations_from_every_mode():
    x = torch.randn(200, 2, generator=generator(0, "x"))
    brute = [all(math.dist(p, m) > 6 * PAPER_GRID.sd for m in PAPER_GRID.means.tolist()) for p in x.tolist()]
    assert modes.off_support(x, PAPER_GRID).tolist() == brute
    beside = PAPER_GRID.means[:1] + torch.tensor([[5.99 * PAPER_GRID.sd, 0], [6.01 * PAPER_GRID.sd, 0]])
    assert modes.off_support(beside, PAPER_GRID).tolist() == [False, True]
    x[3, 1] = math.nan
    with pytest.raises(BadInput, match="samples: found 1 with NaN or Inf, expected finite samples"):
        modes.off_support(x, PAPER_GRID)


def test_edges_join_neighbours_along_an_axis_only():
    pairs = modes.edges(PAPER_GRID)
    assert len(pairs) == 2 * 5 * 4
    lengths = (PAPER_GRID.means[pairs[:, 0]] - PAPER_GRID.means[pairs[:, 1]]).norm(dim=1)
    assert lengths.tolist() == pytest.approx([2 / math.sqrt(8.0025)] * 40)
    assert len(modes.edges(modes.grid((0, 2, 6, 8)))) == 24
    assert modes.edges(modes.grid((3, 1, 2), dims=1)).tolist() == [[0, 1], [1, 2]]


def test_points_on_an_edge_amid_four_modes_and_scattered_evenly():
    step = 2 / math.sqrt(8.0025)
    on_edge = PAPER_GRID.means[:1] + torch.tensor([[0.5 * step, 0.01], [0.02, 0.4 * step]])
    amid = PAPER_GRID.means[:3] + step / 2
    assert modes.beside_edges(on_edge, PAPER_GRID) == 1
    assert modes.beside_edges(amid, PAPER_GRID) == 0
    even = (torch.rand(20_000, 2, generator=generator(0, "x")) - 0.5) * 4 * step
    assert modes.beside_edges(even, PAPER_GRID) == pytest.approx(0.5, abs=0.015)
    assert math.isnan(modes.beside_edges(even[:0], PAPER_GRID))


def test_the_distance_to_an_edge_ends_at_its_modes():
    pair = modes.Modes(torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64), 0.01)
    distance, which, length = modes.nearest_edge(torch.tensor([[-3.0, -4.0], [0.5, 0.2]]), pair)
    assert distance.tolist() == pytest.approx([5, 0.2])
    assert modes.edges(pair)[which[1]].tolist() == [0, 1]
    assert length.tolist() == [1] * 4


def test_narrow_and_wide_gaps():
    uneven = modes.grid((0, 2, 6, 8))
    scale = 2 / float((uneven.means[1] - uneven.means[0]).norm())
    middle = torch.tensor([[1.0, 0.0], [4.0, 0.0], [7.0, 0.1]]) / scale
    assert modes.narrow_share(middle, uneven) == pytest.approx(2 / 3)


def test_coverage_by_hand():
    pair = modes.Modes(torch.tensor([[0.0, 0.0], [10.0, 0.0]], dtype=torch.float64), 1.0)
    x = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [10.0, 1.0], [5.0, 50.0]])  # the last is on no mode
    assert modes.coverage(x, pair) == pytest.approx((1.0, 0.25, math.sqrt(0.5)))
    assert modes.coverage(x[:3], pair)[:2] == (0.5, 0.5)
    assert modes.coverage(x[4:], pair)[:2] == (0.0, 1.0)


# --- against the authors' code -----------------------------------------------------------------------------------------
def test_noise_levels_and_the_step_back_equal_the_authors_code():
    told = GOLDEN["diffusion"]
    schedule = NoiseSchedule(linear_betas(1000, 0.001, 0.2))
    x, noise = (torch.tensor(told[key], dtype=torch.float64) for key in ("x", "noise"))
    assert schedule.noised(x, torch.tensor(told["t"]), noise).numpy() == pytest.approx(np.array(told["noised"]))
    for i, t in enumerate(told["t"]):
        assert schedule.clean(x[i], t, noise[i]).tolist() == pytest.approx(told["clean"][i])
        assert schedule.mean_back(x[i], t, noise[i]).tolist() == pytest.approx(told["mean_back"][i], rel=1e-6)
        if t:  # theirs at 0 is multiplied by a mask of zeros
            assert schedule.variance_back(t) == pytest.approx(told["variance_back"][i])


def test_the_network_and_the_score_equal_the_authors_code():
    told = GOLDEN["network"]
    ours = {
        "in_fc": "enter", "out_fc": "leave", "out_norm": "norm", "t_proj.0": "time", "temp_fc.0.enc": "blocks.0.time",
        "temp_fc.0.fc1": "blocks.0.first", "temp_fc.0.fc2": "blocks.0.second", "temp_fc.0.norm1": "blocks.0.norm1",
        "temp_fc.0.norm2": "blocks.0.norm2",
    }  # fmt: skip
    net = NoiseNet(NoiseNetConfig(dims=2, width=8, depth=3, tied=True))
    parameters = dict(net.named_parameters())
    with torch.no_grad():
        for i, name in enumerate(told["names"]):
            module, _, kind = name.rpartition(".")
            parameter = parameters.pop(f"{ours[module]}.{kind}")
            values = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + i) * 0.5  # as when theirs ran
            parameter.copy_(values.reshape(parameter.shape))
        assert not parameters
        assert net(torch.tensor(told["x"]), torch.tensor(told["t"])).numpy() == pytest.approx(np.array(told["y"]), abs=1e-5)
    wide = NoiseNet(NoiseNetConfig(dims=2, width=128, depth=3, tied=True))
    assert sum(p.numel() for p in wide.parameters()) == told["parameters_width_128"]
    score = GOLDEN["score"]
    last = torch.tensor(score["predictions"], dtype=torch.float64)[:, -score["last"] :]
    assert trajectory_variance(last).tolist() == pytest.approx(score["variance"])


def test_what_is_planned_is_what_is_spent():
    spent = run("none").ledger
    told = study.planned(TINY, TINY.generations).as_dict()
    for category, quantity in (("train", "flops"), ("train", "samples"), ("generate", "flops"), ("generate", "samples")):
        assert spent[category][quantity] == pytest.approx(told[category][quantity], rel=0.02)


# --- the detector -----------------------------------------------------------------------------------------------------
def test_hal_is_the_variance_over_steps_averaged_over_coordinates():
    clean = torch.tensor([[[0.0, 0.0], [2.0, 6.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert trajectory_variance(clean).tolist() == [(1 + 9) / 2, 0]
    clean = torch.randn(7, 5, 3, generator=generator(0, "x"))
    assert trajectory_variance(clean).numpy() == pytest.approx(clean.double().numpy().var(axis=1).mean(axis=1))


def test_hal_of_an_exact_model_is_zero_for_a_point_mass():
    schedule = NoiseSchedule(linear_betas(30, 0.001, 0.3))

    def exact(x, t):
        return x / math.sqrt(1 - float(schedule.abar[int(t[0])]))  # all data at 0: x is nothing but noise

    assert trajectory_variance(draw(exact, schedule, (4, 2), generator(0, "x"), record=(0, 10)).clean).max() < 1e-10


def test_filters_keep_equal_numbers():
    score = torch.tensor([3.0, 1.0, 2.0, 1.0, 5.0])
    assert keep_lowest(score, 2).tolist() == [1, 3]
    assert keep_lowest(score, 3).tolist() == [1, 2, 3]
    kept = torch.stack([keep_random(5, 2, generator(s, "keep")) for s in range(2000)])
    assert bool((kept[:, 0] < kept[:, 1]).all())
    assert torch.bincount(kept.flatten(), minlength=5).double().div(2000).tolist() == pytest.approx([0.4] * 5, abs=0.06)
    assert num_drawn(100_000, 100_000 / 102_500) == 102_500
    assert num_drawn(10, 1.0) == 10


def test_auroc_and_removal_against_all_pairs():
    score = torch.randn(80, generator=generator(0, "s")).mul(3).round()  # ties
    bad = torch.rand(80, generator=generator(0, "b")) < 0.3
    good, worse = score[~bad].tolist(), score[bad].tolist()
    pairs = [1.0 if w > g else 0.5 if w == g else 0.0 for w in worse for g in good]
    assert auroc(score, bad) == pytest.approx(sum(pairs) / len(pairs))
    assert math.isnan(auroc(score, torch.zeros(80, dtype=torch.bool)))
    valid, off = torch.arange(100.0), torch.tensor([94.5, 95.5, 200.0, 3.0])
    flags = torch.cat([torch.zeros(100), torch.ones(4)]).bool()
    assert removed_at(torch.cat([valid, off]), flags) == 0.5  # 96 of 100 valid ones lie at 95 or below


def test_what_the_detector_refuses():
    with pytest.raises(BadInput, match=r"window: found predictions of shape \[4, 1, 2\], expected \[N, K, D\] with at least two steps K"):
        trajectory_variance(torch.zeros(4, 1, 2))
    with pytest.raises(BadInput, match="predictions: found NaN or Inf, expected finite numbers"):
        trajectory_variance(torch.full((4, 3, 2), math.nan))
    with pytest.raises(BadInput, match="num_kept: found 6, expected from 1 to the 5 samples drawn"):
        keep_lowest(torch.zeros(5), 6)
    for fraction in (0.0, 1.1, -0.5):
        with pytest.raises(BadInput, match=f"keep_fraction: found {fraction}, expected a share above 0 and at most 1"):
            num_drawn(10, fraction)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": (0, 321)}, r"settings.window: found \(0, 321\), expected at least two levels inside 0 to 320"),
        ({"window": (4, 5)}, "at least two levels"),
        ({"keep_fraction": 1.5}, "settings.keep_fraction: found 1.5"),
        ({"num_samples": 10}, "3 generations of 10 samples, expected at least one generation of at least a batch of 512"),
    ],
)
def test_settings_refuse(change, message):
    with pytest.raises(BadInput, match=message):
        Settings(**change)


# --- the chain --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def outcomes():
    return {arm: run(arm) for arm in STUDY.arms}


def test_arms_share_their_first_generation_and_spend_alike(outcomes):
    first = {a: {k: v for k, v in outcomes[a].metrics.items() if k.endswith("generation 1") and "kept, gen" not in k} for a in outcomes}
    assert repr(first["none"]) == repr(first["random"]) == repr(first["variance"])  # repr: NaN equals NaN
    for quantity in ("flops", "samples", "steps"):
        assert len({outcomes[a].ledger["train"].get(quantity) for a in ("none", "random", "variance")}) == 1
    assert outcomes["none"].ledger["train"]["samples"] == 2 * 4 * 30
    assert outcomes["none"].ledger["generate"]["samples"] == 2 * round(60 / 0.9)
    assert outcomes["uneven"].ledger["train"]["samples"] == 4 * 30


def test_outcomes_have_the_metrics_of_the_claims(outcomes):
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    for claim in STUDY.claims:
        for arm in claim.arms_named:
            assert claim.metric in outcomes[arm].metrics
    assert set(study.FAILED) == set(outcomes["none"].metrics)
    assert outcomes["none"].curves["hallucinated / generation"][0] == [1, 2]


def test_dropping_nothing_is_no_filter_bit_for_bit():
    whole = replace(TINY, keep_fraction=1.0)
    one, other = (run(arm, settings=whole) for arm in ("none", "variance"))
    assert repr(one.metrics) == repr(other.metrics)
    assert np.array_equal(one.arrays["generation 2"], other.arrays["generation 2"])


def test_the_filter_lowers_the_score_of_what_is_kept():
    truth = modes.grid(TINY.coordinates, sd=TINY.sd)
    model, _ = study.train_generation(truth.sample(60, generator(0, "x")), TINY, 0)
    drawn, _ = study.sample_generation(model, TINY, 0)
    score = trajectory_variance(drawn.clean)
    kept = study.keep_steady(score, 60, generator(0, "keep"))
    dropped = sorted(set(range(len(score))) - set(kept.tolist()))
    assert len(dropped) == 7
    assert score[kept].max() <= score[dropped].min()


def test_a_killed_chain_resumes_to_the_same_end(tmp_path, monkeypatch, outcomes):
    train, calls = study.train_generation, []

    def killed(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*given)

    monkeypatch.setattr(study, "train_generation", killed)
    with pytest.raises(KeyboardInterrupt):
        run("variance", tmp_path)
    resumed = run("variance", tmp_path)
    assert len(calls) == 3  # the first generation is not trained again
    assert repr(resumed.metrics) == repr(outcomes["variance"].metrics)
    assert np.array_equal(resumed.arrays["generation 2"], outcomes["variance"].arrays["generation 2"])


def test_a_diverged_chain_is_recorded_as_a_failure(monkeypatch):
    def diverges(*given):
        raise NonFinite(3, "the loss")

    monkeypatch.setattr(study, "train_generation", diverges)
    outcome = run("none")
    assert outcome.diverged
    assert outcome.metrics["hallucinated"] == 1.0
    assert outcome.metrics["AUROC, generation 1"] == 0.5


# --- the paper's scale and the picture --------------------------------------------------------------------------------
def test_the_paper_s_net_and_sources():
    scale = STUDY.scales["paper"]
    with torch.device("meta"):
        net = STUDY.build_paper_model(scale.settings)
    assert sum(p.numel() for p in net.parameters()) == 67_074  # as the released net's layers add up; the text gives no count
    assert set(scale.sources) == {f.name for f in fields(Settings)}
    assert num_drawn(scale.settings.num_samples, scale.settings.keep_fraction) == 102_500


def test_the_picture_has_a_panel_a_generation_and_arm():
    axes = Figure().subplots()
    points = [[0.0, 0.0], [0.3, 0.4]]
    arrays = {"modes": [[0.0, 0.0], [1.0, 0.0]], "radius": [0.45], "generation 1": points, "generation 2": points}
    study.PICTURE(axes, {"arrays": {"random": arrays, "variance": arrays}, "seeds": [0]})
    assert len(axes.child_axes) == 4
    assert "generation 1: 50.0 % between modes" in axes.child_axes[0].get_title()
