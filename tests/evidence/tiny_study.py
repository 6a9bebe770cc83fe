"""A study that takes milliseconds: numpy arithmetic in the place of training. Tests copy it, change it and run it by path."""

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from etude.engine.streams import numpy_rng
from etude.evidence.claims import AtLeast, Better
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study


@dataclass(frozen=True, kw_only=True)
class Sizes:
    budget_tokens: int
    pause: float = 0.0  # seconds a step
    rates: tuple[float, ...] = (0.1, 0.2)


def train(job: Job, gain: float, price: float) -> Outcome:
    """A loss that falls with tokens, and faster with `gain`; a token costs `price` FLOPs."""
    rng = numpy_rng(job.seed, "noise")
    matrix = rng.standard_normal((40, 40))
    drawn = np.random.standard_normal()  # noqa: NPY002  from the global stream, which the runner sets
    steps = 20
    tokens, losses = [], []
    for step in range(1, steps + 1):
        time.sleep(job.settings.pause)
        matrix = np.tanh(matrix @ matrix.T / 40)
        tokens.append(job.settings.budget_tokens * step / steps)
        losses.append(2.0 / (1 + 0.1 * gain * step) + 0.001 * float(matrix[0, 1]) + 1e-4 * float(drawn))
        job.progress(step / steps, losses[-1])
    print("an arm that prints")
    flops = [t * price for t in tokens]
    seconds = [0.001 * t * price * (3 if gain > 1 else 1) for t in tokens]
    return Outcome(
        metrics={"loss": losses[-1], "seed seen": float(job.seed), "tokens per second": time.time()},
        ledger={"train": {"tokens": tokens[-1], "flops": flops[-1], "seconds": seconds[-1]}},
        curves={"loss / flops": (flops, losses), "loss / seconds": (seconds, losses)},
        arrays={"matrix": matrix[:2, :2]},
        parameters=1600,
    )


STUDY = Study(
    slug="tiny",
    arms={
        "plain": Arm(run=partial(train, gain=1.0, price=10.0), about="the baseline"),
        "fast": Arm(run=partial(train, gain=2.0, price=10.0), about="falls faster"),
        "ceiling": Arm(run=partial(train, gain=4.0, price=30.0), about="spends more", reference=True, scales=("quick", "cpu")),
    },
    scales={
        "smoke": Scale(settings=Sizes(budget_tokens=10), seeds=1, size="10 tokens"),
        "quick": Scale(settings=Sizes(budget_tokens=100), seeds=3, size="100 tokens"),
        "cpu": Scale(settings=Sizes(budget_tokens=1000), seeds=3, size="1k tokens"),
    },
    claims=[
        Better(text="fast falls faster", arm="fast", baseline="plain", metric="loss", d=0.05, equal=("flops",), primary=True),
        AtLeast(text="the ceiling does not diverge", arm="ceiling", metric="loss", threshold=0.0, d=0.0),
    ],
    baseline="plain",
    headline="loss",
    plots=[
        Plot(title="Loss over FLOPs", kind="curve", curve="loss / flops", log_x=True),
        Plot(title="Final loss", kind="bars", metric="loss"),
    ],
    paper_size="7B / 300B tokens",
)
