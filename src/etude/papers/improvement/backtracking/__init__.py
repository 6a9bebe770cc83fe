"""How many backtracks before reinforcement learning: warm-up on written searches that turn back exactly k times.

    trace(k) = right path + dead branches of k returns      SFT on one set D_k, then the same GRPO from each
    reward   = 1 right, 0.1 one answer but a wrong one, 0 none

Use on your own work: `traced_problems(task, problems, numbers, num_rows, seed)` chooses problems that have a trace for every number of
backtracks compared, `warmup(task, traced, Warmup(num_backtracks=3), seed)` gives rows for `CompletionSource` and `Finetune`, and
`Scored(task, 0.1)` is the environment of a `Domain` in the `ProblemPool` of a `RolloutStream`. Any task with a search tree will do
(`etude.data.tasks.traces.Search`).

Source: Cai et al. 2025, arXiv 2505.24273; authors' code jchy20/how-much-backtrack at df310b4.
Scaled down: countdown with three and four small numbers and a model that is taught here what a pretrained one brings along (steps, some
solutions, how to go back), instead of eight tasks and a 3B model. It still tests the claim: the base has never seen a search, all arms
share it, their problems and their reinforcement learning, and differ in their traces alone.
"""

from __future__ import annotations

from etude.papers.improvement.backtracking.settings import Settings
from etude.papers.improvement.backtracking.study import STUDY
from etude.papers.improvement.backtracking.testbed import Scored
from etude.papers.improvement.backtracking.warmup import (
    EIGHT,
    Traced,
    Warmup,
    problem_task,
    traced_problems,
    traced_task,
    warmup,
    wrong_end,
)  # fmt: skip

__all__ = [
    "EIGHT", "STUDY", "Scored", "Settings", "Traced", "Warmup", "problem_task", "traced_problems", "traced_task", "warmup", "wrong_end",
]  # fmt: skip
