"""Preferences: several models answer a prompt, a judge marks the answers, and the best stands against a worse one.

Theirs: four answers from a pool of models, the SFT model among them (on-policy), marked by GPT-4o on four aspects; chosen is the one
of the highest mean mark, rejected one of those below it, drawn at random (section 5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from etude.engine.protocols import Completion, Generator, Sampling
from etude.engine.streams import derive, numpy_rng
from etude.errors import BadInput

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(prompt's token ids, the chosen completion's, the rejected one's), end tokens included where they were said"""
Mark = Callable[[int, Completion], float]
"""(number of the prompt, an answer to it) -> its mark"""


@dataclass(frozen=True)
class Preferences:
    """rows: of the prompts whose answers got different marks. on_policy: share of their completions that the policy itself wrote."""

    rows: list[Triple]
    on_policy: float
    num_prompts: int


def best_and_worse(marks: Sequence[float] | np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    """The places of the highest mark (of equals the earliest) and of one of those below it, drawn; None where all are equal.

    Raises BadInput for a mark that is not finite.
    """
    values = np.asarray(marks, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise BadInput("marks", f"{values.tolist()}", "at least one, all finite numbers")
    worse = np.flatnonzero(values < values.max())
    return (int(values.argmax()), int(rng.choice(worse))) if len(worse) else None


def preferences(sources: Sequence[tuple[Generator, Sampling, int]], prompts: Sequence[np.ndarray], mark: Mark, *, seed: int) -> Preferences:
    """Pairs from several models' answers to the same prompts.

    sources: (generator, how it draws, answers a prompt); the first is the policy that will be tuned. mark: the judge; it may err.
    Answers of the same tokens count once. Raises BadInput for no source, and where no prompt gave a pair.
    """
    if not sources:
        raise BadInput("sources", "none", "at least the policy")
    answers: list[list[tuple[int, Completion]]] = [[] for _ in prompts]
    for number, (generator, sampling, count) in enumerate(sources):
        drawn = generator.complete(prompts, sampling, n=count, seed=derive(seed, "answers", number))
        for place, group in enumerate(drawn):
            answers[place] += [(number, completion) for completion in group]
    rng = numpy_rng(seed, "rejected")
    rows: list[Triple] = []
    own = 0
    for place, group in enumerate(answers):
        different = list({c.tokens.tobytes(): (source, c) for source, c in reversed(group)}.values())[::-1]
        picked = best_and_worse([mark(place, completion) for _, completion in different], rng)
        if picked is not None:
            (first, chosen), (second, rejected) = (different[i] for i in picked)
            rows.append((np.asarray(prompts[place]), chosen.tokens, rejected.tokens))
            own += (first == 0) + (second == 0)
    if not rows:
        raise BadInput("preferences", f"{len(prompts)} prompts without two answers of different marks", "at least one pair")
    return Preferences(rows, own / (2 * len(rows)), len(prompts))
