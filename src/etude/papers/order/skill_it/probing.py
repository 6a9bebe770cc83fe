"""Learning the graph: short runs from a copy of the model, each on one skill or half and half on two."""

from __future__ import annotations

from copy import deepcopy
from itertools import combinations

import numpy as np

from etude.data.stream import DataStream
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.protocols import Method
from etude.engine.run import Run
from etude.engine.schedule import Constant
from etude.engine.streams import derive
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.papers.order.skill_it.mixture import by_gains, by_pairs
from etude.papers.order.skill_it.sampler import Fixed, Skills


class Readings(Method):
    """The measured skills' losses [M] before the first update and after the last; charged as "prepare"."""

    def __init__(self, skills: Skills, first: bool) -> None:
        self.skills, self.first = skills, first
        self.before = self.after = np.empty(0)

    def start(self, run: Run) -> None:
        if self.first:
            self.before = self.skills.means(run.score(self.skills.held, batch_size=256).astype(np.float64))

    def stop(self, run: Run) -> None:
        self.after = self.skills.means(run.score(self.skills.held, batch_size=256).astype(np.float64))


class Prober:
    """Short runs beside `run`, on its own data, objective and optimizer at its full rate, from a copy of its present model.

    All draw each skill's samples in one order. ledger: what they have cost so far. lr: of AdamW, where the run's optimizer is not etude's.
    """

    def __init__(self, run: Run, skills: Skills, steps: int, lr: float) -> None:
        self.run, self.skills, self.steps, self.lr = run, skills, steps, lr
        self.ledger = Ledger()
        self.before = np.empty(0)

    def after(self, *numbers: int) -> np.ndarray:
        """Losses [M] after `steps` updates drawn evenly from these domains."""
        run, shares = self.run, np.zeros(len(self.skills.names))
        shares[list(numbers)] = 1.0
        readings = Readings(self.skills, first=not len(self.before))
        source, size = run.stream.source, run.stream.batch_size  # type: ignore[attr-defined]
        seed = derive(run.seed, "probing")
        # Another trainer's loss holds that trainer, of which a run cannot be described; its call can.
        objectives = run.objectives if run.optimizer_spec else {name: loss.__call__ for name, loss in run.objectives.items()}
        result = Trainer(
            deepcopy(run.model),
            DataStream(source, size, seed, sampler=Fixed(self.skills, size * self.steps, shares.tolist())), objectives,
            optimizer=run.optimizer_spec or AdamW(lr=self.lr), schedule=Constant(), methods=[readings], budget=Budget(steps=self.steps),
            seed=seed, device=run.device, precision="bfloat16" if run.autocast else "float32", count_flops=run.count_flops,
            micro_batch=run.micro_batch,
        ).run()  # fmt: skip
        self.ledger.merge(result.ledger)
        if readings.first:
            self.before = readings.before
        return readings.after


def learnt(prober: Prober, how: str, margin: float) -> np.ndarray:
    """The graph [K, M]. how: "pairs", K (K + 1) / 2 runs over square skills, or "alone", K runs.

    A run of half i and half j tells of both directions. Raises BadInput for pairs where other skills are measured than trained on.
    """
    skills = prober.skills
    if how == "alone":
        after = np.stack([prober.after(int(i)) for i in skills.trained])
        return by_gains(prober.before, after)
    if not np.array_equal(skills.trained, skills.measured):
        raise BadInput("graph", "'pairs', where other skills are measured than trained on", "'alone', or rows of numbers")
    num = len(skills.trained)
    alone, together = np.empty(num), np.full((num, num), np.inf)
    for j in range(num):
        alone[j] = prober.after(int(skills.trained[j]))[j]
    for i, j in combinations(range(num), 2):
        losses = prober.after(int(skills.trained[i]), int(skills.trained[j]))
        together[i, j], together[j, i] = losses[j], losses[i]
    return by_pairs(alone, together, margin)
