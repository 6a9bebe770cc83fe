"""Whole answers, one after another: what a search is held against at equal cost.

Best of n takes the answer of the greatest value; self-consistency (Wang et al. 2022, arXiv 2203.11171) the one that most samples agree
on. A round is one answer, sampled step by step from the beginning, so that limit and cost are those of `MCTS` and `Beam`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any

from etude.errors import BadInput
from etude.generate.search.asking import Ask, Asking, Ending, Found, Limit, Path, Question, Searching, last_step_ended
from etude.generate.search.tree import Node, best_of

Reading = Callable[[Question, Path], Hashable]
"""What an ended path answers, None for nothing: paths that answer alike vote together."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Best of n by the evaluator's values, or with `vote` the answer given most often, for which nothing is valued.

    The samples make one tree: what begins alike is shared, a node's visits are the samples that went through it. A vote's path is the
    first sample of the answer, its value the share of all samples that gave it; among equals the earliest answer. end_at: an ended
    answer of at least this value ends the search (best of n alone). ending, max_depth: as in `MCTS`. begin: (question, number of the
    sample from 0) -> given steps that it goes on from, which cost nothing; by default none.
    """

    limit: Limit
    vote: Reading | None = None
    end_at: float = math.inf
    ending: Ending = last_step_ended
    max_depth: int = 64
    begin: Callable[[Question, int], Path] | None = None

    def __post_init__(self) -> None:
        if self.max_depth < 1:
            raise BadInput("Samples.max_depth", repr(self.max_depth), "a whole number >= 1")

    def search(self, question: Question) -> Searching:
        """One question's samples, for `run_searches`."""
        asking, root = Asking(question), Node()
        leaves: list[Node] = []
        reason = ""
        while not reason:
            before = self.limit.of(asking.spent)
            start = () if self.begin is None else self.begin(question, len(leaves))
            leaves.append((yield from self._sample(asking, root, start)))
            if leaves[-1].ended and leaves[-1].value >= self.end_at:
                reason = "found"
            elif self.limit.of(asking.spent) == before and not leaves[-1].path:
                reason = "exhausted"  # no step can be had
            elif len(leaves) >= self.limit.rounds:
                reason = "rounds"
            elif not self.limit.room(asking.spent, len(leaves)):
                reason = "cost"
        best, value = self._elected(question, leaves) if self.vote else (None, 0.0)
        if best is None:
            best = best_of([root])
            value = best.value
        return Found(question, best.path, value, best.ended, (root,), asking.spent, len(leaves), reason)

    def _sample(self, asking: Asking, node: Node, start: Path) -> Generator[Ask, Any, Node]:
        """One more answer, put into the tree; its last node."""
        path, ended = yield from asking.finish(start, self.ending, self.max_depth - len(start))
        ended = ended or len(path) >= self.max_depth
        node.visits += 1
        for place, step in enumerate(path):
            same = next((child for child in node.children if child.step is not None and child.step.key == step.key), None)
            last = place == len(path) - 1
            node.expanded = True
            node = same if same is not None else node.add(step, 0.0, last and ended)
            node.visits += 1
        if path and self.vote is None:
            (node.value,) = yield from asking.values([path])
            node.estimate = node.value
        return node

    def _elected(self, question: Question, leaves: list[Node]) -> tuple[Node | None, float]:
        assert self.vote is not None
        said = [(leaf, self.vote(question, leaf.path)) for leaf in leaves if leaf.ended]
        votes = Counter(answer for _, answer in said if answer is not None)
        if not votes:
            return None, 0.0
        answer, count = votes.most_common(1)[0]  # the first among equals
        return next(leaf for leaf, given in said if given == answer), count / len(leaves)
