"""How sharpening does an arena's work."""

from __future__ import annotations

from etude.data.stream import DataStream
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.schedule import Linear
from etude.engine.streams import numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.finetune import Finetune
from etude.learn.rows import CompletionSource
from etude.papers.entering import Improved, Work
from etude.papers.improvement.sharpening.drawing import Row, best_of_each
from etude.papers.improvement.sharpening.settings import Settings

NUM, ARM = 16, "SFT 16"
SAMPLING = 0.036
"""Share of the FLOPs for samples: 5.98e10 of 1.66e12 in the study's arm (its record)."""
FACTOR = 1 / 3
"""Of the study's learning rates: the best of 1/3, 1 and 3 here, on seed 100; 1 where another is no better by 0.005."""
WAVE = 32
"""Prompts sampled together."""


def improvement(work: Work) -> Improved:
    """SFT-sharpening: the most likely of 16 samples of each prompt, then maximum likelihood on the winners; no verifier, no demonstration.

    The study's settings as they are. The FLOPs are shared out as in the study: samples until their share is spent or all prompts have
    been asked once, then updates; a winner is trained on about as often as there.
    """
    s, ledger, rows = Settings(), Ledger(), list[Row]()
    generator = work.generator(work.frozen(), ledger)
    drawn = unfinished = 0
    order = numpy_rng(work.seed, "prompts").permutation(len(work.pool))
    for wave, start in enumerate(range(0, len(order), WAVE)):
        if ledger.total("flops") >= SAMPLING * work.flops:
            break
        prompts = [work.encode(work.pool[number].prompt) for number in order[start : start + WAVE]]
        won = best_of_each(generator, prompts, NUM, work.sampling(), seed=work.seed_of("samples", wave))
        rows += won.rows
        drawn, unfinished = drawn + won.num_samples, unfinished + won.num_unfinished
    if not rows:
        raise BadInput("sharpening", f"no answer among {drawn} samples that ends", "a base that ends some")
    part = work.part("train")
    source = CompletionSource(rows, context=work.context)
    result = Trainer(
        work.trainable(), DataStream(source, min(s.batch, len(source)), work.seed_of("rows"), drop_last=True), Finetune(),
        optimizer=AdamW(lr=FACTOR * s.rates[ARM], weight_decay=s.weight_decay), schedule=Linear(warmup=0.05),
        budget=Budget(flops=work.left(ledger)), seed=work.seed_of("train"), clip=s.clip, folder=part.folder, progress=work.progress,
    ).run(resume=part.begun)  # fmt: skip
    ledger.merge(result.ledger)
    return Improved(model=result.model, ledger=ledger, told={"winners": float(len(rows)), "unfinished": unfinished / drawn})
