"""Networks that predict the noise in a sample, for denoising diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class NoiseNetConfig:
    """dims: D of a sample. width: hidden units W, even. depth: residual blocks that a sample passes.

    tied: these share one set of weights (a recurrence in depth): as deep and as dear to compute, with a `depth`-th of the blocks'
    parameters. Equal to an untied net whose blocks are copies of each other.
    num_steps: noise levels that the net is asked about, 0 .. num_steps - 1.
    """

    dims: int = 2
    width: int = 128
    depth: int = 3
    tied: bool = False
    num_steps: int = 1000

    def __post_init__(self) -> None:
        for name in ("dims", "width", "depth", "num_steps"):
            if getattr(self, name) < 1:
                raise BadInput(f"NoiseNetConfig.{name}", repr(getattr(self, name)), "a whole number >= 1")
        if self.width % 2:
            raise BadInput("NoiseNetConfig.width", repr(self.width), "an even number (half sines, half cosines)")


def time_features(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of t [B] at width / 2 frequencies from 1 to 1e-4 in geometric order -> [B, width] float32.

    Source: Vaswani et al. 2017, section 3.5, as in Ho et al. 2020 (arXiv 2006.11239): all sines, then all cosines.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device) * (-math.log(10_000.0) / max(half - 1, 1)))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class NoiseBlock(nn.Module):
    """h + B act(norm(A act(norm(h)) + time)): a residual block with the noise level added in its middle. act: leaky ReLU, 0.02."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.time = nn.Linear(width, width)

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        """hidden [B, W], time [B or 1, W] (what `self.time` made of the noise level) -> [B, W]."""
        middle = self.first(F.leaky_relu(self.norm1(hidden), 0.02)) + time
        return hidden + self.second(F.leaky_relu(self.norm2(middle), 0.02))


class NoiseNet(nn.Module):
    """A residual perceptron for points: `net(x, t)` -> the noise in x [B, D] at the levels t, int64 [B] or [1] for all alike."""

    def __init__(self, config: NoiseNetConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.Linear(config.dims, config.width, bias=False)
        self.time = nn.Linear(config.width, config.width)
        self.blocks = nn.ModuleList(NoiseBlock(config.width) for _ in range(1 if config.tied else config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, config.dims)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        # A batch larger than the number of levels asks for each level several times: each is computed once and looked up.
        repeated = len(t) > self.config.num_steps
        levels = torch.arange(self.config.num_steps, device=t.device) if repeated else t
        time = F.leaky_relu(self.time(time_features(levels, self.config.width)), 0.02)
        hidden = self.enter(x)
        added: list[Tensor] = []
        for block in self.blocks:
            assert isinstance(block, NoiseBlock)
            rows = block.time(time)
            added.append(rows[t] if repeated else rows)
        for i in range(self.config.depth):
            block = self.blocks[i % len(self.blocks)]
            hidden = block(hidden, added[i % len(added)])
        return self.leave(self.norm(hidden))
