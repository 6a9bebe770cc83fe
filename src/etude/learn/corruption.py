"""Texts with holes: span corruption, infilling, and masked positions, as objectives over the token rows that causal training takes.

    span corruption   ... <m1> ... <m2> ... <eot> <sep> <m1> span 1 <eom> <m2> span 2 <eom>      (CodeGen2, arXiv 2305.02309, section 2)
    infilling         <pre> prefix <suf> suffix <mid> middle, or suffix first                  (FIM, arXiv 2207.14255, section 3)
    masked            some tokens are <mask>, attention looks both ways, the loss is at them     (BERT, arXiv 1810.04805, section 3.1)

The first two are read from left to right like any text. A row keeps its length, so that it holds fewer tokens of the original: what
marks cost is part of the budget. Documents of a row (`document_ids`) are corrupted each by itself, filling (a negative id) not at all.
Shapes: B rows, T + 1 tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from etude.engine.protocols import Batch, Output
from etude.engine.streams import numpy_rng
from etude.errors import BadInput, one_of
from etude.learn.language import CausalLM


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Reserved token ids. spans: one a span, in order. separator: before the spans' texts. end_of_text: where the holed text ends.
    end_of_span: after each span's text. Raises BadInput where two are the same.
    """

    spans: Sequence[int]
    separator: int
    end_of_text: int
    end_of_span: int

    def __post_init__(self) -> None:
        every = [*self.spans, self.separator, self.end_of_text, self.end_of_span]
        if not self.spans or len(set(every)) < len(every):
            raise BadInput("Marks", f"ids {every}", "at least one for spans, all different")

    @property
    def every(self) -> np.ndarray:
        return np.array([*self.spans, self.separator, self.end_of_text, self.end_of_span])

    @classmethod
    def of(cls, ids: Sequence[int]) -> Marks:
        """Those for spans first, then separator, end of text, end of span. Raises BadInput for fewer than four."""
        if len(ids) < 4:
            raise BadInput("Marks", f"{len(ids)} ids", "at least four: one for a span, separator, end of text, end of span")
        *spans, separator, end_of_text, end_of_span = (int(i) for i in ids)
        return cls(spans=tuple(spans), separator=separator, end_of_text=end_of_text, end_of_span=end_of_span)


SPARE_BYTES = (*range(0xF5, 0xFD), 0xC0, 0xC1, 0xFD, 0xFE, 0xFF)
"""The thirteen bytes that stand nowhere in UTF-8 (RFC 3629, section 3): a model of bytes has room for ten spans' marks and the others."""


def random_spans(length: int, ratio: float, mean_span: float, rng: np.random.Generator) -> np.ndarray:
    """[K, 2] spans (start, end) in order, never touching each other nor the beginning, of round(ratio * length) tokens together.

    K is round(that / mean_span), at least one; where they begin and how long they are is drawn evenly among all ways to cut (as T5 does,
    arXiv 1910.10683, section 3.1.4, but that a text need not end in a span). Raises BadInput for a ratio outside (0, 1), a mean below 1,
    or a length too short for one span with something before it.
    """
    check_spans(ratio, mean_span)
    if length < 2:
        raise BadInput("span corruption", f"a text of {length} tokens", "at least 2")
    noise, count = _amounts(length, ratio, mean_span)
    taken, kept = _cut(noise, count, rng), _cut(length - noise + 1, count + 1, rng)[:-1]
    ends = np.cumsum(taken + kept)
    return np.stack([ends - taken, ends], 1)


def _amounts(length: int, ratio: float, mean_span: float) -> tuple[int, int]:
    """Tokens to take out of a text of `length` >= 2, and in how many spans."""
    noise = min(max(round(length * ratio), 1), length - 1)
    return noise, max(1, min(round(noise / mean_span), noise, length - noise))


def check_spans(ratio: float, mean_span: float) -> None:
    """Raises BadInput for a ratio outside (0, 1) or a mean below 1."""
    if not 0 < ratio < 1:
        raise BadInput("span corruption, ratio", repr(ratio), "a number between 0 and 1")
    if not mean_span >= 1:
        raise BadInput("span corruption, mean_span", repr(mean_span), "a number >= 1")


