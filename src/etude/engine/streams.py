"""Random streams, derived by hashing names.

Two runs of one seed share every draw whose names they share: adding a head, a method or a data source shifts nobody
else's values. Never `seed + i`: neighbouring seeds would share most of their draws.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import nn

Name = str | int
M = TypeVar("M", bound=nn.Module)


def derive(seed: int, *names: Name) -> int:
    """A 63-bit seed for the stream with these names. Deterministic across machines and versions (BLAKE2b)."""
    text = "\x1f".join([str(int(seed)), *(f"{type(n).__name__[0]}{n}" for n in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *names: Name) -> torch.Generator:
    """A CPU generator for the stream. Draw on the CPU and move: the numbers then do not depend on the device."""
    return torch.Generator().manual_seed(derive(seed, *names))


def numpy_rng(seed: int, *names: Name) -> np.random.Generator:
    """A numpy generator for the stream."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))


@contextmanager
def global_streams(seed: int) -> Iterator[None]:
    """Sets the global generators (torch on CPU and accelerator, numpy, random) from `seed` inside, restores them after."""
    kept = torch.get_rng_state()
    kept_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    kept_numpy, kept_random = np.random.get_state(), random.getstate()  # noqa: NPY002  a stranger's module may draw from it
    torch.default_generator.manual_seed(seed)
    if kept_cuda is not None:
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(kept)
        if kept_cuda is not None:
            torch.cuda.set_rng_state_all(kept_cuda)
        np.random.set_state(kept_numpy)  # noqa: NPY002
        random.setstate(kept_random)


def initialise(model: M, seed: int) -> M:
    """Draws every module's own initial values anew from ("init", module name). Returns the model.

    A module takes part when it has `reset_parameters` (torch's convention); values set elsewhere stay.
    """
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            with global_streams(derive(seed, "init", name)), torch.no_grad():
                reset()
    return model
