"""Beam search over steps: all states of a level are expanded, the best `width` of what comes of them are the next level.

The breadth-first tree of thoughts is this with a model's values (Yao et al. 2023, arXiv 2305.10601, algorithm 1). States that have
ended are set aside, so that they take no open state's place.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from etude.errors import BadInput
from etude.generate.search.asking import Ask, Asking, Ending, Found, Limit, Question, Searching, last_step_ended
from etude.generate.search.tree import Node, best_of


@dataclass(frozen=True, kw_only=True)
class Beam:
    """width: states kept of a level. branches: steps asked for from each of them; equal ones become one state.

    A round is one beam, from the root until no state is open or `max_depth` is reached. With `restart`, further beams with other random
    numbers follow as long as the limit allows; otherwise one beam is all. end_at: an ended state of at least this value ends the search.
    ending, finish and the answer: as in `MCTS`.
    """

    limit: Limit
    width: int = 2
    branches: int = 3
    end_at: float = math.inf
    ending: Ending = last_step_ended
    max_depth: int = 64
    restart: bool = False
    finish: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "branches", "max_depth"):
            if getattr(self, name) < 1:
                raise BadInput(f"Beam.{name}", repr(getattr(self, name)), "a whole number >= 1")

    def search(self, question: Question) -> Searching:
        asking = Asking(question)
        roots: list[Node] = []
        reason = ""
        while not reason:
            roots.append(Node())
            before = self.limit.of(asking.spent)
            yield from self._beam(asking, roots[-1])
            if any(node.ended and node.value >= self.end_at for node in roots[-1].walk() if node.parent is not None):
                reason = "found"
            elif not self.restart or self.limit.of(asking.spent) == before:
                reason = "exhausted"
            elif len(roots) >= self.limit.rounds:
                reason = "rounds"
            elif not self.limit.room(asking.spent, len(roots)):
                reason = "cost"
        best = best_of(roots)
        path, ended = yield from asking.finish(best.path, self.ending, 0 if best.ended else self.finish)
        return Found(question, path, best.value, best.ended or ended, tuple(roots), asking.spent, len(roots), reason)

    def _beam(self, asking: Asking, root: Node) -> Generator[Ask, Any, None]:
        level = [root]
        while level:
            made: list[Node] = []
            for node in level:
                path = node.path
                steps = yield from asking.steps(path, self.branches)
                node.expanded, node.visits = True, 1
                if not steps:
                    node.ended = node.parent is not None
                    continue
                values = yield from asking.values([(*path, step) for step in steps])
                for step, value in zip(steps, values, strict=True):
                    longer = (*path, step)
                    made.append(node.add(step, value, len(longer) >= self.max_depth or self.ending(asking.question, longer)))
            open_ = [node for node in made if not node.ended]
            level = sorted(open_, key=lambda node: -node.value)[: self.width]  # stable: the oldest among equals first
