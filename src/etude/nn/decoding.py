"""What models keep between decoded tokens: keys and values, or recurrent memory. Rows leave, repeat and step back.

A state is made by `model.begin(tokens, mask)` and moved on by `model.extend(tokens, state)`, which changes it in place.
Sequences end in the same column whatever their length: padding, given on either side, comes to stand before them, is never
looked at, and positions count from each sequence's own first token. No gradient passes: all runs in inference mode.
Shapes: B sequences, T new tokens, S columns in use, G key-value heads, R = H / G queries a head, E head width, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SPARE_COLUMNS = 16
"""Room for new tokens when a state is made; an eighth of what it holds, but no less than this, whenever that is used up.

Little, because what is read must lie close: on a CPU whose cache the pairs exceed, gaps of half a row's size double the time.
"""
KEPT_SNAPSHOTS = 64
"""How many steps a recurrent state can go back without reading its tokens again."""


def align_ends(tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """tokens [B, T] with padding left or right of each row (where mask [B, T] is False) -> the same with all of it to the left,
    as few columns as the longest row needs, and [B] the first real column of each row (None: no padding).

    Raises ValueError for an empty row, or padding between tokens.
    """
    if mask is None:
        if not tokens.numel():
            raise ValueError(f"tokens of shape {tuple(tokens.shape)}, expected at least one a row")
        return tokens, None
    lengths, total = mask.sum(1), tokens.shape[1]
    columns = torch.arange(total, device=tokens.device)
    right = (columns < lengths[:, None]).eq(mask).all(1)
    left = (columns >= total - lengths[:, None]).eq(mask).all(1)
    if not bool((right | left).all()) or not bool((lengths > 0).all()):
        raise ValueError("mask: expected at least one token in each row, with padding only before or after them")
    longest = int(lengths.max())
    shift = torch.where(right, total - lengths, 0)
    aligned = tokens.gather(1, (columns - shift[:, None]).clamp(min=0))[:, total - longest :]
    first = longest - lengths
    return aligned, first if bool(first.any()) else None


def one_query(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention of one position: queries [B G, R, E] over keys and values [B G, S, E] -> [B G, R, E].

    Two batched products: PyTorch's fused kernel on CPUs is made for many queries, and takes longer for one.
    bias: [B G, 1, S], added to the scores.
    """
    scale = queries.shape[-1] ** -0.5
    start = queries if bias is None else bias
    if bias is None:
        scores = torch.baddbmm(start.new_empty(1, 1, 1), queries, keys.transpose(1, 2), beta=0, alpha=scale)
    else:
        scores = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale)
    return torch.bmm(scores.softmax(-1), values)


def check_rewind(num_tokens: int, length: int, first: Tensor | None) -> None:
    """Raises ValueError where rows of `length` columns, real from `first` [B] on, cannot forget `num_tokens` and keep one."""
    shortest = length - (0 if first is None else int(first.max()))
    if not 0 <= num_tokens < shortest:
        raise ValueError(f"rewind by {num_tokens} tokens: expected 0 to {shortest - 1}, one less than the shortest row has")


