"""How often a model solves problems: an evaluator over a pool that training never draws from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from etude.data.tasks.judging import Failure, VerifierFailed, check_failures, reward_of, said
from etude.engine.protocols import Generator, Metrics, Sampling
from etude.errors import BadInput
from etude.learn.problems import ProblemPool


class Success:
    """{"reward": mean, "solved": share paid fully (>= `full`), "finished": share that stopped by itself, "response_tokens": mean} over
    all problems of a pool; "solved/DOMAIN" of each domain, and NAME and NAME/DOMAIN of each of `measures`, functions of a response's text.

    Single-turn problems are answered once each, `samples` times at temperatures above 0; every evaluation draws with the same
    random numbers. failures: what a verifier that raises or gives no finite number does: "stop" (VerifierFailed, with the response) or
    "zero" (reward 0, and "verifier_failures" counts them). Raises BadInput for samples < 1.
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
        measures: Mapping[str, Callable[[str], float]] | None = None,
        failures: str = "stop",
    ) -> None:
        check_failures(failures)
        if samples < 1:
            raise BadInput("samples", repr(samples), "a whole number >= 1")
        self.make_generator, self.pool, self.encode, self.sampling = generator, pool, encode, sampling
        self.samples, self.seed, self.full, self.measures, self.failures = samples, seed, full, dict(measures or {}), failures

    def __call__(self, model: nn.Module) -> Metrics:
        environments = [self.pool.environment(i) for i in range(len(self.pool))]
        prompts: Sequence[np.ndarray] = [self.encode(e.reset(self.pool[i])) for i, e in enumerate(environments)]
        groups = self.make_generator(model).complete(prompts, self.sampling, n=self.samples, seed=self.seed)
        found = {name: np.zeros((len(self.pool), self.samples)) for name in ("reward", "finished", "response_tokens", *self.measures)}
        failed = 0
        for number, group in enumerate(groups):
            for sample, response in enumerate(group):
                here = (number, sample)
                found["finished"][here], found["response_tokens"][here] = response.finish == "stop", len(response.tokens)
                for name, measure in self.measures.items():
                    found[name][here] = measure(response.text)
                environment = self.pool.environment(number)
                environment.reset(self.pool[number])
                try:
                    found["reward"][here] = reward_of(environment.step(response.text).reward)
                except Exception as error:
                    failed += 1
                    if self.failures == "stop":
                        where = f"verifier of problem {self.pool[number].id}, sample {sample}"
                        raise VerifierFailed(Failure(where, response.text, said(error))) from error
        found["solved"] = (found["reward"] >= self.full).astype(float)
        parts = {name: self.pool.domains == k for k, name in enumerate(self.pool.domain_names)}
        by_domain = {f"{what}/{name}": float(found[what][own].mean()) for what in ("solved", *self.measures) for name, own in parts.items()}
        counted = {"verifier_failures": float(failed)} if failed else {}
        return {name: float(values.mean()) for name, values in found.items()} | by_domain | counted
