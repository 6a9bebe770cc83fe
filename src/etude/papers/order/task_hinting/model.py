"""A decoder without positions, whose attention may grow sharper with the length of what it reads.

    attention of a token that sees n: softmax(s(n) q k / sqrt(E)),    s(n) = 1 + b ln n,    b learnt, 0 at first: plain softmax

A softmax over n keys whose scores differ by a fixed gap spreads as n grows; scores that grow with ln n hold it together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etude.nn.transformer import Transformer, TransformerConfig


def sharpness(slope: Tensor, num_seen: Tensor) -> Tensor:
    """s(n) = 1 + b ln n. slope: b, a scalar. num_seen: n >= 1, of any shape."""
    return 1 + slope * num_seen.log()


class Temper(nn.Module):
    """b, one number of the whole network."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.slope)


class PositionFree(Transformer):
    """A `Transformer` to which a token's place says nothing but what causal attention shows. tempered: with s(n), else s = 1.

    Everything is done to the rotary tables, so that decoding with kept keys and values is the same network.
    """

    def __init__(self, config: TransformerConfig, tempered: bool = False) -> None:
        super().__init__(config)
        self.temper = Temper() if tempered else None

    def rotary(self, positions: Tensor) -> Tensor:
        """Tables that turn nothing, and stretch the queries at `positions` [T] or [B, T] by s(position + 1)."""
        tables = super().rotary(torch.zeros_like(positions))  # [1 or B, T, (H + 2 G) E / 2]
        if self.temper is None:
            return tables
        queries = self.config.heads * self.config.head_width // 2
        stretch = sharpness(self.temper.slope, (positions + 1).to(tables.real.dtype)).view(-1, tables.shape[1], 1)
        return torch.cat((tables[..., :queries] * stretch, tables[..., queries:]), -1)
