"""Ranking arms over tasks and seeds: interquartile means with stratified bootstrap intervals, and the chance to be the better one.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264), section 4: the
mean of the middle half of all runs is steadier than a mean and wastes less than a median; runs are drawn again within each task; the
probability of improvement is P(X > Y) of a run of each on the same task, ties counted half, averaged over tasks. With a handful of
seeds a bootstrap's intervals are somewhat too narrow (its figure 4): they say how firm a place is, verdicts come from the claims.

Scores count from the baseline's mean on the same task. Over tasks of unlike levels the middle half of the scores themselves would be
whole tasks, and the lowest and the highest task would count for nothing. An arm's interval is of a difference: the baseline's mean is
drawn again with it. The baseline's own interval says how far its runs lie from that mean.

Shapes: K tasks, N seeds, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from etude.engine.streams import numpy_rng
from etude.evidence import readings
from etude.evidence.estimate import NotJudged

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """iqm: interquartile mean, over tasks and seeds, of its scores beyond the baseline's mean on the task. improvement: how likely a
    run of it is better than one of the baseline on the same task; None for the baseline. interval, improvement_interval: 95 %, of the
    bootstrap. tasks: metric -> mean over seeds."""

    arm: str
    iqm: float
    interval: tuple[float, float]
    improvement: float | None
    improvement_interval: tuple[float, float] | None
    tasks: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        told = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in told.items()}


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """[..., M] -> [...]: the mean without the lowest and the highest quarter, each rounded down to whole values."""
    cut = scores.shape[-1] // 4
    return np.sort(scores, axis=-1)[..., cut : scores.shape[-1] - cut].mean(axis=-1)


def improvement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """[..., K, N], [..., K, M] -> [...]: P(ours > theirs) over all pairs of a task, ties half; mean over tasks."""
    one, other = ours[..., :, None], theirs[..., None, :]
    return ((one > other) + 0.5 * (one == other)).mean(axis=(-1, -2, -3))


def ranking(record: readings.Record, arms: Sequence[str], baseline: str, metrics: Sequence[str], level: float = 0.95) -> list[Ranked]:
    """The arms and the baseline, best first; higher metrics are better. Arms that were not run, or lack a value, are left out; without
    the baseline there is no ranking.

    The same record gives the same numbers: what is drawn depends on the arm's name alone.
    """
    scores: dict[str, np.ndarray] = {}
    for arm in dict.fromkeys([baseline, *arms]):
        try:
            scores[arm] = np.stack([readings.metric(record, arm, name) for name in metrics])
        except NotJudged:
            continue
    if baseline not in scores:
        return []
    level_of_task = scores[baseline].mean(axis=1, keepdims=True)
    drawn = {arm: _resampled(values, numpy_rng(0, "ranking", arm)) for arm, values in scores.items()}
    ends = [(1 - level) / 2, (1 + level) / 2]

    def between(values: np.ndarray) -> tuple[float, float]:
        low, high = np.quantile(values, ends)
        return float(low), float(high)

    found = []
    for arm, values in scores.items():
        against = arm != baseline
        level_drawn = drawn[baseline].mean(axis=2, keepdims=True) if against else level_of_task
        found.append(
            Ranked(
                arm=arm,
                iqm=float(interquartile_mean((values - level_of_task).reshape(-1))),
                interval=between(interquartile_mean((drawn[arm] - level_drawn).reshape(RESAMPLES, -1))),
                improvement=float(improvement(values, scores[baseline])) if against else None,
                improvement_interval=between(improvement(drawn[arm], drawn[baseline])) if against else None,
                tasks=dict(zip(metrics, values.mean(axis=1).tolist(), strict=True)),
            )
        )
    return sorted(found, key=lambda one: -one.iqm)


def _resampled(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[K, N] -> [R, K, N]: seeds drawn again with replacement, within each task."""
    which = rng.integers(scores.shape[1], size=(RESAMPLES, *scores.shape))
    return np.take_along_axis(scores[None], which, axis=2)
