"""The study: whether corrections of own failures teach more than the same samples without the failures before them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from etude.evidence.claims import AtLeast, Better, Equivalent
from etude.evidence.study import Arm, Plot, Scale, Study
from etude.nn.transformer import Transformer
from etude.papers.improvement.rise import arms
from etude.papers.improvement.rise.settings import Settings
from etude.papers.improvement.rise.text import model_config

CPU = Settings()
QUICK = replace(
    CPU, levels=(3,), context=56, max_tokens=9, width=48, depth=3, demonstrations=4_000, base_updates=400, base_lr=4e-3, questions=512,
    batch_questions=128, corrections=60, best_of=8, updates=80, num_test=80, groups=2,
)  # fmt: skip
SMOKE = replace(
    QUICK, width=16, depth=1, heads=2, demonstrations=128, base_updates=20, base_batch=16, questions=8, batch_questions=4, corrections=3,
    best_of=2, single_criterion="all", updates=2, rows=8, turns=3, num_test=4, groups=1,
)  # fmt: skip


def planned(settings: Settings) -> dict[str, float]:
    return {"train.steps": settings.iterations * settings.updates}


def _arm(history: str, about: str, color: str = "") -> Arm:
    return Arm(run=partial(arms.trained, history=history), about=about, planned=planned, color=color)


ARMS = {
    "base": Arm(run=arms.base, about="the base, never asked twice", reference=True),
    "single turn": _arm("none", "the same loop on questions alone: rejection sampling", "#3b6fb6"),
    "RISE": _arm("own", "corrections after the model's own failures", "#d1652b"),
    "swapped": _arm("swapped", "the same rows after failures at other questions"),
}

EQUAL = ("generate.samples", "train.steps")
# The control became the primary claim after pilots of one iteration (seed 100, evidence/tuning/rise.md): asked over turns, the loop on
# questions alone did about as well as RISE, so that to beat its parallel answers does not show that failures teach. The claim over
# turns against that loop was added for the same reason, in place of one against the base's vote, before any run of two iterations.
CLAIMS = (
    Better(
        text="RISE needs the failed attempts: taught with those of other questions in their place, five turns with an oracle solve less",
        arm="RISE", baseline="swapped", metric="p1@t5", lower_is_better=False, d=0.02, equal=EQUAL, primary=True,
    ),
    Better(
        text="With an oracle, five turns after RISE solve more than five parallel answers after the same loop on questions alone",
        arm="RISE", baseline="single turn", metric="five answers, oracle", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
    Better(
        text="Both asked over five turns with an oracle, RISE solves more than the same loop on questions alone",
        arm="RISE", baseline="single turn", metric="p1@t5", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
    AtLeast(
        text="After RISE five turns solve at least 2 points more than the same model's five parallel answers",
        arm="RISE", metric="gain over parallel", threshold=0.02,
    ),
    AtLeast(
        text="After RISE five turns, with an oracle, solve at least 10 points more than the first",
        arm="RISE", metric="gain over turns", threshold=0.1,
    ),
    Equivalent(
        text="Without an oracle, the vote of five turns after RISE is as good as that of five parallel answers after the single-turn loop",
        arm="RISE", baseline="single turn", metric="five answers, vote", lower_is_better=False, d=0.04, equal=EQUAL,
    ),
    Equivalent(
        text="RISE keeps the first turn: as accurate as after the single-turn loop",
        arm="RISE", baseline="single turn", metric="turn 1", lower_is_better=False, d=0.03, equal=EQUAL,
    ),
    AtLeast(
        text="At equal FLOPs, what turns read counted, five turns after RISE solve more than parallel answers of the same model",
        arm="RISE", metric="gain over parallel at equal FLOPs", threshold=0.0,
    ),
)  # fmt: skip

PAPER = Settings(
    vocab=32_000, width=4096, depth=32, heads=32, kv_heads=32, hidden=11_008, tied=False, context=2048, max_tokens=1_024, iterations=2,
    questions=7_473, best_of=16, criterion="all", single_criterion="success", tau=0.4, rows=64, lr=1e-5, single_lr=1e-5, weight_decay=0.0,
    warmup=0.04, turns=5, window=2, num_test=1_319, groups=1, corrections=256, updates=70,
)  # fmt: skip
CODE = "cmu-mind/RISE at 4a2806e"
SOURCES = {
    "levels": "ours: the paper has GSM8K and MATH", "vocab": "Llama-2-7b", "width": "Llama-2-7b", "depth": "Llama-2-7b",
    "heads": "Llama-2-7b", "kv_heads": "Llama-2-7b", "hidden": "Llama-2-7b", "tied": "Llama-2-7b", "context": f"{CODE}, README: 2048",
    "max_tokens": "assumed", "demonstrations": "ours: the paper's base is given", "base_updates": "ours", "base_batch": "ours",
    "base_lr": "ours", "iterations": "abstract of results: one and two", "questions": f"{CODE}, data/gsm8k/train.jsonl",
    "batch_questions": "ours", "corrections": "ours: all", "best_of": f"{CODE}, README, example 2",
    "criterion": f"{CODE}, README", "single_criterion": "assumed: rejection sampling", "tau": f"{CODE}, workflow_convert.py",
    "updates": f"{CODE}, bash/finetune_deepspeed.sh: 0.3 epochs; of about 15,000 rows",
    "rows": f"{CODE}, README: 1 on each of 4 GPUs, 16 times",
    "lr": f"{CODE}, README", "single_lr": "assumed: the same", "weight_decay": f"{CODE}, README", "warmup": f"{CODE}, README",
    "turns": f"{CODE}, README", "window": f"{CODE}, README", "num_test": f"{CODE}, data/gsm8k/test.jsonl", "groups": "assumed",
}  # fmt: skip
DEVIATIONS = (
    ("models", "Llama2-7B, Llama3-8B, Mistral-7B", "0.2M, trained here", "runs on two cores", "unknown"),
    (
        "questions",
        "GSM8K, MATH",
        "countdown with three and four numbers",
        "fits 0.2M parameters, exact verifier",
        "answers vote as expressions",
    ),
    (
        "feedback",
        "the answer is incorrect, try again, the question",
        "`x` and the question",
        "a base that cannot read",
        "none expected",
    ),
    (
        "first conversation",
        "a solved example before each question",
        "none; the base was taught on conversations about different questions",
        "a short context",
        "none expected",
    ),
    (
        "corrections",
        "code: at the last turn alone; paper: at every state",
        "at every failed state of a rollout",
        "as in the paper",
        "more rows from early turns",
    ),
    (
        "corrected states",
        "all",
        "as many a batch in every arm",
        "equal samples, whatever an arm fails at",
        "none expected",
    ),
    ("SFT", "0.3 epochs of the rows", "200 updates of 64 rows, 2 to 3 epochs", "a small model learns more slowly", "larger effect"),
    (
        "window at test",
        "README: the last k interactions after iteration k; its command: 2",
        "2 after both iterations; rollouts and rows have all of them",
        "the README's command",
        "none expected after the first iteration, unknown after the second",
    ),
    ("ties of votes", "not said", "the earliest answer wins", "a rule is needed", "small"),
)

STUDY = Study(
    slug="rise",
    arms=ARMS,
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="4k parameters / 16 questions"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.1M parameters / 1k questions"),
        "cpu": Scale(settings=CPU, seeds=6, size="0.2M parameters / 8k questions"),
        "paper": Scale(settings=PAPER, seeds=3, size="6.7B parameters / 7.5k questions", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="single turn",
    headline="p1@t5",
    lower_is_better=False,
    plots=(
        Plot(title="Accuracy at each turn, nothing stopped", kind="curve", curve="accuracy / turn"),
        Plot(title="Solved so far, with an oracle", kind="curve", curve="right so far / turn"),
        Plot(title="Five answers with an oracle, each arm's own way", kind="bars", metric="five answers, oracle"),
        Plot(title="The vote of five answers, each arm's own way", kind="bars", metric="five answers, vote"),
        Plot(title="How often a wrong answer is given again next", kind="bars", metric="repeats over turns"),
    ),
    deviations=DEVIATIONS,
    paper_size="7B to 8B / 7.5k questions",
    failure={"five answers, oracle": 0.0, "five answers, vote": 0.0, "p1@t5": 0.0, "m1@t5": 0.0, "turn 1": 0.0},
    build_paper_model=lambda s: Transformer(model_config(s)),
    paper_parameters={"Llama-2-7B": (6.738e9, "Llama 2, arXiv 2307.09288, table 1: 7B")},
)
