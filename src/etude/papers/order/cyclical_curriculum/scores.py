"""How likely each sample is to be drawn, from its loss under some model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from etude.engine.protocols import Method
from etude.engine.run import Run
from etude.errors import BadInput

Weigh = Callable[[np.ndarray], np.ndarray]
SMALLEST_LOSS = 1e-7
"""Where losses are cut off below: what the authors' Keras makes of a certain prediction (its epsilon)."""


def check_losses(losses: Any) -> np.ndarray:
    """As float64 [N], at least `SMALLEST_LOSS`. Raises BadInput where one is negative or not finite."""
    losses = np.asarray(losses, dtype=np.float64)
    if losses.ndim != 1 or not len(losses):
        raise BadInput("losses", f"shape {losses.shape}", "one loss a sample, [N]")
    bad = np.flatnonzero(~np.isfinite(losses) | (losses < 0))
    if len(bad):
        raise BadInput("losses", f"{losses[bad[0]]:g} at sample {bad[0]}", "finite numbers >= 0")
    return np.maximum(losses, SMALLEST_LOSS)


def easy_scores(losses: Any, rate: float | None = None) -> np.ndarray:
    """losses [N] -> scores [N], high for what a model finds easy: 1 / l, or exp(-rate * l) where a rate is given.

    The exponential is scaled so that the smallest loss has score `rate`. What it rounds to zero becomes the smallest score
    above zero, so that everything can be drawn (as in the authors' code, where the rate is called lamda).
    """
    losses = check_losses(losses)
    if rate is None:
        return 1 / losses
    if not rate > 0:
        raise BadInput("easy_scores.rate", repr(rate), "a number > 0")
    # The scale moves no probability; without it, losses that are all large would all be rounded to zero.
    scores = rate * np.exp(-rate * (losses - losses.min()))
    return np.where(scores > 0, scores, scores[scores > 0].min())


def hard_scores(losses: Any) -> np.ndarray:
    """losses [N] -> scores [N], high for what a model finds hard: l itself."""
    return check_losses(losses)


WEIGHS: dict[str, Weigh] = {"easy": easy_scores, "hard": hard_scores}


class KeepLosses(Method):
    """After a run, `losses` holds the trained model's loss on every sample of the training data, [N]; charged as "prepare"."""

    def __init__(self) -> None:
        self.losses = np.empty(0)

    def stop(self, run: Run) -> None:
        self.losses = run.score(None, batch_size=256)
