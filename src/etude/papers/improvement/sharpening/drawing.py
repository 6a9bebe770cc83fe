"""What is learned from: winners among a fixed or an adaptive number of samples, and pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from etude.engine.protocols import Completion, Generator, Sampling
from etude.engine.streams import derive
from etude.errors import BadInput
from etude.learn.selection import best_of
from etude.papers.improvement.sharpening.reward import SELF_REWARDS, check_base, enough, likelihood

PLACES = 512
"""Most prompts that adaptive sampling has open at a time; one that has enough makes room for the next."""

Row = tuple[np.ndarray, np.ndarray]
"""(prompt's token ids, completion's, its end token included)"""


@dataclass(frozen=True)
class Winners:
    """rows: a winner for each prompt that has one. num_samples: all drawn. num_unfinished: of them, without their end token."""

    rows: list[Row]
    num_samples: int
    num_unfinished: int


def chosen(samples: Sequence[Completion], reward: str = "likelihood") -> Completion | None:
    """The sample of the highest self-reward among the finished ones, the earliest of equals; None where none is finished."""
    finished = [s for s in samples if s.finish == "stop"]
    if not finished:
        return None
    return finished[int(best_of(SELF_REWARDS[reward](finished), [0] * len(finished))[0])]


def best_of_each(
    generator: Generator, prompts: Sequence[np.ndarray], num: int, sampling: Sampling, *, seed: int, reward: str = "likelihood"
) -> Winners:
    """`num` samples of each prompt, and of those the one of the highest self-reward. Raises BadInput for num < 1."""
    if num < 1:
        raise BadInput("N", repr(num), "a whole number >= 1")
    check_base(generator, sampling)
    groups = generator.complete(prompts, sampling, n=num, seed=seed)
    rows = [(p, winner.tokens) for p, group in zip(prompts, groups, strict=True) if (winner := chosen(group, reward))]
    return Winners(rows, num * len(prompts), _unfinished(groups))


def first_of_each(generator: Generator, prompts: Sequence[np.ndarray], num: int, sampling: Sampling, *, seed: int) -> Winners:
    """As many samples, and of each prompt's the first finished one, whatever its reward: self-training without selection."""
    check_base(generator, sampling)
    groups = generator.complete(prompts, sampling, n=num, seed=seed)
    firsts = [(p, next((s for s in group if s.finish == "stop"), None)) for p, group in zip(prompts, groups, strict=True)]
    return Winners([(p, s.tokens) for p, s in firsts if s is not None], num * len(prompts), _unfinished(groups))


def best_adaptively(
    generator: Generator, prompts: Iterator[np.ndarray], budget: int, mu: float, sampling: Sampling, *, seed: int, most: int
) -> Winners:
    """Samples one at a time until 1 / max pi_base <= k / mu (eq. 10), or `most` of a prompt; `budget` samples in all.

    What the budget leaves half done is counted and dropped.
    """
    if most < 1 or budget < 1:
        raise BadInput("adaptive sampling", f"at most {most} samples a prompt, {budget} in all", "both at least 1")
    check_base(generator, sampling)
    rows: list[Row] = []
    places: list[tuple[int, np.ndarray, list[Completion], int]] = []  # (number, prompt, finished samples, drawn)
    drawn = unfinished = number = wave = 0
    room = max(1, min(PLACES, budget // most))
    while drawn < budget:
        while len(places) < min(room, budget - drawn):
            places.append((number, next(prompts), [], 0))
            number += 1
        asked = places[: budget - drawn]
        numbers = [place[0] for place in asked]
        answers = generator.complete([place[1] for place in asked], sampling, n=1, seed=derive(seed, "wave", wave), ids=numbers)
        wave, drawn = wave + 1, drawn + len(asked)
        going_on = places[len(asked) :]
        for (n, prompt, kept, count), (sample,) in zip(asked, answers, strict=True):
            if sample.finish == "stop":
                kept.append(sample)
            else:
                unfinished += 1
            count += 1
            best = max(likelihood(kept), default=-np.inf)
            if count >= most or enough(count, best, mu):
                if winner := chosen(kept):
                    rows.append((prompt, winner.tokens))
            else:
                going_on.append((n, prompt, kept, count))
        places = going_on
    return Winners(rows, drawn, unfinished)


def _unfinished(groups: Sequence[Sequence[Completion]]) -> int:
    return sum(s.finish != "stop" for group in groups for s in group)


def pairs_of(
    first: Sequence[Completion], second: Sequence[Completion], prompts: Sequence[np.ndarray], first_rewards: Sequence[float] | None = None
) -> tuple[list[tuple[np.ndarray, np.ndarray, np.ndarray]], list[tuple[float, float]]]:
    """Triples (x, y, y') and their (log pi_base(y), log pi_base(y')), of the pairs whose halves are both finished.

    first_rewards: log pi_base of the first halves where another model drew them; otherwise as recorded when they were drawn.
    """
    triples, rewards = [], []
    for i, (y, other, prompt) in enumerate(zip(first, second, prompts, strict=True)):
        if y.finish == other.finish == "stop":
            triples.append((prompt, y.tokens, other.tokens))
            own = likelihood([y])[0] if first_rewards is None else float(first_rewards[i])
            rewards.append((own, likelihood([other])[0]))
    return triples, rewards
