"""Small convolutional classifiers for signals and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from etude.engine.arguments import check_fields, typed
from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class ConvolutionConfig:
    """Strided convolutions with ReLUs, then one linear layer over what is left.

    dimensions: 1 (signals) or 2 (pictures). size: samples along each dimension. inputs: channels of the data.
    channels, kernels, strides: one number a layer; padding is kernel // 2, so that only strides shrink.
    """

    dimensions: int = 1
    size: int = 40
    inputs: int = 1
    channels: tuple[int, ...] = (36, 36, 36)
    kernels: tuple[int, ...] = (5, 3, 3)
    strides: tuple[int, ...] = (2, 2, 2)
    classes: int = 10

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dimensions not in (1, 2):
            raise BadInput("ConvolutionConfig.dimensions", repr(self.dimensions), "1 or 2")
        for name in ("size", "inputs", "classes"):
            if getattr(self, name) < 1:
                raise BadInput(f"ConvolutionConfig.{name}", repr(getattr(self, name)), "a whole number >= 1")
        if not self.channels or not len(self.channels) == len(self.kernels) == len(self.strides):
            found = f"{len(self.channels)}, {len(self.kernels)} and {len(self.strides)} numbers"
            raise BadInput("ConvolutionConfig.channels, kernels, strides", found, "the same number of them, at least one")
        for name in ("channels", "kernels", "strides"):
            if min(getattr(self, name)) < 1:
                raise BadInput(f"ConvolutionConfig.{name}", repr(getattr(self, name)), "whole numbers >= 1")


MNIST_1D = ConvolutionConfig()
"""For MNIST-1D's 40 samples: 9,874 parameters."""
DIGITS = ConvolutionConfig(dimensions=2, size=8, channels=(16, 24, 24), kernels=(3, 3, 3), strides=(1, 2, 2))
"""For the 8 x 8 digits: 9,818 parameters."""


class Convolution(nn.Module):
    """x [B, size], [B, size, size], or with channels [B, inputs, ...] -> logits [B, classes]."""

    @typed()
    def __init__(self, config: ConvolutionConfig = MNIST_1D) -> None:
        super().__init__()
        self.config = config
        kind = nn.Conv1d if config.dimensions == 1 else nn.Conv2d
        layers, inputs, size = [], config.inputs, config.size
        for outputs, kernel, stride in zip(config.channels, config.kernels, config.strides, strict=True):
            layers.append(kind(inputs, outputs, kernel, stride, padding=kernel // 2))
            inputs, size = outputs, (size + 2 * (kernel // 2) - kernel) // stride + 1
        self.layers = nn.ModuleList(layers)
        self.out = nn.Linear(inputs * size**config.dimensions, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        shape = (self.config.inputs, *[self.config.size] * self.config.dimensions)
        if x.shape[1:].numel() != shape[0] * self.config.size**self.config.dimensions:
            raise BadInput("Convolution input", f"{list(x.shape[1:])} numbers a sample", f"{list(shape)}")
        x = x.reshape(-1, *shape)
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.out(x.flatten(1))
