"""Asking again after a failure, and turning what came of it into weighted rows.

    s_1 = question,  s_{t+1} = s_t, a_t, what was said to a_t         r(a) = 1 right, 0 wrong, -1 unreadable
    row (s_t, a_t): weight exp(r / tau), loss on a_t alone             (arXiv 2407.18219, section 4; `etude.learn.finetune`, mean over rows)

`converted` follows `workflow_convert.py` of the authors' code (cmu-mind/RISE at 4a2806e), its order of steps included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from etude.data.tasks.answers import answer_of
from etude.engine.protocols import Problem, Task, Turn
from etude.errors import BadInput, one_of

CRITERIA = ("all", "better", "best", "success")
"""Which attempts are learned from: all; better than the one before; none before was better; right ones."""


@dataclass(frozen=True)
class Protocol:
    """How a question is asked, judged and asked again.

    task:  its `verify` gives 1 for a right response.
    again: what is said after a failed one; the paper says that the answer is incorrect and repeats the question.
    key:   the answer in a response, as votes count it; None where none can be read.
    """

    task: Task
    again: Callable[[Problem], str]
    key: Callable[[str], str | None] = answer_of

    def reward(self, problem: Problem, response: str) -> float:
        if self.task.verify(problem, response) >= 1:
            return 1.0
        return 0.0 if self.key(response) is not None else -1.0


class Retry:
    """An environment of many turns that says `again` after every response.

    stop: ends at a right answer (collecting, and answering with an oracle). Otherwise a right answer is called incorrect too, so that
    nothing about it leaks.
    """

    def __init__(self, protocol: Protocol, *, stop: bool) -> None:
        self.protocol, self.stop = protocol, stop

    def reset(self, problem: Problem) -> str:
        self.problem = problem
        return problem.prompt

    def step(self, response: str) -> Turn:
        reward = self.protocol.reward(self.problem, response)
        ended = self.stop and reward == 1
        return Turn("" if ended else self.protocol.again(self.problem), reward, terminated=ended)


@dataclass(frozen=True, slots=True)
class Attempt:
    """tokens: of the response, its end included. text: without it. said: tokens of what was said to it, none after the last."""

    tokens: Sequence[int]
    text: str
    reward: float | None
    said: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """state: tokens that the answer is given after; answer: the only tokens with a loss. past: how many interactions the state has."""

    state: tuple[int, ...]
    answer: tuple[int, ...]
    reward: float
    past: int


def state_of(question: Sequence[int], before: Sequence[Attempt], window: int | None = None) -> tuple[int, ...]:
    """The tokens read before the next answer: the question and the last `window` - 1 interactions (None: all)."""
    kept = before if window is None else before[len(before) - min(window - 1, len(before)) :]
    return (*question, *(token for a in kept for token in (*a.tokens, *a.said)))


def converted(question: Sequence[int], trajectory: Sequence[Attempt], criterion: str = "all", window: int | None = None) -> list[Pair]:
    """Pairs of every prefix of one trajectory that the criterion keeps, up to and with the first right answer.

    Empty attempts and those that were made before, blanks aside, are taken out first, so that no history holds them. Under every
    criterion but "success" the first attempt is kept. Raises BadInput for an unknown criterion and an attempt without a reward.
    """
    if criterion not in CRITERIA:
        raise one_of("criterion", criterion, CRITERIA)
    if window is not None and window < 1:
        raise BadInput("window", repr(window), "a whole number >= 1, or none")
    seen: set[str] = set()
    distinct: list[Attempt] = []
    rewards: list[float] = []
    for number, attempt in enumerate(trajectory):
        if attempt.reward is None or not np.isfinite(attempt.reward):
            raise BadInput(f"episode, attempt {number + 1}: reward", repr(attempt.reward), "a finite number")
        text = attempt.text.strip()
        if text and text not in seen:
            distinct.append(attempt)
            rewards.append(attempt.reward)
        seen.add(text)
    pairs = []
    for i, attempt in enumerate(distinct):
        if _kept(rewards[: i + 1], criterion):
            state = state_of(question, distinct[:i], window)
            pairs.append(Pair(state, tuple(attempt.tokens), rewards[i], i))
        if rewards[i] == 1:
            break
    return pairs


def _kept(rewards: Sequence[float], criterion: str) -> bool:
    *before, last = rewards
    if criterion == "success":
        return last == 1
    if not before or criterion == "all":
        return True
    return last > before[-1] if criterion == "better" else last >= max(before)


def swapped(pairs: Sequence[Pair], histories: Sequence[tuple[int, ...]], questions: Sequence[int]) -> list[Pair]:
    """A control: each pair with interactions before it gets those of the next pair of another question with as many.

    histories: of each pair, its state without the last thing said. questions: whose each pair is. What is said last, the question
    of the pair itself, stays. Pairs without a partner keep their own.
    """
    out = list(pairs)
    for past in {p.past for p in pairs} - {0}:
        places = [i for i, p in enumerate(pairs) if p.past == past]
        for at, i in enumerate(places):
            others = (places[(at + step) % len(places)] for step in range(1, len(places)))
            j = next((j for j in others if questions[j] != questions[i]), None)
            if j is not None:
                out[i] = Pair((*histories[j], *pairs[i].state[len(histories[i]) :]), pairs[i].answer, pairs[i].reward, past)
    return out


def majority(keys: Sequence[str | None]) -> int | None:
    """The place of the most frequent answer, the earliest of those that are level; None where no response has one."""
    counts = Counter(k for k in keys if k is not None)
    if not counts:
        return None
    return keys.index(max(counts, key=lambda k: (counts[k], -keys.index(k))))
