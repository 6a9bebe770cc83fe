"""Linear maps without bias, by the fastest kernel that PyTorch has for them.

On CPUs with AVX-512 that are not Intel's, matrix products in float32 go to MKL, which then keeps to AVX2, while
batches of 16 and more convolutions go to oneDNN, which does not: over a thousand rows or more, a 1 x 1 convolution over
rows laid out channels-last is the same product, with the same operation count, in half the time (forward and backward,
AMD EPYC, torch 2.13). Where PyTorch chooses otherwise, it costs what `F.linear` costs.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST_ROWS = 1024
"""Below this many rows a convolution's fixed cost outweighs what it saves."""
IMAGES = 16
"""The smallest batch for which PyTorch gives a convolution to oneDNN."""


@cache
def wide_vectors() -> bool:
    """Whether this CPU and this build have the faster path. Both are fixed for the process."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., I] times weight [O, I] transposed -> [..., O]. Equal to `F.linear` up to the order of summation."""
    rows = x.numel() // x.shape[-1]
    if (
        rows < FEWEST_ROWS
        or rows % IMAGES
        or x.device.type != "cpu"
        or x.dtype is not torch.float32
        or weight.dtype is not torch.float32
        or not x.is_contiguous()
        or torch.compiler.is_compiling()  # the compiler chooses its own kernels, and knows products better
        or not wide_vectors()
        or torch.is_autocast_enabled("cpu")
    ):
        return F.linear(x, weight)
    inputs, outputs = x.shape[-1], weight.shape[0]
    image = x.view(IMAGES, 1, rows // IMAGES, inputs).permute(0, 3, 1, 2)
    mapped = F.conv2d(image, weight.view(outputs, inputs, 1, 1))
    return mapped.permute(0, 2, 3, 1).reshape(*x.shape[:-1], outputs)


class Projection(nn.Linear):
    """A linear map without bias, drawn from N(0, std)."""

    def __init__(self, inputs: int, outputs: int, std: float = 0.02) -> None:
        self.std = std
        super().__init__(inputs, outputs, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight)
