"""How Tulu 3 does an arena's work."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import nn

from etude.engine.ledger import Budget, Ledger
from etude.engine.protocols import Completion
from etude.engine.streams import numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.problems import Domain, ProblemPool, Verified
from etude.learn.round import RoundConfig
from etude.learn.values import ValueModel
from etude.papers.entering import Improved, Work
from etude.papers.improvement.tulu3 import stages
from etude.papers.improvement.tulu3.chain import BASE, Chain, Here
from etude.papers.improvement.tulu3.preferences import Triple, preferences
from etude.papers.improvement.tulu3.settings import Settings

FACTOR = 1 / 3
"""Of the study's learning rates: the best of 1/3, 1 and 3 here, on seed 100; 1 where another is no better by 0.005."""
STUDY_FLOPS = 1.87e12
"""Of the study's full chain after its base (its record)."""


def improvement(work: Work) -> Improved:
    """SFT on the demonstrations, preferences between answers that the verifier marks, then PPO on its rewards.

    The study's learning rates and batches. The stages' shares of the FLOPs are their shares of the study's tokens; prompts for pairs and
    updates of the reward model are the study's, scaled by the FLOPs. The judge is the verifier and never errs. Where no prompt gives a
    pair there are no preferences, and PPO has their share, with a value net that begins at 0.
    """
    s = Settings()
    scale = work.flops / STUDY_FLOPS
    chain = Chain(work.base, work.part("chain").folder)
    by_sft = s.sft_tokens / s.total_tokens * work.flops
    by_dpo = (s.sft_tokens + s.dpo_tokens) / s.total_tokens * work.flops

    def common(name: str, here: Here) -> dict[str, Any]:
        return {
            "context": work.context, "tokenizer": work.tokenizer, "seed": work.seed_of(name), "folder": here.folder,
            "progress": work.progress,
        }  # fmt: skip

    def total() -> Ledger:
        spent = Ledger()
        for ledger in chain.ledgers.values():
            spent.merge(ledger)
        return spent

    def sft(parent: nn.Module, here: Here) -> Trainer[Any]:
        budget = Budget(flops=by_sft)
        return stages.sft(
            parent,
            work.rows(),
            end=work.end,
            lr=FACTOR * s.sft_lr,
            batch=s.sft_batch,
            budget=budget,
            warmup=s.sft_warmup,
            **common("SFT", here),
        )

    chain.run("SFT", sft, made_of=(s, work.flops))
    paid = Ledger()  # made anew where the stages are read from disk: the same pairs at the same cost
    pairs = triples(work, chain, max(8, round(scale * s.pair_prompts)), paid)
    parent = "SFT"
    value = ValueModel.from_policy(chain.model("SFT"))
    if pairs:
        spent = total().total("flops") + paid.total("flops")

        def dpo(parent: nn.Module, here: Here) -> Trainer[Any]:
            here.ledger.merge(paid)
            budget = Budget(flops=max(by_dpo - spent, 1.0))
            return stages.dpo(
                parent, pairs, lr=FACTOR * s.dpo_lr, batch=s.dpo_batch, budget=budget, warmup=s.dpo_warmup, **common("DPO", here)
            )

        def reward_model(parent: nn.Module, here: Here) -> Trainer[Any]:
            budget = Budget(steps=max(1, math.ceil(scale * s.reward_updates)))
            return stages.reward_model(
                parent, pairs, lr=FACTOR * s.reward_lr, batch=s.reward_batch, budget=budget, **common("reward model", here)
            )

        chain.run("DPO", dpo, parent="SFT", made_of=(s, work.flops))
        value = chain.run("reward model", reward_model, parent="SFT", like=ValueModel.from_policy, made_of=(s, work.flops))
        parent = "DPO"
    left = work.left(total()) - (0 if pairs else paid.total("flops"))

    def rlvr(start: nn.Module, here: Here) -> Trainer[Any]:
        assert isinstance(value, ValueModel)
        if not pairs:
            here.ledger.merge(paid)
        rounds = RoundConfig(prompts=s.round_prompts, samples=s.samples, epochs=s.epochs, minibatch=s.round_prompts * s.samples)
        return stages.rlvr(
            start, value, verified(work, s.paid), sampling=work.sampling(), lr=FACTOR * s.rlvr_lr, value_lr=FACTOR * s.value_lr,
            budget=Budget(flops=left), rounds=rounds, kl=s.kl, unfinished=s.unfinished, value_weight=s.value_weight,
            value_clip=s.value_clip, **common("RLVR", here),
        )  # fmt: skip

    model = chain.run("RLVR", rlvr, parent=parent, made_of=(s, work.flops))
    ledger = total()
    shares = {f"share of {name}": one.total("flops") / work.flops for name, one in chain.ledgers.items()}
    return Improved(model=model, ledger=ledger, told={"pairs": float(len(pairs)), **shares})


def triples(work: Work, chain: Chain, count: int, ledger: Ledger) -> list[Triple]:
    """Preferences between two answers of the SFT model and two of the base to so many problems; none where no problem gives a pair."""
    numbers = numpy_rng(work.seed, "pairs").permutation(len(work.pool))[:count].tolist()
    prompts = [work.encode(work.pool[number].prompt) for number in numbers]
    sources = [(work.generator(chain.model(name), ledger), work.sampling(), 2) for name in ("SFT", BASE)]

    def mark(place: int, answer: Completion) -> float:
        ledger.charge("judge", labels=1)
        return 1.0 if answer.finish != "stop" else 5.0 if work.right(numbers[place], answer.text) else 2.0

    try:
        return preferences(sources, prompts, mark, seed=work.seed_of("pairs")).rows
    except BadInput:
        return []


def verified(work: Work, paid: float) -> ProblemPool:
    return ProblemPool([Domain(one.name, one.problems, partial(Verified, work.task, paid)) for one in work.pool.parts])
