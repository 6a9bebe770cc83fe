import copy
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn
from toys import Stop, ToyStream, squared, toy_model

from etude.engine.ledger import Budget
from etude.engine.optim import SGD, AdamW
from etude.engine.protocols import Method
from etude.engine.schedule import Constant
from etude.engine.streams import generator
from etude.engine.trainer import Interrupted, NonFinite, Trainer
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.nn.mlp import DeepReLU
from etude.papers.objective.gradient_noise import (
    PAPER,
    SOURCES,
    STUDY,
    GradientNoise,
    add_noise,
    mean_variance,
    noise_variance,
    noisy,
    set_start,
)
from etude.papers.objective.gradient_noise.study import parity_strings


class Capture(Method):
    """Keeps the gradients after the clip: before the noise (phase 0) or as the optimizer sees them (phase 30)."""

    def __init__(self, phase):
        self.phases, self.seen = {"clipped": phase}, []

    def clipped(self, run):
        self.seen.append({n: p.grad.clone() for n, p in run.named_parameters().items() if p.grad is not None})


class Before(Capture):
    pass


def train(methods=(), model=None, steps=6, optimizer=None, folder=None, resume=False, seed=0, **more):
    return Trainer(
        model or toy_model(0), ToyStream(), squared, optimizer=optimizer or SGD(lr=0.05), schedule=Constant(), methods=methods,
        budget=Budget(steps=steps), seed=seed, folder=folder, checkpoint_every=0.1, **more,
    ).run(resume=resume)  # fmt: skip


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


# --- the equations ----------------------------------------------------------------------------------------------------
def test_the_variance_follows_the_schedule_by_hand():
    assert noise_variance(0, 0.3) == 0.3
    assert noise_variance(3, 1.0, 0.5) == pytest.approx(0.5)  # 4 ** -0.5
    assert noise_variance(99, 0.01) == pytest.approx(0.01 * 100**-0.55)
    assert noise_variance(7, 0.2, 0.0) == 0.2  # gamma 0: constant
    assert mean_variance(2, 1.0, 1.0) == pytest.approx((1 + 1 / 2) / 2)
    assert mean_variance(5, 0.3, 0.0) == pytest.approx(0.3)


def test_noise_is_normal_with_the_given_deviation_and_independent_between_tensors():
    gradients = {"a": torch.zeros(200, 100), "b": torch.zeros(200, 100)}
    add_noise(gradients, 0.3, lambda name: generator(5, name))
    for gradient in gradients.values():
        assert gradient.mean().abs() < 4 * 0.3 / math.sqrt(20_000)
        assert gradient.var() == pytest.approx(0.09, rel=0.05)  # 5 standard errors
        assert (gradient / 0.3).pow(4).mean() == pytest.approx(3.0, abs=0.25)  # a normal's fourth moment
    assert torch.corrcoef(torch.stack([g.flatten() for g in gradients.values()]))[0, 1].abs() < 0.03


def test_noise_is_added_to_what_is_there_in_the_gradient_s_own_precision():
    gradient = torch.full((4,), 2.0, dtype=torch.float64)
    add_noise({"w": gradient}, 0.5, lambda name: generator(1, name))
    assert torch.equal(gradient, 2.0 + 0.5 * torch.randn(4, generator=generator(1, "w")).double())


# --- in the trainer ---------------------------------------------------------------------------------------------------
def test_each_update_gets_fresh_noise_whose_variance_falls_over_the_whole_run():
    clean, dirty = Before(0), Capture(30)
    model = toy_model(0, width=400)
    train([GradientNoise(0.04, gamma=0.5), dirty, clean], model, steps=20)  # 8 updates an epoch
    noise = [torch.cat([(d[n] - c[n]).flatten() for n in c]) for d, c in zip(dirty.seen, clean.seen, strict=True)]
    for t, drawn in enumerate(noise):  # 4,003 weights: a variance to 2.2 %
        assert drawn.var() == pytest.approx(0.04 / math.sqrt(1 + t), rel=0.1), t
    assert torch.corrcoef(torch.stack(noise)).fill_diagonal_(0).abs().max() < 0.08


