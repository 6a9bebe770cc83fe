"""A method in one file: `etude run tests/sample_package/my_method.py --scale smoke`."""

from __future__ import annotations

from dataclasses import dataclass

from etude.engine.protocols import Method
from etude.engine.streams import numpy_rng
from etude.evidence.claims import Better
from etude.evidence.study import Arm, Job, Outcome, Scale, Study

CARD = {
    "slug": "my-method",
    "title": "Averages of two",
    "applies": "analysis",
    "claim": "The mean of two noisy readings is nearer to the truth than one of them.",
    "slots": ["evidence"],
    "tags": ["averaging"],
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    num_readings: int


class MyMethod(Method):
    """Does nothing; the catalogue finds it."""


def arm(num_averaged: int):
    def run(job: Job) -> Outcome:
        readings = numpy_rng(job.seed, "readings").normal(size=(job.settings.num_readings, 2))
        error = float(abs(readings[:, :num_averaged].mean(axis=1)).mean())
        job.progress(1.0, error)
        return Outcome(metrics={"error": error}, ledger={"train": {"samples": float(job.settings.num_readings)}})

    return run


STUDY = Study(
    slug="my-method",
    arms={"one": Arm(run=arm(1), about="one reading"), "two": Arm(run=arm(2), about="the mean of two")},
    scales={"smoke": Scale(settings=Settings(num_readings=100), seeds=3, size="100 readings")},
    claims=[Better(text="Two readings are nearer", arm="two", baseline="one", metric="error", d=0.05, equal=("samples",))],
    baseline="one",
    headline="error",
)
