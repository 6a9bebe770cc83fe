"""Hints beside the task: a sampler that gives them a share of every batch, and the method that gives it to a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from etude.data.samplers import Mixture, copied
from etude.engine.protocols import Method
from etude.engine.run import Run
from etude.errors import BadInput, one_of


def share_at(share: float | Sequence[float], progress: float) -> float:
    """The hints' share when `progress` (0 to 1) of the run is done: a number as it is, [first, last] in a straight line.

    Raises BadInput for a share outside [0, 1): a run of hints alone would not learn the task.
    """
    first, last = ends_of(share)
    return first + (last - first) * min(max(progress, 0.0), 1.0)


def ends_of(share: float | Sequence[float]) -> tuple[float, float]:
    """(share at the start, share at the end), checked."""
    ends = tuple(share) if isinstance(share, Sequence) else (share, share)
    if len(ends) != 2:
        raise BadInput("TaskHinting.share", f"{len(ends)} numbers", "one, or [first, last]")
    for value in ends:
        if not 0 <= value < 1:
            raise BadInput("TaskHinting.share", repr(value), "a share from 0, below 1")
    return float(ends[0]), float(ends[1])


def weights_of(sizes: np.ndarray, is_hint: np.ndarray, share: float) -> np.ndarray:
    """[K] weights that sum to 1: `share` for the hints and the rest for the task, inside each in proportion to sizes [K]."""
    task, hints = np.where(is_hint, 0, sizes), np.where(is_hint, sizes, 0)
    return (1 - share) * task / task.sum() + (share * hints / hints.sum() if share else 0)


class HintMixture(Mixture):
    """Each stretch holds `share` hints, to within one sample, at random places; within a domain as `Mixture`.

    So every batch mixes both, and arms that differ in the hints alone see the same rows of the task in the same order.
    hints: names of the domains that are hints; none named: all but the first. progress: of the run, 0 to 1; set from outside.
    Raises BadInput for an unknown name, no domain left for the task, none for the hints at a share above 0, or one without samples.
    """

    def __init__(self, update_every: int, *, share: float | Sequence[float] = 0.5, hints: Sequence[str] = ()) -> None:
        super().__init__(update_every)
        self.ends, self.hints, self.progress = ends_of(share), tuple(hints), 0.0
        self.names: list[str] = []
        self.sizes = np.empty(0, dtype=np.int64)

    def plan(self, stage: int, source: Any, rng: np.random.Generator) -> np.ndarray:
        if hasattr(source, "domain_names"):
            self.sizes = np.bincount(source.domains, minlength=len(source.domain_names))
        return super().plan(stage, source, rng)

    def weights(self, names: Sequence[str]) -> np.ndarray:
        self.names = list(names)
        for name in self.hints:
            if name not in names:
                raise one_of("TaskHinting.hints", name, self.names)
        is_hint = np.array([name in self.hints if self.hints else k > 0 for k, name in enumerate(names)])
        for what, group, needed in (("the task", ~is_hint, True), ("hints", is_hint, max(self.ends) > 0)):
            if needed and not self.sizes[group].sum():
                raise BadInput("TaskHinting.hints", f"no samples that are {what} among {', '.join(names)}", "at least one")
        return weights_of(self.sizes, is_hint, share_at(self.ends, self.progress))

    def drawn(self, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        # Evenly spaced points with one random offset: each domain's count is its share's, up to one.
        points = (np.arange(self.update_every) + rng.random()) / self.update_every
        ends = np.cumsum(shares)
        return rng.permutation(np.searchsorted(ends / ends[-1], points, side="right"))

    def state_dict(self) -> dict[str, Any]:
        return {"progress": self.progress, "names": list(self.names), "sizes": copied(self.sizes), **super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.progress, self.names, self.sizes = state["progress"], list(state["names"]), copied(state["sizes"])


class TaskHinting(Method):
    """Trains on hint tasks beside the main one: domains of the data, `share` of every batch.

    share: a number from 0, below 1, or [first, last], which moves in a straight line over the run. 0 is the task alone.
    hints: names of the domains that are hints; none named: all but the first. Logs each domain's share, "share/NAME".
    """

    slots = ("sampler",)

    def __init__(self, *, share: float | Sequence[float] = 0.5, hints: Sequence[str] = ()) -> None:
        ends_of(share)
        self.share, self.hints = share, tuple(hints)

    def start(self, run: Run) -> None:
        batch = getattr(run.stream, "batch_size", None)
        if not isinstance(batch, int):
            raise BadInput(
                "TaskHinting",
                f"a {type(run.stream).__name__} without `batch_size`",
                "a stream that says how many samples it shows at a time",
            )
        self.sampler = HintMixture(batch, share=self.share, hints=self.hints)
        run.set_sampler(self.sampler)

    def updated(self, run: Run) -> None:
        self.sampler.progress = run.share
        for name, share in zip(self.sampler.names, self.sampler.history[-1], strict=True):
            run.log(f"share/{name}", share)
