"""The most likely completion of a prompt, exactly: uniform-cost search over prefixes.

A prefix is never less likely than what continues it, so a search that always goes on from the most likely prefix reaches the most
likely finished completion first. The prefixes it opens are at most max_tokens / p, with p the completion's probability: fit for models that
put some mass on it. Greedy decoding and beams give no such guarantee.
Shapes: V vocabulary.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from etude.engine.device import evaluating
from etude.errors import BadInput
from etude.generate.prompts import check_lengths
from etude.generate.states import logits_at
from etude.nn.decoding import padded

OPENED_AT_ONCE = 4
"""Prefixes of one prompt in a forward: opening a few more than the best one costs less than another pass."""


@dataclass(frozen=True, slots=True)
class Mode:
    """tokens: [n], the end token last. logprob: of all of them, nats. opened: how many prefixes were looked at."""

    tokens: np.ndarray
    logprob: float
    opened: int


@dataclass(slots=True)
class _Search:
    """The prefixes of one prompt, most likely first; `best`: the most likely finished one that was seen."""

    front: list[tuple[float, tuple[int, ...]]] = field(default_factory=lambda: [(0.0, ())])
    best: tuple[float, tuple[int, ...]] | None = None
    opened: int = 0

    def next(self) -> list[tuple[float, tuple[int, ...]]]:
        """Prefixes to open, none where the search is over: what is left then is less likely than `best`."""
        taken = []
        while self.front and len(taken) < OPENED_AT_ONCE and (self.best is None or self.front[0] < self.best):
            taken.append(heapq.heappop(self.front))
        self.opened += len(taken)
        return taken

    def grow(self, cost: float, prefix: tuple[int, ...], costs: np.ndarray, end: int, max_tokens: int) -> None:
        """costs: [V] negative log-probabilities of the token after `prefix`."""
        finished = (cost + float(costs[end]), (*prefix, end))
        if self.best is None or finished < self.best:
            self.best = finished
        if len(prefix) + 1 < max_tokens:
            for token in np.flatnonzero(cost + costs <= self.best[0]).tolist():
                if token != end:
                    heapq.heappush(self.front, (cost + float(costs[token]), (*prefix, token)))


def most_likely(
    model: nn.Module,
    prompts: Sequence[np.ndarray],
    *,
    end: int,
    max_tokens: int,
    batch_size: int = 256,
    most_opened: int = 10_000,
) -> list[Mode]:
    """For each prompt (token ids [n]) the completion of at most `max_tokens` tokens, the closing `end` among them, of highest probability.

    Of equally likely ones the first in the order of token ids. The model is put into evaluation mode for the time of the call.
    Raises BadInput for an empty prompt, max_tokens < 1, and a prompt whose search opens more than `most_opened` prefixes: its model
    is too flat there for an exact answer.
    """
    if max_tokens < 1:
        raise BadInput("max_tokens", repr(max_tokens), "a whole number >= 1")
    check_lengths(prompts, None)
    searches = [_Search() for _ in prompts]
    active = list(range(len(prompts)))
    with evaluating(model) as device, torch.inference_mode():
        while active:
            jobs = [(i, *prefix) for i in active for prefix in searches[i].next()]
            active = sorted({i for i, _, _ in jobs})
            for start in range(0, len(jobs), batch_size):
                batch = jobs[start : start + batch_size]
                rows = [np.concatenate((prompts[i], np.array(prefix, dtype=np.int64))) for i, _, prefix in batch]
                tokens, _ = padded(rows, device)
                places = torch.tensor([[len(row) - 1] for row in rows], device=device)
                costs = -logits_at(model, tokens, places)[:, 0].double().log_softmax(-1).cpu().numpy()
                for (i, cost, prefix), row in zip(batch, costs, strict=True):
                    searches[i].grow(cost, prefix, row, end, max_tokens)
            for i in active:
                if searches[i].opened > most_opened:
                    raise BadInput(f"prompt {i}", f"more than {most_opened} prefixes opened", "a model with more mass on one completion")
    return [_mode(search) for search in searches]


def _mode(search: _Search) -> Mode:
    assert search.best is not None  # every opened prefix has a finished continuation
    cost, tokens = search.best
    return Mode(np.array(tokens, dtype=np.int64), -cost, search.opened)
