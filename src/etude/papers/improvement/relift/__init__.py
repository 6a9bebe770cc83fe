"""ReLIFT: reinforcement learning that stops now and then to imitate demonstrations of the questions that every rollout failed.

    failed(q)   all G rewards of q's rollouts are 0, reward = right x well-formed
    buffer      failed questions with verified demonstrations, filled as they come; at M pairs, after the round's updates, one epoch of
                cross-entropy on M of them with an optimizer of its own, and out of the buffer they go
    J_RL        mean over rollouts of sum_t r_t A / L_max + entropy,   A = reward - mean of the group     (`learn.policy.relift`)

Source: Ma et al. 2025, arXiv 2506.07527; authors' code TheRoadQaQ/ReLIFT at eb95454 (relift/verl/verl/relift: trainer.py, actor.py,
core_algos.py; examples/math-7b/train.sh).
Scaled down: countdown with a base of 0.2M parameters, taught sums and differences of three numbers with many a sign wrong, instead of
mathematics at 7B. It still tests the claim: reinforcement has what it can sharpen, and half of the questions need what the base has
hardly seen, so that most of their groups of rollouts fail whole.

On a model, a pool of problems and demonstrations (number in the pool -> text) of one's own:

    buffer = HardestBuffer(pool, demonstrations, tokenizer, size=32, context=128, end=end)
    rollouts = RolloutStream(make_generator, rules, RoundConfig(), seed=0, advantages=GroupAdvantages(by_std=False), watch=buffer.watch)
    stream = Interleaved(rollouts, buffer, seed=0, objective="sft", optimizer="sft")
    losses = {"": PolicyGradient(relift(max_tokens)), "sft": Finetune(entropy=0.001)}
    adams = Alternating({"rl": AdamW(lr=1e-4), "sft": AdamW(lr=1e-4)})
    Trainer(model, stream, losses, optimizer=adams, schedule=Constant(), budget=Budget(steps=500), folder=folder).run()
"""

from etude.papers.improvement.relift.bands import BANDS, band, by_band
from etude.papers.improvement.relift.buffer import HardestBuffer, all_failed
from etude.papers.improvement.relift.settings import Settings
from etude.papers.improvement.relift.study import STUDY

__all__ = ["BANDS", "STUDY", "HardestBuffer", "Settings", "all_failed", "band", "by_band"]