def test_the_clip_comes_first_and_leaves_the_noise_alone():
    dirty = Capture(30)
    train([GradientNoise(4.0, gamma=0.0), dirty], toy_model(0, width=400), steps=1, clip=1e-3)
    norm = torch.cat([g.flatten() for g in dirty.seen[0].values()]).norm()
    assert norm == pytest.approx(2.0 * math.sqrt(4003), rel=0.05)  # clipped afterwards it would be 0.001


def test_a_step_of_plain_descent_moves_by_rate_times_noise():
    """Rate and deviation each enter once: theta1 = theta0 - lr (g + sigma n)."""
    clean = Before(0)
    model = toy_model(0)
    start = weights(model)
    result = train([GradientNoise(0.09), clean], model, steps=1)
    for name, value in weights(result.model).items():
        n = torch.randn(value.shape, generator=generator(0, "gradient-noise", 0, name))
        torch.testing.assert_close(value, start[name] - 0.05 * (clean.seen[0][name] + 0.3 * n))


@pytest.mark.parametrize("optimizer", [SGD(lr=0.05), AdamW(lr=1e-3)])
def test_without_eta_it_is_the_baseline_bit_for_bit(optimizer):
    plain = train(optimizer=optimizer)
    off = train([GradientNoise(0.0)], optimizer=optimizer)
    on = train([GradientNoise(0.01)], optimizer=optimizer)
    assert same(weights(plain.model), weights(off.model))
    assert not same(weights(plain.model), weights(on.model))


