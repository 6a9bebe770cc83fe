"""Knights and Knaves: knights always tell the truth, knaves always lie, each person says one thing; who is what?

Prompt: `a:-b b:c|-a c:a=b ; `, where `b` says that b is a knight, `-b` that b is a knave, and & | = join two such claims ("and", "or",
"of one kind"). Answer: one digit a person in order, 1 for a knight, `100`. Exactly one answer fits every statement, so guessing
is right once in 2^n.
Source: paper 36 (arXiv 2504.09710 trains on 3 to 14 people).
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from etude.data.tasks.family import Family

Claim = tuple[int, bool]
"""Who, and whether a knight."""
Statement = tuple[Claim, str, Claim]
"""Two claims and what joins them; with the empty sign the first alone counts."""

SIGNS = ("", "&", "|", "=")


@cache
def columns(num: int) -> list[int]:
    """For each person, in which of the 2^num ways of being knight or knave they are a knight, one bit a way.

    In way w person i is a knight where bit num - 1 - i of w is set, so that w in binary is the answer.
    """
    period = [1 << (num - 1 - i) for i in range(num)]
    return [sum(((1 << p) - 1) << (start + p) for start in range(0, 1 << num, 2 * p)) for p in period]


def fitting(statements: Sequence[Statement]) -> int:
    """The ways, one bit each, in which exactly the knights' statements are true; person i says statements[i]."""
    num = len(statements)
    knight, every = columns(num), (1 << (1 << num)) - 1
    ways = every
    for speaker, ((one, one_is), sign, (other, other_is)) in enumerate(statements):
        first = knight[one] if one_is else every ^ knight[one]
        second = knight[other] if other_is else every ^ knight[other]
        true = {"": first, "&": first & second, "|": first | second, "=": every ^ first ^ second}[sign]
        ways &= every ^ knight[speaker] ^ true
    return ways


def written(said: Statement) -> str:
    one, sign, other = said
    claims = [("" if knight else "-") + string.ascii_lowercase[who] for who, knight in (one, other)]
    return claims[0] + (sign + claims[1] if sign else "")


class Knights(Family):
    """difficulty: how many people. Nobody speaks of their own kind alone."""

    name = "knights"
    difficulties = tuple(range(2, 15))

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        while True:
            drawn = rng.random((difficulty, 5)).tolist()
            statements = [_statement(person, difficulty, *numbers) for person, numbers in enumerate(drawn)]
            ways = fitting(statements)
            if ways.bit_count() == 1:
                told = " ".join(f"{string.ascii_lowercase[i]}:{written(s)}" for i, s in enumerate(statements))
                answer = f"{ways.bit_length() - 1:0{difficulty}b}"
                return f"{told} ; ", answer, {"answer": answer}

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        return answer == data["answer"]


def _statement(speaker: int, num: int, one: float, other: float, sign: float, one_is: float, other_is: float) -> Statement:
    """From five evenly drawn numbers in [0, 1): the first claim is about somebody else, the second about another person than it."""
    first = int(one * (num - 1))
    first += first >= speaker
    second = int(other * (num - 1))
    second += second >= first
    return (first, one_is < 0.5), SIGNS[int(sign * len(SIGNS))], (second, other_is < 0.5)
