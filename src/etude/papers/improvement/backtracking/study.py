"""The study: what traces with none, one or several backtracks, and traces without content, are worth to the same reinforcement learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from etude.evidence.claims import Better, Equivalent
from etude.evidence.study import Arm, Plot, Scale, Study
from etude.nn.transformer import Transformer
from etude.papers.improvement.backtracking import arms
from etude.papers.improvement.backtracking.settings import Settings
from etude.papers.improvement.backtracking.testbed import model_config
from etude.papers.improvement.backtracking.warmup import Warmup

CPU = Settings()
QUICK = replace(
    CPU, base_updates=400, base_rows=8_000, rows=400, warm_updates=60, pool=400, updates=8, prompts=4,
    num_test=60, test_samples=2, evaluations=3,
)  # fmt: skip
SMOKE = replace(
    QUICK, width=16, depth=1, heads=2, base_updates=20, base_batch=16, base_lr=1e-2, base_rows=64, rows=16, warm_updates=3,
    warm_batch=8, pool=8, updates=1, prompts=2, samples=2, num_test=4, test_samples=1, evaluations=2, max_tokens=112,
)  # fmt: skip


def planned(settings: Settings, cold: bool) -> Mapping[str, float]:
    """What a run will spend, as far as that does not depend on what the model says."""
    return {
        "train.steps": settings.updates + (0 if cold else settings.warm_updates),
        "generate.samples": settings.updates * settings.prompts * settings.samples,
    }


def _arm(how: Warmup | None, about: str) -> Arm:
    return Arm(run=partial(arms.run, how=how), about=about, planned=partial(planned, cold=how is None))


ARMS = {
    "cold start": _arm(None, "no warm-up: the base, which solves straight on"),
    "no backtrack": _arm(Warmup(num_backtracks=0), "right paths alone"),
    "1 backtrack": _arm(Warmup(num_backtracks=1), "one backtrack in every trace"),
    "3 backtracks": _arm(Warmup(num_backtracks=3), "three"),
    "5 backtracks": _arm(Warmup(num_backtracks=5), "five"),
    "random": _arm(Warmup(num_backtracks=5, content="random"), "none to five, by chance"),
    "padded": _arm(Warmup(num_backtracks=3, content="padded"), "right paths, as long as with three by neutral lines"),
    "shuffled": _arm(Warmup(num_backtracks=3, content="shuffled"), "three, the lines of working in random order"),
    "swapped": _arm(Warmup(num_backtracks=3, content="swapped"), "three, the right answer under another problem's working"),
    "wrong end": _arm(Warmup(num_backtracks=3, content="wrong end"), "three, then a wrong answer"),
}

EQUAL = ("train.steps", "generate.samples")
HARDER = "success, 4 numbers"
CLAIMS = (
    Better(
        text="On the harder level, warm-up traces with three backtracks lead to more success after reinforcement learning than right paths",
        arm="3 backtracks", baseline="no backtrack", metric=HARDER, lower_is_better=False, d=0.03, equal=EQUAL, primary=True,
    ),
    Better(
        text="One backtrack is enough for that on the easier level",
        arm="1 backtrack", baseline="no backtrack", metric="success, 3 numbers", lower_is_better=False, d=0.03, equal=EQUAL,
    ),
    Better(
        text="Five backtracks rather than none gain more on the harder level than on the easier one",
        arm="5 backtracks", baseline="no backtrack", metric="harder less easier", lower_is_better=False, d=0.03, equal=EQUAL,
    ),
    Better(
        text="The backtracks do it, not the length: three beat right paths padded to as many tokens",
        arm="3 backtracks", baseline="padded", metric="success", lower_is_better=False, d=0.03, equal=EQUAL,
    ),
    Better(
        text="Three backtracks beat none at equally many sampled tokens too",
        arm="3 backtracks", baseline="no backtrack", curve="success / sampled tokens", lower_is_better=False, d=0.03,
        equal=("train.steps",),
    ),
    Better(
        text="Right paths as a warm-up beat a cold start",
        arm="no backtrack", baseline="cold start", metric="success", lower_is_better=False, d=0.03, equal=("generate.samples",),
    ),
    Equivalent(
        text="Whether traces end in a right answer does not matter to what reinforcement learning comes to",
        arm="wrong end", baseline="3 backtracks", metric="success", lower_is_better=False, d=0.05, equal=EQUAL,
    ),
    Equivalent(
        text="Nor does whether the working belongs to the problem (structure without content)",
        arm="swapped", baseline="3 backtracks", metric="success", lower_is_better=False, d=0.05, equal=EQUAL,
    ),
    Better(
        text="With three backtracks success falls less on the way than with none",
        arm="3 backtracks", baseline="no backtrack", metric="largest fall", d=0.01, equal=EQUAL,
    ),
)  # fmt: skip

PAPER = Settings(
    levels=(4, 6), operations="+-*/", largest=100, vocab=151_936, width=2048, depth=36, heads=16, kv_heads=2, hidden=11_008, context=6_000,
    rows=8_000, numbers=(0, 1, 2, 3), warm_updates=125, warm_batch=256, warm_lr=1e-5, straight_lr=1e-5, updates=300, prompts=128,
    samples=8, lr=1e-6, max_tokens=4_096, test_samples=8,
)  # fmt: skip
CODE = "authors' code, jchy20/how-much-backtrack at df310b4"
QWEN = "Qwen2.5-3B-Instruct as in pytorch/torchtune at 47a9e19, torchtune/models/qwen2_5/_model_builders.py: qwen2_5_3b"
SOURCES = {
    "levels": f"{CODE}, reasoning-gym/countdown.py: 4 to 6 numbers", "operations": f"{CODE}, reasoning-gym/countdown.py",
    "largest": f"{CODE}, reasoning-gym/countdown.py: max_value 100",
    "base_rows": "ours: the paper's base is given", "base_updates": "ours", "base_batch": "ours", "base_lr": "ours",
    "vocab": QWEN, "width": QWEN, "depth": QWEN, "heads": QWEN, "kv_heads": QWEN, "hidden": QWEN, "tied": QWEN,
    "context": f"{CODE}, README: MAX_LENGTH=6000 of SFT",
    "numbers": f"{CODE}, reasoning_gym/games/countdown.py: none to three; for sudoku 0, 1, 3, 5, 10",
    "rows": f"{CODE}, README: sft_size=8000",
    "warm_updates": f"{CODE}, verl/trainer/config/sft_trainer.yaml: 4 epochs of 8,000 rows by 256 (folders at 8f586d4 are named sft300)",
    "warm_batch": f"{CODE}, sft_trainer.yaml", "warm_lr": f"{CODE}, sft_trainer.yaml",
    "straight_lr": f"{CODE}, sft_trainer.yaml: one rate for all",
    "pool": "assumed",
    "updates": "the same at 8f586d4, eval/eval.sh: countdown after warm-ups is read at step 300 (from the base, at 46fc170, at step 500)",
    "prompts": f"{CODE}, rl-scripts/grpo.sh: train_batch_size 128", "samples": f"{CODE}, grpo.sh: rollout.n 8",
    "lr": f"{CODE}, grpo.sh", "max_tokens": f"{CODE}, README: MAX_RESPONSE_LENGTH=4096",
    "format_score": f"{CODE}, verl/utils/reward_score/countdown.py",
    "num_test": "assumed", "test_samples": f"{CODE}, grpo.sh: rollout.n_val 8", "evaluations": "assumed (every 20 updates: test_freq)",
}  # fmt: skip
DEVIATIONS = (
    (
        "model",
        "Qwen2.5-3B-Instruct",
        "0.2M, taught here on solutions and on walks that go back without a target",
        "runs on two cores",
        "less to build on",
    ),
    (
        "tasks",
        "eight of reasoning-gym",
        "countdown with 3 and 4 numbers up to 9, + and -, both in one run; the others load and verify",
        "what a small model can hold in minutes",
        "smaller differences between levels",
    ),
    (
        "traces",
        "a false branch is one walk into a dead end, told in English; an error path of countdown may give up a state that can be solved",
        "each false branch is searched until nothing is left; every return counts",
        "false branches truly fail, and a parser counts k",
        "longer traces at equal k",
    ),
    ("reinforcement learning", "two updates of 64 prompts a round", "one update of 16 prompts a round", "a small model", "none expected"),
    (
        "warm-up",
        "one learning rate",
        "one for traces that turn back, one for those that do not",
        "each set's own best of a grid",
        "smaller effect",
    ),
    (
        "wrong traces",
        "distilled from QwQ-32B, kept where the answer is wrong",
        "the trace stops at a dead end and answers with it",
        "no stronger model here",
        "the steps are valid, so less is wrong",
    ),
    (
        "problems of the warm-up",
        "all; sudoku's get fewer backtracks where there are not so many",
        "those with a trace for every k",
        "k must not tell how hard a problem is",
        "none",
    ),
)

STUDY = Study(
    slug="backtracking",
    arms=ARMS,
    scales={
        "smoke": Scale(settings=SMOKE, seeds=1, size="5k parameters / 4 rollouts"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.2M parameters / 256 rollouts"),
        "cpu": Scale(settings=CPU, seeds=4, size="0.2M parameters / 8k rollouts"),
        "paper": Scale(settings=PAPER, seeds=3, size="3.1B parameters / 0.3M rollouts", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="no backtrack",
    headline="success",
    lower_is_better=False,
    plots=(
        Plot(title="Success on held-out problems over updates", kind="curve", curve="success / updates"),
        Plot(title="Success on held-out problems over sampled tokens", kind="curve", curve="success / sampled tokens"),
        Plot(title="Length of responses over updates", kind="curve", curve="response tokens / updates", limits=(0, float("inf"))),
        Plot(title="Backtracks in a response over updates", kind="curve", curve="backtracks / updates", limits=(0, float("inf"))),
        Plot(title="Success with three numbers", kind="bars", metric="success, 3 numbers"),
        Plot(title="Success with four numbers", kind="bars", metric="success, 4 numbers"),
        Plot(title="Tokens of a warm-up trace", kind="bars", metric="trace tokens", limits=(0, float("inf"))),
    ),
    deviations=DEVIATIONS,
    paper_size="3B / up to 0.5M rollouts of 4,096 tokens",
    failure={
        "success": 0.0, "success, 3 numbers": 0.0, "success, 4 numbers": 0.0, "harder less easier": 0.0, "largest fall": 1.0, "gain": 0.0,
    },
    build_paper_model=lambda s: Transformer(model_config(s)),
    paper_parameters={"Qwen2.5-3B": (3.09e9, "Qwen2.5 technical report, arXiv 2412.15115, and its model card: 3.09B")},
)  # fmt: skip
