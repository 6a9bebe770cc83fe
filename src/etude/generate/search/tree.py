"""A search tree's nodes, the score that chooses among children, and how a value travels back up.

    UCT        V + c sqrt(2 ln N / n)     N: visits of the parent, n: of the child, V: its value; an unvisited child: V + `unvisited`
    backups    V <- sum of n V over the children / sum of n          `visit_weighted_mean`
               V <- V + (R - V) / N                                  `mean_of_returns`, R: the value found below

Sources: Kocsis and Szepesvári 2006 (UCT, and the mean of returns); the mean over children weighted by visits, arXiv 2406.03816.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from etude.errors import BadInput
from etude.generate.search.asking import Path, Step


class Node:
    """A state: the steps from the root to here.

    value: as the search has it now. estimate: as the state was valued when it was made. visits: iterations that went through it or, for
    a child rolled out, ended in it. ended: no step can follow. expanded: its children were asked for. closed: all below has ended.
    """

    __slots__ = ("children", "closed", "depth", "ended", "estimate", "expanded", "parent", "step", "value", "visits")

    def __init__(self, step: Step | None = None, parent: Node | None = None, value: float = 0.0, ended: bool = False) -> None:
        self.step, self.parent, self.depth = step, parent, 0 if parent is None else parent.depth + 1
        self.value = self.estimate = value
        self.visits, self.children = 0, []
        self.expanded, self.ended, self.closed = False, ended, ended

    children: list[Node]

    def add(self, step: Step, value: float, ended: bool) -> Node:
        child = Node(step, self, value, ended)
        self.children.append(child)
        return child

    def up(self) -> Iterator[Node]:
        """This node, its parent, and so on to the root."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def path(self) -> Path:
        return tuple(node.step for node in self.up() if node.step is not None)[::-1]

    def walk(self) -> Iterator[Node]:
        """All nodes of the subtree, parents before children, older children first."""
        stack: list[Node] = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    def close(self) -> None:
        """Notes, from here up, where nothing open is left below."""
        for node in self.up():
            if not (node.ended or (node.expanded and all(c.closed for c in node.children))):
                return
            node.closed = True


Score = Callable[[Node, Node], float]
"""(parent, child) -> by what the child is chosen; the greatest wins, the oldest among equals."""
Backup = Callable[[Node, float], None]
"""(the node expanded, or an ended one; the value found in it or below) -> visits and values from there up to the root."""


@dataclass(frozen=True, kw_only=True)
class UCT:
    """exploration: c. unvisited: what a child never visited gets on top of its value; infinite: each child once before any again."""

    exploration: float = 1.0
    unvisited: float = math.inf

    def __post_init__(self) -> None:
        if not self.exploration >= 0:
            raise BadInput("UCT.exploration", repr(self.exploration), "a number >= 0")
        if math.isnan(self.unvisited):
            raise BadInput("UCT.unvisited", repr(self.unvisited), "a number")

    def __call__(self, parent: Node, child: Node) -> float:
        if not child.visits:
            return child.value + self.unvisited
        return child.value + self.exploration * math.sqrt(2 * math.log(parent.visits) / child.visits)


def best_child(node: Node, score: Score) -> Node:
    return max(node.children, key=lambda child: score(node, child))  # max keeps the first among equals


def visit_weighted_mean(node: Node, value: float) -> None:
    """A parent is worth the mean of its children, each counted as often as it was visited. An ended node keeps its value."""
    for above in node.up():
        above.visits += 1
        total = sum(child.visits for child in above.children)
        if total:
            above.value = sum(child.value * child.visits for child in above.children) / total


def mean_of_returns(node: Node, value: float) -> None:
    """Each node on the way is worth the mean of all values found through it, its own first estimate not counted."""
    for above in node.up():
        above.visits += 1
        above.value = value if above.visits == 1 else above.value + (value - above.value) / above.visits


def best_of(roots: Sequence[Node]) -> Node:
    """The ended node of the greatest value in these trees; where none has ended, the node of the greatest value. The oldest among equals.

    A root without children is its own best.
    """
    nodes = [node for root in roots for node in root.walk() if node.parent is not None]
    ended = [node for node in nodes if node.ended]
    return max(ended or nodes or roots[:1], key=lambda node: node.value)


def merged(roots: Sequence[Node]) -> Node:
    """One tree of several that begin with one question: states reached by equal steps are one node, which has ended where any has.

    Its estimate and value are those of the first, its visits the sum of all. The trees themselves stay as they are.
    """
    whole = Node()
    whole.value, whole.estimate = (roots[0].value, roots[0].estimate) if roots else (0.0, 0.0)
    same: dict[Node, dict[Hashable, Node]] = {}
    for root in roots:
        stack = [(root, whole)]
        while stack:
            node, copy = stack.pop()
            copy.visits += node.visits
            copy.expanded, copy.ended = copy.expanded or node.expanded, copy.ended or node.ended
            for child in node.children:
                assert child.step is not None
                known = same.setdefault(copy, {})
                if child.step.key not in known:
                    known[child.step.key] = copy.add(child.step, child.estimate, child.ended)
                    known[child.step.key].value = child.value
                stack.append((child, known[child.step.key]))
    for node in whole.walk():
        if not node.children:
            node.close()
    return whole