def _cut(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`total` cut into `parts` of at least one, every way alike."""
    places = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1 if parts > 1 else np.empty(0, np.int64)
    return np.diff(np.concatenate([[0], places, [total]]))


def corrupted(tokens: np.ndarray, spans: np.ndarray, marks: Marks) -> tuple[np.ndarray, int]:
    """(the row, the place of its separator): the text with a mark for each span, then each span's text after its mark.

    Raises BadInput for more spans than marks, or a text that holds a mark already.
    """
    if len(spans) > len(marks.spans):
        raise BadInput("span corruption", f"{len(spans)} spans", f"at most the {len(marks.spans)} that have marks")
    held = np.flatnonzero(np.isin(tokens, marks.every))
    if len(held):
        raise BadInput("span corruption", f"the reserved token {tokens[held[0]]} at {held[0]} of a text", "texts without marks")
    text, told, last = [], [], 0
    for mark, (start, end) in zip(marks.spans, spans.tolist(), strict=False):
        text += [tokens[last:start], [mark]]
        told += [[mark], tokens[start:end], [marks.end_of_span]]
        last = end
    head = np.concatenate([*text, tokens[last:], [marks.end_of_text]])
    return np.concatenate([head, [marks.separator], *told]).astype(tokens.dtype), len(head)


def restored(row: np.ndarray, marks: Marks) -> np.ndarray:
    """What `corrupted` was made of. Raises BadInput for a row that is not complete: a mark without its text, or text out of order."""
    ends, separators = np.flatnonzero(row == marks.end_of_text), np.flatnonzero(row == marks.separator)
    if len(ends) != 1 or len(separators) != 1 or separators[0] != ends[0] + 1:
        raise BadInput("span corruption", "a row without one end of text and a separator after it", "a whole corrupted row")
    text, rest = row[: ends[0]], row[separators[0] + 1 :]
    spans: dict[int, np.ndarray] = {}
    for part in np.split(rest, np.flatnonzero(rest == marks.end_of_span) + 1)[:-1]:
        spans[int(part[0])] = part[1:-1]
    used = [int(t) for t in text if t in marks.spans]
    if list(spans) != used:
        raise BadInput("span corruption", f"texts for {list(spans)}", f"one for each mark, {used}")
    return np.concatenate([spans.get(int(t), [t]) for t in text]).astype(row.dtype)


def infill_prompt(left: np.ndarray, right: np.ndarray, marks: Marks) -> np.ndarray:
    """What a model trained on corrupted spans continues with the text that stands between `left` and `right`, up to `end_of_span`."""
    mark = marks.spans[0]
    return np.concatenate([left, [mark], right, [marks.end_of_text, marks.separator, mark]]).astype(np.int64)


def longest_text(room: int, ratio: float, mean_span: float) -> int:
    """Most tokens of a text whose corrupted row has at most `room`; 0 where not even two fit."""
    length = room
    while length >= 2 and length + 2 + 3 * _amounts(length, ratio, mean_span)[1] > room:
        length -= 1
    return length if length >= 2 else 0


class Corruption(ABC):
    """Next-token loss on rows whose documents are written otherwise, each by itself, drawn for each sample and update.

    filler: the id that fills rows up. prefix: attention inside each document's first part looks both ways, and only the rest is learnt.
    everywhere: without `prefix`, the first part is learnt too, as any text. The model's forward takes `document_ids`, and `prefix` with it.
    A document of one token stays as it is, without loss.
    """

    name: str

    def __init__(self, filler: int, *, prefix: bool = False, everywhere: bool = True) -> None:
        self.filler, self.prefix, self.everywhere = filler, prefix, everywhere

    @abstractmethod
    def written(self, text: np.ndarray, room: int, rng: np.random.Generator) -> tuple[np.ndarray, int] | None:
        """The text, or as much of its beginning as fits, in at most `room` tokens, and how many of them are its first part; None where
        nothing fits."""

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        return CausalLM()(model, self.corrupt(batch))

    def corrupt(self, batch: Batch) -> Batch:
        """The batch with corrupted rows of the same length, "document_ids", "loss_mask" and, with `prefix`, "prefix" [B, T + 1]."""
        tokens = batch.data["tokens"].cpu().numpy()
        given = batch.data.get("document_ids")
        documents = np.zeros_like(tokens) if given is None else given.cpu().numpy()
        made = [self._row(t, d, numpy_rng(batch.key, "spans", int(i))) for t, d, i in zip(tokens, documents, batch.ids, strict=True)]
        rows, owners, losses, prefixes = (torch.from_numpy(np.stack(part)) for part in zip(*made, strict=True))
        data = {**batch.data, "tokens": rows, "document_ids": owners, "loss_mask": losses[:, 1:]}
        return replace(batch, data=data | ({"prefix": prefixes} if self.prefix else {})).to(batch.data["tokens"].device)

    def _row(self, tokens: np.ndarray, documents: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        size = len(tokens)
        row, owner = np.full(size, self.filler, tokens.dtype), np.full(size, -1, np.int64)
        loss, prefix = np.zeros(size, bool), np.zeros(size, bool)
        place, any_made = 0, False
        edges = np.flatnonzero(np.diff(documents)) + 1
        for text, document in zip(np.split(tokens, edges), documents[np.concatenate([[0], edges])], strict=True):
            if document < 0 or place == size:
                continue
            if len(text) < 2:
                row[place], owner[place] = text[0], place
                place += 1
                continue
            found = self.written(text, size - place, rng)
            if found is None:
                break
            made, first_part = found
            here = slice(place, place + len(made))
            row[here], owner[here] = made, place
            prefix[place : place + first_part] = True
            loss[here] = True
            if self.prefix or not self.everywhere:
                loss[place : place + first_part] = False
            loss[place] = False
            place, any_made = place + len(made), True
        if not any_made:
            raise BadInput(self.name, f"rows of {size} tokens", "texts long enough to hold a span and its marks")
        return row, owner, loss, prefix


class SpanCorruption(Corruption):
    """Spans are taken out of each text, and told after it. Its first part is the holed text with the separator.

    See `Corruption`, `corrupted` and `random_spans`. Raises BadInput as they do.
    """

    name = "span corruption"

    def __init__(self, marks: Marks, *, ratio: float = 0.15, mean_span: float = 3.0, prefix: bool = False, everywhere: bool = True) -> None:
        check_spans(ratio, mean_span)
        super().__init__(marks.end_of_text, prefix=prefix, everywhere=everywhere)
        self.marks, self.ratio, self.mean_span = marks, ratio, mean_span

    def written(self, text: np.ndarray, room: int, rng: np.random.Generator) -> tuple[np.ndarray, int] | None:
        length = min(len(text), longest_text(room, self.ratio, self.mean_span))
        if length < 2:
            return None
        made, separator = corrupted(text[:length], self._spans(length, rng), self.marks)
        return made, separator + 1

    def _spans(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """`random_spans`; where they are more than there are marks, some of them, evenly from the whole text."""
        spans, most = random_spans(length, self.ratio, self.mean_span, rng), len(self.marks.spans)
        return spans if len(spans) <= most else spans[np.sort(rng.choice(len(spans), most, replace=False))]


ORDERS = ("psm", "spm")


@dataclass(frozen=True, kw_only=True)
class MiddleMarks:
    """Reserved token ids of infilling: before the prefix, before the suffix, before the middle; end: after it."""

    prefix: int
    suffix: int
    middle: int
    end: int


def infilling_row(tokens: np.ndarray, start: int, end: int, marks: MiddleMarks, order: str = "psm") -> np.ndarray:
    """The text with tokens `start` to `end` moved to its end. order: "psm" (prefix first) or "spm" (suffix first, arXiv 2207.14255, 3).

    Raises BadInput for another order, or a middle that is empty or not inside the text.
    """
    if order not in ORDERS:
        raise one_of("infilling, order", order, ORDERS)
    if not 0 <= start < end <= len(tokens):
        raise BadInput("infilling", f"a middle from {start} to {end} of {len(tokens)} tokens", "a part of the text")
    before, middle, after = tokens[:start], tokens[start:end], tokens[end:]
    if order == "psm":
        parts = [[marks.prefix], before, [marks.suffix], after, [marks.middle], middle, [marks.end]]
    else:
        parts = [[marks.prefix], [marks.suffix], after, [marks.middle], before, middle, [marks.end]]
    return np.concatenate(parts).astype(tokens.dtype)


class Infilling(Corruption):
    """One part of each text, between two places drawn evenly, is told after the rest, as `infilling_row` orders it.

    The first part is all up to and with the mark before the middle. See `Corruption`. Raises BadInput for another order, or a text that
    holds a mark.
    """

    name = "infilling"

    def __init__(self, marks: MiddleMarks, *, order: str = "psm", prefix: bool = False, everywhere: bool = True) -> None:
        if order not in ORDERS:
            raise one_of("infilling, order", order, ORDERS)
        super().__init__(marks.end, prefix=prefix, everywhere=everywhere)
        self.marks, self.order = marks, order

    def written(self, text: np.ndarray, room: int, rng: np.random.Generator) -> tuple[np.ndarray, int] | None:
        text = text[: room - 4]  # four marks
        if room < 6:
            return None
        held = np.flatnonzero(np.isin(text, [self.marks.prefix, self.marks.suffix, self.marks.middle, self.marks.end]))
        if len(held):
            raise BadInput(self.name, f"the reserved token {text[held[0]]} at {held[0]} of a text", "texts without marks")
        start, end = np.sort(rng.choice(len(text) + 1, 2, replace=False))
        made = infilling_row(text, int(start), int(end), self.marks, self.order)
        return made, int(np.flatnonzero(made == self.marks.middle)[0]) + 1


class MaskedLM:
    """The loss at masked positions, of the token that stood there, with attention both ways inside a document.

    mask: the token id. ratio: share of positions chosen, at least one a row and none of filling; of these 0.8 become the mask, 0.1 any
    token below `vocab`, 0.1 stay (BERT, section 3.1). The model's forward takes `prefix`. Raises BadInput for a ratio outside (0, 1).
    """

    def __init__(self, mask: int, vocab: int, ratio: float = 0.15) -> None:
        if not 0 < ratio < 1:
            raise BadInput("MaskedLM.ratio", repr(ratio), "a number between 0 and 1")
        self.mask, self.vocab, self.ratio = mask, vocab, ratio

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        given = batch.data["tokens"][:, :-1]
        tokens, chosen = self.hide(given.cpu().numpy(), batch)
        inputs, where = torch.from_numpy(tokens).to(given.device), torch.from_numpy(chosen).to(given.device)
        documents = batch.data.get("document_ids")
        more = {} if documents is None else {"document_ids": documents[:, :-1]}
        result = model(inputs, prefix=torch.ones_like(where), **more)
        logits = model.head(result["hidden"])  # type: ignore[operator]
        losses = F.cross_entropy(logits.flatten(0, 1), given.flatten(), reduction="none").view(given.shape) * where
        counts = where.sum(1)
        weight = float(counts.sum())
        return Output(losses.sum() / weight, losses.detach().sum(1) / counts, weight)

    def hide(self, tokens: np.ndarray, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """tokens [B, T] -> (with some hidden, [B, T] bool which); drawn for each sample and update."""
        hidden, chosen = tokens.copy(), np.zeros(tokens.shape, bool)
        documents = batch.data.get("document_ids")
        filled = np.zeros(tokens.shape, bool) if documents is None else documents[:, :-1].cpu().numpy() < 0
        for row, i in enumerate(batch.ids):
            rng, size = numpy_rng(batch.key, "masks", int(i)), int((~filled[row]).sum())  # filling stands at the end
            count = max(1, round(self.ratio * size))
            places, fate = rng.choice(size, count, replace=False), rng.random(count)
            chosen[row, places] = True
            hidden[row, places[fate < 0.8]] = self.mask
            other = places[fate >= 0.9]
            hidden[row, other] = rng.integers(self.vocab, size=len(other))
        return hidden, chosen
