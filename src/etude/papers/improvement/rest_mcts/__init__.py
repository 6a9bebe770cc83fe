"""ReST-MCTS*: trees searched under a process value model teach the policy and, by inferred step rewards, the value model itself.

    v_k = max(0, v_{k-1} + w_k)     w_k = (1 - v_{k-1}) / (m_k + 1) (1 - 2 r_k)     v_0 = 0

m_k: steps from step k to the nearest right answer found, r_k: whether the step can no longer lead to one. Nobody labels a step: a tree
and the known final answer are enough (`inferred`). MCTS* is `etude.generate.search.MCTS` with UCT(exploration=0.7, unvisited=1.0), a
greedy look-ahead of three steps (`Rollout`) and an end at V >= 0.9. A round (`SelfTraining`, steps of `etude.loop.loop.run_loop`)
searches trees without that end, keeps right traces that the value model likes, fine-tunes the policy on them and regresses the value
model on the inferred values. On your own work: give `SelfTraining` your policy, a `ValueModel.from_policy`, questions as token ids, a
function that checks an answer, `GeneratedSteps` and `StateValues`; `run_loop(steps, steps.begin(policy, value), num_rounds, folder)`.

Source: Zhang et al. 2024, arXiv 2406.03816, and the authors' code THUDM/ReST-MCTS at 2d5f488 (MCTS/base.py, MCTS/mcts.py, MCTS/task.py).
Scaled down: chains of three and four operations modulo 10, a policy of 0.1M and a value model of 0.2M, instead of MATH and SciBench with
7B. It still tests the claim: a solution is lines that can each be wrong, and a wrong chain still guesses the answer one time in ten.
"""

from __future__ import annotations

from etude.papers.improvement.rest_mcts.rewards import Label, inferred, quality, weighted_reward
from etude.papers.improvement.rest_mcts.settings import Settings
from etude.papers.improvement.rest_mcts.study import STUDY
from etude.papers.improvement.rest_mcts.training import Learning, SelfTraining

__all__ = ["STUDY", "Label", "Learning", "SelfTraining", "Settings", "inferred", "quality", "weighted_reward"]
