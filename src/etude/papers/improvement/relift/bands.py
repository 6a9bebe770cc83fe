"""Difficulty bands: of a question, by how many of a model's answers to it are right (2506.07527, section 2; of 8 answers)."""

from __future__ import annotations

import numpy as np

from etude.errors import BadInput

BANDS = ("easy", "medium", "hard", "hardest")
BORDERS = (0.75, 0.375, 0.125)
"""Smallest share right of the first three: three quarters and more, three to five of eight, one or two of eight, none."""


def band(share: float) -> str:
    """The band of a share right, 0 to 1. Between the borders for eighths, a share belongs to the band below the next border."""
    if not 0 <= share <= 1:
        raise BadInput("share right", repr(share), "a number from 0 to 1")
    return next((name for name, border in zip(BANDS, BORDERS, strict=False) if share >= border), BANDS[-1] if share == 0 else "hard")


def by_band(base: np.ndarray, now: np.ndarray) -> dict[str, float]:
    """Mean of `now` [N] over the questions of each band that the base's shares [N] put there; NaN of a band without questions."""
    bands = np.array([band(float(share)) for share in base])
    return {name: float(now[bands == name].mean()) if (bands == name).any() else float("nan") for name in BANDS}


def sizes(base: np.ndarray) -> dict[str, float]:
    """The share of questions in each band."""
    bands = [band(float(share)) for share in base]
    return {name: bands.count(name) / len(bands) for name in BANDS}
