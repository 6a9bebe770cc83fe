"""The study: which ways of training a base on its own likeliest samples put mass on its mode, at equally many samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from etude.evidence.claims import AtLeast, Better, Ratio
from etude.evidence.study import Arm, Plot, Scale, Study
from etude.nn.transformer import Transformer
from etude.papers.improvement.sharpening import arms, tables
from etude.papers.improvement.sharpening.settings import RATES, Settings
from etude.papers.improvement.sharpening.text import model_config

CPU = Settings()
QUICK = replace(
    CPU, base_updates=500, base_batch=32, demonstrations=8_000, num_samples=3_200, updates=50, test_sums=40, test_paths=80,
    test_samples=8, rounds=2, tables=1, table_contexts=24, coverages=(4.0, 12.6, 40.0),
)  # fmt: skip
SMOKE = replace(
    QUICK, width=16, depth=1, heads=2, base_updates=60, base_batch=16, base_lr=1e-2, demonstrations=256, num_samples=320, updates=4,
    batch=16, test_sums=2, test_paths=2, test_samples=2, most_samples=8, max_tokens=6, responses=64, table_contexts=8, table_prompts=4,
    coverages=(4.0, 8.0), uneven_coverage=6.0, linear_samples=(16, 64),
)  # fmt: skip


def planned(settings: Settings) -> dict[str, float]:
    """What an arm that trains will draw and train on; adaptive sampling and exploration draw to the same number."""
    return {"generate.samples": settings.num_samples, "train.steps": settings.updates}


def planned_linear(settings: Settings) -> dict[str, float]:
    return {"generate.samples": sum(settings.linear_samples)}


def _trained(run: partial, about: str) -> Arm:
    return Arm(run=run, about=about, planned=planned)


def _answering(run: partial, about: str, num: int) -> Arm:
    return Arm(run=run, about=about, reference=True, planned=lambda s: {"generate.samples": s.num_test * num})


def _table(needed: dict[str, Callable], about: str, color: str) -> Arm:
    shown = ("slope in coverage", *(f"samples needed, uneven coverage{way}" for way in needed))
    return Arm(run=partial(arms.table, needed=needed), about=about, color=color, instead=shown)


def _linear(way: str, about: str) -> Arm:
    return Arm(run=partial(arms.linear, way=way), about=about, planned=planned_linear, instead=(arms.LINEAR,))


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
    "SFT 5": _trained(partial(arms.sft, num=5), "SFT on the likeliest of 5 samples, which leaves about as many winners as adaptive"),
    "SFT 16": _trained(partial(arms.sft, num=16), "SFT on the likeliest of 16 samples"),
    "SFT 64": _trained(partial(arms.sft, num=64), "SFT on the likeliest of 64 samples"),
    "adaptive": _trained(partial(arms.sft, num=0), "SFT on the likeliest of as many samples as each prompt needs"),
    "RLHF": _trained(partial(arms.regression), "regression on self-rewards of pairs from the base"),
    "XPO": _trained(partial(arms.regression, explore=True), "the same with pairs from the present model, and optimism"),
    "table": _table({"": tables.needed_fixed}, "a softmax table, the smallest N that does, the same for every prompt", "#3b6fb6"),
    "table, adaptive": _table(
        {"": tables.needed_adaptive, ", best mu": tables.needed_by_mu}, "a softmax table, N adaptive at the theorem's mu", "#d1652b"
    ),
    "linear SFT": _linear("SFT", "a linear class at low coverage, the likeliest of the best N"),
    "linear RLHF": _linear("RLHF", "the same, regression on pairs of the base"),
    "linear XPO": _linear("XPO", "the same, with exploration"),
}

EQUAL = ("generate.samples", "train.steps")
CLAIMS = (
    Better(
        text="SFT on the likeliest of 16 own samples puts more mass on the base's mode than SFT on one of them, whichever came first",
        arm="SFT 16", baseline="unselected", metric="mass on the mode", lower_is_better=False, d=0.1, equal=EQUAL, primary=True,
    ),
    Better(
        text="SFT on the likeliest of 16 own samples puts more mass on the base's mode than the base itself",
        arm="SFT 16", baseline="base", metric="mass on the mode", lower_is_better=False, d=0.1, equal=(),
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
        text="As many samples, drawn adaptively, put more mass on the mode than 5 a prompt, which leave about as many winners",
        arm="adaptive", baseline="SFT 5", metric="mass on the mode", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
    Better(
        text="Regression with exploration puts more mass on the mode than SFT on the likeliest of 16",
        arm="XPO", baseline="SFT 16", metric="mass on the mode", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
    Better(
        text="Regression with exploration puts more mass on the mode than without",
        arm="XPO", baseline="RLHF", metric="mass on the mode", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
    AtLeast(
        text="In a softmax table, where it can be counted, the samples that sharpening needs grow in proportion to the coverage "
        "coefficient (slope 1 within 0.1)",
        arm="table", metric="distance of the slope from 1", threshold=0.1, at_most=True,
    ),
    Ratio(
        text="In a table where a fifth of the prompts hold most of the coverage coefficient, adaptive sampling at the theorem's mu needs "
        "fewer samples than the smallest fixed N that does (1.5 times)",
        arm="table, adaptive", baseline="table", metric="samples needed, uneven coverage", d=0.5, equal=(),
    ),
    Better(
        text="In a linear class at low coverage, regression puts more mass on the mode than SFT on the likeliest of N, whatever the N",
        arm="linear RLHF", baseline="linear SFT", metric=arms.LINEAR, lower_is_better=False, d=0.1, equal=("generate.samples",),
    ),
)  # fmt: skip

PAPER = Settings(
    vocab=32_064, width=3072, depth=32, heads=32, hidden=8192, tied=False, context=4096, max_tokens=512, num_samples=50 * 256,
    updates=30 * 256 // 4, batch=4, rates=dict.fromkeys(RATES, 3e-4), weight_decay=0.1, clip=0.1,
    most_samples=50, test_sums=0, test_paths=256, test_samples=1,
)  # fmt: skip
TUNING = "appendix A.3"
SOURCES = {
    "largest": "ours: the paper has MATH", "nodes": "ours", "corrupted": "ours", "demonstrations": "ours",
    "vocab": "Phi-3.5-mini", "width": "Phi-3.5-mini", "depth": "Phi-3.5-mini", "heads": "Phi-3.5-mini", "hidden": "Phi-3.5-mini",
    "tied": "Phi-3.5-mini", "context": "Phi-3-mini-4k", "max_tokens": "appendix A.1: 512",
    "base_updates": "ours: the paper's base is given", "base_batch": "ours", "base_lr": "ours",
    "num_samples": "appendices A, A.3: 50 for each of 256 prompts", "updates": "footnote 13: 30 epochs, batch 4",
    "batch": "footnote 13", "rates": f"{TUNING}, linear decay to zero; regressions assumed: the paper does not train by them",
    "weight_decay": "table 2, MATH", "clip": TUNING, "betas": "assumed", "optimism": "assumed", "rounds": "assumed",
    "adaptive_delta": "assumed", "most_samples": "appendix A.1: N up to 50",
    "test_sums": "ours", "test_paths": "appendix A: 256 prompts", "test_samples": "assumed",
    "delta": "ours: half the mass, above which greedy decoding finds y* (proposition 3.1)",
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
    (
        "prompts",
        "trained and tested on the same 256",
        "disjoint, sums by their terms; the test's sums are among the base's demonstrations",
        "what is amortised must carry over; there are 288 sums, and the base learns them one by one",
        "smaller effect",
    ),
    ("adapters", "LoRA of rank 8 or 16", "all weights", "a small model", "none expected"),
    (
        "updates",
        "30 epochs, best checkpoint kept",
        "600 for every arm, last weights; each pair is seen about once",
        "equal budgets; no choice on the test",
        "smaller effect, most of all for the regressions",
    ),
    ("samples", "N = 10, 25, 50", "N = 5, 16, 64", "equal m: more of N means fewer prompts", "none expected"),
    (
        "coverage",
        "what limits SFT",
        "about 3, where the best of 16 is y* in 99 of 100: in the text half it limits nothing",
        "what small networks learn of these tasks",
        "says nothing about low coverage; the table and the linear class do",
    ),
    (
        "adaptive N",
        "until eq. 10 holds",
        "at most 64 samples a prompt; prompts open when the samples are spent (up to 512) give no winner",
        "a budget of samples",
        "small",
    ),
    ("exploration", "one pair a round", "4 rounds of a quarter of the pairs", "time", "smaller effect"),
    ("exploration", "the best iterate by J_b", "the last one", "no choice on the test", "smaller effect"),
    ("exploration", "each round fits anew", "each round goes on from the one before", "time", "small"),
    (
        "linear class",
        "example J.1, a sphere packing",
        "independent signs, whose self-rewards have no noise",
        "mass can be computed",
        "exploration has nothing to add there",
    ),
    (
        "N of the baselines",
        "by theorem",
        "table and linear class: the N that turns out smallest, or best",
        "in favour of what is compared with",
        "smaller effect",
    ),
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
        "smoke": Scale(settings=SMOKE, seeds=2, size="3k parameters / 320 samples"),
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
        Plot(title="Mass in the linear class, over samples", kind="curve", curve=f"{arms.LINEAR} / samples", log_x=True, limits=(0, 1)),
    ),
    deviations=DEVIATIONS,
    paper_size="3.8B to 14B / 12.8k samples of 50 for each prompt",
    failure={"mass on the mode": 0.0, "accuracy": 0.0, "sharpened": 0.0},
    build_paper_model=lambda s: Transformer(model_config(s)),
    paper_parameters={"Phi-3.5-mini": (3.8e9, "appendix A: Phi3.5-Mini")},
)