def test_the_noise_is_the_seed_s_and_leaves_the_global_generators_alone():
    models = [toy_model(0) for _ in range(3)]
    before = torch.get_rng_state()
    one, two, other = (weights(train([GradientNoise(0.1)], m, seed=seed).model) for m, seed in zip(models, (1, 1, 2), strict=True))
    assert same(one, two)
    assert not same(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_frozen_and_unreached_weights_get_no_noise_and_shift_nobody_else_s():
    class Spare(nn.Sequential):
        def __init__(self):
            super().__init__(*toy_model(0))
            self.unused = nn.Parameter(torch.ones(3))

    free, frozen = Before(0), Before(0)
    seen_free, seen_frozen = Capture(30), Capture(30)
    model = Spare()
    train([GradientNoise(0.1), free, seen_free], model, steps=1)
    assert torch.equal(model.unused, torch.ones(3))
    model = Spare()
    model[0].weight.requires_grad_(False)
    kept = model[0].weight.clone()
    train([GradientNoise(0.1), frozen, seen_frozen], model, steps=1)
    assert torch.equal(model[0].weight, kept)
    assert seen_free.seen[0].keys() - seen_frozen.seen[0].keys() == {"0.weight"}
    for name, gradient in seen_frozen.seen[0].items():
        torch.testing.assert_close(gradient - frozen.seen[0][name], seen_free.seen[0][name] - free.seen[0][name], atol=1e-6, rtol=0)


def test_a_resumed_run_goes_on_at_its_own_t(tmp_path):
    whole = train([GradientNoise(0.1), Stop(0)], steps=20)
    with pytest.raises(Interrupted):
        train([GradientNoise(0.1), Stop(11)], steps=20, folder=tmp_path / "run")
    resumed = train([GradientNoise(0.1), Stop(0)], steps=20, folder=tmp_path / "run", resume=True)
    assert resumed.steps == 20
    assert same(weights(whole.model), weights(resumed.model))


def test_noise_that_overflows_stops_the_run_before_the_weights_move():
    model = toy_model(0)
    start = weights(model)
    with pytest.raises(NonFinite, match="gradient"):
        train([GradientNoise(3e77)], model)  # its deviation is beyond float32
    assert same(start, weights(model))


@pytest.mark.parametrize(
    ("eta", "gamma", "said"),
    [
        (-0.1, 0.55, "GradientNoise.eta: found -0.1, expected a number >= 0"),
        (math.nan, 0.55, "GradientNoise.eta: found nan, expected a finite number"),
        (math.inf, 0.55, "GradientNoise.eta: found inf, expected a finite number"),
        (0.1, 1.5, "GradientNoise.gamma: found 1.5, expected a number from 0"),
        (0.1, -0.1, "GradientNoise.gamma: found -0.1, expected a number from 0"),
        (0.1, math.nan, "GradientNoise.gamma: found nan, expected a finite number"),
    ],
)
def test_bad_settings_are_refused(eta, gamma, said):
    with pytest.raises(BadInput) as error:
        GradientNoise(eta, gamma)
    assert said in str(error.value)


# --- around any optimizer ---------------------------------------------------------------------------------------------
def descend(model, optimizer, steps, clip=None):
    x, y = ToyStream().x, ToyStream().y
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def test_the_wrapper_adds_the_scheduled_noise_before_the_step():
    model = nn.Linear(6, 3)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    start = weights(model)
    optimizer = noisy(torch.optim.SGD(model.parameters(), lr=1.0), eta=0.04, gamma=0.5, seed=7)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad.zero_()
        optimizer.step()
    for j, (name, value) in enumerate(model.named_parameters()):
        drawn = [torch.randn(value.shape, generator=generator(7, "gradient-noise", t, f"0.{j}")) for t in (0, 1)]
        expected = start[name] - 0.2 * drawn[0] - math.sqrt(0.04 / math.sqrt(2)) * drawn[1]
        torch.testing.assert_close(value.detach(), expected)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_the_wrapper_resumes_through_the_optimizer_s_own_state(kind):
    def fresh():
        model = toy_model(0)
        return model, noisy(kind(model.parameters(), lr=0.01), eta=0.1, seed=2)

    model, optimizer = fresh()
    descend(model, optimizer, 3, clip=1.0)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    descend(model, optimizer, 3, clip=1.0)
    other, resumed = fresh()
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert resumed.param_groups[0]["noise_step"] == 3
    descend(other, resumed, 3, clip=1.0)
    assert same(weights(model), weights(other))


def test_the_wrapper_without_eta_is_the_optimizer_and_gives_frozen_weights_no_noise():
    plain, off, on = toy_model(0), toy_model(0), toy_model(0)
    on[0].weight.requires_grad_(False)
    kept = on[0].weight.clone()
    descend(plain, torch.optim.Adam(plain.parameters()), 3)
    descend(off, noisy(torch.optim.Adam(off.parameters()), eta=0.0), 3)
    descend(on, noisy(torch.optim.Adam(on.parameters()), eta=1.0), 3)
    assert same(weights(plain), weights(off))
    assert torch.equal(kept, on[0].weight)


def test_the_wrapper_refuses_what_it_cannot_do():
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = noisy(torch.optim.SGD([parameter], lr=0.1), eta=0.1)
    with pytest.raises(BadInput, match="an optimizer with gradient noise already, expected one without"):
        noisy(optimizer, eta=0.1)
    with pytest.raises(BadInput, match="a step with a closure, expected gradients computed before the step"):
        optimizer.step(lambda: torch.zeros(()))
    optimizer.grad_scale = torch.tensor(2.0)
    with pytest.raises(BadInput, match="scaled gradients, expected scaler.unscale_"):
        optimizer.step()
    with pytest.raises(BadInput, match="noisy.eta: found -1, expected a number >= 0"):
        noisy(torch.optim.SGD([parameter], lr=0.1), eta=-1)


# --- the study --------------------------------------------------------------------------------------------------------
SMOKE = STUDY.scales["smoke"].settings


def outcome(arm, settings=SMOKE, seed=5):
    return STUDY.arms[arm].run(Job(study="gradient-noise", arm=arm, scale="smoke", seed=seed, settings=settings))


DIGITS = [arm for arm in STUDY.arms if not arm.startswith("parity")]


@pytest.mark.parametrize("arm", DIGITS)
def test_every_arm_runs_and_spends_the_same(arm):
    seen = outcome(arm)
    assert not seen.diverged
    assert seen.ledger["train"]["samples"] == SMOKE.steps * SMOKE.batch
    assert seen.parameters == 64 * 12 + 12 + 5 * (12 * 12 + 12) + 12 * 10 + 10
    assert 0 <= seen.metrics["accuracy"] <= 1
    assert seen.counts["success"] == (int(seen.metrics["accuracy"] > 0.8), 1)
    xs, ys = seen.curves["accuracy / step"]
    assert (xs[0], xs[-1], ys[-1]) == (0, SMOKE.steps, seen.metrics["last accuracy"])
    assert seen.metrics["accuracy"] in ys


@pytest.mark.parametrize("arm", ["parity", "parity-noise"])
def test_restarts_on_parity_are_counted_and_charged(arm):
    settings = replace(SMOKE, restarts=3)
    seen = outcome(arm, settings)
    assert seen.ledger["train"]["samples"] == 3 * SMOKE.parity_steps * SMOKE.batch
    assert seen.counts["parity learned"][1] == 3
    assert seen.parameters == 3 * (8 + 8 * 8 + 2 * 8) + 8 * 2 + 2
    assert outcome("parity-noise", replace(settings, parity_eta=0.0)).metrics == outcome("parity", settings).metrics


def test_every_string_is_there_once_with_its_parity():
    train, held_out = (source.get(np.arange(len(source))) for source in parity_strings(4))
    x, y = torch.cat([train["x"], held_out["x"]]), torch.cat([train["y"], held_out["y"]])
    assert (len(train["y"]), len(held_out["y"])) == (12, 4)
    assert len({tuple(row) for row in x.tolist()}) == 16
    assert y.tolist() == [sum(v > 0 for v in row) % 2 for row in x.tolist()]


def test_arms_repeat_to_the_bit_and_share_all_but_the_noise():
    assert outcome("normal-noise").metrics == outcome("normal-noise").metrics
    off = replace(SMOKE, eta=0.0)
    assert outcome("normal-noise", off).curves == outcome("normal").curves


def test_a_start_with_good_weights_learns_the_digits():
    assert outcome("he", replace(SMOKE, width=50, depth=2, steps=200)).counts["success"] == (1, 1)


def test_a_run_that_overflows_is_a_failure_that_spent_its_budget():
    seen = outcome("zero-noise", replace(SMOKE, eta=1e77))
    assert seen.diverged
    assert seen.counts["success"] == (0, 1)
    assert set(seen.metrics.values()) == {0.1}
    assert seen.ledger["train"]["samples"] == SMOKE.steps * SMOKE.batch
    assert seen.parameters == outcome("zero").parameters


def test_from_zero_only_the_last_bias_has_a_gradient():
    """Why the start is poor: no loss, rate or data set moves any weight but these ten."""
    model = DeepReLU(6, 3, depth=4, width=5)
    set_start(model, "zero", 0)
    nn.functional.cross_entropy(model(torch.randn(8, 6, generator=generator(0, "x"))), torch.tensor([0, 1, 2, 0, 0, 0, 0, 0])).backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {"layers.4.bias"}


def test_starts_have_the_deviations_they_say():
    model = DeepReLU(64, 10, depth=3, width=50)
    set_start(model, "normal", 1)
    assert model.layers[1].weight.detach().std() == pytest.approx(0.1, rel=0.06)
    set_start(model, "he", 1)
    assert model.layers[1].weight.detach().std() == pytest.approx(math.sqrt(2 / 50), rel=0.06)
    assert all(not layer.bias.any() for layer in model.layers)
    once = weights(model)
    set_start(model, "he", 1)
    assert same(once, weights(model))
    with pytest.raises(BadInput, match="start: found 'zeros', expected a known name; did you mean 'zero'"):
        set_start(model, "zeros", 1)


def test_the_constant_arm_adds_up_to_the_annealed_one():
    (annealed,), (constant,) = SMOKE.noise("annealed", "zero"), SMOKE.noise("constant", "zero")
    total = sum(noise_variance(t, annealed.eta, annealed.gamma) for t in range(SMOKE.steps))
    assert sum(noise_variance(t, constant.eta, constant.gamma) for t in range(SMOKE.steps)) == pytest.approx(total)
    assert SMOKE.noise("none", "zero") == []


def test_the_study_is_one_that_can_be_registered():
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    assert [claim.primary for claim in STUDY.claims].count(True) == 1
    assert STUDY.scales["cpu"].seeds == 10
    assert STUDY.baseline in STUDY.arms


def test_the_paper_s_net_and_where_its_numbers_come_from():
    assert set(SOURCES) == {field.name for field in fields(PAPER)}
    with torch.device("meta"):
        model = STUDY.build_paper_model(PAPER)
    assert sum(p.numel() for p in model.parameters()) == 784 * 50 + 50 + 19 * (50 * 50 + 50) + 50 * 10 + 10 == 88_210
