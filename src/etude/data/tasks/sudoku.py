"""Sudoku of four by four: each digit 1 to 4 once in every row, column and two-by-two block.

Prompt: `sudoku 1_3_/34__/_1_3/4_2_: `, rows from the top. Answer: the rows in full, `1234/3412/2143/4321`. Puzzles have one solution.
The search fills the blanks in reading order; a step that breaks a rule fails at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from etude.data.tasks.family import Family

Cells = tuple[int, ...]
"""16 digits in reading order, 0 for a blank."""


def peers(cell: int) -> list[int]:
    """The cells that must differ from `cell`."""
    row, column = divmod(cell, 4)
    return [
        other
        for other in range(16)
        if other != cell and (other // 4 == row or other % 4 == column or (other // 8 == cell // 8 and other % 4 // 2 == column // 2))
    ]


PEERS = [peers(cell) for cell in range(16)]


def clash(cells: Cells, cell: int) -> bool:
    return any(cells[other] == cells[cell] for other in PEERS[cell])


def solutions(cells: Cells, limit: int = 2) -> list[Cells]:
    """Up to `limit` solutions."""
    if 0 not in cells:
        return [cells]
    cell, found = cells.index(0), []
    for digit in range(1, 5):
        tried = (*cells[:cell], digit, *cells[cell + 1 :])
        if not clash(tried, cell):
            found += solutions(tried, limit - len(found))
            if len(found) >= limit:
                break
    return found


def text(cells: Cells) -> str:
    return "/".join("".join(str(d) if d else "_" for d in cells[row : row + 4]) for row in (0, 4, 8, 12))


class Sudoku(Family):
    """difficulty: how many blanks."""

    name = "sudoku-4x4"
    difficulties = tuple(range(1, 12))

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        while True:
            full = self._grid(rng)
            cells = full
            for cell in rng.permutation(16):
                tried = (*cells[:cell], 0, *cells[cell + 1 :])
                if len(solutions(tried)) == 1:
                    cells = tried
                if cells.count(0) == difficulty:
                    return f"sudoku {text(cells)}: ", text(full), {"cells": list(cells)}

    def _grid(self, rng: np.random.Generator) -> Cells:
        cells: Cells = (0,) * 16
        while 0 in cells:
            cell = cells.index(0)
            fitting = [
                d for d in range(1, 5) if solutions((*cells[:cell], d, *cells[cell + 1 :]), 1) and all(cells[o] != d for o in PEERS[cell])
            ]
            cells = (*cells[:cell], fitting[int(rng.integers(len(fitting)))], *cells[cell + 1 :])
        return cells

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        rows = answer.split("/")
        if len(rows) != 4 or any(len(row) != 4 for row in rows) or any(c not in "1234" for row in rows for c in row):
            return False
        cells = tuple(int(c) for row in rows for c in row)
        fits = all(given in (0, cell) for given, cell in zip(data["cells"], cells, strict=True))
        return fits and not any(clash(cells, cell) for cell in range(16))

    # The search tree (`traces.Search`)
    def root(self, data: Mapping[str, Any]) -> Cells:
        return tuple(data["cells"])

    def moves(self, data: Mapping[str, Any], state: Cells) -> list[tuple[str, Cells]]:
        cell = state.index(0)
        return [(f"{'abcd'[cell // 4]}{cell % 4 + 1}={d}", (*state[:cell], d, *state[cell + 1 :])) for d in range(1, 5)]

    def failed(self, data: Mapping[str, Any], state: Cells) -> bool:
        filled = [cell for cell in range(16) if state[cell] and not data["cells"][cell]]
        return bool(filled) and clash(state, filled[-1])

    def solved(self, data: Mapping[str, Any], state: Cells) -> bool:
        return 0 not in state and not self.failed(data, state)

    def label(self, data: Mapping[str, Any], state: Cells) -> str:
        cell = state.index(0)
        return f"{'abcd'[cell // 4]}{cell % 4 + 1}"

    def answer(self, data: Mapping[str, Any], state: Cells) -> str:
        return text(state)
