"""The study: one network and one budget of tokens; from left to right, with spans, or half of each; code, text, or half of each.

The pilots (evidence/tuning/codegen2.md) say what to expect of infilling. A small network that learns code hardly finds out within these
budgets how to look up the place of a mark, so that what it fills into code is no better than what causal training says from the left; the
claim of it is registered all the same. That the format teaches infilling is measured in a language where that is soon learnt (`chain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from etude.data.samplers import FixedMixture
from etude.data.sources import MixtureSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.protocols import Batch, Source
from etude.engine.schedule import Cosine
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.evidence.claims import Better, Equivalent
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study
from etude.learn.language import CausalLM
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.objective.codegen2.chain import ChainFilling, chain_windows
from etude.papers.objective.codegen2.data import marks_of, windows
from etude.papers.objective.codegen2.measures import Filling, LeftToRight, held_out_split
from etude.papers.objective.codegen2.mixture import SpanMixture
from etude.papers.objective.codegen2.probe import Probe
from etude.papers.objective.codegen2.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Way:
    """What an arm learns. rate: share of corrupted rows, the settings' if None. data: "code", "text", "both" or "chain"."""

    rate: float | None = None
    prefix: bool = False
    everywhere: bool = False
    data: str = "code"


def model_config(settings: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=settings.vocab, width=settings.width, depth=settings.depth, heads=settings.heads, hidden=settings.hidden,
        context=settings.context, tied=settings.vocab < 10_000, init_std=settings.init_std, shifted=settings.shifted,
    )  # fmt: skip


def paper_model(settings: Settings) -> Transformer:
    return Transformer(model_config(settings))


def stream(settings: Settings, way: Way, seed: int) -> DataStream:
    """Rows of code, of text, or of each as often; or of the made language."""
    s = settings
    if way.data == "chain":
        return DataStream(chain_windows(s, seed, "train"), s.chain_batch, seed, drop_last=True)
    parts: dict[str, Source] = {}
    if way.data != "text":
        parts["code"] = windows(s, "code", "train")
    if way.data != "code":
        parts["text"] = windows(s, "text", "train")
    if len(parts) == 1:
        return DataStream(next(iter(parts.values())), s.batch, seed, drop_last=True)
    return DataStream(MixtureSource(parts), s.batch, seed, sampler=FixedMixture([0.5, 0.5], update_every=16 * s.batch), drop_last=True)


def method_of(settings: Settings, way: Way) -> SpanMixture:
    """In the made language spans are single letters."""
    s, rate, marks = settings, settings.rate if way.rate is None else way.rate, marks_of(settings).every.tolist()
    mean_span = 1.0 if way.data == "chain" else s.mean_span
    return SpanMixture(rate=rate, ratio=s.ratio, mean_span=mean_span, prefix=way.prefix, everywhere=way.everywhere, marks=marks)


def train(job: Job, way: Way) -> Outcome:
    """One arm: as many tokens as any other of its kind of data, marks included."""
    s: Settings = job.settings
    method, made, split = method_of(s, way), way.data == "chain", held_out_split(job.seed)
    tokens = s.chain_tokens if made else s.tokens
    result = Trainer(
        initialise(Transformer(model_config(s)), job.seed), stream(s, way, job.seed), CausalLM(),
        optimizer=AdamW(lr=s.chain_lr if made else s.lr, betas=(0.9, s.beta2), weight_decay=s.weight_decay),
        schedule=Cosine(warmup=s.warmup), methods=[method], budget=Budget(tokens=tokens), seed=job.seed,
        evaluators={"held-out": ChainFilling(s, job.seed, split, "spans" if method.rate else "left") if made else LeftToRight(s, job.seed)},
        evaluate_every=1 / s.evaluations, progress=lambda share, loss: job.progress(min(share, 1.0), loss),
    ).run()  # fmt: skip
    last = {name.removeprefix("held-out/"): value for name, value in result.history[-1].items() if name.startswith("held-out/")}
    metrics = {**last, "text of a token": 1 - method.rate * (1 - kept(stream(s, way, job.seed), method))}
    if not made:
        alone = Filling(s, job.seed, "left")(result.model)
        own = Filling(s, job.seed, "spans", prefix=way.prefix)(result.model) if method.rate else alone
        metrics |= {**own, **Probe(s, job.seed, split, both_ways=way.prefix)(result.model)}
        metrics |= {f"{name}, left alone": alone[name] for name in ("name loss", "line loss")}
    curves = {
        f"{name} / tokens": ([row["share"] * tokens for row in result.history], [row[f"held-out/{name}"] for row in result.history])
        for name in last
        if name.endswith("loss")
    }
    return Outcome(metrics=metrics, curves=curves, ledger=result.ledger.as_dict(), parameters=result.parameters)


