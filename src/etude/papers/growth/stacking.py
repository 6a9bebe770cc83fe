"""Depthwise stacking: train a shallow model briefly, repeat its blocks g times, train on.

The deep model starts from layers that already work together, so it reaches the loss of a deep model trained from scratch
with less compute, the shallow model's compute included. Four other ways of getting the new layers are the ablations.

    target layer i <- base layer i mod k        k: base depth, order 0..k-1, 0..k-1, ... (g times)
    log10 d = 0.88 log10 N + 163.27 / log10 C - 5.74        guideline: tokens d for the base; their N is our num_parameters,
                                                            C = 6 N D the FLOPs of the target's run over D tokens; g = 4

Source: Du et al. 2024, arXiv 2405.15319, section 3 and eqs. 1-3; authors' code tongxuluo/prts (README, stacking list).
Scaled down: bytes of English and Python instead of SlimPajama, 8 layers of width 96 instead of 24 of 2048, the base for a
fixed share of the FLOPs (the guideline is fitted far above this size). It still tests the claim: the loss at equal FLOPs,
base included, and the FLOPs at which the scratch run's last loss is reached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from etude.data.corpora import corpus
from etude.data.sources import WindowSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.protocols import Method
from etude.engine.run import Run
from etude.engine.schedule import Constant, Cosine, Schedule
from etude.engine.streams import derive, initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence.claims import Better, Ratio
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study
from etude.learn.language import CausalLM, HeldOutLoss
from etude.nn.surgery import OPERATORS, grow_depth
from etude.nn.transformer import Transformer, TransformerConfig


def growth_tokens(num_parameters: float, target_tokens: float) -> float:
    """Tokens d to train the base on before growth (eq. 3). num_parameters: of the target; target_tokens: its whole run's D."""
    compute = 6 * num_parameters * target_tokens
    return 10 ** (0.88 * math.log10(num_parameters) + 163.27 / math.log10(compute) - 5.74)


class Grow(Method):
    """Replaces a transformer by one `factor` times as deep once `at` of the budget is spent.

    operator: "stack", "interpolate", "random" or "zero" (`etude.nn.surgery.grow_depth`). The optimizer's moments start
    afresh and `after`, a schedule with a warm-up of its own, runs over what is left; before growth the rate is constant
    after a warm-up over `warmup` of the budget (the paper takes the base from an undecayed schedule).
    Raises BadInput where at is not in (0, 1), factor < 2, or the model has no blocks to copy.
    """

    slots = ("surgery", "schedule")

    def __init__(
        self, factor: int = 4, at: float = 0.15, operator: str = "stack", after: Schedule | None = None, warmup: float = 0.01
    ) -> None:
        if factor < 2:
            raise BadInput("Grow.factor", repr(factor), "a whole number >= 2")
        if not 0 < at < 1:
            raise BadInput("Grow.at", repr(at), "a share of the budget between 0 and 1, so that growth falls inside it")
        if operator not in OPERATORS:
            raise BadInput("Grow.operator", f"'{operator}'", f"one of {', '.join(OPERATORS)}")
        self.factor, self.at, self.operator, self.warmup = factor, at, operator, warmup
        self.after = after or Cosine(warmup=0.02, final=0.1)
        self.grown = False

    def start(self, run: Run) -> None:
        if not isinstance(getattr(run.model, "blocks", None), nn.ModuleList):
            raise BadInput("Grow", f"a {type(run.model).__name__}", "a model whose layers are a ModuleList `blocks`")
        run.schedule = Constant(warmup=self.warmup)

    def _grown(self, model: Any, seed: int) -> Any:
        depth = len(model.blocks) * self.factor
        return grow_depth(model, depth, how=self.operator, seed=derive(seed, "growth"))

    def updated(self, run: Run) -> None:
        if not self.grown and run.share >= self.at:
            self.grown = True
            model, mapping = self._grown(run.model, run.seed)
            run.replace(model, mapping, method=self, moments="reset", schedule=self.after)

    def rebuild(self, run: Run, model: nn.Module, note: dict[str, Any]) -> nn.Module:
        return self._grown(model, run.seed)[0]

    def state_dict(self) -> dict[str, Any]:
        return {"grown": self.grown}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.grown = state["grown"]


