"""Shrinking steps: follow a noisy stream with steps 1/t or with one fixed step, and compare the last error.

x[t] = x[t-1] + a[t] (y[t] - x[t-1]),  y[t] ~ N(0, 1);  a[t] = 1/t gives the running mean.
Source: textbook stochastic approximation. No model is trained, so that it runs anywhere in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from etude.engine.protocols import Method
from etude.engine.streams import numpy_rng
from etude.evidence.claims import Better
from etude.evidence.study import Arm, Job, Outcome, Scale, Study


@dataclass(frozen=True, kw_only=True)
class Settings:
    num_samples: int


def last_error(seed: int, num_samples: int, fixed_step: float | None) -> float:
    """Distance from the true mean, 0, after following `num_samples` draws."""
    x = 0.0
    for t, y in enumerate(numpy_rng(seed, "data").normal(size=num_samples), start=1):
        x += (1 / t if fixed_step is None else fixed_step) * (y - x)
    return abs(x)


def arm(fixed_step: float | None):
    def run(job: Job) -> Outcome:
        error = last_error(job.seed, job.settings.num_samples, fixed_step)
        job.progress(1.0, error)
        return Outcome(metrics={"error": error}, ledger={"train": {"samples": float(job.settings.num_samples)}})

    return run


class ShrinkingSteps(Method):
    """Here so that the catalogue has a method of an outside package to find."""

    slots = ("schedule",)


STUDY = Study(
    slug="sample-paper",
    arms={"fixed": Arm(run=arm(0.5), about="steps of one half"), "shrinking": Arm(run=arm(None), about="steps of 1/t")},
    scales={
        "smoke": Scale(settings=Settings(num_samples=50), seeds=3, size="50 draws"),
        "quick": Scale(settings=Settings(num_samples=500), seeds=5, size="500 draws"),
    },
    claims=[
        Better(text="Shrinking steps end nearer to the mean", arm="shrinking", baseline="fixed", metric="error", d=0.05, equal=("samples",))
    ],
    baseline="fixed",
    headline="error",
)
