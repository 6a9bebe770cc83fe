"""RISE: a model is taught to answer again after its own failures, by corrections of them weighted by reward.

    state s_{t+1} = s_t, a_t, "incorrect, try again"        loss = mean over rows of exp(r / tau) mean_token nll(a | s), tau 0.4

An iteration rolls the present model out over k turns, draws 16 answers at every failed state and takes the best (or a teacher's),
makes a row of every prefix with its last answer, and fine-tunes on them by their rewards. At test it answers five times in a
sliding window; an oracle takes the first right answer, or the answers vote.

On your own work: `run_loop(rise, rise.start(), num_rounds=2, folder)` with `rise = Rise(model, problems, Protocol(task, again), tokenizer,
sampling, context=..., config=RiseConfig(lr=...), seed=0)`, then `over_turns` and `in_parallel`; `converted` makes rows of
trajectories that came from anywhere. With `window=1` it is rejection sampling: nothing of an earlier attempt is read.

Source: Qu et al. 2024, arXiv 2407.18219; authors' code cmu-mind/RISE.
Scaled down: countdown with three and four numbers and 0.2M parameters instead of GSM8K and 7B. It still tests the claim, because the base's
samples repeat its mistakes, and it has never been asked the same question twice.
"""

from __future__ import annotations

from etude.papers.improvement.rise.answering import Answers, in_parallel, over_turns
from etude.papers.improvement.rise.episodes import Attempt, Pair, Protocol, Retry, converted, majority, state_of, swapped
from etude.papers.improvement.rise.steps import Rise, RiseConfig
from etude.papers.improvement.rise.study import STUDY

__all__ = [
    "STUDY", "Answers", "Attempt", "Pair", "Protocol", "Retry", "Rise", "RiseConfig", "converted", "in_parallel", "majority", "over_turns",
    "state_of", "swapped",
]  # fmt: skip