def suggest(facts: Any) -> Any:
    """The recipe's depth divided by g = 4 (the paper's), or by 2, and grown after 15 % of the FLOPs, as in the study.

    The guideline of eq. 3 is fitted at 410M to 7B parameters and asks for more than a small run has; so does its g for few layers.
    """
    model = facts.recipe["model"]
    if model.get("kind") != "transformer":
        return "it stacks the blocks of a transformer that is trained from scratch (model.kind = 'transformer')"
    factor = next((g for g in (4, 2) if model["depth"] % g == 0 and model["depth"] // g >= 2), None)
    if factor is None:
        return f"it needs a depth that 2 or 4 divides into two layers or more, found model.depth = {model['depth']}"
    return {"factor": factor, "at": 0.15, "model.depth": model["depth"] // factor}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the study. flops: of each arm's whole run. growth_share: of the FLOPs, for the base."""

    corpus: str = "kjv+code"
    vocab: int = 256
    width: int = 96
    depth: int = 8
    heads: int = 4
    kv_heads: int | None = None
    hidden: int | None = None
    context: int = 128
    batch: int = 16
    factor: int = 4
    growth_share: float = 0.15
    flops: float = 5e12
    lr: float = 2e-3
    warmup: float = 0.02
    weight_decay: float = 0.1
    final: float = 0.1
    tied: bool = False
    held_out_windows: int = 512
    evaluate_every: float = 0.025

    def model(self, depth: int) -> TransformerConfig:
        return TransformerConfig(
            vocab=self.vocab,
            width=self.width,
            depth=depth,
            heads=self.heads,
            kv_heads=self.kv_heads,
            hidden=self.hidden,
            context=self.context,
            tied=self.tied,
        )


def train(job: Job, operator: str | None) -> Outcome:
    """One arm: from scratch (operator None) or grown."""
    s: Settings = job.settings
    after = Cosine(warmup=s.warmup, final=s.final)
    methods = [] if operator is None else [Grow(s.factor, s.growth_share, operator, after, warmup=s.warmup * s.growth_share)]
    model = initialise(Transformer(s.model(s.depth if operator is None else s.depth // s.factor)), job.seed)
    held_out = WindowSource(corpus(s.corpus, split="validation"), s.context)
    result = Trainer(
        model,
        DataStream(WindowSource(corpus(s.corpus, split="train"), s.context), s.batch, job.seed, drop_last=True),
        CausalLM(),
        optimizer=AdamW(lr=s.lr, weight_decay=s.weight_decay),
        schedule=after,
        methods=methods,
        budget=Budget(flops=s.flops),
        seed=job.seed,
        evaluators={"held-out": HeldOutLoss(held_out, limit=s.held_out_windows)},
        evaluate_every=s.evaluate_every,
        folder=None,
        progress=lambda share, loss: job.progress(share, loss),
    ).run()
    return Outcome(
        metrics={"held-out loss": result.metrics["held-out/loss"]},
        curves={f"held-out loss / {x}": result.curve("held-out/loss", x) for x in ("flops", "seconds")},
        ledger=result.ledger.as_dict(),
        parameters=result.parameters,
    )


def _arm(operator: str | None, about: str) -> Arm:
    return Arm(run=lambda job: train(job, operator), about=about)


PAPER = Settings(
    corpus="SlimPajama", vocab=32_000, width=2048, depth=24, heads=32, kv_heads=4, hidden=5632, context=2048, batch=1024, factor=4,
    lr=3e-4, flops=6 * 1.1e9 * 100e9, growth_share=0.026, weight_decay=0.1, warmup=0.01,
)  # fmt: skip
CODE = "authors' code tongxuluo/prts at dfe3f4c, g_stack.sh"
SOURCES = {
    "corpus": f"{CODE}: slimpajama",
    "vocab": "assumed (TinyLlama's, on whose code theirs is based)",
    "width": f"{CODE}: 24L2048H",
    "depth": f"{CODE}: 24L2048H, from 6L2048H",
    "heads": "assumed (TinyLlama's)",
    "kv_heads": "assumed (TinyLlama's)",
    "hidden": "assumed (TinyLlama's)",
    "context": "assumed (TinyLlama's)",
    "batch": f"{CODE}: global_batch_size 1024",
    "factor": "authors' code at 3d29c6a, README: g = 4",
    "growth_share": "authors' code at 3d29c6a, README: d = 10B tokens for a base of a quarter of the layers; of the FLOPs above",
    "flops": "assumed: 6 N D of a 1.1B target over 100B tokens",
    "lr": f"{CODE}: 3e-4 for the target (base_model.sh: 1e-3 for the base)",
    "warmup": f"{CODE}: 3000 of 300000 updates",
    "weight_decay": f"{CODE}: 1e-1",
    "final": f"{CODE}: min_lr 3e-5",
    "tied": "assumed (TinyLlama's)",
    "held_out_windows": "ours",
    "evaluate_every": "ours",
}

CPU = Settings()
QUICK = replace(CPU, corpus="sample+code", width=48, flops=2.2e11, held_out_windows=128)
SMOKE = replace(QUICK, width=16, depth=4, heads=2, factor=2, context=32, batch=4, flops=6e7, held_out_windows=8, evaluate_every=0.25)
STUDY = Study(
    slug="stacking",
    baseline="scratch",
    headline="held-out loss",
    arms={
        "scratch": _arm(None, "the deep model from the start"),
        "stack": _arm("stack", "a quarter of the layers, stacked four times (abab)"),
        "interpolate": _arm("interpolate", "each layer four times in a row (aabb)"),
        "random": _arm("random", "new layers at random values above the trained ones"),
        "zero": _arm("zero", "new layers that start as the identity"),
    },
    scales={
        "smoke": Scale(settings=SMOKE, seeds=3, size="22k parameters / 0.5k bytes"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.25M parameters / 0.15M bytes"),
        "cpu": Scale(settings=CPU, seeds=3, size="0.9M parameters / 0.75M bytes from scratch, 5e12 FLOPs"),
        "paper": Scale(settings=PAPER, seeds=1, size="1.1B parameters / 100B tokens", sources=SOURCES),
    },
    claims=[
        Better(
            text="Stacked growth ends with a lower held-out loss than training the deep model from scratch, at equal FLOPs",
            arm="stack", baseline="scratch", metric="held-out loss", d=0.02, equal=("flops",), primary=True,
        ),
        Ratio(
            text="Stacked growth reaches the scratch run's last held-out loss more than 1.15 times as fast, in FLOPs",
            arm="stack", baseline="scratch", curve="held-out loss / flops", d=0.15, equal=("flops",),
        ),
        Better(
            text="Stacking ends lower than new layers at random values (the control: not depth alone)",
            arm="stack", baseline="random", metric="held-out loss", d=0.01, equal=("flops",),
        ),
        Better(
            text="Stacking ends lower than layer-wise interpolation",
            arm="stack", baseline="interpolate", metric="held-out loss", d=0.01, equal=("flops",),
        ),
        Better(
            text="Stacking ends lower than new layers that start as the identity",
            arm="stack", baseline="zero", metric="held-out loss", d=0.01, equal=("flops",),
        ),
    ],
    plots=[
        Plot(title="Held-out loss over FLOPs", kind="curve", curve="held-out loss / flops"),
        Plot(title="Held-out loss at equal FLOPs", kind="bars", metric="held-out loss"),
    ],
    data=("kjv+code",),
    paper_size="1.1B to 7B / 100B to 300B tokens",
    deviations=[
        ("data", "SlimPajama, Llama tokens", "KJV and Python source, bytes", "runs on two cores", "small models gain more early"),
        ("model", "24 layers x 2048", "8 layers x 96", "runs on two cores", "speed-ups shrink with depth"),
        ("length", "300B tokens", "0.75M bytes from scratch", "runs in twenty minutes on two cores", "larger: growth pays early"),
        ("learning rate", "base 1e-3, target 3e-4", "one rate for both", "same width here, tuned for both arms alike", "none expected"),
        ("growth timing", "d = 10B tokens (eq. 3)", "15 % of the FLOPs", "the fit lies far above this size", "small"),
    ],
    build_paper_model=lambda s: Transformer(s.model(s.depth)),
    paper_parameters={"1.1B target": (1.1e9, "section 3.1: 24L2048H, 1.1B")},
)  # fmt: skip
