"""Packing: whole documents of different lengths into rows of one length, so that little is padding and none looks at another.

Source: best-fit packing as in Ding et al. 2024, arXiv 2404.10830 (documents longer than a row are cut, the rest are not).
Shapes: B rows, L = context + 1 tokens a row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.sources import DescribedSource, MixtureSource
from etude.errors import BadInput

PADDING = -1
"""The document id of what is only filling; its tokens are 0 and its targets masked."""


def cut(lengths: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Documents of `lengths` [D] as pieces of at most `row` tokens: (document, start in it, length), in order.

    Neighbouring pieces share one token, so that every token of a document but its first is a target exactly once.
    Documents of one token have no target and are left out.
    """
    counts = np.maximum(0, -(-(lengths - 1) // (row - 1)))
    documents = np.repeat(np.arange(len(lengths)), counts)
    numbers = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = numbers * (row - 1)
    return documents, starts, np.minimum(row, lengths[documents] - starts)


def best_fit(lengths: np.ndarray, row: int) -> np.ndarray:
    """The row of each piece: longest first, each where the least room is left over (best-fit decreasing). lengths: [P] <= row."""
    rows = np.empty(len(lengths), dtype=np.int64)
    room: dict[int, list[int]] = {}  # room left -> rows with it
    sizes: list[int] = []  # the keys of `room`, sorted
    num_rows = 0
    for piece in np.argsort(-lengths, kind="stable"):
        length = int(lengths[piece])
        at = bisect_left(sizes, length)
        if at < len(sizes):
            left = sizes[at]
            chosen = room[left].pop()
            if not room[left]:
                del room[left], sizes[at]
        else:
            left, chosen, num_rows = row, num_rows, num_rows + 1
        rows[piece] = chosen
        left -= length
        if left > 1:  # one token has no target
            if left not in room:
                room[left] = []
                insort(sizes, left)
            room[left].append(chosen)
    return rows


class PackedSource:
    """Rows of `context` + 1 tokens packed from the documents of a corpus (`tokens` [N], `offsets` [D + 1]).

    get(ids) -> {"tokens": [B, L] int64, "document_ids": [B, L] int64, numbered from 0 within each row and `PADDING` for
    filling, "loss_mask": [B, L - 1] bool, False where the target is filling or begins another document}.
    documents: the numbers of those to take, all by default.
    Raises BadInput where no document has two tokens.
    """

    def __init__(self, corpus: Any, context: int, *, documents: np.ndarray | None = None) -> None:
        if context < 1:
            raise BadInput("context", repr(context), "a whole number >= 1")
        offsets = np.asarray(corpus.offsets, dtype=np.int64)
        self.tokens, self.context, self.vocab = corpus.tokens, context, getattr(corpus, "vocab", None)
        chosen = np.arange(len(offsets) - 1) if documents is None else np.asarray(documents)
        which, starts, lengths = cut(np.diff(offsets)[chosen], context + 1)
        if not len(which):
            raise BadInput("data", f"{len(chosen)} documents of fewer than 2 tokens", "at least one document of 2 tokens or more")
        rows = best_fit(lengths, context + 1)
        order = np.argsort(rows, kind="stable")
        self._documents = which[order]  # of each piece, an index into the documents taken
        self._starts, self._lengths = (offsets[chosen[which]] + starts)[order], lengths[order]
        self._first = np.searchsorted(rows[order], np.arange(rows.max() + 2))

    def __len__(self) -> int:
        return len(self._first) - 1

    def means(self, values: np.ndarray) -> np.ndarray:
        """values [D], one for each document taken -> [N], each row's mean over its tokens."""
        weighted = np.add.reduceat(np.asarray(values)[self._documents] * self._lengths, self._first[:-1])
        return weighted / np.add.reduceat(self._lengths, self._first[:-1])

    @property
    def share_filled(self) -> float:
        """How much of all rows is text, 0 to 1."""
        return float(self._lengths.sum()) / (len(self) * (self.context + 1))

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        ids = np.asarray(ids)
        width, counts = self.context + 1, self._first[ids + 1] - self._first[ids]
        # For each piece of these rows: its number overall, its row in the batch, its number in the row, where it goes.
        row = np.repeat(np.arange(len(ids)), counts)
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        pieces = self._first[ids][row] + within
        lengths = self._lengths[pieces]
        ends = np.cumsum(lengths)
        row_start = np.concatenate([[0], ends])[np.cumsum(counts) - counts]
        to = row * width + (ends - lengths) - row_start[row]
        # Every token's offset in its piece turns pieces into one gather and one scatter.
        step = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
        flat = np.repeat(to, lengths) + step
        tokens = np.zeros((len(ids), width), dtype=np.int64)
        documents = np.full((len(ids), width), PADDING, dtype=np.int64)
        tokens.reshape(-1)[flat] = self.tokens[np.repeat(self._starts[pieces], lengths) + step]
        documents.reshape(-1)[flat] = np.repeat(within, lengths)
        mask = (documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] != PADDING)
        return {"tokens": torch.from_numpy(tokens), "document_ids": torch.from_numpy(documents), "loss_mask": torch.from_numpy(mask)}


BANDS = 16
"""Parts of rising difficulty that documents are packed in, so that what shares a row is about as difficult."""


def packed(
    corpus: Any,
    context: int,
    *,
    documents: np.ndarray | None = None,
    domains: Any = None,
    names: Sequence[str] = (),
    difficulty: Any = None,
) -> Any:
    """A `PackedSource`; with domains and difficulties of the documents taken, rows that have one of each.

    domains: [D] indices into `names`, one for each document taken; a row holds documents of one domain. difficulty: [D] numbers; documents
    of a domain are packed in `BANDS` parts of rising difficulty, and a row's is the mean over its tokens. Documents of one token are left
    out. Raises BadInput as `PackedSource`, and for a domain that has nothing.
    """
    if domains is None and difficulty is None:
        return PackedSource(corpus, context, documents=documents)
    lengths = np.diff(np.asarray(corpus.offsets, dtype=np.int64))
    numbers = np.arange(len(lengths)) if documents is None else np.asarray(documents)
    owners = np.zeros(len(numbers), dtype=np.int64) if domains is None else np.asarray(domains)
    parts: dict[str, Any] = {}
    rows: list[np.ndarray] = []
    grades: list[np.ndarray] = []
    for k in np.unique(owners):
        members = np.flatnonzero((owners == k) & (lengths[numbers] > 1))
        if not len(members):
            raise BadInput(
                "data", f"nothing of two tokens or more in the domain '{names[k]}'" if names else "no such document", "some text"
            )
        bands = [members]
        if difficulty is not None:
            hardness = np.asarray(difficulty, dtype=np.float64)
            bands = np.array_split(members[np.argsort(hardness[members], kind="stable")], min(BANDS, len(members)))
        for band in bands:
            part = PackedSource(corpus, context, documents=numbers[band])
            parts[f"{k}/{len(parts)}"] = part
            rows.append(np.full(len(part), k))
            if difficulty is not None:
                grades.append(part.means(np.asarray(difficulty)[band]))
    return DescribedSource(
        MixtureSource(parts),
        domains=np.concatenate(rows) if domains is not None else None,
        names=names,
        difficulty=np.concatenate(grades) if grades else None,
    )
