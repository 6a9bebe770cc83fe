"""Monte Carlo tree search over steps: select a leaf by score, expand it, roll out from its best child, back the value up.

Every state is valued when it is made, so that a rollout is not needed, but may look some steps ahead: with `Rollout`, the best child's
value moves towards the best value seen on the way, V <- (1 - a) V + a max. Sources: Kocsis and Szepesvári 2006; the rollout and the end
at a value: arXiv 2406.03816, algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from etude.errors import BadInput
from etude.generate.search.asking import Ask, Asking, Ending, Found, Limit, Question, Searching, last_step_ended
from etude.generate.search.tree import UCT, Backup, Node, Score, best_child, best_of, visit_weighted_mean

STALLED = 64
"""Iterations in a row that met only ended states: the tree gives nothing new any more."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """steps: how far to look ahead. branches: steps proposed at each, of which the best is followed. mix: a, from 0 to 1."""

    steps: int = 3
    branches: int = 1
    mix: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 1 or self.branches < 1:
            raise BadInput("Rollout", f"{self.steps} steps, {self.branches} branches", "at least one of each")
        if not 0 <= self.mix <= 1:
            raise BadInput("Rollout.mix", repr(self.mix), "a number from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class MCTS:
    """branches: steps asked for at an expansion; equal ones become one child. score: chooses among children. backup: see `tree`.

    end_at:  a selected leaf of at least this value ends the search, whether or not a step could follow it.
    ending:  which states are ends; their values are backed up again whenever they are selected. max_depth: steps of a path, at most.
    restart: a tree with nothing new left is set aside and another begun, as long as the limit allows; otherwise the search ends.
    finish:  steps that an answer which has come to no end is gone on with, one after another.
    The answer is the leaf that ended the search, or else the ended state of the greatest value, or else the best state.
    """

    limit: Limit
    branches: int = 3
    score: Score = field(default_factory=UCT)
    backup: Backup = visit_weighted_mean
    rollout: Rollout | None = None
    end_at: float = math.inf
    ending: Ending = last_step_ended
    max_depth: int = 64
    restart: bool = False
    finish: int = 0

    def __post_init__(self) -> None:
        for name in ("branches", "max_depth"):
            if getattr(self, name) < 1:
                raise BadInput(f"MCTS.{name}", repr(getattr(self, name)), "a whole number >= 1")

    def search(self, question: Question) -> Searching:
        """One question's search, for `run_searches`."""
        asking = Asking(question)
        roots = [Node()]
        rounds, costly, idle, reason = 0, 0, 0, ""
        while True:
            leaf = self._select(roots[-1])
            if leaf.parent is not None and leaf.value >= self.end_at:
                reason = "found"
            elif rounds >= self.limit.rounds:
                reason = "rounds"
            elif not self.limit.room(asking.spent, costly):
                reason = "cost"
            elif roots[-1].closed or idle >= STALLED:
                # A tree that closed without any child (no step can be had) would do so again.
                if self.restart and roots[-1].children:
                    roots.append(Node())
                    idle = 0
                    continue
                reason = "exhausted"
            if reason:
                break
            before = self.limit.of(asking.spent)
            yield from self._visit(asking, leaf)
            rounds += 1
            costly, idle = (costly, idle + 1) if self.limit.of(asking.spent) == before else (costly + 1, 0)
        best = leaf if reason == "found" else best_of(roots)
        path, ended = yield from asking.finish(best.path, self.ending, 0 if best.ended else self.finish)
        return Found(question, path, best.value, best.ended or ended, tuple(roots), asking.spent, rounds, reason)

    def _select(self, node: Node) -> Node:
        while node.children:
            node = best_child(node, self.score)
        return node

    def _visit(self, asking: Asking, leaf: Node) -> Generator[Ask, Any, None]:
        """One iteration below a selected leaf."""
        if not leaf.ended:
            yield from self._expand(asking, leaf)
        if not leaf.children:
            self.backup(leaf, leaf.value)
            return
        child = best_child(leaf, self.score)
        if self.rollout is not None and not child.ended:
            yield from self._roll(asking, child, self.rollout)
        child.visits += 1
        self.backup(leaf, child.value)

    def _expand(self, asking: Asking, leaf: Node) -> Generator[Ask, Any, None]:
        path = leaf.path
        steps = yield from asking.steps(path, self.branches)
        leaf.expanded = True
        if not steps:
            leaf.ended = True  # nothing follows: an end like any other
        else:
            values = yield from asking.values([(*path, step) for step in steps])
            for step, value in zip(steps, values, strict=True):
                leaf.add(step, value, self._ends(asking.question, (*path, step)))
        leaf.close()

    def _roll(self, asking: Asking, child: Node, rollout: Rollout) -> Generator[Ask, Any, None]:
        path, best = child.path, -math.inf
        for _ in range(rollout.steps):
            steps = yield from asking.steps(path, rollout.branches)
            if not steps:
                break
            values = yield from asking.values([(*path, step) for step in steps])
            value = max(values)
            path, best = (*path, steps[values.index(value)]), max(best, value)
            if self._ends(asking.question, path):
                break
        if best > -math.inf:
            child.value = (1 - rollout.mix) * child.value + rollout.mix * best

    def _ends(self, question: Question, path: tuple[Any, ...]) -> bool:
        return len(path) >= self.max_depth or self.ending(question, path)
