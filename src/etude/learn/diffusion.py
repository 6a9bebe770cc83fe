"""The objective of denoising diffusion: predict the noise that was added."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from etude.engine.protocols import Batch, Output
from etude.engine.streams import derive, sample_normals, sample_uniforms
from etude.generate.diffusion import NoiseSchedule


class NoisePrediction:
    """Mean squared error of the predicted noise, at a level drawn uniformly for each sample (Ho et al. 2020, eq. 14).

    Takes `x` [B, ...] from the batch and any `model(x, t)` with t int64 [B]. Levels and noise belong to (seed, step, sample), so
    that one batch of 8 equals 8 of 1, and runs on different devices see the same ones.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        clean = batch.data["x"]
        size = clean[0].numel()
        t = torch.from_numpy((sample_uniforms(derive(batch.key, "level"), batch.ids, 1)[:, 0] * self.schedule.num_steps).astype(np.int64))
        noise = torch.from_numpy(sample_normals(derive(batch.key, "noise"), batch.ids, size)).view(clean.shape)
        t, noise = t.to(clean.device), noise.to(clean.device, clean.dtype)
        each = (model(self.schedule.noised(clean, t, noise), t) - noise).square().flatten(1).mean(1)
        return Output(each.mean(), each.detach(), float(len(clean)))
