"""Step rewards inferred from a search tree and the known answer alone.

    v_0 = 0,   v_k = max(0, v_{k-1} + w_k),   w_k = (1 - v_{k-1}) / (m_k + 1) (1 - 2 r_k)        eq. 1, 2

m_k is how many steps are still needed to the nearest right answer, r_k is 0 for a step that can lead there and 1 for one that cannot.
A right chain of K steps has v_k = k / K. A dead state, one below which only wrong answers were found, has the distance of its nearest
live ancestor and r = 1. A state below which nothing has ended is not labelled: nothing is known of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from etude.errors import BadInput
from etude.generate.search import Node


def weighted_reward(previous: float, distance: int, wrong: bool) -> float:
    """w_k. previous: v_{k-1}, from 0 to 1; distance: m_k, steps still needed; wrong: r_k. Raises BadInput for a distance below 0."""
    if distance < 0:
        raise BadInput("distance", repr(distance), "a number of steps >= 0")
    return (1 - previous) / (distance + 1) * (-1 if wrong else 1)


def quality(previous: float, distance: int, wrong: bool) -> float:
    """v_k, from 0 to 1. Arguments as in `weighted_reward`."""
    return max(0.0, previous + weighted_reward(previous, distance, wrong))


@dataclass(frozen=True, slots=True)
class Label:
    """distance: m. wrong: r. value: v."""

    distance: int
    wrong: bool
    value: float


def inferred(root: Node, right: Callable[[Node], bool]) -> dict[Node, Label]:
    """Labels of a tree's states, the root left out: parents before children; empty where no ended state is right.

    right: whether an ended state's answer is the known one. Every node on the way to an ended state gets a label.
    """
    nodes = list(root.walk())
    distances: dict[Node, int] = {}
    for node in reversed(nodes):  # children before parents
        below = [distances[child] for child in node.children if child in distances]
        if below:
            distances[node] = min(below) + 1
        elif node.ended and not node.children and node.parent is not None and right(node):
            distances[node] = 0
    if root not in distances:
        return {}
    seen = {above for node in nodes if node.ended for above in node.up()}
    labels: dict[Node, Label] = {root: Label(distances[root], False, 0.0)}
    for node in nodes:
        if node is root or node not in seen or node.parent is None:
            continue
        before, wrong = labels[node.parent], node not in distances
        distance = before.distance if wrong else distances[node]
        labels[node] = Label(distance, wrong, quality(before.value, distance, wrong))
    del labels[root]
    return labels
