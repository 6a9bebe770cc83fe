import math

import pytest
import torch

from etude.engine.flops import FlopCounter
from etude.engine.streams import generator
from etude.errors import BadInput
from etude.generate.diffusion import NoiseSchedule, NotFinite, draw, draw_flops, linear_betas

SHORT = NoiseSchedule(torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64))


def zeros(x, t):
    return torch.zeros_like(x)


def exact_noise(schedule, sd):
    """The ideal net for data N(0, sd^2): E[e | x_t] = sqrt(1 - abar) x_t / (abar sd^2 + 1 - abar)."""

    def net(x, t):
        abar = float(schedule.abar[int(t[0])])
        return math.sqrt(1 - abar) * x / (abar * sd**2 + 1 - abar)

    return net


def test_betas_and_products_by_hand():
    assert linear_betas(3, 0.1, 0.3).tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert SHORT.abar.tolist() == pytest.approx([0.9, 0.72, 0.36])
    assert SHORT.abar.dtype == torch.float64
    assert SHORT.first(2).abar.tolist() == SHORT.abar[:2].tolist()


def test_forward_and_clean_are_inverse_and_by_hand():
    x0, noise = torch.tensor([[1.0, -2.0], [3.0, 0.5]]), torch.tensor([[0.5, 1.0], [-1.0, 2.0]])
    x = SHORT.noised(x0, torch.tensor([0, 2]), noise)
    assert x[0, 0].item() == pytest.approx(math.sqrt(0.9) * 1 + math.sqrt(0.1) * 0.5)
    assert x[1, 1].item() == pytest.approx(0.6 * 0.5 + 0.8 * 2)  # abar = 0.36
    assert torch.allclose(SHORT.clean(x[:1], 0, noise[:1]), x0[:1], atol=1e-6)
    assert torch.allclose(SHORT.clean(x[1:], 2, noise[1:]), x0[1:], atol=1e-5)


@pytest.mark.parametrize("t", [1, 2])
def test_the_mean_back_is_the_posterior_s_found_by_bayes_rule(t):
    # q(x_{t-1} | x_t, x_0) is proportional to N(x_t; sqrt(alpha) x_{t-1}, beta) N(x_{t-1}; sqrt(abar') x_0, 1 - abar'): multiply them out.
    beta, abar, before = (float(v) for v in (SHORT.betas[t], SHORT.abar[t], SHORT.abar[t - 1]))
    x, noise = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    x0 = float(SHORT.clean(x, t, noise))
    precision = (1 - beta) / beta + 1 / (1 - before)
    mean = (math.sqrt(1 - beta) * 0.7 / beta + math.sqrt(before) * x0 / (1 - before)) / precision
    assert SHORT.mean_back(x, t, noise).item() == pytest.approx(mean, rel=1e-12)
    assert NoiseSchedule(SHORT.betas, "small").variance_back(t) == pytest.approx(1 / precision, rel=1e-12)
    assert SHORT.variance_back(t) == beta
    assert abar == pytest.approx(before * (1 - beta))


def test_the_last_step_ends_in_its_prediction_without_noise():
    x, noise = torch.tensor([[0.7, 2.0]]), torch.tensor([[-0.4, 0.1]])
    assert SHORT.variance_back(0) == 0.0
    assert torch.allclose(SHORT.mean_back(x, 0, noise), SHORT.clean(x, 0, noise), atol=1e-6)
    drawn = draw(zeros, SHORT, (5, 2), generator(0, "x"), record=(0, 2))
    assert torch.allclose(drawn.clean[:, -1], drawn.x, atol=1e-6)  # level 0 comes last


def test_with_the_ideal_net_samples_have_the_data_s_deviation():
    schedule = NoiseSchedule(linear_betas(200, 0.001, 0.1), "small")
    drawn = draw(exact_noise(schedule, 0.5), schedule, (4000, 1), generator(3, "draw"))
    assert drawn.x.std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(drawn.x.mean().item()) < 4 * 0.5 / math.sqrt(4000)


def test_a_thousand_steps_stay_finite_where_float32_products_vanish():
    schedule = NoiseSchedule(linear_betas(1000, 0.001, 0.2))
    assert torch.cumprod(1 - schedule.betas.float(), 0)[-1] < 1.2e-38  # below float32's smallest normal number
    assert 0 < float(schedule.abar[-1]) < 1e-40
    drawn = draw(exact_noise(schedule, 1.0), schedule, (8, 2), generator(0, "x"), record=(0, 1000))
    assert drawn.clean.shape == (8, 1000, 2)
    assert bool(torch.isfinite(drawn.clean).all())


def test_the_recorded_window_is_a_part_of_the_whole_trajectory():
    net = exact_noise(SHORT, 0.3)
    whole = draw(net, SHORT, (6, 2), generator(1, "x"), record=(0, 3))
    part = draw(net, SHORT, (6, 2), generator(1, "x"), record=(1, 3))
    assert torch.equal(part.clean, whole.clean[:, :2])  # levels 2, 1
    assert torch.equal(part.x, whole.x)
    assert draw(net, SHORT, (6, 2), generator(1, "x")).clean.shape == (6, 0, 2)


def test_flops_are_what_a_counter_around_the_sampler_sees():
    layer = torch.nn.Linear(2, 2)
    net = lambda x, t: layer(x)  # noqa: E731
    with FlopCounter() as counter:
        draw(net, SHORT, (5, 2), generator(0, "x"), batch_size=2)
    assert draw_flops(net, SHORT, (5, 2), batch_size=2) == counter.total == 5 * 3 * 2 * 4


def test_progress_reaches_one():
    shares = []
    draw(zeros, SHORT, (5, 2), generator(0, "x"), batch_size=2, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_bad_input():
    with pytest.raises(BadInput, match=r"record: found levels 0 to 4, expected a window inside 0 to 3"):
        draw(zeros, SHORT, (5, 2), generator(0, "x"), record=(0, 4))
    with pytest.raises(NotFinite, match=r"samples: found 2 of 2 with NaN or Inf, expected finite samples"):
        draw(lambda x, t: x * math.nan, SHORT, (5, 2), generator(0, "x"), batch_size=2)
    with pytest.raises(BadInput, match=r"betas: found torch.float32 of shape \[3\], expected float64"):
        NoiseSchedule(SHORT.betas.float())
    with pytest.raises(BadInput, match="expected numbers above 0 and below 1"):
        NoiseSchedule(torch.tensor([0.1, 1.0], dtype=torch.float64))
    with pytest.raises(BadInput, match="variance: found 'wide', expected large or small"):
        NoiseSchedule(SHORT.betas, "wide")
    with pytest.raises(BadInput, match="num_steps: found 4, expected a whole number from 1 to 3"):
        SHORT.first(4)
    with pytest.raises(BadInput, match=r"betas: found 0.3 to 0.2, expected 0 < first <= last < 1"):
        linear_betas(10, 0.3, 0.2)
