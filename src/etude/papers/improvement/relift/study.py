"""The study: does interleaving demonstrations of what rollouts failed on add to reinforcement, at equally many trained tokens?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from etude.evidence.claims import AtLeast, Better, Equivalent
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study
from etude.nn.transformer import Transformer
from etude.papers.improvement.relift import arms
from etude.papers.improvement.relift.settings import Settings
from etude.papers.improvement.relift.text import model_config

CPU = Settings()
QUICK = replace(CPU, base_updates=300, pool=800, budget_tokens=120_000, num_test=200, test_samples=2)
SMOKE = replace(
    QUICK, width=16, depth=1, heads=2, base_questions=128, base_copies=1, base_updates=20, base_batch=16, pool=32, prompts=4, samples=2,
    minibatch=8, size=4, budget_tokens=1_000, alone_batch=8, num_test=8, base_samples=2, test_samples=1,
)  # fmt: skip


def _trained(run: Callable[[Job], Outcome], about: str) -> Arm:
    return Arm(run=run, about=about, planned=lambda s: {"train.tokens": s.budget_tokens})


ARMS = {
    "base": Arm(run=arms.base, about="the base, untrained", reference=True),
    "RL": _trained(arms.reinforce, "reinforcement alone"),
    "SFT": _trained(arms.tune, "SFT alone, on the demonstrations of all questions"),
    "SFT then RL": _trained(arms.tune_then_reinforce, "SFT on all demonstrations for a part of the tokens, then reinforcement"),
    "ReLIFT": _trained(arms.interleave, "reinforcement, and SFT on demonstrations of what all rollouts failed on"),
    "random": _trained(arms.interleave_random, "the same with demonstrations of random questions"),
}

EQUAL = ("train.tokens",)


def _better(text: str, arm: str, baseline: str, metric: str, d: float, primary: bool = False) -> Better:
    return Better(text=text, arm=arm, baseline=baseline, metric=metric, lower_is_better=False, d=d, equal=EQUAL, primary=primary)


HARDEST, EASY = "success, hardest band", "success, easy band"
CLAIMS = (
    _better(
        "Reinforcement interleaved with demonstrations of what it fails on solves more than reinforcement alone (by 5 points)",
        "ReLIFT", "RL", "success", 0.05, primary=True,
    ),
    _better("It solves more of the questions that the base never solved (by 10 points)", "ReLIFT", "RL", HARDEST, 0.1),
    Equivalent(
        text="On the questions that the base solves mostly it is level with reinforcement alone (within 3 points)",
        arm="ReLIFT", baseline="RL", metric=EASY, lower_is_better=False, d=0.03, equal=EQUAL,
    ),
    _better("It solves more than SFT alone on the demonstrations of all questions", "ReLIFT", "SFT", "success", 0.02),
    Equivalent(
        text="It is near SFT on all demonstrations with reinforcement afterwards (within 5 points)",
        arm="ReLIFT", baseline="SFT then RL", metric="success", lower_is_better=False, d=0.05, equal=EQUAL,
    ),
    AtLeast(
        text="It needs the demonstrations of at most 30 % of the questions", arm="ReLIFT", metric="demonstrations used", threshold=0.3,
        at_most=True,
    ),
    _better("Demonstrations of failed questions teach the hardest band more than those of random ones", "ReLIFT", "random", HARDEST, 0.02),
    _better("SFT alone solves more of the questions that the base never solved than reinforcement alone", "SFT", "RL", HARDEST, 0.05),
    _better("Reinforcement alone solves more of the questions that the base solves mostly than SFT alone", "RL", "SFT", EASY, 0.03),
)  # fmt: skip

PAPER = replace(
    CPU, vocab=152_064, width=3_584, depth=28, heads=28, kv_heads=4, hidden=18_944, tied=False, context=9_216, max_tokens=8_192,
    pool=45_792, prompts=128, samples=8, minibatch=512, lr=1e-6, warmup=0.0, sft_lr=1e-6, size=128, num_test=1_000,
)  # fmt: skip
SCRIPT, CODE = "examples/math-7b/train.sh at eb95454", "relift/verl/verl/relift at eb95454"
MODEL = "config.json of Qwen2.5-Math-7B"
SOURCES = {
    "largest": "ours: the paper has mathematics", "target": "ours",
    "vocab": MODEL, "width": MODEL, "depth": MODEL, "heads": MODEL, "kv_heads": MODEL, "hidden": MODEL, "tied": MODEL,
    "context": f"{SCRIPT}: prompts to 1,024, responses to 8,192", "max_tokens": SCRIPT,
    "base_questions": "ours: the paper's base is given", "base_beyond": "ours", "base_slips": "ours", "base_copies": "ours",
    "base_updates": "ours", "base_batch": "ours", "base_lr": "ours",
    "pool": "Elliott/Openr1-Math-46k-8192: 45.8k rows", "prompts": SCRIPT, "samples": SCRIPT,
    "minibatch": f"{SCRIPT}: 64 prompts; {CODE}/fsdp_worker.py multiplies by the 8 rollouts",
    "budget_tokens": "ours: the paper trains for up to 3 epochs", "lr": SCRIPT, "warmup": f"{CODE}/config: none", "entropy": SCRIPT,
    "weight_decay": f"{CODE}/fsdp_worker.py", "clip": f"{SCRIPT}; SFT has 1.0 ({CODE}/config)",
    "size": SCRIPT, "sft_lr": SCRIPT, "alone_lr": "assumed", "alone_batch": "assumed", "sft_share": "ours",
    "num_test": "ours", "base_samples": "section 2: 8", "test_samples": "assumed", "test_temperature": f"{SCRIPT}: val_temperature",
}  # fmt: skip
DEVIATIONS = (
    ("model and task", "Qwen2.5-Math-7B, 1.5B and Qwen2.5-7B on mathematics", "0.2M on countdown", "runs on two cores", "unknown"),
    (
        "base",
        "pretrained on text and mathematics",
        "taught sums of three numbers, two answers in five with a sign wrong",
        "what it can do it must not do every time, or reinforcement has nothing to sharpen",
        "larger effect of reinforcement, in every arm that has it",
    ),
    (
        "what is hard",
        "found among 45.8k questions",
        "half the pool lies beyond the base by design",
        "a band of known size",
        "larger effect",
    ),
    ("demonstrations", "DeepSeek-R1's long solutions", "short answers that the task itself has drawn", "fits 0.2M", "unknown"),
    (
        "order of the buffer",
        "new rows before old ones, taken from the front: old ones starve",
        "oldest first",
        "the paper describes no order",
        "small",
    ),
    ("clip of SFT", "1.0, of RL 0.7", "0.7 for both", "one clip a run", "small"),
    (
        "entropy of RL",
        "a mean over tokens beside a sum over rows and tokens / length",
        "by the same mean as the advantages",
        "one normalisation; at 0.001 both are small",
        "small",
    ),
    ("RL alone", "keeps the ratio clip (train_rl.sh)", "the same loss as ReLIFT's", "one difference between two arms", "small"),
    ("budget", "epochs over the questions", "trained tokens, demonstrations and rollouts alike", "equal arms", "none expected"),
    ("learning rates", "1e-6 for both", "tuned, each arm by the same grid", "another model", "none expected"),
    ("warm-up", "none", "a tenth of the tokens", "a fresh Adam's first steps hurt a small base at these rates", "small"),
    (
        "shares between the bands' borders",
        "8 answers a question: none",
        "counted down: to the band that the share just reaches",
        "any number of answers",
        "none",
    ),
)

STUDY = Study(
    slug="relift",
    arms=ARMS,
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="3k parameters / 1k tokens"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.2M parameters / 0.12M tokens"),
        "cpu": Scale(settings=CPU, seeds=4, size="0.2M parameters / 0.4M tokens"),
        "paper": Scale(settings=PAPER, seeds=3, size="7.6B parameters / 45.8k questions", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="RL",
    headline="success",
    lower_is_better=False,
    plots=(
        Plot(title="Success of the hardest band over trained tokens", kind="curve", curve=f"{HARDEST} / trained tokens"),
        Plot(title="Success of all questions over trained tokens", kind="curve", curve="success / trained tokens"),
        Plot(title="Success of the easy band over trained tokens", kind="curve", curve=f"{EASY} / trained tokens"),
        Plot(title="Demonstrations used, of the pool's", kind="bars", metric="demonstrations used"),
    ),
    deviations=DEVIATIONS,
    paper_size="1.5B and 7B / 45.8k questions of 8 rollouts, up to 3 epochs",
    failure={"success": 0.0, HARDEST: 0.0, EASY: 0.0, "demonstrations used": 1.0},
    build_paper_model=lambda s: Transformer(model_config(s)),
    paper_parameters={"Qwen2.5-Math-7B": (7.6e9, "Qwen2.5 models: 7.61B, assumed to hold for Math-7B too")},
)
