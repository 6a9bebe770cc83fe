"""How often a model solves problems: an evaluator over a pool that training never draws from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from etude.engine.protocols import Generator, Metrics, Sampling
from etude.errors import BadInput
from etude.learn.problems import ProblemPool


class Success:
    """{"reward": mean, "solved": share paid fully (>= `full`), and "solved/DOMAIN" of each domain} over all problems of a pool.

    Single-turn problems are answered once each, `samples` times at temperatures above 0; every evaluation draws with the same
    random numbers. A verifier that raises counts as 0. Raises BadInput for samples < 1.
    """

    def __init__(
        self,
        generator: Callable[[nn.Module], Generator],
        pool: ProblemPool,
        encode: Callable[[str], np.ndarray],
        sampling: Sampling,
        *,
        samples: int = 1,
        seed: int = 0,
        full: float = 1.0,
    ) -> None:
        if samples < 1:
            raise BadInput("samples", repr(samples), "a whole number >= 1")
        self.make_generator, self.pool, self.encode, self.sampling = generator, pool, encode, sampling
        self.samples, self.seed, self.full = samples, seed, full

    def __call__(self, model: nn.Module) -> Metrics:
        environments = [self.pool.environment(i) for i in range(len(self.pool))]
        prompts: Sequence[np.ndarray] = [self.encode(e.reset(self.pool[i])) for i, e in enumerate(environments)]
        groups = self.make_generator(model).complete(prompts, self.sampling, n=self.samples, seed=self.seed)
        rewards = np.zeros((len(self.pool), self.samples))
        for number, group in enumerate(groups):
            for sample, response in enumerate(group):
                environment = self.pool.environment(number)
                environment.reset(self.pool[number])
                try:
                    rewards[number, sample] = environment.step(response.text).reward
                except Exception:
                    rewards[number, sample] = 0.0
        solved = (rewards >= self.full).mean(1)
        by_domain = {f"solved/{name}": float(solved[self.pool.domains == k].mean()) for k, name in enumerate(self.pool.domain_names)}
        return {"reward": float(rewards.mean()), "solved": float(solved.mean())} | by_domain
