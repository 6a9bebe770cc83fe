"""The objective of denoising diffusion: predict the noise that was added."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from etude.engine.protocols import Batch, Output
from etude.generate.diffusion import NoiseSchedule


class NoisePrediction:
    """Mean squared error of the predicted noise, at a level drawn uniformly for each sample (Ho et al. 2020, eq. 14).

    Takes `x` [B, ...] from the batch and any `model(x, t)` with t int64 [B]. Levels and noise are drawn from the global CPU
    generator, which the trainer sets for each forward, and moved: runs on different devices see the same ones.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        clean = batch.data["x"]
        t = torch.randint(self.schedule.num_steps, (len(clean),)).to(clean.device)
        noise = torch.randn(clean.shape).to(clean.device, clean.dtype)
        each = (model(self.schedule.noised(clean, t, noise), t) - noise).square().flatten(1).mean(1)
        return Output(each.mean(), each.detach(), float(len(clean)))
