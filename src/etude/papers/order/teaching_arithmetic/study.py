"""The study: the same network and the same pairs, written plainly, from the last digit, or with working, at equal trained tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from etude.data.stream import DataStream
from etude.data.tasks.arithmetic import SCRATCHPADS
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.protocols import Metrics, Sampling
from etude.engine.schedule import Cosine
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.evidence.claims import AtLeast, Better, Equivalent
from etude.evidence.plots import COLORS
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study
from etude.generate.local import LocalGenerator
from etude.learn.language import CausalLM
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.order.teaching_arithmetic.data import (
    END,
    TOKENIZER,
    Examples,
    examples,
    has_digit,
    prompt_ids,
    read,
    row_tokens,
    train_pairs,
    unseen_pairs,
    written,
)
from etude.papers.order.teaching_arithmetic.settings import Settings

LEFT_OUT = 5
"""The digit that one arm never sees in the tens (the authors leave out 5 too, by places)."""


class Exact:
    """{"success": the share of pairs to which the model's greedy answer is their sum}. digits: of the operands, the settings' if None."""

    def __init__(self, settings: Settings, how: Examples, pairs: np.ndarray, digits: int | None = None) -> None:
        self.settings, self.how, self.pairs, self.digits = settings, how, pairs, digits
        told = [written(settings, how, pair) for pair in pairs]
        self.prompts = [prompt_ids(prompt) for prompt, _ in told]
        # Working has ends of lines inside it, so that none of them stops it: what is said after the answer is cut off instead.
        stops = () if how.form in SCRATCHPADS else (END,)
        self.sampling = Sampling(temperature=0, max_tokens=max(len(c) for _, c in told), stop_tokens=stops)

    def __call__(self, model: nn.Module) -> Metrics:
        groups = LocalGenerator(model, TOKENIZER).complete(self.prompts, self.sampling)
        found = [read(self.settings, self.how, group[0].text, self.digits) for group in groups]
        return {"success": float(np.mean([f == a + b for f, (a, b) in zip(found, self.pairs.tolist(), strict=True)]))}


def model_config(settings: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=settings.vocab, width=settings.width, depth=settings.depth, heads=settings.heads, hidden=settings.hidden,
        context=settings.context,
    )  # fmt: skip


def paper_model(settings: Settings) -> Transformer:
    return Transformer(model_config(settings))


def train(job: Job, choose: Callable[[Settings], Examples]) -> Outcome:
    """One arm: trains on its examples for as many tokens as a plain arm, and answers pairs that no arm has seen."""
    s: Settings = job.settings
    how = choose(s)
    source = examples(s, how, job.seed)
    pairs, longer = unseen_pairs(s, job.seed), unseen_pairs(s, job.seed, s.digits + 1)
    tokens = row_tokens(source)
    plain = s.plain_row - 1 if s.rows == "row" else s.context
    batch = max(1, round(s.batch * plain / tokens))
    result = Trainer(
        initialise(Transformer(model_config(s)), job.seed), DataStream(source, batch, job.seed), CausalLM(),
        optimizer=AdamW(lr=s.lr, betas=(0.9, s.beta2), weight_decay=s.weight_decay), schedule=Cosine(warmup=s.warmup),
        budget=Budget(tokens=s.tokens), seed=job.seed,
        evaluators={"test": Exact(s, how, pairs)}, evaluate_every=1 / s.evaluations,
        progress=lambda share, loss: job.progress(min(share, 1.0), loss),
    ).run()  # fmt: skip
    history = result.history
    shares = np.array([row["share"] for row in history])
    success = np.array([row["test/success"] for row in history])
    seen = {(int(a), int(b)) for a, b in train_pairs(s, job.seed, how.count, how.without)}
    metrics = {
        "success": float(success[-1]),
        "area": float(np.trapezoid(success, shares) / (shares[-1] - shares[0])),
        "examples": float(how.count),
        "test pairs seen with operands exchanged": float(np.mean([(int(b), int(a)) in seen for a, b in pairs])),
        "tokens an example": float(tokens),
    }
    if how.form == "reverse":
        beyond = Exact(s, how, longer, s.digits + 1)(result.model)["success"]
        metrics["failure on longer operands"] = 1 - beyond
    if how.without is not None:
        own = has_digit(pairs, how.without)
        for name, rows in (("success on the digit left out", pairs[own]), ("success without it", pairs[~own])):
            metrics[name] = Exact(s, how, rows)(result.model)["success"]
    curve = ([row["share"] * s.tokens for row in history], [float(v) for v in success])
    return Outcome(metrics=metrics, curves={"success / tokens": curve}, ledger=result.ledger.as_dict(), parameters=result.parameters)


def planned(settings: Settings) -> Mapping[str, float]:
    return {"train.tokens": settings.tokens}


def _arm(about: str, choose: Callable[[Settings], Examples], **more: Any) -> Arm:
    return Arm(run=lambda job: train(job, choose), about=about, planned=planned, **more)


def _of(form: str, place: int, **more: Any) -> Callable[[Settings], Examples]:
    return lambda s: Examples(form=form, count=s.counts[place], **more)


SIZES = ("few", "some", "more", "many")
LONGER = ("smoke", "cpu")
"""Where the controls run: a quick study has time for the formats alone."""
ARMS = {
    **{f"{form}, {size}": _arm(f"{form}, {size} examples", _of(form, k)) for form in ("plain", "reverse") for k, size in enumerate(SIZES)},
    "simplified, few": _arm("few examples with each digit and carry as working", lambda s: Examples(form="simplified", count=s.few)),
    "plain in $, some": _arm("plain between $, as the paper writes reversed ones", _of("plain", 1, delimited=True), scales=LONGER),
    "reverse in $, some": _arm("reversed between $", _of("reverse", 1, delimited=True), scales=LONGER),
    "reverse without 5, many": _arm("reversed, no operand with a 5 in the tens", _of("reverse", 3, without=LEFT_OUT), scales=LONGER),
}

CPU = Settings()
QUICK = replace(CPU, counts=(200, 400, 800, 1_600), few=200, updates=250, num_test=200, evaluations=5)
SMOKE = replace(
    QUICK, digits=2, counts=(120, 140, 160, 180), few=100, width=16, depth=1, heads=2, batch=16, updates=4, num_test=20, evaluations=2
)

EQUAL = ("train.tokens",)


def _better(text: str, arm: str, baseline: str, metric: str = "success", primary: bool = False) -> Better:
    return Better(text=text, arm=arm, baseline=baseline, metric=metric, lower_is_better=False, d=0.1, equal=EQUAL, primary=primary)


CLAIMS = (
    _better(
        "From 800 examples, sums written from the last digit are learnt better than plain", "reverse, some", "plain, some", primary=True
    ),
    _better("From 400 too", "reverse, few", "plain, few"),
    _better("From 2,500 they are learnt sooner: success over the whole run", "reverse, more", "plain, more", "area"),
    _better("From 10,000 too", "reverse, many", "plain, many", "area"),
    Equivalent(
        text="From 10,000 both end alike: the gain is in examples and time, not in the ceiling",
        arm="reverse, many", baseline="plain, many", metric="success", lower_is_better=False, d=0.03, equal=EQUAL,
    ),
    _better("From 400, working with digits and carries is better than plain, at equal tokens", "simplified, few", "plain, few"),
    Equivalent(
        text="The $ around examples are not what does it: plain between $ is learnt as plain is",
        arm="plain in $, some", baseline="plain, some", metric="success", lower_is_better=False, d=0.1, equal=(),
    ),
    _better("With $ around both, reversed is better than plain from 800", "reverse in $, some", "plain in $, some"),
    AtLeast(
        text="Operands of one digit more than were taught fail", arm="reverse, many", metric="failure on longer operands", threshold=0.95,
    ),
    AtLeast(
        text="A digit never seen in the tens is added there all the same, in half of the sums at least",
        arm="reverse without 5, many", metric="success on the digit left out", threshold=0.5,
    ),
)  # fmt: skip


def transition(axes: Any, record: Mapping[str, Any]) -> None:
    """Success at the end over the number of examples, by format; points are seeds."""
    for form, color in zip(("plain", "reverse", "simplified"), COLORS, strict=False):
        points = []
        for size in SIZES:
            told = record["arms"].get(f"{form}, {size}")
            if told:
                points.append((told["metrics"]["examples"][0], told["metrics"]["success"]))
        for x, values in points:
            axes.plot([x] * len(values), values, "o", color=color, markersize=4, alpha=0.6)
        axes.plot([x for x, _ in points], [float(np.mean(v)) for _, v in points], color=color, linewidth=1.6, label=form)
    axes.set(xlabel="training examples", ylabel="success", ylim=(0, 1.02), xscale="log")
    axes.legend(frameon=False, fontsize=8)


PAPER = Settings(
    counts=(1_000, 2_500, 5_000, 10_000), few=1_000, rows="stream", width=384, depth=6, heads=6, hidden=1_024, context=256, batch=256,
    updates=5_000, lr=1e-3, warmup=0.02, num_test=9_900, evaluations=20,
)  # fmt: skip
CODE = "authors' code at 7e489fa"
CONFIG = f"{CODE}, config2/addition/plain/train_addition_bal.py"
SOURCES = {
    "digits": CONFIG, "counts": f"{CODE}, data/bal: of the sizes there", "few": f"{CODE}, data/bal/train_3digit_1000.txt",
    "rows": f"{CODE}, main_utils.py: get_batch", "vocab": "assumed: printable ASCII and the line's end (theirs are all ASCII characters)",
    "width": CONFIG, "depth": CONFIG, "heads": CONFIG, "hidden": "8/3 of the width: SwiGLU with the parameters of their 4 x width",
    "context": CONFIG, "batch": CONFIG, "updates": CONFIG, "lr": CONFIG, "warmup": f"{CONFIG}: 100 updates", "beta2": CONFIG,
    "weight_decay": f"{CODE}, train.py: the default", "num_test": f"{CODE}, data/bal/test_10000.txt: 9,900 lines",
    "evaluations": f"{CONFIG}: every 250 updates",
}  # fmt: skip
DEVIATIONS = (
    ("network", "NanoGPT, 10.6M, GELU, learned positions, dropout 0.2", "etude's decoder, 0.2M, no dropout", "two cores", "unknown"),
    ("examples", "windows of 256 characters out of one stream, loss everywhere", "one padded example a row, loss on the answer",
     "from the stream a model of this size learnt nothing in 3.6M tokens (trial)", "faster for both formats"),
    ("padding", "operands and answers as they are", "to three and four digits, so that rows are alike", "as above", "plain gains more"),
    ("delimiters", "plain without, reversed between $", "none; both between $ as arms of their own", "one thing at a time", "none"),
    ("draws", "a pair may come twice; a smaller set is part of the larger", "no pair twice, sizes apart", "a clean count", "none"),
    ("simplified working", "digits and carries at random from the second step on, where the one before was not 0", "the true ones",
     "a flag that their released code overwrites; the paper's figure has the true ones", "working helps more than by that code"),
    ("simplified arm", "as many updates", "as many tokens: fewer rows an update", "equal budget", "working has fewer examples shown"),
)  # fmt: skip

STUDY = Study(
    slug="teaching-arithmetic",
    arms=ARMS,
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="5k parameters / 1k tokens"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.2M parameters / 0.4M tokens"),
        "cpu": Scale(settings=CPU, seeds=4, size="0.2M parameters / 1.8M tokens"),
        "paper": Scale(settings=PAPER, seeds=5, size="10.6M parameters / 328M tokens", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="plain, some",
    headline="success",
    lower_is_better=False,
    plots=(
        Plot(title="Success on new pairs by the number of examples", kind="custom", draw=transition),
        Plot(title="Success on new pairs, at equal tokens", kind="curve", curve="success / tokens"),
    ),
    deviations=DEVIATIONS,
    paper_size="10.6M / 328M characters",
    failure={"success": 0.0, "area": 0.0, "failure on longer operands": 1.0, "success on the digit left out": 0.0},
    build_paper_model=paper_model,
    paper_parameters={"NanoGPT, 6 x 384": (10.6e6, "arXiv 2307.03381, section 3")},
)
