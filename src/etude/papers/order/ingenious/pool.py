"""The testbed: windows of several corpora, half of them near copies of a few; and windows of each corpus that no arm trains on.

A near copy is a window of the same text that begins a few characters earlier or later, as scraped pages repeat each other: nothing in it
is wrong, it only says little that is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from etude.data.corpora import corpus
from etude.data.sources import TensorSource
from etude.engine.streams import numpy_rng
from etude.errors import BadInput
from etude.papers.order.ingenious.settings import Settings


@dataclass(frozen=True)
class Pool:
    """source: N windows. texts [N]: the number of the text that each is a window of; its near copies have the same. copied [N]: whether
    there are near copies of it. distinct [D]: one window of each text."""

    source: TensorSource
    texts: np.ndarray
    copied: np.ndarray
    distinct: np.ndarray


def windows(tokens: np.ndarray, starts: np.ndarray, context: int) -> np.ndarray:
    """[n, context + 1] from where each begins."""
    return tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64)


def even(total: int, parts: int) -> list[int]:
    """`total` in parts that differ by one at most."""
    return [total // parts + (k < total % parts) for k in range(parts)]


@lru_cache(maxsize=4)
def pool_of(settings: Settings, seed: int, copied: float) -> Pool:
    """N windows, of which a share `copied` are near copies. Texts do not overlap; of each corpus there are as many, and as many are copied.

    Raises BadInput for corpora too short for as many texts.
    """
    s, rng = settings, numpy_rng(seed, "pool")
    num_copies = round(copied * s.pool)
    room = s.context + 1 + 2 * s.shift
    begun, rows, texts, is_copied = 0, [], [], []
    sizes = zip(s.corpora, even(s.pool - num_copies, len(s.corpora)), even(round(s.originals * s.pool), len(s.corpora)),
                even(num_copies, len(s.corpora)), strict=True)  # fmt: skip
    for name, num_texts, num_originals, copies in sizes:
        tokens = np.asarray(corpus(name).tokens)
        if len(tokens) // room < num_texts:
            raise BadInput("settings.pool", f"{num_texts} windows of '{name}'", f"at most {len(tokens) // room}, as it has no more")
        starts = np.sort(rng.choice(len(tokens) // room, num_texts, replace=False)) * room + s.shift
        original = rng.choice(num_texts, num_originals, replace=False)
        sources = original[np.arange(copies) % num_originals]
        moved = starts[sources] + rng.integers(-s.shift, s.shift + 1, copies)
        rows.append(windows(tokens, np.concatenate([starts, moved]), s.context))
        texts.append(begun + np.concatenate([np.arange(num_texts), sources]))
        is_copied.append(np.isin(np.arange(num_texts), original) & (copies > 0))
        begun += num_texts
    order = rng.permutation(s.pool)
    tokens, text = np.concatenate(rows)[order], np.concatenate(texts)[order]
    return Pool(TensorSource(tokens=torch.from_numpy(tokens)), text, np.concatenate(is_copied)[text], np.unique(text, return_index=True)[1])


@lru_cache(maxsize=4)
def held_out(settings: Settings) -> TensorSource:
    """As many windows of each corpus, evenly spread over its validation split."""
    rows = []
    for name in settings.corpora:
        tokens = np.asarray(corpus(name, "validation").tokens)
        most = (len(tokens) - 1) // settings.context
        if most < settings.num_test:
            raise BadInput("settings.num_test", f"{settings.num_test} windows of '{name}'", f"at most {most}, as it has no more")
        places = np.linspace(0, most - 1, settings.num_test).astype(np.int64)
        rows.append(windows(tokens, places * settings.context, settings.context))
    return TensorSource(tokens=torch.from_numpy(np.concatenate(rows)))
