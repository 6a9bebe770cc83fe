"""Tulu 3: supervised fine-tuning, then preferences, then reinforcement learning on rewards that a program can verify.

One chain of checkpoints; each stage's frozen reference is its parent.

    SFT     loss on the answers' tokens, summed over a batch
    DPO     -log sig(b [mean log p/q (chosen) - mean log p/q (rejected)]), means over each answer's tokens, b = 5
    RLVR    PPO; 10 if the verifier accepts, -10 without an end, else 0, less 0.05 log(p/q) a token; the value net begins as a reward model

On one's own model, tokenizer and tasks:

    chain = Chain(model, "runs/chain")
    more = {"context": 512, "tokenizer": tokenizer, "budget": Budget(steps=500)}
    chain.run("SFT", lambda parent, here: sft(parent, rows, end=end, lr=5e-6, batch=64, folder=here.folder, **more))
    triples = preferences([(LocalGenerator(chain.model("SFT"), tokenizer), sampling, 4)], prompts, mark, seed=0).rows
    chain.run("DPO", lambda parent, here: dpo(parent, triples, lr=5e-7, batch=64, folder=here.folder, **more), parent="SFT")
    value = chain.run("RM", lambda parent, here: reward_model(parent, triples, ...), parent="SFT", like=ValueModel.from_policy)
    pool = ProblemPool.of(task("reasoning-gym/chain_sum"), 0, {0: 1000}, Verified)
    chain.run("RLVR", lambda parent, here: rlvr(parent, value, pool, sampling=sampling, lr=3e-7, **more), parent="DPO")

`sft`, `dpo`, `reward_model` and `rlvr` give a `Trainer` each and need no chain. `decontaminate` (`etude.data.decontamination`) comes first.

Source: Lambert et al. 2024, arXiv 2411.15124, sections 3 to 6, tables 21 and 22; code allenai/open-instruct.
Scaled down: four families of short questions and a character model of 0.2M parameters. It still tests the claim, because every stage is
theirs in kind, demonstrations are few and partly wrong, and verifying is easier than demonstrating.
"""

from __future__ import annotations

from etude.papers.improvement.tulu3.chain import Chain, Here
from etude.papers.improvement.tulu3.preferences import Preferences, best_and_worse, preferences
from etude.papers.improvement.tulu3.settings import Settings
from etude.papers.improvement.tulu3.stages import dpo, reward_model, rlvr, sft
from etude.papers.improvement.tulu3.study import STUDY

__all__ = [
    "STUDY", "Chain", "Here", "Preferences", "Settings", "best_and_worse", "dpo", "preferences", "reward_model", "rlvr", "sft",
]  # fmt: skip
