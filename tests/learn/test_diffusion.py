import numpy as np
import torch
from torch import nn

from etude.data.sources import TensorSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.protocols import Batch
from etude.engine.streams import generator, initialise
from etude.engine.trainer import Trainer
from etude.generate.diffusion import NoiseSchedule
from etude.learn.diffusion import NoisePrediction
from etude.nn.diffusion import NoiseNet, NoiseNetConfig

SCHEDULE = NoiseSchedule(torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64))


class Asked(nn.Module):
    def forward(self, x, t):
        self.x, self.t = x, t
        return torch.zeros_like(x)


def batch(count, width=2, key=0):
    return Batch({"x": torch.arange(float(count * width)).reshape(count, width)}, np.arange(count), key=key)


def test_the_loss_is_the_mean_square_of_the_noise_that_was_mixed_in():
    model, given = Asked(), batch(6)
    out = NoisePrediction(SCHEDULE)(model, given)
    abar = SCHEDULE.abar[model.t].float()[:, None]
    noise = (model.x - abar.sqrt() * given.data["x"]) / (1 - abar).sqrt()
    assert torch.allclose(out.per_sample, noise.square().mean(1), rtol=1e-4)
    assert torch.allclose(out.loss, out.per_sample.mean())
    assert out.weight == 6


def test_levels_are_even_and_draws_follow_the_key():
    model = Asked()
    losses = [NoisePrediction(SCHEDULE)(model, batch(9000, 1, key)).loss for key in (1, 1, 2)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    shares = torch.bincount(model.t, minlength=3) / 9000
    assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.025)  # 5 standard errors


def test_one_batch_of_eight_equals_eight_of_one():
    x = torch.randn(32, 2, generator=generator(0, "x"))

    def train(size, accumulate):
        model = initialise(NoiseNet(NoiseNetConfig(width=8, depth=1, num_steps=3)), 0)
        stream = DataStream(TensorSource(x=x), size, 0, drop_last=True)
        Trainer(model, stream, NoisePrediction(SCHEDULE), budget=Budget(steps=4), accumulate=accumulate).run()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.allclose(train(8, 1), train(1, 8), atol=1e-6)
