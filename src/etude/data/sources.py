"""Sources: samples by number, without a cursor. What order they come in is the sampler's and the stream's business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.engine.arguments import check, shown
from etude.errors import BadInput, numbered


class TensorSource:
    """Samples held in memory: `TensorSource(x=features, y=labels)`, each with the same first dimension N.

    Tensors stay as they are; arrays and lists of double precision become float32 and whole-number labels `y` int64, as
    models and losses take them. Raises BadInput for different numbers of rows or none.
    """

    def __init__(self, **arrays: Any) -> None:
        if not arrays:
            raise BadInput("data", "no tensors", "named tensors such as x=..., y=...")
        self.data: dict[str, Tensor] = {name: _as_tensor(name, values) for name, values in arrays.items()}
        for name, values in self.data.items():
            if not values.ndim:
                raise BadInput(f"data.{name}", "a single number", "one row a sample")
        lengths = {name: len(values) for name, values in self.data.items()}
        if len(set(lengths.values())) > 1:
            raise BadInput("data", ", ".join(f"{k} of {n} rows" for k, n in lengths.items()), "one number of rows")
        if not next(iter(lengths.values())):
            raise BadInput("data", "no rows", "at least one")

    def __len__(self) -> int:
        return len(next(iter(self.data.values())))

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        rows = torch.from_numpy(np.ascontiguousarray(ids))
        return {name: values[rows] for name, values in self.data.items()}

    def require_finite(self, names: Sequence[str]) -> None:
        """Raises BadInput, naming the rows, where one of the named tensors holds NaN or infinity."""
        for name in names:
            values = self.data.get(name)
            if values is None or not values.is_floating_point() or not values.numel():
                continue
            at_once = max(1, 2**22 * len(values) // values.numel())  # rows: no second copy of large data
            bad = torch.cat([(~torch.isfinite(part)).reshape(len(part), -1).any(1) for part in values.split(at_once)])
            if rows := bad.nonzero().flatten().tolist():
                raise BadInput(f"data.{name}", f"NaN or infinity in {numbered('row', rows)} (from 0)", "finite numbers")


class WindowSource:
    """Windows of `context` + 1 tokens, one starting each `context` tokens, of a corpus or a one-dimensional array of ids.

    get(ids) -> {"tokens": [B, context + 1] int64, with `documents` also "document_ids" of that shape}.
    Consecutive windows share one token, so that every token but the first is predicted once an epoch.

    documents: give each token the number of its document, so that attention and targets stay inside it (the corpus has
    `offsets`). document_ids: the same from an array [N] of your own. vocab: ids are checked against it in every batch;
    a corpus brings its own. A corpus with `domain_names` makes the source `Labelled`: each window has the domain that it
    starts in. Raises BadInput for a corpus shorter than one window.
    """

    def __init__(self, tokens: Any, context: int, *, documents: bool = False, document_ids: Any = None, vocab: int | None = None) -> None:
        # A plain array over a memory map: indexing the memmap class costs several times as much.
        self.tokens, self.context = np.asarray(getattr(tokens, "tokens", tokens)), context
        self.vocab = vocab if vocab is not None else getattr(tokens, "vocab", None)
        check("context", context, int)
        if context < 1:
            raise BadInput("context", repr(context), "a whole number >= 1")
        if self.tokens.ndim != 1 or self.tokens.dtype.kind not in "iu":
            raise BadInput("data", f"{self.tokens.dtype} of shape {self.tokens.shape}", "one dimension of whole numbers")
        if len(self.tokens) < context + 1:
            raise BadInput("data", f"{len(self.tokens)} tokens", f"at least one window of {context + 1}")
        offsets = getattr(tokens, "offsets", None)
        if documents and offsets is None:
            raise BadInput("data", "tokens without document offsets", "a corpus with `offsets`")
        self.document_ids = None if document_ids is None else np.asarray(document_ids)
        if self.document_ids is not None and len(self.document_ids) != len(self.tokens):
            raise BadInput("document_ids", f"{len(self.document_ids)}", f"one for each of {len(self.tokens)} tokens")
        self._offsets = np.asarray(offsets) if documents else None
        names = getattr(tokens, "domain_names", ())
        if names and offsets is not None:
            self.domain_names: Sequence[str] = tuple(names)
            starts = np.arange(len(self)) * context
            self.domains = np.asarray(tokens.document_domains)[np.searchsorted(offsets, starts, side="right") - 1]
        self._span = np.arange(context + 1)
        # One byte cannot be out of a vocabulary of 256, so bytes need no look at every batch.
        self._check = self.vocab is not None and np.iinfo(self.tokens.dtype).max >= self.vocab

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        places = (np.asarray(ids)[:, None] * self.context) + self._span
        tokens = self.tokens[places].astype(np.int64)
        if self._check and (tokens.min() < 0 or tokens.max() >= self.vocab):
            wrong = int(tokens.min()) if tokens.min() < 0 else int(tokens.max())
            raise BadInput("data", f"token {wrong}", f"ids from 0 to {self.vocab - 1}")  # type: ignore[operator]
        if self._offsets is not None:
            documents = np.searchsorted(self._offsets, places, side="right") - 1
        elif self.document_ids is not None:
            documents = self.document_ids[places].astype(np.int64)
        else:
            return {"tokens": torch.from_numpy(tokens)}
        return {"tokens": torch.from_numpy(tokens), "document_ids": torch.from_numpy(documents)}


class MixtureSource:
    """Several sources as one, each a domain: `MixtureSource({"text": a, "code": b})`; ids run through them in order.

    All give the same names and shapes. domains: [N] int64 index into `domain_names`.
    """

    def __init__(self, parts: dict[str, Any]) -> None:
        if not parts:
            raise BadInput("data", "no domains", "at least one source")
        for name, part in parts.items():
            if not len(part):
                raise BadInput(f"data.{name}", "no samples", "at least one")
        self.parts = list(parts.values())
        self.domain_names: Sequence[str] = tuple(parts)
        sizes = [len(p) for p in self.parts]
        self.ends = np.cumsum(sizes)
        self.domains = np.repeat(np.arange(len(sizes)), sizes)
        if all(hasattr(part, "difficulty") for part in self.parts):
            self.difficulty = np.concatenate([part.difficulty for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        ids = np.asarray(ids)
        which = np.searchsorted(self.ends, ids, side="right")
        result: dict[str, Tensor] = {}
        for k in np.unique(which):
            rows = np.flatnonzero(which == k)
            for name, values in self.parts[k].get(ids[rows] - (self.ends[k] - len(self.parts[k]))).items():
                if name not in result:
                    result[name] = values.new_empty((len(ids), *values.shape[1:]))
                result[name][torch.from_numpy(rows)] = values
        return result


class MappedSource:
    """A user's own indexable data (`__len__`, `__getitem__` giving tensors, tuples (x, y) or dicts), stacked into batches."""

    def __init__(self, dataset: Any) -> None:
        if not len(dataset):
            raise BadInput("data", "an empty data set", "at least one sample")
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        rows = [_named(self.dataset[int(i)]) for i in ids]
        for i, row in zip(ids, rows, strict=True):
            if {k: v.shape for k, v in row.items()} != {k: v.shape for k, v in rows[0].items()}:
                found = ", ".join(f"{k} {tuple(v.shape)}" for k, v in row.items())
                expected = ", ".join(f"{k} {tuple(v.shape)}" for k, v in rows[0].items())
                raise BadInput(f"data, sample {int(i)}", found, f"{expected} as in sample {int(ids[0])}")
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _named(sample: Any) -> dict[str, Tensor]:
    if isinstance(sample, dict):
        return {k: _as_tensor(k, v) for k, v in sample.items()}
    if isinstance(sample, (tuple, list)):
        if len(sample) != 2:
            raise BadInput("data", f"samples of {len(sample)} values", "pairs (x, y), or dicts of named tensors")
        return {k: _as_tensor(k, v) for k, v in zip(("x", "y"), sample, strict=True)}
    return {"x": _as_tensor("x", sample)}


