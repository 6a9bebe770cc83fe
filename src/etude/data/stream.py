"""The stream: the only holder of the data's cursor. Plans of a sampler, one a stage, cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from etude.data.packing import PackedSource
from etude.data.samplers import Shuffle
from etude.data.sources import MappedSource, TensorSource, WindowSource
from etude.data.tokens import TokenCorpus
from etude.engine.arguments import check, shown, typed
from etude.engine.identity import describe, describe_source
from etude.engine.protocols import Batch, Feedback, Sampler, Score, Source, Stage, Stream
from etude.engine.streams import numpy_rng
from etude.errors import BadInput


class DataStream:
    """Batches of `source` in the order that the sampler plans; without one, a seeded permutation each epoch.

    Stage k is one plan ("epoch-k"); its random numbers come from (seed, "data", name, k), so they depend on nothing drawn
    before. drop_last: whether a plan's last, smaller batch is left out. num_epochs: None goes on for ever. A batch is never
    filled from the next plan, so that a stage ends with its plan.
    Raises BadInput for a batch larger than what an epoch gives under drop_last, or a sampler's plan that is empty or names
    samples that do not exist.
    """

    @typed("")
    def __init__(
        self,
        source: Source,
        batch_size: int,
        seed: int,
        *,
        sampler: Sampler | None = None,
        num_epochs: int | None = None,
        drop_last: bool = False,
        name: str = "data",
    ) -> None:
        for what, value in {"batch_size": batch_size, "num_epochs": num_epochs}.items():
            if value is not None and value < 1:
                raise BadInput(what, repr(value), "a whole number >= 1")
        if seed < 0:
            raise BadInput("seed", repr(seed), "a whole number >= 0")
        if drop_last and len(source) < batch_size:
            if isinstance(source, WindowSource):
                least = f"at least {batch_size * source.context + 1}, one batch of {batch_size} windows of {source.context}"
                raise BadInput("data", f"{len(source.tokens)} tokens", least)
            raise BadInput("data", f"{len(source)} samples", f"at least one batch of {batch_size}")
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.sampler: Sampler = sampler or Shuffle()
        self.num_epochs, self.drop_last, self.name = num_epochs, drop_last, name
        self.epoch, self.position = 0, 0
        self._plan: np.ndarray | None = None

    def stage(self) -> Stage | None:
        return None if self.epoch == self.num_epochs else Stage(f"epoch-{self.epoch}", self.epoch)

    def next(self) -> Batch:
        if self.epoch == self.num_epochs:
            raise StopIteration
        if self._plan is None:
            self._plan = self._make_plan()
        ids = self._plan[self.position : self.position + self.batch_size]
        self.position += len(ids)
        left = len(self._plan) - self.position
        if not left or (self.drop_last and left < self.batch_size):
            self.epoch, self.position, self._plan = self.epoch + 1, 0, None
        return Batch(self.source.get(ids), ids)

    def _make_plan(self) -> np.ndarray:
        plan = np.asarray(self.sampler.plan(self.epoch, self.source, numpy_rng(self.seed, "data", self.name, self.epoch)), dtype=np.int64)
        if not len(plan) or (self.drop_last and len(plan) < self.batch_size):
            raise BadInput("sampler", f"a plan of {len(plan)} samples", f"at least {self.batch_size if self.drop_last else 1}")
        if plan.min() < 0 or plan.max() >= len(self.source):
            wrong = int(plan.min() if plan.min() < 0 else plan.max())
            raise BadInput("sampler", f"sample {wrong}", f"numbers from 0 to {len(self.source) - 1}")
        return plan

    def set_sampler(self, sampler: Sampler) -> None:
        """Takes effect with the next plan: at once where the present one is untouched, else at the next stage."""
        self.sampler = sampler
        if not self.position:
            self._plan = None

    def sampler_wants(self) -> Score | None:
        return self.sampler.wants(self.epoch)

    def give_score(self, score: Score, values: np.ndarray) -> None:
        self.sampler.receive(score, values)

    def observe(self, feedback: Feedback) -> None:
        self.sampler.observe(feedback)

    def batches_of(self, ids: np.ndarray | None, batch_size: int) -> Iterator[Batch]:
        ids = np.arange(len(self.source)) if ids is None else np.asarray(ids)
        for start in range(0, len(ids), batch_size):
            part = ids[start : start + batch_size]
            yield Batch(self.source.get(part), part)

    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to belong to this stream: the data, and how it is cut and shuffled."""
        source = {"samples": len(self.source)} if isinstance(self.source, MappedSource) else describe_source(self.source)
        cut = {"batch_size": self.batch_size, "num_epochs": self.num_epochs, "drop_last": self.drop_last}
        return {"source": source, **cut, "seed": self.seed, "name": self.name, "sampler": describe(self.sampler)}

    def state_dict(self) -> dict[str, Any]:
        # A stateless shuffle is planned again; any other sampler's plan depends on what it knew at the stage's start.
        plan = None if type(self.sampler) is Shuffle else self._plan
        return {"epoch": self.epoch, "position": self.position, "plan": plan, "sampler": self.sampler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state["sampler"])
        self.epoch, self.position, self._plan = state["epoch"], state["position"], state["plan"]
        if self._plan is None and self.position:
            self._plan = self._make_plan()


