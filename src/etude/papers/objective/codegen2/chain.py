"""A language in which infilling is soon learnt: each letter is followed by one of a few others.

What stands before a letter leaves `followers` of them, evenly; with what stands after it there is hardly more than one. So whoever looks
up both sides of a hole knows its letter, and whoever goes on from the left cannot. Code teaches the same look-up, but more slowly than a
small network has time for.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch import nn

from etude.data.sources import WindowSource
from etude.engine.protocols import Metrics
from etude.engine.streams import numpy_rng
from etude.learn.corruption import infill_prompt
from etude.papers.objective.codegen2.data import marks_of
from etude.papers.objective.codegen2.measures import told
from etude.papers.objective.codegen2.settings import Settings

LENGTHS = {"train": 400_000, "validation": 40_000, "test": 40_000}
"""Letters of each split."""


@lru_cache(maxsize=8)
def chain(settings: Settings, seed: int, split: str) -> np.ndarray:
    """Letters (ids from 0) of a walk through the seed's language; the splits are walks of their own."""
    table_rng, rng = numpy_rng(seed, "chain", "language"), numpy_rng(seed, "chain", split)
    after = [table_rng.permutation(settings.letters)[: settings.followers].tolist() for _ in range(settings.letters)]
    letters, here = [], 0
    for choice in rng.integers(settings.followers, size=LENGTHS[split]).tolist():
        here = after[here][choice]
        letters.append(here)
    return np.array(letters)


def chain_windows(settings: Settings, seed: int, split: str) -> WindowSource:
    letters = chain(settings, seed, split)
    return WindowSource(letters, settings.chain_context, document_ids=np.zeros(len(letters), dtype=np.int64), vocab=settings.vocab)


class ChainFilling:
    """{"chain loss", "chain exact"} of holes of one letter: its nats, and the share of greedy fills that are it and nothing more.

    how: "spans", given both sides; "left", given the left alone and told that one letter is missing.
    """

    def __init__(self, settings: Settings, seed: int, split: str, how: str) -> None:
        marks, letters, rng = marks_of(settings), chain(settings, seed, split), numpy_rng(seed, "chain", "holes", split)
        side = settings.chain_context // 3  # so that a prompt with its fill is about as long as a row
        places = rng.choice(np.arange(side, len(letters) - side), settings.chain_holes, replace=False)
        self.middles = [letters[p : p + 1] for p in places]
        lefts, rights = [letters[p - side : p] for p in places], [letters[p + 1 : p + 1 + side] for p in places]
        if how == "left":
            self.prompts, self.ends = lefts, np.ones(settings.vocab, dtype=bool)
        else:
            self.prompts = [infill_prompt(a, b, marks) for a, b in zip(lefts, rights, strict=True)]
            self.ends = np.arange(settings.vocab) == marks.end_of_span

    def __call__(self, model: nn.Module) -> Metrics:
        each = told(model, self.prompts, self.middles, self.ends)
        exact = [likeliest[0] == middle[0] and self.ends[likeliest[1]] for (_, likeliest), middle in zip(each, self.middles, strict=True)]
        return {"chain loss": float(np.mean([losses[0] for losses, _ in each])), "chain exact": float(np.mean(exact))}
