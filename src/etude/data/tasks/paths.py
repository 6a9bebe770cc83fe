"""Shortest paths in small directed graphs. Prompt: `ab ac bd cd de ; a to e: `. Answer: the nodes in order, `abde`.

Any shortest path is right. Source: paper 46 (short paths, whose mode is right while mass is spread).
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from etude.data.tasks.family import Family


def distances(edges: list[str], start: str) -> dict[str, int]:
    """Steps from `start` to each node that can be reached; an edge is two letters."""
    found, front = {start: 0}, [start]
    while front:
        front = [e[1] for node in front for e in edges if e[0] == node and found.setdefault(e[1], found[node] + 1) == found[node] + 1]
        front = sorted(set(front))
    return found


class Paths(Family):
    """difficulty: how many nodes. About two edges leave each; start and end are at least two steps apart."""

    name = "paths"
    difficulties = tuple(range(4, 17))

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        nodes = [string.ascii_lowercase[i] for i in rng.permutation(26)[:difficulty]]
        while True:
            pairs = [a + b for a in nodes for b in nodes if a != b]
            edges = [pairs[i] for i in rng.permutation(len(pairs))[: 2 * difficulty]]
            start, end = (nodes[i] for i in rng.permutation(difficulty)[:2])
            away = distances(edges, start)
            if away.get(end, 0) >= 2:
                break
        path = end
        while path[0] != start:
            path = next(e[0] for e in edges if e[1] == path[0] and away.get(e[0]) == away[path[0]] - 1) + path
        return f"{' '.join(edges)} ; {start} to {end}: ", path, {"edges": edges, "start": start, "end": end, "steps": away[end]}

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        if len(answer) != data["steps"] + 1 or answer[0] != data["start"] or answer[-1] != data["end"]:
            return False
        return all(a + b in data["edges"] for a, b in pairwise(answer))
