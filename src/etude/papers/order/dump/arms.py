"""What each arm does: the same reinforcement learning from the same base, on distributions drawn in its own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from etude.data.samplers import FixedMixture, Mixture
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.protocols import Method
from etude.engine.run import Run
from etude.engine.schedule import Constant
from etude.engine.streams import derive
from etude.engine.trainer import Trainer
from etude.evidence.study import Job, Outcome
from etude.generate.local import LocalGenerator
from etude.learn.logprobs import frozen_copy
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import PolicyConfig, PolicyGradient
from etude.learn.rollouts import Collector
from etude.learn.round import RoundConfig
from etude.learn.success import Success
from etude.papers.order.dump.ladder import TOKENIZER, base_model, encode, pool, sampling
from etude.papers.order.dump.sampler import Dump
from etude.papers.order.dump.settings import Settings


class EasyToHard(Mixture):
    """A curriculum by hand: the domains in order, each for an equal share of the stretches; the last one for what is left over."""

    def __init__(self, update_every: int, stretches: int) -> None:
        super().__init__(update_every, replacement=True)
        self.stretches = stretches

    def weights(self, names: Sequence[str]) -> np.ndarray:
        place = min(len(self.history) * len(names) // self.stretches, len(names) - 1)
        return np.eye(len(names))[place]


class Given(Method):
    """A sampler for a run."""

    slots = ("sampler",)

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def start(self, run: Run) -> None:
        run.set_sampler(self.sampler)


Scheduling = Callable[[Settings], Method]


def bandit(bonus: bool = True, absolute: bool = True) -> Scheduling:
    return lambda s: Dump(window=s.window, temperature=s.temperature, bonus=s.bonus if bonus else 0.0, absolute=absolute)


def uniform(s: Settings) -> Method:
    """What the bandit is at an infinite temperature, draw by draw."""
    return Given(FixedMixture([1.0] * len(s.levels), update_every=s.prompts, replacement=True))


def easy_to_hard(s: Settings) -> Method:
    return Given(EasyToHard(s.prompts, s.rounds))


def train(job: Job, scheduling: Scheduling) -> Outcome:
    s: Settings = job.settings
    ledger = Ledger()
    # No loss is told: whether the base is taught now or was before must not show in what a run reports.
    base = base_model(s, job.seed, lambda share, loss: job.progress(0.3 * share, None))
    base.charge(ledger)
    method = scheduling(s)
    held_out = pool(s, job.seed, "test", s.num_test, test=True)
    part = job.part("train")
    result = Trainer(
        frozen_copy(base.model).requires_grad_(True).train(), stream_of(s, job.seed, frozen_copy(base.model)),
        PolicyGradient(PolicyConfig(kl=s.kl)), optimizer=AdamW(lr=s.lr, weight_decay=0.01), schedule=Constant(), methods=[method],
        budget=Budget(steps=s.updates), seed=job.seed,
        evaluators={"test": Success(generator, held_out, encode, sampling(s), seed=derive(job.seed, "test answers"))},
        evaluate_every=1 / s.evaluations, folder=part.folder,
        progress=lambda share, loss: job.progress(0.3 + 0.7 * share, loss),
    ).run(resume=part.begun)  # fmt: skip
    ledger.merge(result.ledger)
    sampler: Mixture = method.sampler  # type: ignore[attr-defined]
    return Outcome(
        metrics=measured(s, result.history),
        curves=curves(s, result.history, sampler),
        ledger=ledger.as_dict(),
        parameters=result.parameters,
    )


def generator(model: nn.Module) -> LocalGenerator:
    return LocalGenerator(model, TOKENIZER)


def stream_of(s: Settings, seed: int, reference: nn.Module) -> RolloutStream:
    rules = Collector(pool(s, seed, "train", s.train_problems), TOKENIZER, sampling(s), context=s.context)
    config = RoundConfig(prompts=s.prompts, samples=s.samples, minibatch=s.minibatch)
    return RolloutStream(generator, rules, config, seed=seed, reference=reference if s.kl else None)


def measured(s: Settings, history: Sequence[dict[str, float]]) -> dict[str, float]:
    """success: the last evaluation's, mean over levels. area: mean over the run. hard: the two hardest levels."""
    found = np.array([[row[f"test/solved/{level}"] for level in s.levels] for row in history])  # [E, K]
    shares = np.array([row["share"] for row in history])
    means = found.mean(1)
    area = float(np.trapezoid(means, shares) / (shares[-1] - shares[0]))
    each = {f"success, level {k + 1}": float(v) for k, v in enumerate(found[-1])}
    return {
        "success": float(means[-1]), "area": area, "success, two hardest": float(found[-1, -2:].mean()),
        "success before": float(means[0]), **each,
    }  # fmt: skip


def curves(s: Settings, history: Sequence[dict[str, float]], sampler: Mixture) -> dict[str, tuple[list[float], list[float]]]:
    """Success of all levels and of each over rollouts made, and each level's share of the draws over rounds."""
    x = [row["share"] * s.rollouts for row in history]
    found = {
        f"success, level {k + 1} / rollouts": (x, [row[f"test/solved/{level}"] for row in history]) for k, level in enumerate(s.levels)
    }
    found["success / rollouts"] = (x, [float(np.mean([row[f"test/solved/{level}"] for level in s.levels])) for row in history])
    rounds = [float(i + 1) for i in range(len(sampler.history))]
    for k in range(len(s.levels)):
        found[f"share, level {k + 1} / round"] = (rounds, [row[k] for row in sampler.history])
    return found