def _as_tensor(name: str, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"data.{name}", f"{shown(values)} that is no array", "a tensor or an array of numbers") from error
    if tensor.dtype == torch.float64:
        return tensor.float()
    return tensor.long() if name == "y" and not tensor.is_floating_point() else tensor


class SubsetSource:
    """Some of a source's samples, renumbered from 0. ids: [M] numbers of the source's. Domains come along where it has them."""

    def __init__(self, source: Any, ids: Any) -> None:
        self.source, self.ids = source, np.asarray(ids, dtype=np.int64)
        if not len(self.ids):
            raise BadInput("data", "no samples", "at least one")
        if hasattr(source, "domains"):
            self.domains, self.domain_names = source.domains[self.ids], source.domain_names
        if hasattr(source, "difficulty"):
            self.difficulty = source.difficulty[self.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        return self.source.get(self.ids[np.asarray(ids)])


class DescribedSource:
    """A source's samples with a domain, a difficulty, or both: `DescribedSource(source, domains=labels, difficulty=numbers)`.

    domains: one label a sample, of any kind that has a name; `domain_names` are in the order in which they first come. Or, with `names`,
    [N] indices into these. difficulty: [N] numbers, higher is harder. What is not given, it does not have, whatever `source` has.
    Raises BadInput where there is not one for each sample.
    """

    def __init__(self, source: Any, *, domains: Any = None, names: Sequence[str] = (), difficulty: Any = None) -> None:
        self.source = source
        for what, values in (("domains", domains), ("difficulty", difficulty)):
            if values is not None and len(values) != len(source):
                raise BadInput(f"data.{what}", f"{len(values)} of them", f"one for each of {len(source)} samples")
        if domains is not None:
            self.domain_names: Sequence[str] = tuple(names) or tuple(dict.fromkeys(str(label) for label in domains))
            numbers = {name: k for k, name in enumerate(self.domain_names)}
            self.domains = np.asarray(domains if names else [numbers[str(label)] for label in domains], dtype=np.int64)
        if difficulty is not None:
            self.difficulty = np.asarray(difficulty, dtype=np.float64)
        if hasattr(source, "longest"):
            self.longest = source.longest

    def __len__(self) -> int:
        return len(self.source)

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        return self.source.get(ids)
