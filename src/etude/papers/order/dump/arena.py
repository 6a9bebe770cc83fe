"""How DUMP does an arena's work."""

from __future__ import annotations

from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.schedule import Constant
from etude.engine.trainer import Trainer
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import PolicyConfig, PolicyGradient
from etude.learn.rollouts import Collector
from etude.learn.round import RoundConfig
from etude.papers.entering import Improved, Work
from etude.papers.order.dump.sampler import Dump
from etude.papers.order.dump.settings import Settings

FACTOR = 1.0
"""Of the study's learning rates: the best of 1/3, 1 and 3 here, on seed 100; 1 where another is no better by 0.005."""


def improvement(work: Work) -> Improved:
    """GRPO on the problems, difficulties drawn by the bandit. The study's settings as they are, for as many rounds as the FLOPs last."""
    s, part = Settings(), work.part("train")
    rules = Collector(work.pool, work.tokenizer, work.sampling(), context=work.context)
    config = RoundConfig(prompts=s.prompts, samples=s.samples, minibatch=s.minibatch)
    stream = RolloutStream(work.generator, rules, config, seed=work.seed_of("rollouts"), reference=work.frozen() if s.kl else None)
    result = Trainer(
        work.trainable(), stream, PolicyGradient(PolicyConfig(kl=s.kl)), optimizer=AdamW(lr=FACTOR * s.lr, weight_decay=0.01),
        schedule=Constant(), methods=[Dump(window=s.window, temperature=s.temperature, bonus=s.bonus)], budget=Budget(flops=work.flops),
        seed=work.seed_of("train"), folder=part.folder, progress=work.progress,
    ).run(resume=part.begun)  # fmt: skip
    return Improved(model=result.model, ledger=result.ledger)
