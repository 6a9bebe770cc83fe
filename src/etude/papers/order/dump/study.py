"""The study: the same reinforcement learning on distributions drawn evenly, easy first, or by learnability, at equal rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from etude.evidence.claims import Better, Ratio
from etude.evidence.plots import COLORS
from etude.evidence.study import Arm, Plot, Scale, Study
from etude.papers.order.dump import arms
from etude.papers.order.dump.arms import bandit, easy_to_hard, uniform
from etude.papers.order.dump.ladder import paper_model
from etude.papers.order.dump.settings import Settings

CPU = Settings()
QUICK = replace(CPU, base_updates=400, levels=(2, 3, 4), demonstrations=(2_000, 2_000, 2_000), rounds=40, num_test=40, evaluations=8)
SMOKE = replace(
    QUICK, width=16, heads=2, depth=1, levels=(2, 3), demonstrations=(60, 60), base_updates=20, base_batch=16, base_lr=1e-2,
    train_problems=20, rounds=3, prompts=4, samples=4, minibatch=8, num_test=6, evaluations=3,
)  # fmt: skip


def planned(settings: Settings) -> dict[str, float]:
    return {"generate.samples": settings.rollouts, "train.steps": settings.updates}


def _arm(scheduling: arms.Scheduling, about: str) -> Arm:
    return Arm(run=lambda job: arms.train(job, scheduling), about=about, planned=planned)


def mixture_of(arm: str) -> Plot:
    """What a run drew from each distribution over its rounds, mean over seeds."""

    def draw(axes: Any, record: Mapping[str, Any]) -> None:
        told = record["arms"].get(arm, {"curves": {}})["curves"]
        names = [name for name in told if name.startswith("share, level ")]
        for name, color in zip(names, COLORS, strict=False):
            x, shares = np.array(told[name][0][0]), np.array([y for _, y in told[name]])
            axes.plot(x, shares.mean(0), color=color, linewidth=1.6, label=name.removeprefix("share, ").removesuffix(" / round"))
        axes.set(xlabel="round", ylabel="share of the draws", ylim=(0, 1))
        if names:
            axes.legend(frameon=False, fontsize=8)

    return Plot(title=f"What is drawn over time: {arm}", kind="custom", draw=draw)


EQUAL = ("generate.samples", "train.steps")
CLAIMS = (
    Better(
        text="Over the whole run, success on held-out problems of all levels is higher with DUMP than with even draws",
        arm="dump", baseline="uniform", metric="area", lower_is_better=False, d=0.02, equal=EQUAL, primary=True,
    ),
    Better(
        text="At the end too",
        arm="dump", baseline="uniform", metric="success", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
    Better(
        text="At the end the two hardest levels succeed more often than with even draws",
        arm="dump", baseline="uniform", metric="success, two hardest", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
    Ratio(
        text="It is where even draws end with fewer rollouts (1.1 times)",
        arm="dump", baseline="uniform", curve="success / rollouts", lower_is_better=False, d=0.1, equal=EQUAL,
    ),
    Better(
        text="Over the whole run it beats levels in order, easy first",
        arm="dump", baseline="easy to hard", metric="area", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
    Better(
        text="Over the whole run it beats the same scheduler without the exploration bonus",
        arm="dump", baseline="no bonus", metric="area", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
    Better(
        text="Over the whole run it beats the same scheduler on A instead of |A| (the control: what is measured is the cause)",
        arm="dump", baseline="signed", metric="area", lower_is_better=False, d=0.02, equal=EQUAL,
    ),
)  # fmt: skip

PAPER = Settings(
    task="knights", levels=tuple(range(3, 15)), demonstrations=(0,) * 12, corrupted=0.0, vocab=152_064, width=3_584, depth=28, heads=28,
    kv_heads=4, hidden=18_944, tied=False, context=24_576, base_updates=0, train_problems=900, rounds=168, prompts=128, samples=16,
    minibatch=512, max_tokens=20_480, lr=1e-6, num_test=100, evaluations=16,
)  # fmt: skip
CODE = "authors' code at 235e85d"
SCRIPT = f"{CODE}, main_grpo_Qwen2.5-7B-Instruct-1M_combined_logic_longseq_combinedkk.sh"
CURRICULUM = f"{CODE}, verl/utils/curriculum_learning.py"
QWEN = "Qwen2.5-7B as its makers describe it: 28 layers of width 3,584, 28 heads over 4, inner width 18,944; biases left out"
KNIGHTS = f"{CODE}, combined_logic_dataset/generate_combined_kk.py"
SOURCES = {
    "task": f"{CODE}, combined_logic_dataset/kk", "levels": f"{CODE}, combined_logic_dataset/kk: 3 to 14 people",
    "demonstrations": "none: the base is given", "corrupted": "none",
    "vocab": "assumed: rows of Qwen2.5-7B's embedding",
    **dict.fromkeys(("width", "depth", "heads", "kv_heads", "hidden", "tied"), QWEN),
    "context": f"{SCRIPT}: prompts to 4,096 tokens, responses to 20,480",
    "base_updates": "none: the base is given", "base_batch": "not used", "base_lr": "not used",
    "train_problems": f"{KNIGHTS}: train_samples", "rounds": f"{SCRIPT}: 2 epochs of 10,800 problems in 128s",
    "prompts": SCRIPT, "samples": SCRIPT, "minibatch": f"{SCRIPT}: 32 prompts of 16 rollouts", "max_tokens": SCRIPT, "lr": SCRIPT,
    "kl": SCRIPT, "window": f"{CURRICULUM}: window_size 300", "temperature": f"{CURRICULUM}: 0.1", "bonus": f"{CURRICULUM}: weights 1.0",
    "num_test": f"{KNIGHTS}: test_samples", "evaluations": f"{SCRIPT}: every 10 rounds",
}  # fmt: skip
DEVIATIONS = (
    ("model", "Qwen2.5-7B-Instruct-1M", "0.2M, taught here on demonstrations with wrong letters", "runs on two cores", "unknown"),
    (
        "distributions", "Knights and Knaves with 3 to 14 people", "copying 2 to 8 letters, five lengths",
        "a base of this size does not rise above guessing at Knights and Knaves without working", "skills are shared more between levels",
    ),
    ("reward", "format and answer, about -3 to 3", "1 for a right answer, else 0", "a group's deviation scales it away", "small"),
    ("test rewards", "fed to the scheduler as advantages at every validation", "never", "a leak in the authors' code", "unknown"),
    ("rollouts a round", "128 prompts x 16", "16 x 8", "time; the window of 300 spans more rounds", "slower scheduling"),
    ("baseline", "a shuffle of the whole data", "levels drawn evenly, with replacement", "as DUMP draws but for the weights", "none"),
)  # fmt: skip

STUDY = Study(
    slug="dump",
    arms={
        "uniform": _arm(uniform, "levels drawn evenly"),
        "dump": _arm(bandit(), "levels drawn by mean |advantage| and exploration bonus"),
        "easy to hard": _arm(easy_to_hard, "the levels in order, a fifth of the rounds each"),
        "no bonus": _arm(bandit(bonus=False), "dump without the exploration bonus"),
        "signed": _arm(bandit(absolute=False), "dump on the mean advantage, which is always 0: the bonus alone"),
    },
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="4k parameters / 48 rollouts"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.2M parameters / 5k rollouts"),
        "cpu": Scale(settings=CPU, seeds=5, size="0.2M parameters / 26k rollouts"),
        "paper": Scale(settings=PAPER, seeds=1, size="7.6B parameters / 344k rollouts", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="uniform",
    headline="area",
    lower_is_better=False,
    plots=(
        Plot(title="Success on held-out problems, all levels", kind="curve", curve="success / rollouts"),
        *(
            Plot(title=f"Success on held-out problems, level {k}", kind="curve", curve=f"success, level {k} / rollouts")
            for k in range(1, len(CPU.levels) + 1)
        ),
        *(mixture_of(arm) for arm in ("dump", "no bonus", "signed", "easy to hard")),
    ),
    deviations=DEVIATIONS,
    paper_size="7B / 12 difficulties of Knights and Knaves, 344k rollouts",
    failure=dict.fromkeys(("area", "success", "success, two hardest"), 0.0),
    build_paper_model=paper_model,
    paper_parameters={"Qwen2.5-7B": (7.61e9, "Qwen2.5-7B's model card; the paper says 7B")},
)
