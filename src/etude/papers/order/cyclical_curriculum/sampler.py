"""The curriculum as a sampler, and as a method that gives it to a run."""

from __future__ import annotations

import hashlib
import math
from typing import Any, cast

import numpy as np

from etude.data.samplers import SamplerBase, Shuffle, check_weights, draw_without_replacement
from etude.engine.protocols import Method, Score, Source
from etude.engine.run import Run
from etude.errors import BadInput, one_of
from etude.papers.order.cyclical_curriculum.pacing import Pacing
from etude.papers.order.cyclical_curriculum.scores import WEIGHS, Weigh


class PacedDraw(SamplerBase):
    """Each stage is a short epoch: floor(share * N) different samples, likelier by score, in a shuffled order.

    A stage of share 1 is the default shuffle's epoch of that number, the same permutation.
    scores: [N], or None for equal ones. weigh: makes scores of the present model's losses, asked for at the start of every
    stage that shows a part; they then replace `scores`.
    """

    def __init__(self, pacing: Pacing, scores: Any = None, weigh: Weigh | None = None) -> None:
        self.pacing, self.weigh = pacing, weigh
        given = b"" if scores is None else np.asarray(scores, dtype=np.float64).tobytes()
        self.identity = hashlib.blake2b(repr(pacing).encode() + given, digest_size=8).hexdigest()
        self.scores = None if scores is None else check_weights(scores)
        if self.scores is not None:
            most, positive = math.floor(pacing.end * len(self.scores)), int((self.scores > 0).sum())
            if positive < most:
                found = f"{positive} of {len(self.scores)} above zero"
                raise BadInput("scores", found, f"at least the {most} that the largest epoch draws without replacement")

    def plan(self, stage: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        share, num = self.pacing.share(stage), len(source)
        if self.scores is not None and len(self.scores) != num:
            raise BadInput("scores", f"{len(self.scores)} of them", f"one for each of {num} samples")
        if share >= 1:
            return Shuffle().plan(stage, source, rng)
        size = math.floor(share * num)
        if not size:
            raise BadInput("Pacing.start", f"a share of {share:g} of {num} samples", "a share that holds at least one")
        scores = np.ones(num) if self.scores is None else self.scores
        # The draw comes likeliest first, which would be a curriculum inside the epoch.
        return rng.permutation(draw_without_replacement(scores, size, rng))

    def wants(self, stage: int) -> Score | None:
        return Score() if self.weigh is not None and self.pacing.share(stage) < 1 else None

    def receive(self, score: Score, values: np.ndarray) -> None:
        if self.weigh is not None:
            self.scores = check_weights(self.weigh(values))

    def state_dict(self) -> dict[str, Any]:
        return {"identity": self.identity} | ({} if self.weigh is None else {"scores": self.scores})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["identity"] != self.identity:
            raise BadInput("CyclicalCurriculum", "other scores or another pacing than the run began with", "the same ones")
        if self.weigh is not None:
            self.scores = state["scores"]


class CyclicalCurriculum(Method):
    """Short epochs whose size swings between `start` and `end` of the data; what a small one shows is drawn by score.

    scores: [N] numbers >= 0, one a training sample, such as `easy_scores` of another model's losses; "random" for equal ones;
            or self-paced, from the present model's losses, which are measured (and charged as "prepare") before every
            short epoch that shows a part: "easy" (the default), "hard", or a function of losses [N] to scores [N].
    start, end: smallest and largest share of the data, above 0 and at most 1. Both 1: the baseline, bit for bit.
    factor: what the share is divided by in rising and multiplied by in falling.
    pacing: "cycle", or one way: "grow", "shrink". repeat: short epochs at each size.
    A self-paced cycle begins at its first epoch of the largest size: an untrained model's losses say nothing yet.
    An epoch of the curriculum is short: use budgets in samples, tokens or FLOPs. Self-paced, measuring losses counts towards them;
    `Budget(weights={"train.samples": 1.0}, limit=...)` counts training alone.
    Raises BadInput where a share or the factor is out of range, or scores are negative, not finite, or too few above zero.
    """

    slots = ("sampler",)

    def __init__(
        self,
        scores: Any = "easy",
        *,
        start: float = 0.25,
        end: float = 1.0,
        factor: float = 0.5,
        pacing: str = "cycle",
        repeat: int = 1,
    ) -> None:
        weigh: Weigh | None = None
        given: Any = None
        if scores is None or (isinstance(scores, str) and scores != "random"):
            name = scores or "easy"
            if name not in WEIGHS:
                raise one_of("CyclicalCurriculum.scores", name, (*WEIGHS, "random"))
            weigh = WEIGHS[name]
        elif callable(scores):
            weigh = cast(Weigh, scores)
        elif not isinstance(scores, str):
            given = scores
        paced = Pacing(start=start, end=end, factor=factor, kind=pacing, repeat=repeat, from_peak=weigh is not None and pacing == "cycle")
        self.sampler = PacedDraw(paced, given, weigh)

    def start(self, run: Run) -> None:
        run.set_sampler(self.sampler)