def kept(data: DataStream, method: SpanMixture) -> float:
    """How many tokens of the original text a corrupted row holds, for each of its tokens: the rest are marks."""
    batch = data.next()
    rows = method.corruption.corrupt(Batch({k: v for k, v in batch.data.items() if k != "objective"}, batch.ids)).data
    tokens, owners = rows["tokens"].numpy(), rows["document_ids"].numpy()
    return float(((owners >= 0) & ~np.isin(tokens, method.ids)).mean())


def _arm(about: str, way: Way, **more: Any) -> Arm:
    def planned(settings: Settings) -> Mapping[str, float]:
        return {"train.tokens": settings.chain_tokens if way.data == "chain" else settings.tokens}

    return Arm(run=lambda job: train(job, way), about=about, planned=planned, **more)


CHAIN: Mapping[str, Any] = {
    "instead": ("chain exact", "chain loss"),
    "failure": {"chain exact": 0.0, "chain loss": float(np.log(Settings().vocab))},
}
ARMS = {
    "causal": _arm("every row from left to right", Way(rate=0.0)),
    "mixture": _arm("half of the rows with spans taken out, of which only the spans are learnt", Way()),
    "mixture, prefix": _arm("the same, and their holed text is read both ways", Way(prefix=True)),
    "mixture, all learnt": _arm("the same without that, and corrupted rows are learnt as any text, marks too", Way(everywhere=True)),
    "spans": _arm("every row with spans taken out", Way(rate=1.0)),
    "mixture, text": _arm("the mixture of objectives on text", Way(data="text")),
    "mixture, both": _arm("the mixture of objectives on code and text, as many rows of each", Way(data="both")),
    "causal, chain": _arm("the made language from left to right", Way(rate=0.0, data="chain"), **CHAIN),
    "mixture, chain": _arm("the mixture of objectives on the made language", Way(data="chain"), **CHAIN),
}

CPU = Settings()
QUICK = replace(
    CPU, code="sample-code", text="sample", tokenizer="byte", vocab=256, width=48, tokens=150_000, chain_tokens=300_000,
    num_names=60, num_lines=16, longest_file=30_000, held_out_windows=64, probe_windows=32,
)  # fmt: skip
# Two layers: with one, reading both ways changes only states that nothing looks at.
SMOKE = replace(
    QUICK, batch=4, width=16, tokens=3_000, chain_tokens=3_000, num_names=6, num_lines=4, held_out_windows=4, probe_windows=24,
    chain_holes=20, evaluations=2,
)  # fmt: skip

EQUAL = ("train.tokens",)


def _better(text: str, arm: str, baseline: str, metric: str, d: float, *, lower: bool = True, primary: bool = False) -> Better:
    return Better(text=text, arm=arm, baseline=baseline, metric=metric, lower_is_better=lower, d=d, equal=EQUAL, primary=primary)


def _alike(text: str, arm: str, baseline: str, metric: str, d: float, *, lower: bool = True) -> Equivalent:
    return Equivalent(text=text, arm=arm, baseline=baseline, metric=metric, lower_is_better=lower, d=d, equal=EQUAL)


# After the pilots, four claims (names restored, files that parse, fills and the probe with a prefix) were dropped, those of the made
# language and of corrupted rows learnt whole were added; the mixture of the others learnt its corrupted rows whole before.
CLAIMS = (
    _better(
        "Infilling is not free: training from left to right alone says code better than the mixture",
        "causal", "mixture", "code loss", 0.02, primary=True,
    ),
    _better("Nor is it where corrupted rows are learnt whole, as any text", "causal", "mixture, all learnt", "code loss", 0.02),
    _better("The mixture keeps more of left-to-right quality than spans alone", "mixture", "spans", "code loss", 0.02),
    _better("The mixture fills lines better, given both sides, than causal training from the left", "mixture", "causal", "line loss", 0.05),
    _better(
        "Where it is soon learnt, the mixture fills holes that causal training cannot (a made language)",
        "mixture, chain", "causal, chain", "chain exact", 0.1, lower=False,
    ),
    _alike("Reading the holed text both ways changes nothing for code from left to right", "mixture, prefix", "mixture", "code loss", 0.03),
    _alike("Trained on code and text, code is said about as well as from code alone", "mixture, both", "mixture", "code loss", 0.1),
    _alike("And text as well as from text alone", "mixture, both", "mixture, text", "text loss", 0.1),
)  # fmt: skip


