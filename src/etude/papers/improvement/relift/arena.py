"""How ReLIFT does an arena's work."""

from __future__ import annotations

from dataclasses import replace

from etude.engine.ledger import Budget
from etude.engine.optim import AdamW, Alternating
from etude.engine.schedule import Constant
from etude.engine.trainer import Trainer
from etude.learn.estimators import GroupAdvantages
from etude.learn.finetune import Finetune
from etude.learn.interlude import Interleaved
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import PolicyGradient, relift
from etude.learn.rollouts import Collector
from etude.learn.round import RoundConfig
from etude.papers.entering import Improved, Work
from etude.papers.improvement.relift.buffer import HardestBuffer
from etude.papers.improvement.relift.settings import Settings

FACTOR = 1.0
"""Of the study's learning rates: the best of 1/3, 1 and 3 here, on seed 100; 1 where another is no better by 0.005."""


def improvement(work: Work) -> Improved:
    """Rollouts on the problems, and demonstrations of those that all failed and that have one. The study's settings as they are, for as
    many rounds as the FLOPs last."""
    s, part = Settings(), work.part("train")
    buffer = HardestBuffer(
        work.pool, work.demonstrations, work.tokenizer, size=s.size, context=work.context, end=work.end, seed=work.seed_of("buffer")
    )
    rollouts = RolloutStream(
        work.generator, Collector(work.pool, work.tokenizer, work.sampling(), context=work.context),
        RoundConfig(prompts=s.prompts, samples=s.samples, minibatch=s.minibatch), seed=work.seed_of("rollouts"),
        advantages=GroupAdvantages(by_std=False), watch=buffer.watch,
    )  # fmt: skip
    stream = Interleaved(rollouts, buffer, seed=work.seed_of("interludes"), objective="sft", optimizer="sft")
    losses = {"": PolicyGradient(replace(relift(work.max_tokens), entropy=s.entropy)), "sft": Finetune(entropy=s.entropy)}
    rates = {"rl": FACTOR * s.lr, "sft": FACTOR * s.sft_lr}
    adams = Alternating({name: AdamW(lr=lr, betas=(0.9, 0.999), weight_decay=s.weight_decay) for name, lr in rates.items()})
    result = Trainer(
        work.trainable(), stream, losses, optimizer=adams, schedule=Constant(warmup=s.warmup), budget=Budget(flops=work.flops),
        seed=work.seed_of("train"), clip=s.clip, folder=part.folder, progress=work.progress,
    ).run(resume=part.begun)  # fmt: skip
    told = {"failed groups": buffer.failed / max(buffer.groups, 1), "interludes": float(stream.number)}
    return Improved(model=result.model, ledger=result.ledger, told=told)
