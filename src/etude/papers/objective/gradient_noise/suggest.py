"""Settings of the noise for a recipe."""

from __future__ import annotations

from etude.papers.suggesting import Facts, Suggestion


def suggest(facts: Facts) -> Suggestion:
    """eta = 0.01, the smallest of the three variances that the paper tries (section 3: 0.01, 0.3, 1.0), with gamma = 0.55.

    The noise is added to clipped gradients, whose size is that of `run.clip`: for another clip than 1 its variance goes with the square.
    """
    clip = facts.recipe["run"]["clip"]
    return {"eta": 0.01 if clip == "none" else 0.01 * min(float(clip), 1.0) ** 2}
