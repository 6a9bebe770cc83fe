"""Sharpening: a model that trusts its own likelihood trains itself towards its most likely answer.

    y*(x) = argmax_y pi_base(y | x)         self-reward log pi_base(y | x), of whole sequences

SFT-sharpening draws N answers a prompt at temperature 1 and learns the likeliest; RLHF-sharpening regresses log-ratios on differences
of self-rewards, offline or, with exploration, on pairs from the present model. How many samples that takes is set by the coverage
C = E_x[1 / pi_base(y*(x) | x)]. Nothing tells the model what is right: what it gains is that its mode is right more often than its samples.

Source: Huang et al. 2024, arXiv 2412.01951, sections 2 to 4, appendices A, D and J.2; no code was published.
Scaled down: sums and short paths, taught by demonstrations of which two in five are wrong, instead of MATH and GSM8K. It still
tests the claim, because the mode of such a base is right where its samples often are not, and can be found exactly (`etude.generate.mode`).
No sample is drawn for a prompt of the test, but the sums of the test are among the base's demonstrations. Coverage is about 3, so that
the best of 16 is nearly always y*: what a low coverage does is shown by a softmax table and a linear class alone.

    generator = LocalGenerator(base, tokenizer)
    won = best_of_each(generator, prompts, 16, Sampling(max_tokens=200, stop_tokens=(end,)), seed=0)
    Trainer(frozen_copy(base).requires_grad_(True), DataStream(CompletionSource(won.rows, context=512), 64, 0), Finetune(), ...)
"""

from __future__ import annotations

from etude.papers.improvement.sharpening.drawing import best_adaptively, best_of_each
from etude.papers.improvement.sharpening.reward import SelfRewardRegression, coverage, enough, likelihood, sharpened, tempered
from etude.papers.improvement.sharpening.settings import Settings
from etude.papers.improvement.sharpening.study import STUDY

__all__ = [
    "STUDY", "SelfRewardRegression", "Settings", "best_adaptively", "best_of_each", "coverage", "enough", "likelihood", "sharpened",
    "tempered",
]  # fmt: skip
