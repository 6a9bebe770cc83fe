"""Perceptrons: an `MLP` of any sizes, and the deep ReLU net of constant width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.engine.arguments import typed
from etude.errors import BadInput, one_of

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
}  # fmt: skip
_GAINS = {"relu": 2**0.5, "gelu": 2**0.5, "silu": 2**0.5, "tanh": 5 / 3, "sigmoid": 1.0}


class Affine(nn.Linear):
    """A linear map with bias: weights from N(0, gain / sqrt(inputs)), biases zero.

    A gain of sqrt(2) keeps the signal's size through any number of ReLUs (He et al., arXiv 1502.01852).
    """

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0) -> None:
        self.gain = gain
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.gain * self.in_features**-0.5)
        nn.init.zeros_(self.bias)


class MLP(nn.Module):
    """x [B, ...] flattened to sizes[0] numbers a sample -> [B, sizes[-1]]. The activation stands between layers, not after the last.

    Raises BadInput for fewer than two sizes, sizes under 1, or an unknown activation.
    """

    @typed()
    def __init__(self, sizes: Sequence[int], activation: str = "relu") -> None:
        super().__init__()
        if len(sizes) < 2 or any(s < 1 for s in sizes):
            raise BadInput("MLP.sizes", repr(sizes), "at least two whole numbers >= 1")
        if activation not in ACTIVATIONS:
            raise one_of("MLP.activation", activation, ACTIVATIONS)
        self.sizes, self.activation = tuple(sizes), activation
        gains = [_GAINS[activation]] * (len(sizes) - 2) + [1.0]
        self.layers = nn.ModuleList(Affine(i, o, g) for i, o, g in zip(sizes[:-1], sizes[1:], gains, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)


class DeepReLU(MLP):
    """`depth` hidden layers of `width` units with ReLUs."""

    @typed()
    def __init__(self, inputs: int, outputs: int, *, depth: int, width: int) -> None:
        if depth < 1:
            raise BadInput("DeepReLU.depth", repr(depth), "a whole number >= 1")
        super().__init__((inputs, *[width] * depth, outputs), "relu")
