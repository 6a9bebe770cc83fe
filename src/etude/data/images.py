"""Small images: scikit-learn's digits (packaged) and MNIST-1D (procedural)."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.cards import INSTALL
from etude.engine.streams import derive, global_streams, numpy_rng
from etude.errors import BadInput


@dataclass(frozen=True)
class Part:
    """Features [N, ...] float32 and classes [N] int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Splits:
    """The same data set in four disjoint parts."""

    train: Part
    steer: Part
    validation: Part
    test: Part
    num_classes: int = 10


@cache
def digits() -> Splits:
    """1,797 images of 8 x 8 as [N, 64] in 0..1 (UCI optical recognition of handwritten digits, CC BY 4.0; scikit-learn's copy).

    Split 1,097 / 100 / 200 / 400 by a fixed order, the same for all seeds.
    """
    data = np.load(io.BytesIO((files("etude.data") / "packaged" / "digits.npz").read_bytes()), allow_pickle=False)
    return _split(data["images"].astype(np.float32) / 16, data["labels"], (1097, 100, 200, 400), "digits")


@cache
def mnist1d(num_train: int = 4000, num_test: int = 1000) -> Splits:
    """MNIST-1D (Greydanus and Kobak, arXiv 2011.14439), made by its own package with its own settings and seed 42.

    Signals [N, 40], centred and scaled to deviation 1. With the defaults: its 5,000 samples, the first 4,000 for training
    (of which 100 steer and 400 validate), 1,000 for test. Raises BadInput where the package is missing.
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise BadInput("data set 'mnist1d'", "no package mnist1d", INSTALL) from error
    if num_train < 40 or num_test < 1 or (num_train + num_test) % 10:
        raise BadInput("data set 'mnist1d'", f"{num_train} + {num_test} samples", "at least 40 + 1, together a multiple of the 10 classes")
    arguments: Any = get_dataset_args()
    arguments.num_samples = num_train + num_test
    arguments.train_split = num_train / arguments.num_samples
    with global_streams(0):  # the package seeds the global generators itself; this puts them back
        made = make_dataset(arguments)
    x = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)
    y = np.concatenate([made["y"], made["y_test"]])
    if (num_train, num_test) == (4000, 1000):
        _check_mnist1d(x, y)
    held = (num_train // 40, num_train // 10)
    return _cut(x, y, (num_train - sum(held), *held, num_test))


MNIST1D_LABELS = "4f5f4160c519e3c47f9d3e196c161336fcd32126a9efffe4153d6e7c8b73f963"
MNIST1D_SIZES = (0.89345, 0.81349, 0.7249, 0.72304, 0.61536)  # mean |x| at points 0, 8, 16, 24, 32


def _check_mnist1d(x: np.ndarray, y: np.ndarray) -> None:
    """Raises BadInput where the package makes other samples than those of its version on the card.

    The order of the labels by hash; the signals by size, since their last bits depend on the machine.
    """
    sizes = np.abs(x).mean(0)[::8]
    if hashlib.sha256(y.astype(np.uint8).tobytes()).hexdigest() != MNIST1D_LABELS or not np.allclose(sizes, MNIST1D_SIZES, atol=1e-4):
        raise BadInput("data set 'mnist1d'", "other samples than those that were recorded", "mnist1d==0.0.2.post1")


def _split(x: np.ndarray, y: np.ndarray, sizes: tuple[int, int, int, int], name: str) -> Splits:
    order = numpy_rng(0, "split", name).permutation(len(y))
    return _cut(x[order], y[order], sizes)


def _cut(x: np.ndarray, y: np.ndarray, sizes: tuple[int, ...]) -> Splits:
    cuts = np.cumsum(sizes)[:-1]
    pieces = zip(np.split(x, cuts), np.split(y.astype(np.int64), cuts), strict=True)
    train, steer, validation, test = (Part(torch.from_numpy(a.copy()), torch.from_numpy(b.copy())) for a, b in pieces)
    return Splits(train, steer, validation, test)


def with_label_noise(y: Tensor, fraction: float, num_classes: int, seed: int) -> Tensor:
    """`y` with `fraction` of its labels (rounded down) replaced by another class, chosen uniformly. Returns a new [N] int64."""
    if not 0 <= fraction <= 1:
        raise BadInput("label noise", repr(fraction), "a share between 0 and 1")
    if num_classes < 2:
        raise BadInput("label noise", f"{num_classes} classes", "at least 2")
    rng = numpy_rng(derive(seed, "label noise"), "which")
    chosen = rng.permutation(len(y))[: int(fraction * len(y))]
    shifted = y.clone()
    shifted[chosen] = (y[chosen] + torch.from_numpy(rng.integers(1, num_classes, size=len(chosen)))) % num_classes
    return shifted
