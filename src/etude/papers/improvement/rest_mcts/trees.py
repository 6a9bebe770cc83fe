"""Search trees as readable rows, and what is learned from a labelled tree: policy traces, value targets, preference pairs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from etude.errors import BadInput
from etude.generate.search import Node, Step
from etude.papers.improvement.rest_mcts.rewards import Label

Tokens = list[int]
Valued = list[tuple[Tokens, float | None]]
"""A path's steps, each with the value of the state after it, or None."""


def rows_of(root: Node) -> list[dict[str, Any]]:
    """A tree's nodes but the root, parents first. "parent" is a place in the list, -1 for the root."""
    nodes = [node for node in root.walk() if node.parent is not None]
    place = {node: number for number, node in enumerate(nodes)}
    rows = []
    for node in nodes:
        assert node.step is not None
        assert node.parent is not None
        rows.append({
            "parent": place.get(node.parent, -1), "text": node.step.text, "tokens": list(node.step.tokens), "ended": node.ended,
            "visits": node.visits, "estimate": node.estimate,
        })  # fmt: skip
    return rows


def tree_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Node, list[Node]]:
    """(root, nodes in the rows' order) of `rows_of`. Raises BadInput for a parent that does not come before its child."""
    root, nodes = Node(), []
    for number, row in enumerate(rows):
        if not -1 <= row["parent"] < number:
            raise BadInput(f"tree, node {number}, field 'parent'", repr(row["parent"]), "-1 or the place of a node before it")
        above = root if row["parent"] < 0 else nodes[row["parent"]]
        node = above.add(Step(row["text"], tuple(row["tokens"]), row["ended"], len(row["tokens"])), row["estimate"], row["ended"])
        node.visits = row["visits"]
        nodes.append(node)
    return root, nodes


def text_of(node: Node) -> str:
    return "".join(step.text for step in node.path)


def tokens_of(node: Node) -> Tokens:
    return [token for step in node.path for token in step.tokens]


def traces(root: Node, right: Collection[Node], *, at_least: float, most: int) -> list[Node]:
    """The ended states with right answers that are learned from: valued `at_least` when they were found, the best `most` of them.

    Among equals the one that came first. Raises BadInput for most < 1.
    """
    if most < 1:
        raise BadInput("most", repr(most), "a whole number >= 1")
    found = [node for node in root.walk() if node in right and node.estimate >= at_least]
    return sorted(found, key=lambda node: -node.estimate)[:most]


def value_rows(root: Node, labels: Mapping[Node, Label]) -> list[Valued]:
    """Each way to an ended state, with the labels as values; a state on several ways has its value on the first alone."""
    told: set[Node] = set()
    rows: list[Valued] = []
    for leaf in root.walk():
        if leaf not in labels or any(child in labels for child in leaf.children):
            continue
        row: Valued = []
        for node in reversed(list(leaf.up())):
            if node.step is not None:
                row.append((list(node.step.tokens), None if node in told else labels[node].value))
                told.add(node)
        rows.append(row)
    return rows


def preferences(root: Node, right: Collection[Node], *, most: int) -> list[tuple[Tokens, Tokens]]:
    """(chosen, rejected): right and wrong ended states one beside the other, in order of their visits, at most `most` pairs."""
    ended = sorted((node for node in root.walk() if node.ended), key=lambda node: -node.visits)
    good, bad = [n for n in ended if n in right], [n for n in ended if n not in right]
    return [(tokens_of(a), tokens_of(b)) for a, b in zip(good[:most], bad, strict=False)]
