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


def sample_uniforms(key: int, ids: np.ndarray, num_draws: int) -> np.ndarray:
    """[len(ids), num_draws] float64 in (0, 1): draw j of sample i depends on (key, ids[i], j) alone, not on the batch around it.

    A counter-based generator: each number is the SplitMix64 finaliser (Steele et al. 2014, section 3) of its place, applied
    three times over, for key, sample and draw. The same sample twice in a batch draws the same.
    """
    with np.errstate(over="ignore"):
        rows = _mix(_mix(np.uint64(key)) ^ np.asarray(ids).astype(np.uint64))
        bits = _mix(rows[:, None] + np.arange(1, num_draws + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def sample_normals(key: int, ids: np.ndarray, num_draws: int) -> np.ndarray:
    """[len(ids), num_draws] standard normal float64, by Box and Muller from `sample_uniforms`."""
    half = (num_draws + 1) // 2
    uniform = sample_uniforms(key, ids, 2 * half)
    radius, angle = np.sqrt(-2 * np.log(uniform[:, :half])), 2 * np.pi * uniform[:, half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)[:, :num_draws]


def _mix(z: np.ndarray | np.uint64) -> np.ndarray:
    z = np.asarray(z, dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


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


def halves(count: int) -> tuple[np.ndarray, np.ndarray]:
    """0 .. count - 1 cut into two, each in ascending order: the same two at every call."""
    order = numpy_rng(0, "halves", count).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])
