"""Interludes: a stream that, between the stages of another, trains on something else, by another objective and optimizer.

    rollouts = RolloutStream(..., watch=buffer.watch)
    stream = Interleaved(rollouts, buffer, seed=0, objective="sft", optimizer="sft")
    Trainer(model, stream, {"": PolicyGradient(...), "sft": Finetune()}, optimizer=Alternating({"rl": AdamW(...), "sft": AdamW(...)}))

What is trained on in between is up to the interlude: demonstrations of what rollouts failed on, replayed data, pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from etude.engine import identity
from etude.engine.protocols import Batch, Bound, Feedback, Sampler, Score, Stage, Stream
from etude.engine.run import Run
from etude.engine.streams import numpy_rng
from etude.errors import BadInput


@dataclass(frozen=True, slots=True)
class Rows:
    """What one interlude trains on. data: as in `Batch`, first dimension N. ids: [N] int64. labels: how many of them were paid for only
    now, charged as "train.labels"."""

    data: dict[str, Tensor]
    ids: np.ndarray
    labels: int = 0


class Interlude(Protocol):
    """due: whether there is one, asked once at the end of each of the main stream's stages. take: its rows, then no longer held.

    identity: settings that a resumed run must share, as plain data. The state is part of the stream's.
    """

    def due(self) -> bool: ...
    def take(self) -> Rows: ...
    def identity(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Interleaved:
    """A `Stream`: the main one's stages, and after each a stage "interlude-K" where the interlude is due.

    objective, optimizer: what an interlude's batches name; the main stream's stay as they are. minibatch: rows a batch; 0: all of
    an interlude's. epochs: passes over its rows, each in an order of its own.
    Samplers, and what they are told, belong to the main stream. An interlude that is never due leaves it as it is, bit for bit.
    The logs get `interlude_rows` at the first update of each. Raises BadInput where a number is out of range, or rows are none.
    """

    def __init__(
        self, main: Stream, interlude: Interlude, *, seed: int, objective: str, optimizer: str = "", minibatch: int = 0, epochs: int = 1
    ) -> None:
        if minibatch < 0 or epochs < 1:
            raise BadInput("Interleaved", f"minibatch {minibatch}, epochs {epochs}", "minibatch >= 0, epochs >= 1")
        self.main, self.interlude, self.seed = main, interlude, seed
        self.objective, self.optimizer, self.minibatch, self.epochs = objective, optimizer, minibatch, epochs
        self.number, self.epoch, self.position = 0, 0, 0  # interludes done; where the present one stands
        self.due = False
        self._rows: Rows | None = None
        self._aside = False  # whether the last batch was an interlude's
        self._run: Run | None = None

    def identity(self) -> Any:
        own = [self.objective, self.optimizer, self.minibatch, self.epochs, self.seed]
        return {"main": identity.describe_stream(self.main), "interlude": self.interlude.identity(), "own": own}

    def bind(self, run: Run) -> None:
        self._run = run
        if isinstance(self.main, Bound):
            self.main.bind(run)

    @property
    def run(self) -> Run:
        if self._run is None:
            raise BadInput("Interleaved", "no run", "a trainer, which binds the stream to its run")
        return self._run

    def stage(self) -> Stage | None:
        return Stage(f"interlude-{self.number}", self.number) if self.due else self.main.stage()

    def next(self) -> Batch:
        self._aside = self.due
        if self.due:
            return self._next_aside()
        before = self.main.stage()
        batch = self.main.next()
        self.due = self.main.stage() != before and self.interlude.due()
        return batch

    def _next_aside(self) -> Batch:
        if self._rows is None:
            self._rows = self.interlude.take()
            if not len(self._rows.ids):
                raise BadInput("interlude", "no rows, though one was due", "at least one")
            self.run.ledger.charge("train", labels=self._rows.labels)
            self.run.log("interlude_rows", len(self._rows.ids))
        rows, count = self._rows, len(self._rows.ids)
        order = numpy_rng(self.seed, "interlude", self.number, self.epoch).permutation(count)
        picked = order[self.position : self.position + (self.minibatch or count)]
        where = torch.from_numpy(picked)
        data = {name: values[where] for name, values in rows.data.items()}
        batch = Batch(data, rows.ids[picked], objective=self.objective, optimizer=self.optimizer)
        self.position += len(picked)
        if self.position >= count:
            self.epoch, self.position = self.epoch + 1, 0
        if self.epoch == self.epochs:
            self.number, self.epoch, self.due, self._rows = self.number + 1, 0, False, None
        return batch

    # --- for the main stream --------------------------------------------------------------------------------------
    def set_sampler(self, sampler: Sampler) -> None:
        self.main.set_sampler(sampler)

    def sampler_wants(self) -> Score | None:
        return None if self.due else self.main.sampler_wants()

    def give_score(self, score: Score, values: np.ndarray) -> None:
        self.main.give_score(score, values)

    def observe(self, feedback: Feedback) -> None:
        """Ids of an interlude are not the main stream's; evaluations that steer always are."""
        if not self._aside or feedback.evaluations:
            self.main.observe(feedback)

    def batches_of(self, ids: np.ndarray | None, batch_size: int) -> Iterator[Batch]:
        return self.main.batches_of(ids, batch_size)

    # --- its state ------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        rows = None if self._rows is None else {"data": self._rows.data, "ids": self._rows.ids, "labels": self._rows.labels}
        return {
            "main": self.main.state_dict(), "interlude": self.interlude.state_dict(), "rows": rows, "due": self.due,
            "at": [self.number, self.epoch, self.position],
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.main.load_state_dict(state["main"])
        self.interlude.load_state_dict(state["interlude"])
        self._rows, self.due = None if state["rows"] is None else Rows(**state["rows"]), state["due"]
        self.number, self.epoch, self.position = state["at"]