PAPER = Settings(
    code="BigPython", text="The Pile", tokenizer="GPT-2's", vocab=51_200, width=2_048, depth=16, heads=16, context=2_048, batch=256,
    tokens=100_000_000_000, lr=2e-4, warmup=0.02, beta2=0.95, reach=1_900, shifted=False, init_std=0.02,
)  # fmt: skip
CARD = "config.json of Salesforce/codegen2-1B"
STUDIED = "not the paper's: of the measures here"
SOURCES = {
    "code": "arXiv 2305.02309: the ablations' data", "text": "arXiv 2305.02309: the ablations' data",
    "tokenizer": CARD, "vocab": CARD, "width": CARD, "depth": CARD, "heads": CARD,
    "hidden": "8/3 of the width: SwiGLU with the parameters of their 4 x width", "context": CARD,
    "rate": "arXiv 2305.02309: half of the sequences", "ratio": "assumed: T5's 15 % (arXiv 1910.10683)", "mean_span": "assumed: T5's 3",
    "batch": "assumed: about 0.5M tokens", "tokens": "assumed", "lr": "assumed", "warmup": "assumed", "beta2": "assumed",
    "weight_decay": "assumed", "reach": STUDIED, "num_names": STUDIED, "num_lines": STUDIED, "longest_line": STUDIED,
    "longest_file": STUDIED, "held_out_windows": STUDIED, "probe_windows": STUDIED,
    "evaluations": STUDIED, "shifted": "not the paper's: of small networks", "init_std": "assumed: GPT-2's",
    **dict.fromkeys(("letters", "followers", "chain_context", "chain_batch", "chain_tokens", "chain_lr", "chain_holes"), STUDIED),
}  # fmt: skip
DEVIATIONS = (
    ("network", "16 x 2048, attention and feed-forward side by side, GELU", "2 x 64, one after the other, SwiGLU", "two cores", "unknown"),
    ("tokens' vectors", "of the token", "and a map of the token before", "one layer can find a mark's place", "infilling sooner"),
    ("loss of corrupted rows", "on what was taken out; on all with causal attention in some trials", "on what was taken out",
     "the pilots learn to look up marks sooner so", "the mixture learns less of the text"),
    ("data", "BigPython, the Stack, the Pile", "SymPy's modules and the King James Bible", "small, pinned, free", "a narrower test"),
    ("tokens", "50k byte pairs", "499 byte pairs of the code's training split", "a small model", "shorter spans of text"),
    ("spans", "ratio and length drawn for each sequence in some trials", "15 % and a fixed mean", "one thing at a time", "none"),
    ("row", "sequences grow by the marks", "rows keep their length and lose text", "equal tokens, marks counted",
     "the mixture sees less text"),
    ("measures", "HumanEval pass@k, HumanEval-Infill, XSum, SuperGLUE, LAMBADA, PIQA",
     "held-out loss; names and lines of held-out files, letters of a made language: loss, exact match, parsing; a linear probe",
     "too small to pass a test", "finer"),
    ("lines that are filled", "HumanEval-Infill: any line", "lines that neither nothing nor `pass` can stand for",
     "most lines may be left out, so that any fill would do", "a harder test"),
    ("filling by the causal arm", "not measured", "goes on from the left, with as many bytes to read",
     "a baseline that does what it has learnt", "harder to beat than one that is given marks"),
)  # fmt: skip
FAILURE = {
    **dict.fromkeys(("code loss", "text loss", "line loss", "name loss"), float(np.log(CPU.vocab))),
    **dict.fromkeys(("name exact", "line exact", "line parses"), 0.0),
    "probe": 0.5,
}

STUDY = Study(
    slug="codegen2",
    arms=ARMS,
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="11k parameters / 3k tokens"),
        "quick": Scale(settings=QUICK, seeds=3, size="70k parameters / 0.15M tokens"),
        "cpu": Scale(settings=CPU, seeds=5, size="0.14M parameters / 0.7M tokens"),
        "paper": Scale(settings=PAPER, seeds=1, size="1B parameters", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="causal",
    headline="code loss",
    plots=(
        Plot(title="Held-out code from left to right, at equal tokens", kind="curve", curve="code loss / tokens"),
        Plot(title="Holes in the made language: the fill is the letter", kind="bars", metric="chain exact"),
        Plot(title="Lines: loss of the middle", kind="bars", metric="line loss"),
        Plot(title="Names: the fill is the name", kind="bars", metric="name exact"),
        Plot(title="Held-out text from left to right, at equal tokens", kind="curve", curve="text loss / tokens"),
    ),
    data=("code-files", "kjv"),
    deviations=DEVIATIONS,
    paper_size="1B parameters, BigPython",
    failure=FAILURE,
    build_paper_model=paper_model,
    paper_parameters={"CodeGen2-1B": (1.0e9, "arXiv 2305.02309")},
)