KINDS = "(x, y), tensors by name, a path, token ids or an indexable data set"
"""What `source_of` takes."""


def source_of(data: Any, context: int = 128) -> Source:
    """What a user has, as a source.

    A source as it is; (x, y) arrays or tensors; a dict of them; a text file's path (as bytes, memory-mapped), the path
    of a folder of memory-mapped tokens (`TokenWriter`), a corpus or a one-dimensional array of token ids (windows of
    `context`); a data set with `__len__` and `__getitem__`.
    Raises BadInput for anything else, and for a text too short for one window, naming the file.
    """
    check("context", context, int)
    if isinstance(data, Mapping):
        wrong = next((name for name in data if not isinstance(name, str)), None)
        if wrong is not None:
            raise BadInput("data", f"{shown(wrong)} as a name", "tensors by name, such as x and y")
        return TensorSource(**data)
    if isinstance(data, (str, Path)):
        if not str(data).strip():
            raise BadInput("data", "an empty path", "a text file, or a folder of memory-mapped tokens")
        return _from_path(Path(data), context)
    if isinstance(data, tuple):
        if len(data) != 2:
            raise BadInput("data", f"{len(data)} values", "(x, y), or a dict of more named tensors")
        return TensorSource(x=data[0], y=data[1])
    if (hasattr(data, "tokens") and not callable(getattr(data, "get", None))) or (
        isinstance(data, (np.ndarray, torch.Tensor)) and data.ndim == 1
    ):
        return WindowSource(data, context)
    if not isinstance(data, (type, list, str, bytes)) and hasattr(data, "__len__"):
        if callable(getattr(data, "get", None)):
            if _gives_tensors(data):
                return cast(Source, data)
        elif hasattr(data, "__getitem__"):
            return MappedSource(data)
    raise BadInput("data", shown(data), KINDS)


def _from_path(path: Path, context: int) -> Source:
    from etude.data.encoding import text_tokens

    tokens = TokenCorpus.open(path) if path.is_dir() else text_tokens(path)
    if len(tokens.tokens) < context + 1:
        raise BadInput(str(path), f"{len(tokens.tokens)} tokens", f"at least one window of {context + 1}")
    return WindowSource(tokens, context)


def _gives_tensors(source: Any) -> bool:
    """Whether something with `get` and a length is a source, and no data frame, say."""
    try:
        rows = source.get(np.zeros(1, dtype=np.int64)) if len(source) else {}
    except BadInput:
        raise
    except Exception:
        return False
    return isinstance(rows, Mapping) and all(isinstance(name, str) and isinstance(v, torch.Tensor) for name, v in rows.items())


def stream_of(
    data: Any,
    batch_size: int,
    seed: int,
    *,
    context: int = 128,
    sampler: Sampler | None = None,
    num_epochs: int | None = None,
    drop_last: bool | None = None,
    name: str = "data",
) -> Stream:
    """A stream over what a user has: anything that `source_of` takes, or a stream, which is given back as it is.

    drop_last: None leaves out a last, smaller batch of language windows, which would be one more shape for little text, and
    keeps that of other samples. Raises BadInput as `source_of` and `DataStream` do.
    """
    if all(hasattr(data, part) for part in ("next", "stage", "state_dict")):
        return data
    source = source_of(data, context)
    if drop_last is None:
        drop_last = isinstance(source, (WindowSource, PackedSource))
    return DataStream(source, batch_size, seed, sampler=sampler, num_epochs=num_epochs, drop_last=drop_last, name=name)