class AttentionState:
    """Keys (rotated) and values of B sequences in columns 0 to `length` of preallocated memory that grows.

    plan: how the model computes single tokens, if it has a way of its own. pairs: by depth, [2, B, G, capacity, E].
    first: [B] each row's first real column, or None without padding.
    tables: rotary tables of positions 0 to at least capacity, [1, ..., ...]. tokens: [B, capacity], what was read.
    """

    def __init__(self, model: Any, tokens: Tensor, first: Tensor | None) -> None:
        self.model, self.first, self.length = model, first, 0
        self.pairs: list[Tensor] = []
        self.tokens = tokens.new_empty(tokens.shape[0], 0)
        self._bias: Tensor | None = None
        self._logits: Tensor | None = None
        self._views: list[tuple[Tensor, Tensor]] = []
        self.plan: Any = None
        self.tables: Any = None
        self._reserve(tokens.shape[1])

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def capacity(self) -> int:
        return self.tokens.shape[1]

    @property
    def logits(self) -> Tensor:
        """[B, V] of the token that comes next. After a rewind the last token is read again, once, to have them."""
        if self._logits is None:
            self.length -= 1
            self.model.extend(self.tokens[:, self.length : self.length + 1].clone(), self)
        assert self._logits is not None
        return self._logits

    def _reserve(self, columns: int) -> None:
        if columns <= self.capacity:
            return
        capacity = columns + max(SPARE_COLUMNS, columns // 8)
        if self.tables is None or capacity > self.tables.shape[1]:
            self.tables = self.model.rotary(torch.arange(2 * capacity, device=self.tokens.device))
        self._resize(capacity, None)

    def _resize(self, capacity: int, rows: Tensor | None) -> None:
        """New memory of `capacity` columns with what the old one holds, of `rows` only where given."""
        used = self.length

        def moved(old: Tensor, batch: int, columns: int) -> Tensor:
            shape = list(old.shape)
            shape[columns] = capacity
            if rows is not None:
                shape[batch] = len(rows)
            new, kept = old.new_empty(shape), old.narrow(columns, 0, used)
            new.narrow(columns, 0, used).copy_(kept if rows is None else kept.index_select(batch, rows))
            return new

        self.tokens = moved(self.tokens, 0, 1)
        self.pairs = [moved(p, 1, 3) for p in self.pairs]
        self._bias, self._views = None, []

    def views(self) -> list[tuple[Tensor, Tensor]]:
        """By depth: keys [B G, E, capacity] and values [B G, capacity, E]."""
        if not self._views:
            self._views = [(keys.transpose(1, 2), values) for keys, values in (p.flatten(1, 2) for p in self.pairs)]
        return self._views

    def positions(self, num_tokens: int) -> Tensor:
        """Rotary tables of the next `num_tokens` columns, [1 or B, T, ...]."""
        if self.first is None:
            return self.tables[:, self.length : self.length + num_tokens]
        columns = torch.arange(self.length, self.length + num_tokens, device=self.first.device)
        return self.tables[0][(columns - self.first[:, None]).clamp(min=0)]

    def before(self, num_tokens: int) -> tuple[Tensor, Tensor]:
        """The tokens before the next `num_tokens` columns, which `open` has noted, and where there is none: both [B, T]."""
        columns = torch.arange(self.length, self.length + num_tokens, device=self.tokens.device).expand(len(self), -1)
        return self.tokens.gather(1, (columns - 1).clamp(min=0)), columns <= (0 if self.first is None else self.first[:, None])

    def mask(self, num_tokens: int) -> Tensor | None:
        """[1 or B, 1, T, S + T], True where a new token may look; None where causality alone says it."""
        if self.first is None and not self.length:
            return None
        new = torch.arange(self.length, self.length + num_tokens, device=self.tokens.device)
        columns = torch.arange(self.length + num_tokens, device=self.tokens.device)
        causal = columns <= new[:, None]
        if self.first is None:
            return causal[None, None]
        # Padding may look at itself: a row of scores without any entry would be not-a-number.
        own = (columns >= self.first[:, None])[:, None] | (columns == new[:, None])
        return (causal & own)[:, None]

    def bias(self, heads: int) -> Tensor | None:
        """[B G, 1, S + 1] for `one_query`: minus infinity on padding; None without padding."""
        if self.first is None:
            return None
        if self._bias is None:
            columns = torch.arange(self.capacity, device=self.first.device)
            hidden = (columns < self.first[:, None]).repeat_interleave(heads, 0)[:, None]
            self._bias = torch.zeros(hidden.shape, dtype=self.pairs[0].dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
        return self._bias[:, :, : self.length + 1]

    def open(self, tokens: Tensor) -> None:
        """Makes room for tokens [B, T] and notes them; `close` counts them in."""
        self._reserve(self.length + tokens.shape[1])
        self.tokens[:, self.length : self.length + tokens.shape[1]] = tokens

    def write(self, depth: int, keys_values: Tensor) -> Tensor:
        """keys_values [2, B, G, T, E] of new tokens at `depth` -> all pairs so far, [2, B, G, S + T, E]."""
        end = self.length + keys_values.shape[3]
        if depth == len(self.pairs):
            shape = (*keys_values.shape[:3], self.capacity, keys_values.shape[4])
            self.pairs.append(keys_values.new_empty(shape))
        pairs = self.pairs[depth]
        pairs[:, :, :, self.length : end] = keys_values
        return pairs[:, :, :, :end]

    def close(self, num_tokens: int, logits: Tensor) -> None:
        self.length += num_tokens
        self._logits = logits

    @torch.inference_mode()
    def select(self, rows: Sequence[int] | Tensor) -> AttentionState:
        """A new state of the given rows, in their order, repeated where named twice; this one stays as it is."""
        index = torch.as_tensor(rows, device=self.tokens.device, dtype=torch.int64)
        new = object.__new__(AttentionState)
        new.__dict__.update(self.__dict__)
        new.first = None if self.first is None else self.first[index]
        new._resize(self.capacity, index)
        new._logits = None if self._logits is None else self._logits[index]
        return new

    @torch.inference_mode()
    def rewind(self, num_tokens: int) -> None:
        """Forgets the last `num_tokens` of every row. Raises ValueError where a row would be left without any."""
        check_rewind(num_tokens, self.length, self.first)
        if num_tokens:
            self.length -= num_tokens
            self._logits = None


class RecurrentState:
    """Memory of B sequences after their last token, and snapshots of it after the extensions before.

    memory: the recurrent layers' state, [L, B, D], for "lstm" a pair. logits: [B, V] of the token that comes next.
    """

    def __init__(self, model: Any, tokens: Tensor, first: Tensor | None, memory: Any, logits: Tensor) -> None:
        self.model, self.first, self.read = model, first, [tokens]
        self.length = tokens.shape[1]
        self.snapshots: deque[tuple[int, Any, Tensor]] = deque([(self.length, memory, logits)], KEPT_SNAPSHOTS + 1)

    def __len__(self) -> int:
        return self.read[0].shape[0]

    @property
    def memory(self) -> Any:
        return self.snapshots[-1][1]

    @property
    def logits(self) -> Tensor:
        return self.snapshots[-1][2]

    def add(self, tokens: Tensor, memory: Any, logits: Tensor) -> None:
        self.read.append(tokens)
        self.length += tokens.shape[1]
        self.snapshots.append((self.length, memory, logits))

    @torch.inference_mode()
    def select(self, rows: Sequence[int] | Tensor) -> RecurrentState:
        """As `AttentionState.select`. Snapshots are not taken over: stepping back beyond this point reads the tokens again."""
        index = torch.as_tensor(rows, device=self.logits.device, dtype=torch.int64)
        memory = self.memory
        kept = tuple(m[:, index] for m in memory) if isinstance(memory, tuple) else memory[:, index]
        first = None if self.first is None else self.first[index]
        return RecurrentState(self.model, torch.cat(self.read, 1)[index], first, kept, self.logits[index])

    @torch.inference_mode()
    def rewind(self, num_tokens: int) -> None:
        """As `AttentionState.rewind`: from a snapshot where one was kept, else by reading the remaining tokens again."""
        check_rewind(num_tokens, self.length, self.first)
        target = self.length - num_tokens
        tokens = torch.cat(self.read, 1)[:, :target]
        while len(self.snapshots) > 1 and self.snapshots[-1][0] > target:
            self.snapshots.pop()
        self.read, self.length = [tokens], target
        if self.snapshots[-1][0] != target:
            mask = None if self.first is None else torch.arange(target, device=tokens.device) >= self.first[:, None]
            anew = self.model.begin(tokens, mask)
            # By this state's columns: `begin` has none for padding that all rows share (after a `select`).
            self.snapshots.clear()
            self.snapshots.append((target, anew.memory, anew.logits))


def pad_right(tokens: Tensor, first: Tensor) -> Tensor:
    """Rows aligned at their ends -> the same aligned at their beginnings; what follows a row's end is arbitrary."""
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    return tokens.gather(1, (columns + first[:, None]).clamp(max=tokens.shape[1] - 1))


def padded(rows: Sequence[Any], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor | None]:
    """Arrays of ids, each [n] -> tokens [B, T] padded on the right with 0, and the mask [B, T] (None: all of one length)."""
    lengths = [len(r) for r in rows]
    longest = max(lengths)
    tokens = [F.pad(torch.as_tensor(r, dtype=torch.int64), (0, longest - len(r))) for r in rows]
    mask = None if min(lengths) == longest else torch.arange(longest) < torch.tensor(lengths)[:, None]
    return torch.stack(tokens).to(device), None if mask is None else mask.to(device)
