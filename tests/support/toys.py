"""Small stand-ins used by the engine's tests: a data stream over tensors, a regression objective."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from etude.engine.protocols import Batch, Feedback, Method, Output, Score, Stage
from etude.engine.streams import generator, initialise, numpy_rng


class ToyStream:
    """Epochs over (x, y) in seeded orders; optionally names objectives and optimizers by turns."""

    def __init__(self, n=64, batch=8, seed=0, epochs=None, objectives=("",), optimizers=("",)):
        self.x = torch.randn(n, 6, generator=generator(99, "x"))
        self.y = self.x @ torch.randn(6, 3, generator=generator(99, "w"))
        self.n, self.batch, self.seed, self.epochs = n, batch, seed, epochs
        self.objectives, self.optimizers = objectives, optimizers
        self.epoch, self.position, self.seen = 0, 0, []

    def stage(self):
        return None if self.epoch == self.epochs else Stage(f"epoch-{self.epoch}", self.epoch)

    def next(self):
        if self.stage() is None:
            raise StopIteration
        order = numpy_rng(self.seed, "toy", self.epoch).permutation(self.n)
        ids = order[self.position : self.position + self.batch]
        turn = self.position // self.batch
        self.position += self.batch
        if self.position >= self.n:
            self.epoch, self.position = self.epoch + 1, 0
        return Batch(
            {"x": self.x[ids], "y": self.y[ids]},
            ids,
            self.objectives[turn % len(self.objectives)],
            self.optimizers[turn % len(self.optimizers)],
        )

    def set_sampler(self, sampler): ...
    def sampler_wants(self) -> Score | None:
        return None

    def give_score(self, score, values): ...
    def observe(self, feedback: Feedback):
        self.seen.append(feedback)

    def batches_of(self, ids, batch_size):
        ids = np.arange(self.n) if ids is None else ids
        for i in range(0, len(ids), batch_size):
            part = ids[i : i + batch_size]
            yield Batch({"x": self.x[part], "y": self.y[part]}, part)

    def state_dict(self):
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state):
        self.epoch, self.position = state["epoch"], state["position"]


def squared(model, batch, carried=None):
    each = F.mse_loss(model(batch.data["x"]), batch.data["y"], reduction="none").mean(1)
    return Output(each.mean(), each.detach(), len(batch))


def toy_model(seed=0, dropout=0.0, width=16):
    return initialise(nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 3)), seed)


class Stop(Method):
    """Asks the run to stop, with a checkpoint, after update `at`; 0 never does."""

    def __init__(self, at):
        self.at = [at]  # in a list: no setting of the run that resuming compares

    def updated(self, run):
        if run.step in self.at:
            run.request_stop()


class Killed(Exception):
    """What `KillAt` raises."""


class KillAt(Method):
    """Ends the run after update `at` without a checkpoint, as a kill would; 0 never does."""

    def __init__(self, at):
        self.at = [at]  # in a list: no setting of the run that resuming compares

    def updated(self, run):
        if run.step in self.at:
            raise Killed
