"""Sources over memory-mapped rows (`etude.data.row_store`): completions and conversations, and pairs of them.

Shapes: B samples, T + 1 tokens, as `learn.rows.filled` gives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.row_store import RowStore
from etude.errors import BadInput, choice
from etude.learn.rows import Row, filled

TOO_LONG = ("error", "drop", "cut")


@dataclass(frozen=True)
class Fitted:
    """numbers: [N] samples of a store that fit a context. dropped, cut: how many do not, or lose their end."""

    numbers: np.ndarray
    dropped: int = 0
    cut: int = 0


def fitted(store: RowStore, context: int, too_long: str = "error") -> Fitted:
    """Which samples are taken. A sample of the model's tokens alone in its cut-off end is dropped, and so are halves of a pair that a cut
    makes equal. Raises BadInput naming the first line where some are too long and `too_long` is "error", and where none is left."""
    if too_long not in TOO_LONG:
        raise choice("data.too_long", too_long, TOO_LONG)
    lengths = np.diff(store.offsets).reshape(len(store), store.rows_each)
    long = np.flatnonzero((lengths > context + 1).any(1))
    if len(long) and too_long == "error":
        first = long[0] * store.rows_each
        more = f"; {len(long)} of {len(store)} samples are too long" if len(long) > 1 else ""
        expected = f"at most {context + 1}, the data.context of {context} and its last target; or data.too_long = 'drop' or 'cut'"
        raise BadInput(store.file.where(int(store.lines[first])), f"{lengths[long[0]].max()} tokens{more}", expected)
    lost = long if too_long == "drop" else np.array([i for i in long if not _still_good(store, int(i), context)], dtype=np.int64)
    numbers = np.delete(np.arange(len(store)), lost)
    if not len(numbers):
        raise BadInput(
            store.file.name, f"{len(store)} samples, none of which fits {context} tokens", "shorter rows or a longer data.context"
        )
    return Fitted(numbers, len(lost), len(long) - len(lost))


def _still_good(store: RowStore, number: int, context: int) -> bool:
    rows = [row_of(store, store.rows_each * number + half, context) for half in range(store.rows_each)]
    if not all(row.mask.any() for row in rows):
        return False
    return len(rows) == 1 or not np.array_equal(rows[0].tokens, rows[1].tokens)


def row_of(store: RowStore, row: int, context: int) -> Row:
    """A row, its end cut off where it is longer than `context` + 1."""
    start = int(store.offsets[row])
    end = min(int(store.offsets[row + 1]), start + context + 1)
    assert store.said is not None
    return Row(store.tokens[start:end].astype(np.int64), store.said[start + 1 : end])


def _longest(store: RowStore, numbers: np.ndarray, count: int) -> np.ndarray:
    lengths = np.diff(store.offsets).reshape(len(store), store.rows_each).max(1)[numbers]
    return np.argsort(-lengths, kind="stable")[:count]


class MappedRows:
    """Completions and conversations, for `Finetune`. get(ids) -> as `CompletionSource`. Raises BadInput as `fitted` does.

    numbers: [N] the store's samples that are taken (see `fitted`).
    """

    def __init__(self, store: RowStore, numbers: np.ndarray, *, context: int) -> None:
        self.store, self.numbers, self.context, self.vocab = store, numbers, context, store.vocab

    def __len__(self) -> int:
        return len(self.numbers)

    def longest(self, count: int) -> np.ndarray:
        """[count] ids, by their tokens."""
        return _longest(self.store, self.numbers, count)

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        return filled([row_of(self.store, int(n), self.context) for n in self.numbers[np.asarray(ids)]])


class MappedPairs:
    """Preferences, for `Preference`. get(ids) -> as `PairSource`; reference: [N, 2] as there."""

    def __init__(self, store: RowStore, numbers: np.ndarray, *, context: int, reference: Any = None) -> None:
        self.store, self.numbers, self.context, self.vocab = store, numbers, context, store.vocab
        self.reference = None if reference is None else torch.as_tensor(reference, dtype=torch.float32)
        if self.reference is not None and self.reference.shape != (len(self), 2):
            raise BadInput("reference", f"shape {tuple(self.reference.shape)}", f"({len(self)}, 2), one number a completion")

    def __len__(self) -> int:
        return len(self.numbers)

    def longest(self, count: int) -> np.ndarray:
        """[count] ids, by the tokens of their longer half."""
        return _longest(self.store, self.numbers, count)

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        ids = np.asarray(ids)
        rows = [row_of(self.store, 2 * int(n) + half, self.context) for n in self.numbers[ids] for half in (0, 1)]
        data = {name: values.unflatten(0, (len(ids), 2)) for name, values in filled(rows).items()}
        return data if self.reference is None else data | {"reference": self.reference[torch.from_numpy(ids)]}
