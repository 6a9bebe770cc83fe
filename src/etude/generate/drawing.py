"""From logits to tokens: temperature, top-k, top-p, and uniform numbers that belong to a sample.

p = softmax(logits / temperature); a token is drawn by inverting the running sum of p over ids, so that a change of 1e-6 in
the logits moves a draw only where its number lies within about that of a border.
Sources: top-k, Fan et al. (arXiv 1805.04833); top-p, Holtzman et al. (1904.09751).
Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from etude.engine.protocols import Sampling
from etude.engine.streams import derive
from etude.errors import BadInput

CHUNK = 64
"""Uniform numbers drawn at a time for each sample."""
_BELOW_ONE = 1 - 2.0**-33


def check(sampling: Sampling) -> None:
    """Raises BadInput for a temperature, cut or length out of range."""
    if not 0 <= sampling.temperature < float("inf"):
        raise BadInput("Sampling.temperature", repr(sampling.temperature), "a number >= 0")
    if isinstance(sampling.top_k, bool) or not isinstance(sampling.top_k, int) or sampling.top_k < 0:
        raise BadInput("Sampling.top_k", repr(sampling.top_k), "a whole number >= 0")
    if not 0 < sampling.top_p <= 1:
        raise BadInput("Sampling.top_p", repr(sampling.top_p), "a number over 0, at most 1")
    if isinstance(sampling.max_tokens, bool) or not isinstance(sampling.max_tokens, int) or sampling.max_tokens < 1:
        raise BadInput("Sampling.max_tokens", repr(sampling.max_tokens), "a whole number >= 1")
    if any(not s for s in sampling.stop_strings):
        raise BadInput("Sampling.stop_strings", "an empty text", "texts of at least one character")


class Uniforms:
    """Numbers in [0, 1) for samples: the one at a position depends on (seed, prompt id, sample index, position) alone."""

    def __init__(self, seed: int, samples: Sequence[tuple[int, int]]) -> None:
        """samples: (prompt id, sample index) of each."""
        keys = (derive(seed, "sample", int(prompt), int(index)) for prompt, index in samples)
        self._generators = [np.random.Generator(np.random.Philox(key=key)) for key in keys]
        self._drawn = torch.empty(len(self._generators), 0, dtype=torch.float64)
        self._start = 0

    def at(self, position: int) -> Tensor:
        """[N] float64 of all samples. Positions are asked for in rising order."""
        while position >= self._start + self._drawn.shape[1]:
            self._start += self._drawn.shape[1]
            drawn = np.stack([g.random(CHUNK) for g in self._generators])
            # Never so near to one that its product with a sum rounds to the sum.
            self._drawn = torch.from_numpy(np.minimum(drawn, _BELOW_ONE))
        return self._drawn[:, position - self._start]


def exact(logits: Tensor) -> Tensor:
    """In float32 or finer: a softmax in half precision is off by 1e-2."""
    return logits if logits.dtype == torch.float64 else logits.float()


@dataclass(frozen=True, slots=True)
class Drawn:
    """tokens: [B]. logprobs: [B] of the full softmax at the temperature (at 1 where that is 0). kept: [B, V] boolean, or None."""

    tokens: Tensor
    logprobs: Tensor
    kept: Tensor | None


def kept_tokens(logprobs: Tensor, top_k: int, top_p: float) -> Tensor:
    """Which tokens the cuts leave, [B, V] boolean: the `top_k` likeliest (0: all), then of those the fewest whose share of their sum
    is at least `top_p`. Among equals, lower ids first."""
    ordered, order = logprobs.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered = ordered[:, :top_k]
    shares = ordered.to(torch.float64).softmax(-1)
    keep = (shares.cumsum(-1) - shares < top_p) | (top_p >= 1)  # a running sum may reach 1 before its end
    keep[:, 0] = True
    return torch.zeros_like(logprobs, dtype=torch.bool).scatter_(1, order[:, : keep.shape[1]], keep)


def draw(logits: Tensor, sampling: Sampling, uniforms: Tensor | None) -> Drawn:
    """One token a row. logits: [B, V]; uniforms: [B] float64, not looked at by greedy decoding (which may pass None).

    Computed in float32 or finer, as the trainer does, whatever the logits' type.
    """
    logits = exact(logits)
    if not sampling.temperature or uniforms is None:
        tokens = logits.argmax(-1)
        return Drawn(tokens, logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1), None)
    logprobs = (logits / sampling.temperature).log_softmax(-1)
    chances, kept = logprobs.exp(), None
    if (0 < sampling.top_k < logits.shape[1]) or sampling.top_p < 1:
        kept = kept_tokens(logprobs, sampling.top_k, sampling.top_p)
        chances = chances.masked_fill(~kept, 0)
    # In double precision, so that the running sum of a large vocabulary keeps what a small one has.
    sums = chances.cumsum(-1, dtype=torch.float64)
    wanted = uniforms.to(sums.device)[:, None] * sums[:, -1:]
    tokens = torch.searchsorted(sums, wanted, right=True)[:, 0].clamp_(max=logits.shape[1] - 1)
    return Drawn(tokens, logprobs.gather(1, tokens[:, None])[:, 0], kept)
