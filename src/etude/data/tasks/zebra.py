"""Zebra puzzles: houses in a row, kinds of things (letters), one of each kind in every house, and clues.

Prompt (3 houses, kinds `abc` and `pqr`): `houses 3 kinds abc pqr clues a@2 b+q c<a p~b: `. Clues: `a@2` a is in house 2; `b+q` in the same
house; `c<a` directly to the left; `p~b` next to each other. Answer: the houses from the left, a thing of each kind, `bq/ap/cr`.
The search places the kinds in order, house by house; a step that breaks a clue fails at once. Puzzles have one solution.
Source: the logic puzzle; paper 39 (reasoning-gym's zebra_puzzles are told in English and have no search here).
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from etude.data.tasks.family import Family
from etude.errors import BadInput

State = tuple[str, ...]
"""Things placed so far: kind by kind, in each from the left house."""


def holds(clue: str, house: Mapping[str, int]) -> bool | None:
    """Whether a clue is true; None while a thing in it is not placed. house: thing -> number from 1."""
    first, relation, second = clue
    a = house.get(first)
    b = int(second) if relation == "@" else house.get(second)
    if a is None or b is None:
        return None
    return {"@": a == b, "+": a == b, "<": a + 1 == b, "~": abs(a - b) == 1}[relation]


class Zebra(Family):
    """difficulty: how many houses. kinds: how many kinds of things."""

    name = "zebra"
    difficulties = (2, 3, 4)

    def __init__(self, kinds: int = 2) -> None:
        if not 1 <= kinds <= 4:
            raise BadInput("task zebra, kinds", repr(kinds), "1 to 4")
        self.kinds = kinds
        if kinds != 2:
            self.name = f"zebra({kinds})"

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        things = ["".join(string.ascii_lowercase[k * difficulty + i] for i in range(difficulty)) for k in range(self.kinds)]
        rows = ["".join(kind[i] for i in rng.permutation(difficulty)) for kind in things]
        house = {thing: row.index(thing) + 1 for row in rows for thing in row}
        every = list(house)
        clues = [f"{a}@{house[a]}" for a in every]
        for a, b in itertools.permutations(every, 2):
            other = next(row for row in rows if a in row) != next(row for row in rows if b in row)
            clues += [f"{a}+{b}"] * (other and a < b and house[a] == house[b]) + [f"{a}<{b}"] * (house[a] + 1 == house[b])
            clues += [f"{a}~{b}"] * (a < b and abs(house[a] - house[b]) == 1)
        # Clues are taken away in random order, those that tell most first, while the solution stays the only one.
        order = sorted(rng.permutation(len(clues)), key=lambda i: clues[i][1] != "@")
        kept = set(range(len(clues)))
        for i in order:
            if self._count(things, [clues[j] for j in kept - {i}]) == 1:
                kept.discard(i)
        chosen = sorted(kept)
        told = [clues[chosen[i]] for i in rng.permutation(len(chosen))]
        prompt = f"houses {difficulty} kinds {' '.join(things)} clues {' '.join(told)}: "
        return prompt, self._written(rows), {"things": things, "clues": told}

    @staticmethod
    def _written(rows: Sequence[str]) -> str:
        return "/".join("".join(column) for column in zip(*rows, strict=True))

    def _count(self, things: list[str], clues: list[str], limit: int = 2) -> int:
        data = {"things": things, "clues": clues}

        def below(state: State) -> int:
            if self.failed(data, state):
                return 0
            if len(state) == len(things) * len(things[0]):
                return 1
            found = 0
            for _, following in self.moves(data, state):
                found += below(following)
                if found >= limit:
                    break
            return found

        return below(())

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        things = data["things"]
        houses = answer.split("/")
        if len(houses) != len(things[0]) or any(len(h) != len(things) for h in houses):
            return False
        if any(sorted(h[k] for h in houses) != sorted(kind) for k, kind in enumerate(things)):
            return False
        house = {thing: number for number, h in enumerate(houses, start=1) for thing in h}
        return all(holds(clue, house) for clue in data["clues"])

    # The search tree (`traces.Search`)
    def root(self, data: Mapping[str, Any]) -> State:
        return ()

    def moves(self, data: Mapping[str, Any], state: State) -> list[tuple[str, State]]:
        kind, house = divmod(len(state), len(data["things"][0]))
        if kind == len(data["things"]):
            return []
        left = [thing for thing in data["things"][kind] if thing not in state]
        return [(f"{thing}@{house + 1}", (*state, thing)) for thing in left]

    def failed(self, data: Mapping[str, Any], state: State) -> bool:
        size = len(data["things"][0])
        house = {thing: place % size + 1 for place, thing in enumerate(state)}
        return any(holds(clue, house) is False for clue in data["clues"])

    def solved(self, data: Mapping[str, Any], state: State) -> bool:
        return len(state) == len(data["things"]) * len(data["things"][0]) and not self.failed(data, state)

    def label(self, data: Mapping[str, Any], state: State) -> str:
        kind, house = divmod(len(state), len(data["things"][0]))
        return f"{data['things'][kind]}@{house + 1}"

    def answer(self, data: Mapping[str, Any], state: State) -> str:
        size = len(data["things"][0])
        return self._written(["".join(state[i : i + size]) for i in range(0, len(state), size)])
