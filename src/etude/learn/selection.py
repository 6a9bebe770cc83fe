"""Choosing among samples: best of n, and rejection sampling. Ties go to the earlier sample, so that a choice can be repeated.

Shapes: N samples; groups are formed by prompt id, never by place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etude.errors import BadInput


def best_of(scores: Sequence[float] | np.ndarray, prompts: Sequence[int] | np.ndarray) -> np.ndarray:
    """The place of each prompt's best sample, in the order in which prompts first appear. scores, prompts: [N].

    Raises BadInput for no samples, or a score that is not finite (named).
    """
    scores, prompts = _checked(scores, prompts)
    best: dict[int, int] = {}
    for place, prompt in enumerate(prompts.tolist()):
        held = best.get(prompt)
        if held is None or scores[place] > scores[held]:
            best[prompt] = place
    return np.array(list(best.values()), dtype=np.int64)


def accepted(
    scores: Sequence[float] | np.ndarray, prompts: Sequence[int] | np.ndarray, *, at_least: float = 1.0, per_prompt: int = 1
) -> np.ndarray:
    """Rejection sampling: the places of samples scoring `at_least`, the best `per_prompt` of each prompt, in order of place.

    A prompt whose samples all fail gives none. Raises as `best_of`, and for per_prompt < 1.
    """
    if per_prompt < 1:
        raise BadInput("per_prompt", repr(per_prompt), "a whole number >= 1")
    scores, prompts = _checked(scores, prompts)
    kept: dict[int, int] = {}
    chosen = []
    for place in np.argsort(-scores, kind="stable").tolist():
        prompt = int(prompts[place])
        if scores[place] >= at_least and kept.get(prompt, 0) < per_prompt:
            kept[prompt] = kept.get(prompt, 0) + 1
            chosen.append(place)
    return np.array(sorted(chosen), dtype=np.int64)


def best_and_worst(scores: Sequence[float] | np.ndarray, prompts: Sequence[int] | np.ndarray) -> np.ndarray:
    """[P, 2] places of each prompt's best and worst sample, for preferences; prompts whose scores are all equal are left out."""
    scores, prompts = _checked(scores, prompts)
    high, low = best_of(scores, prompts), best_of(-scores, prompts)
    differ = scores[high] > scores[low]
    return np.stack([high, low], 1)[differ]


def _checked(scores: Sequence[float] | np.ndarray, prompts: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, prompts = np.asarray(scores, dtype=np.float64), np.asarray(prompts)
    if scores.shape != prompts.shape or scores.ndim != 1 or not len(scores):
        raise BadInput("scores", f"{scores.size} for {prompts.size} samples", "one score a sample, at least one")
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise BadInput(f"sample {wrong[0]} of prompt {prompts[wrong[0]]}: score", str(scores[wrong[0]]), "a finite number")
    return scores, prompts
