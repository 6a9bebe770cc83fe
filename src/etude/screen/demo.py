"""`etude demo`: a small language model on your text, plain and with two methods, at equal FLOPs over three seeds.

It is a study like any other (same runner, same claims, same figures), made for the text that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.corpora import corpus, split_of
from etude.data.sources import WindowSource
from etude.data.stream import DataStream
from etude.data.text import read_text
from etude.engine.arguments import typed
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.schedule import Cosine
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence.claims import Better
from etude.evidence.reference import Reference
from etude.evidence.runner import run_study
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study
from etude.learn.language import CausalLM, HeldOutLoss
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.loading import method

SAMPLE = "sample"
LOSS = "held-out loss"
METHODS: dict[str, dict[str, Any]] = {"stacking": {"factor": 2, "at": 0.2}, "cyclical-curriculum": {}}
"""What the demo tries, with settings for so short a run."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """text: a file's path, or the packaged sample. flops: of each run. most: bytes trained on, few enough to be seen several
    times in so short a run: a curriculum over epochs shows nothing within the first.
    """

    text: str = SAMPLE
    width: int = 64
    depth: int = 4
    context: int = 64
    batch: int = 16
    lr: float = 3e-3
    flops: float = 1.6e11
    most: int = 32_000


def _tokens(text: str, split: str) -> np.ndarray:
    if text == SAMPLE:
        return corpus(SAMPLE, split).tokens
    return split_of(np.frombuffer(read_text(Path(text)).encode(), dtype=np.uint8), split)


def _train(job: Job, slug: str | None) -> Outcome:
    s: Settings = job.settings
    methods = [] if slug is None else [method(slug)(**METHODS[slug])]
    # A growing method starts shallow and ends at the baseline's depth.
    depth = s.depth // METHODS["stacking"]["factor"] if slug == "stacking" else s.depth
    result = Trainer(
        initialise(Transformer(TransformerConfig(width=s.width, depth=depth, context=s.context)), job.seed),
        DataStream(WindowSource(_tokens(s.text, "train")[: s.most], s.context), s.batch, job.seed, drop_last=True),
        CausalLM(),
        optimizer=AdamW(lr=s.lr),
        schedule=Cosine(warmup=0.02),
        methods=methods,
        budget=Budget(flops=s.flops),
        seed=job.seed,
        evaluators={"held-out": HeldOutLoss(WindowSource(_tokens(s.text, "test"), s.context), limit=96)},
        progress=lambda share, loss: job.progress(share, loss),
    ).run()
    return Outcome(
        metrics={LOSS: result.metrics["held-out/loss"]},
        curves={f"{LOSS} / {x}": result.curve("held-out/loss", x) for x in ("flops", "seconds")},
        ledger=result.ledger.as_dict(),
        parameters=result.parameters,
    )


def study_of(text: str) -> Study:
    """The demo's study on a text file, or on the packaged sample."""
    arms: Mapping[str, Arm] = {"baseline": Arm(run=lambda job: _train(job, None), about="AdamW, cosine, shuffled data")} | {
        slug: Arm(run=lambda job, slug=slug: _train(job, slug), about=f"the same with {slug}") for slug in METHODS
    }
    claims = [
        Better(text=f"{slug} lowers the held-out loss on this text", arm=slug, baseline="baseline", metric=LOSS, d=0.01, tolerance=0.02)
        for slug in METHODS
    ]
    return Study(
        slug="demo",
        baseline="baseline",
        headline=LOSS,
        arms=arms,
        scales={"quick": Scale(settings=Settings(text=text), seeds=3, size="0.2M parameters / 32 kB, 0.1M bytes seen")},
        claims=claims,
        plots=[
            Plot(title="Held-out loss over FLOPs", kind="curve", curve=f"{LOSS} / flops"),
            Plot(title="Held-out loss at equal FLOPs", kind="bars", metric=LOSS),
        ],
    )


@typed("demo, ")
def demo(text: str | Path | None = None, *, out: Path = Path("runs/demo"), quiet: bool = False) -> dict[str, Any]:
    """Runs the demo and returns its record. Raises BadInput where the text cannot be read or is too short for one batch."""
    word = SAMPLE if text is None else str(Path(text).resolve())
    s = Settings()
    least = s.context * s.batch + 1
    for split, needed in (("train", least), ("test", s.context + 1)):
        found = len(_tokens(word, split))
        if found < needed:
            raise BadInput(str(text), f"{found} bytes for the {split} split", f"at least {needed}, of a text of 10 kB or more")
    return run_study(Reference(word, "etude.screen.demo:study_of"), "quick", out=out, quiet=quiet)
