"""How many samples of a batch are computed at once: the most that fit into the device's memory (`micro_batch="auto"`).

An accelerator is tried: its allocator refuses what does not fit. A CPU's system grants more than it has and then ends the process, so
there the need is computed from what one sample and two hold at their peak, and held against what is free.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from etude.engine import memory
from etude.engine.protocols import Batch, Bound, Stream
from etude.engine.run import Run, even
from etude.engine.streams import derive, global_streams
from etude.errors import BadInput

SHARE = 0.8
"""Of the free memory, how much a CPU's estimate may take: kernels' working memory is not in it. Assumed."""
MOMENTS = 2
"""Numbers that an optimizer keeps of each trained one, at most: AdamW's."""


@dataclass(frozen=True)
class Fit:
    """rows: the most samples of one piece. of: of a batch. how: "tried" or "estimated"."""

    rows: int
    of: int
    how: str


def fitted(run: Run) -> Fit:
    """The largest micro-batch for a run that has not begun. It leaves no trace in it.

    Raises BadInput where not one sample fits, and for a stream that does not hold its samples beforehand.
    """
    batch, size = longest_batch(run.stream)
    batch = batch.to(run.device)
    state = MOMENTS * sum(p.numel() * p.element_size() for p in run.named_parameters().values())
    run.model.train()

    def learn(rows: int) -> None:
        piece = batch.part(0, rows)
        try:
            with global_streams(derive(run.seed, "micro_batch")):
                with run.precision():
                    output = run.objective_of(piece)(run.model, piece, None)
                output.loss.backward()
        finally:
            for parameter in run.named_parameters().values():
                parameter.grad = None

    if run.device.type == "cpu":
        room = memory.free(run.device)
        held = [*run.model.parameters(), *run.model.buffers(), *batch.data.values()]
        peaks = [peak(learn, rows, held) for rows in (1, 2)[:size]]
        rows = size if room is None else estimated(peaks, size, SHARE * room - state)
        found = f"a sample that takes more than the {memory.size(room or 0)} of memory that are free"
    else:
        reserved = torch.empty(state, dtype=torch.uint8, device=run.device)
        rows = tried(learn, size)
        del reserved
        found = f"a sample that does not fit on {run.device}"
    if not rows:
        raise BadInput("micro_batch", found, "a smaller context or model, LoRA or activation checkpointing")
    return Fit(rows, size, "estimated" if run.device.type == "cpu" else "tried")


def longest_batch(stream: Stream) -> tuple[Batch, int]:
    """A batch of a stream's longest samples, as far as its source knows them (`longest(count) -> ids`), and its size."""
    size, source = getattr(stream, "batch_size", None), getattr(stream, "source", None)
    if size is None or source is None or isinstance(stream, Bound):
        raise BadInput("micro_batch", f"'auto' for a {type(stream).__name__}, whose batches are not known beforehand", "a whole number")
    longest: Callable[[int], np.ndarray] = getattr(source, "longest", np.arange)
    ids = np.resize(longest(min(size, len(source))), size)
    return next(iter(stream.batches_of(ids, size))), size


# --- accelerators -----------------------------------------------------------------------------------------------------
def tried(learn: Callable[[int], Any], size: int) -> int:
    """The largest even piece of `size` samples that `learn(rows)` can have; 0 for none. Logarithmically many attempts."""

    def fits(pieces: int) -> bool:
        try:
            learn(-(-size // pieces))
        except memory.TOO_LARGE as error:
            if memory.refusal(error) is None:
                raise
            return False
        finally:
            _give_back()
        return True

    high = 1
    while not fits(high):
        if high >= size:
            return 0
        high = min(2 * high, size)
    low = high // 2  # pieces that do not fit, or 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return -(-size // high)


def _give_back() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


# --- CPUs -------------------------------------------------------------------------------------------------------------
def estimated(peaks: list[int], size: int, room: float) -> int:
    """The largest even piece of `size` samples whose need, a straight line through `peaks` of one and two, stays within `room` bytes."""
    each = max(peaks[-1] - peaks[0], 1) if len(peaks) > 1 else max(peaks[0], 1)
    rows = min(size, int((room - (peaks[0] - each)) // each))
    return even(rows, size) if rows >= 1 else 0


def peak(learn: Callable[[int], Any], rows: int, held: Iterable[Tensor]) -> int:
    """The most bytes of tensors alive at once while `learn(rows)` runs, beside those in `held`."""
    with PeakMemory(held) as counter:
        learn(rows)
    return counter.peak


class PeakMemory(TorchDispatchMode):
    """Follows the storages of all tensors that come into being inside. now, peak: bytes. held: tensors that are there already."""

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in held}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size).atexit = False

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
