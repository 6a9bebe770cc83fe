import numpy as np
import torch
from torch import nn

from etude.engine.protocols import Batch
from etude.engine.streams import global_streams
from etude.generate.diffusion import NoiseSchedule
from etude.learn.diffusion import NoisePrediction

SCHEDULE = NoiseSchedule(torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64))


class Asked(nn.Module):
    def forward(self, x, t):
        self.x, self.t = x, t
        return torch.zeros_like(x)


def test_the_loss_is_the_mean_square_of_the_noise_that_was_mixed_in():
    model, clean = Asked(), torch.arange(12.0).reshape(6, 2)
    with global_streams(5):
        out = NoisePrediction(SCHEDULE)(model, Batch({"x": clean}, np.arange(6)))
    abar = SCHEDULE.abar[model.t].float()[:, None]
    noise = (model.x - abar.sqrt() * clean) / (1 - abar).sqrt()
    assert torch.allclose(out.per_sample, noise.square().mean(1), rtol=1e-4)
    assert torch.allclose(out.loss, out.per_sample.mean())
    assert out.weight == 6


def test_levels_are_even_and_draws_follow_the_global_stream():
    model, batch = Asked(), Batch({"x": torch.zeros(9000, 1)}, np.arange(9000))
    losses = []
    for seed in (1, 1, 2):
        with global_streams(seed):
            losses.append(NoisePrediction(SCHEDULE)(model, batch).loss)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    shares = torch.bincount(model.t, minlength=3) / 9000
    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.025)  # 5 standard errors
