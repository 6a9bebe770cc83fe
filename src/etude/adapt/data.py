"""The rows of a trainer as a source, and what the trainer iterates over where a method decides which come next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from etude.data.stream import DataStream
from etude.engine.arguments import shown
from etude.engine.protocols import Method
from etude.engine.run import Run
from etude.errors import BadInput, one_of

OURS = ("tokens", "loss_mask", "lengths", "weights")
"""Names that etude's language data has beside those of transformers."""
Labels = str | Sequence[Any] | np.ndarray | None
Numbers = str | Callable[[Any], float] | Sequence[float] | np.ndarray | None
ROWS = "rows"
"""Where a batch keeps rows that nothing has collated (GRPO's prompts)."""


class Nothing(dict[str, Any]):
    """A place in an update that no micro-batch takes: the stage has ended before the accumulation has."""


def named(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A trainer's inputs with etude's names beside theirs: `tokens` [B, T], `loss_mask` [B, T - 1], `lengths` [B]."""
    ids, labels, mask = inputs.get("input_ids"), inputs.get("labels"), inputs.get("attention_mask")
    data = dict(inputs)
    if isinstance(ids, Tensor) and ids.ndim == 2:
        data["tokens"] = ids
        if isinstance(labels, Tensor) and labels.shape == ids.shape:
            data["loss_mask"] = labels[:, 1:] != -100
        if isinstance(mask, Tensor) and mask.shape == ids.shape:
            data["lengths"] = mask.sum(1)
    return data


def plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """A batch's data as the trainer's collator gave it."""
    return {name: value for name, value in data.items() if name not in OURS}


class Rows:
    """A trainer's training rows by number, collated by it. A `Source`; `Labelled` where it is given domains, `Graded` where difficulties.

    loader:  makes the trainer's own DataLoader, which knows what columns stay and how rows are collated; called once, when needed.
    repeat:  how many times each row comes one after another (a group of GRPO).
    domains: a column of the data set, or one label a row. difficulty: a column of numbers, one number a row, or a function of a row.
    Raises BadInput for neither, naming the row.
    """

    def __init__(
        self, dataset: Any, loader: Callable[[], Any], *, repeat: int = 1, domains: Labels = None, difficulty: Numbers = None
    ) -> None:
        self.dataset, self.repeat = dataset, repeat
        self._make, self._loader = loader, None
        if domains is not None:
            labels = _column(dataset, domains, "domains") if isinstance(domains, str) else list(domains)
            if len(labels) != len(dataset):
                raise BadInput("etude.adapt.hf, domains", f"{len(labels)} labels", f"one for each of {len(dataset)} rows")
            if None in labels:
                raise BadInput(f"etude.adapt.hf, domains, row {labels.index(None)}", "nothing", "a label")
            self.domain_names: Sequence[str] = tuple(dict.fromkeys(str(label) for label in labels))
            numbers = {name: k for k, name in enumerate(self.domain_names)}
            self.domains = np.array([numbers[str(label)] for label in labels], dtype=np.int64)
        if difficulty is not None:
            self.difficulty = _graded(dataset, difficulty)

    @property
    def loader(self) -> Any:
        """The trainer's own, which is never iterated over."""
        if self._loader is None:
            self._loader = self._make()
        return self._loader

    def __len__(self) -> int:
        return len(self.dataset)

    def get(self, ids: np.ndarray) -> dict[str, Any]:
        numbers = np.repeat(np.asarray(ids), self.repeat).tolist()
        dataset, several = self.loader.dataset, getattr(self.loader.dataset, "__getitems__", None)
        collated = self.loader.collate_fn(several(numbers) if several is not None else [dataset[i] for i in numbers])
        return named(collated) if isinstance(collated, Mapping) else {ROWS: collated}


def _graded(dataset: Any, difficulty: str | Callable[[Any], float] | Sequence[float] | np.ndarray) -> np.ndarray:
    place = "etude.adapt.hf, difficulty"
    if isinstance(difficulty, str):
        values = _column(dataset, difficulty, "difficulty")
    elif callable(difficulty):
        values = []
        for row in range(len(dataset)):
            try:
                values.append(difficulty(dataset[row]))
            except Exception as error:
                raise BadInput(f"{place}, row {row}", f"{type(error).__name__}: {error}", "a number") from error
    else:
        values = list(difficulty)
    if len(values) != len(dataset):
        raise BadInput(place, f"{len(values)} numbers", f"one for each of {len(dataset)} rows")
    for row, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise BadInput(f"{place}, row {row}", shown(value), "a finite number")
    return np.array(values, dtype=np.float64)


def _column(dataset: Any, name: str, what: str) -> list[Any]:
    columns = list(getattr(dataset, "column_names", None) or (dataset[0] if isinstance(dataset[0], Mapping) else ()))
    if name not in columns:
        raise one_of(f"etude.adapt.hf, {what}", name, columns)
    return list(dataset[name]) if hasattr(dataset, "column_names") else [row.get(name) for row in dataset]


class GivenOrder(Method):
    """A sampler that one has, as the method that owns the order."""

    slots = ("sampler",)

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def start(self, run: Run) -> None:
        run.set_sampler(self.sampler)


class RowStream(DataStream):
    """The stream over a trainer's rows: the order and the stages of etude's own trainer for the same seed."""

    def identity(self) -> dict[str, Any]:
        return {"samples": len(self.source), "batch_size": self.batch_size, "seed": self.seed, "drop_last": self.drop_last}


class Batches(IterableDataset[Any]):
    """Micro-batches, each decided when it is asked for. count: how many one pass of the trainer takes; the next goes on from there.

    skip: tells how many of the first the trainer throws away (it has trained on them before it was resumed).
    """

    def __init__(self, count: int, following: Callable[[], Any], skip: Callable[[], int]) -> None:
        self.count, self.following, self.skip = count, following, skip

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        skipped = self.skip()
        for place in range(self.count):
            yield Nothing() if place < skipped else self.following()


def as_it_is(batch: Any) -> Any:
    return batch


def loader_of(batches: Batches) -> DataLoader[Any]:
    """Without workers and without a batch drawn ahead: what comes next may depend on what was learnt from the last."""
    return DataLoader(batches, batch_size=None, collate_fn=as_it_is)


def recorded(loader: Any, into: list[np.ndarray], skip: Callable[[], int]) -> None:
    """Makes a trainer's own loader tell which rows each of its batches has, in the order in which they come."""
    sampler = loader.batch_sampler
    kind = type(sampler)

    def tell(self: Any) -> Iterator[list[int]]:
        into.clear()
        skipped = skip()
        for place, ids in enumerate(kind.__iter__(self)):
            if place >= skipped:
                into.append(np.asarray(ids, dtype=np.int64))
            yield ids

    sampler.__class__ = type(kind.__name__, (kind,), {"__iter__": tell})
