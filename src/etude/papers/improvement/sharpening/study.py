"""The study: which ways of training a base on its own likeliest samples put mass on its mode, at equally many samples."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from etude.evidence.claims import AtLeast, Better, Ratio
from etude.evidence.study import Arm, Plot, Scale, Study
from etude.nn.transformer import Transformer
from etude.papers.improvement.sharpening import arms, tables
from etude.papers.improvement.sharpening.settings import Settings
from etude.papers.improvement.sharpening.text import model_config

CPU = Settings()
QUICK = replace(
    CPU, base_updates=500, base_batch=32, demonstrations=8_000, num_samples=3_200, updates=50, num_test=120, test_samples=8, rounds=2,
    tables=1, table_contexts=24, coverages=(4.0, 12.6, 40.0),
)  # fmt: skip
SMOKE = replace(
    QUICK, width=16, depth=1, heads=2, base_updates=60, base_batch=16, base_lr=1e-2, demonstrations=256, num_samples=128, updates=4,
    batch=16, num_test=4, test_samples=2, most_samples=8, max_tokens=6, responses=64, table_contexts=8, table_prompts=4,
    coverages=(4.0, 8.0), uneven_coverage=6.0, linear_samples=64,
)  # fmt: skip


def planned(settings: Settings) -> dict[str, float]:
    """What an arm that trains will draw and train on; adaptive sampling and exploration draw to the same number."""
    return {"generate.samples": settings.num_samples, "train.steps": settings.updates}


def planned_linear(settings: Settings) -> dict[str, float]:
    return {"generate.samples": settings.linear_samples}


def _trained(run: partial, about: str) -> Arm:
    return Arm(run=run, about=about, planned=planned)


def _answering(run: partial, about: str, num: int) -> Arm:
    return Arm(run=run, about=about, reference=True, planned=lambda s: {"generate.samples": s.num_test * num})


ARMS = {
    "base": Arm(
        run=arms.base,
        about="the base at temperature 1, untrained",
        reference=True,
        planned=lambda s: {"generate.samples": s.num_test * s.most_samples},
    ),
    "greedy": _answering(partial(arms.answer, temperature=0.0), "the base's greedy answers", 1),
    "cooled": _answering(partial(arms.answer, temperature=0.3), "the base at temperature 0.3", 1),
    "best of 16": _answering(partial(arms.answer, num=16), "the likeliest of 16 samples, no training", 16),
    "best of 64": _answering(partial(arms.answer, num=64), "the likeliest of 64 samples, no training", 64),
    "unselected": _trained(partial(arms.sft, num=16, reward="none"), "SFT on one of 16 samples, whichever came first"),
    "SFT 4": _trained(partial(arms.sft, num=4), "SFT on the likeliest of 4 samples"),
    "SFT 16": _trained(partial(arms.sft, num=16), "SFT on the likeliest of 16 samples"),
    "SFT 64": _trained(partial(arms.sft, num=64), "SFT on the likeliest of 64 samples"),
    "adaptive": _trained(partial(arms.sft, num=0), "SFT on the likeliest of as many samples as each prompt needs"),
    "RLHF": _trained(partial(arms.regression), "regression on self-rewards of pairs from the base"),
    "XPO": _trained(partial(arms.regression, explore=True), "the same with pairs from the present model, and optimism"),
    "table": Arm(
        run=partial(arms.table, needed=tables.needed_fixed), about="a softmax table, the same N for every prompt", color="#3b6fb6"
    ),
    "table, adaptive": Arm(run=partial(arms.table, needed=tables.needed_adaptive), about="a softmax table, adaptive N", color="#d1652b"),
    "linear SFT": Arm(
        run=partial(arms.linear, num=64), about="a linear class at low coverage, the likeliest of 64", planned=planned_linear
    ),
    "linear RLHF": Arm(run=partial(arms.linear), about="the same, regression on pairs of the base", planned=planned_linear),
    "linear XPO": Arm(run=partial(arms.linear, explore=True), about="the same, with exploration", planned=planned_linear),
}

EQUAL = ("generate.samples", "train.steps")
CLAIMS = (
    Better(
        text="SFT on the likeliest of 16 own samples puts more mass on the base's mode than SFT on one of them, whichever came first",
        arm="SFT 16", baseline="unselected", metric="mass on the mode", lower_is_better=False, d=0.1, equal=EQUAL, primary=True,
    ),
    Better(
        text="After SFT on the likeliest of 16, answers at temperature 1 are right more often than the base's",
        arm="SFT 16", baseline="base", metric="accuracy", lower_is_better=False, d=0.1, equal=(),
    ),
    Better(
        text="The likeliest of 64 samples is right more often than the greedy answer",
        arm="best of 64", baseline="greedy", metric="accuracy", lower_is_better=False, d=0.01, equal=(),
    ),
    Better(
        text="After SFT on the likeliest of 16, answers at temperature 1 are right more often than the base's greedy ones",
        arm="SFT 16", baseline="greedy", metric="accuracy", lower_is_better=False, d=0.01, equal=(),
    ),
    Better(
        text="As many samples, drawn adaptively, put more mass on the mode than 16 a prompt",
        arm="adaptive", baseline="SFT 16", metric="mass on the mode", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
    Better(
        text="Regression with exploration puts more mass on the mode than SFT on the likeliest of 16",
        arm="XPO", baseline="SFT 16", metric="mass on the mode", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
    AtLeast(
        text="In a softmax table the samples that sharpening needs grow in proportion to the coverage coefficient (slope 1 within 0.1)",
        arm="table", metric="distance of the slope from 1", threshold=0.1, at_most=True,
    ),
    Ratio(
        text="Where a fifth of the prompts hold most of the coverage coefficient, adaptive sampling needs fewer samples (1.5 times)",
        arm="table, adaptive", baseline="table", metric="samples needed, uneven coverage", d=0.5, equal=(),
    ),
    Better(
        text="In a linear class at low coverage, exploration puts more mass on the mode than SFT on the likeliest of 64",
        arm="linear XPO", baseline="linear SFT", metric="mass on the mode", lower_is_better=False, d=0.1, equal=("generate.samples",),
    ),
)  # fmt: skip

PAPER = Settings(
    vocab=32_064, width=3072, depth=32, heads=32, hidden=8192, tied=False, context=4096, max_tokens=512, num_samples=50 * 256,
    updates=30 * 256 // 4, batch=4, lr=3e-4, unselected_lr=3e-4, pair_lr=3e-4, weight_decay=0.1, clip=0.1, most_samples=50, num_test=256,
    test_samples=1,
)  # fmt: skip
TUNING = "appendix A.3"
SOURCES = {
    "largest": "ours: the paper has MATH", "nodes": "ours", "corrupted": "ours", "demonstrations": "ours",
    "vocab": "Phi-3.5-mini", "width": "Phi-3.5-mini", "depth": "Phi-3.5-mini", "heads": "Phi-3.5-mini", "hidden": "Phi-3.5-mini",
    "tied": "Phi-3.5-mini", "context": "Phi-3-mini-4k", "max_tokens": "appendix A.1: 512",
    "base_updates": "ours: the paper's base is given", "base_batch": "ours", "base_lr": "ours",
    "num_samples": "appendices A, A.3: 50 for each of 256 prompts", "updates": "footnote 13: 30 epochs, batch 4",
    "batch": "footnote 13", "lr": f"{TUNING}, linear decay to zero", "unselected_lr": TUNING,
    "pair_lr": "assumed: the paper does not train by regression",
    "weight_decay": "table 2, MATH", "clip": TUNING, "beta": "assumed", "optimism": "assumed", "rounds": "assumed",
    "delta": "section 4.1: d = 1/2 is what greedy decoding needs", "most_samples": "appendix A.1: N up to 50",
    "num_test": "appendix A: 256", "test_samples": "assumed",
    "responses": "ours", "table_contexts": "ours", "table_prompts": "ours", "tables": "ours", "coverages": "ours",
    "uneven_coverage": "ours",
    "features": "ours", "feature_weight": "ours", "linear_samples": "ours",
}  # fmt: skip
DEVIATIONS = (
    ("models", "Phi-3 to 14B, Mistral-7B, Llama-3.2-3B, GPT-3.5", "0.2M, trained here", "runs on two cores", "unknown"),
    (
        "tasks",
        "MATH, GSM8K, ProntoQA, MMLU, game of 24",
        "sums of two terms up to 12, paths through 4 nodes",
        "fits 0.2M parameters",
        "short answers: y* can be found exactly",
    ),
    ("prompts", "trained and tested on the same 256", "disjoint", "what is amortised must carry over", "smaller effect"),
    ("adapters", "LoRA of rank 8 or 16", "all weights", "a small model", "none expected"),
    (
        "updates",
        "30 epochs, best checkpoint kept",
        "400 for every arm, last weights; of the pairs six in ten are seen",
        "equal budgets; no choice on the test",
        "smaller effect, most of all for the regressions",
    ),
    ("samples", "N = 10, 25, 50", "N = 4, 16, 64", "equal m: more of N means fewer prompts", "none expected"),
    ("exploration", "the best iterate by J_b", "the last one", "no choice on the test", "smaller effect"),
    ("exploration", "each round fits anew", "each round goes on from the one before", "time", "small"),
    (
        "bounds",
        "beta by theorem 4.2, a by theorem J.2",
        "both tuned; theorem 4.3's beta in the linear class",
        "the bounds' constants are unknown",
        "larger effect",
    ),
)

STUDY = Study(
    slug="sharpening",
    arms=ARMS,
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="3k parameters / 128 samples"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.2M parameters / 3.2k samples"),
        "cpu": Scale(settings=CPU, seeds=4, size="0.2M parameters / 40k samples"),
        "paper": Scale(settings=PAPER, seeds=3, size="3.8B parameters / 12.8k samples", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="unselected",
    headline="mass on the mode",
    lower_is_better=False,
    plots=(
        Plot(title="Mass on the base's mode", kind="bars", metric="mass on the mode"),
        Plot(title="Accuracy of answers", kind="bars", metric="accuracy"),
        Plot(title="Best of N by likelihood, no training", kind="curve", curve="accuracy of the best of N, likelihood / N", log_x=True),
        Plot(
            title="Samples that a table needs, over its coverage coefficient",
            kind="curve",
            curve="samples needed / coverage",
            log_x=True,
            log_y=True,
        ),
    ),
    deviations=DEVIATIONS,
    paper_size="3.8B to 14B / 12.8k samples of 50 for each prompt",
    failure={"mass on the mode": 0.0, "accuracy": 0.0, "sharpened": 0.0},
    build_paper_model=lambda s: Transformer(model_config(s)),
    paper_parameters={"Phi-3.5-mini": (3.8e9, "appendix A: Phi3.5-Mini")},
)
