"""Search over steps: many problems side by side, so that model and value are always asked about many states at once.

    tree.py    the nodes, the score by which a child is chosen, how values go back up
    asking.py  what a search asks for, what it has spent, and `run_searches`, which answers many searches together
    mcts.py    `MCTS`: select, expand, roll out, back up
    beam.py    `Beam`: level by level, the best so many states are kept
    samples.py `Samples`: whole answers one after another, best of n or by majority
    steps.py   `GeneratedSteps`: next steps (lines, say) from a `Generator`

A search of one's own is a class with `search(question)`, a Python generator that yields what it asks and returns what it found.
"""

from __future__ import annotations

from etude.generate.search.asking import Asking, Evaluate, Expand, Found, Limit, Question, Spent, Step, run_searches
from etude.generate.search.beam import Beam
from etude.generate.search.mcts import MCTS, Rollout
from etude.generate.search.samples import Samples
from etude.generate.search.steps import GeneratedSteps
from etude.generate.search.tree import UCT, Node, mean_of_returns, merged, visit_weighted_mean

__all__ = [
    "MCTS", "UCT", "Asking", "Beam", "Evaluate", "Expand", "Found", "GeneratedSteps", "Limit", "Node", "Question", "Rollout", "Samples",
    "Spent", "Step", "mean_of_returns", "merged", "run_searches", "visit_weighted_mean",
]  # fmt: skip
