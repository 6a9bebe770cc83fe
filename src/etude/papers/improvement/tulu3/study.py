"""The study: what each stage of a chain adds, where what a stage is left without goes to SFT, at equally many tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from etude.evidence.claims import AtLeast, Better, Equivalent
from etude.evidence.study import Arm, Plot, Scale, Study
from etude.nn.transformer import Transformer
from etude.papers.improvement.tulu3 import arms
from etude.papers.improvement.tulu3.settings import Settings

CPU = Settings()
QUICK = replace(
    CPU, base_updates=500, base_batch=48, sft_tokens=60_000, dpo_tokens=50_000, rlvr_tokens=100_000, pair_prompts=400, reward_updates=20,
    num_test=60,
)  # fmt: skip
SMOKE = replace(
    QUICK, width=16, depth=1, heads=2, base_rows=120, base_updates=6, base_batch=16, base_lr=1e-2, sft_rows=40, sft_tokens=1_000,
    dpo_tokens=1_600, rlvr_tokens=3_000, pair_prompts=12, reward_updates=2, reward_batch=16, dpo_batch=16, sft_batch=16, rl_prompts=20,
    round_prompts=8, num_test=4, num_scraped=10,
)  # fmt: skip


def planned(settings: Settings) -> dict[str, float]:
    return {"stage_tokens": settings.total_tokens}


def _chain(about: str, **stages: object) -> Arm:
    return Arm(run=partial(arms.chain, **stages), about=about, planned=planned)


ARMS = {
    "base": Arm(run=arms.base, about="the base, no stage", reference=True),
    "SFT": _chain("supervised fine-tuning for all of the tokens"),
    "SFT+DPO": _chain("SFT, then length-normalised DPO", dpo="normalised"),
    "SFT+RLVR": _chain("SFT, then PPO on verified rewards", rlvr=True),
    "full chain": _chain("SFT, length-normalised DPO, PPO on verified rewards", dpo="normalised", rlvr=True),
    "chain, plain DPO": _chain("the same with plain DPO", dpo="plain", rlvr=True),
}

EQUAL = ("stage_tokens",)


def _better(text: str, arm: str, baseline: str, d: float, metric: str = "success", primary: bool = False) -> Better:
    return Better(text=text, arm=arm, baseline=baseline, metric=metric, lower_is_better=False, d=d, equal=EQUAL, primary=primary)


CLAIMS = (
    _better("SFT, DPO and RLVR in a chain solve more than SFT alone on as many tokens", "full chain", "SFT", 0.02, primary=True),
    _better("Length-normalised DPO after SFT adds to SFT", "SFT+DPO", "SFT", 0.01),
    _better("RLVR adds to SFT and DPO", "full chain", "SFT+DPO", 0.02),
    _better("RLVR adds to SFT without DPO", "SFT+RLVR", "SFT", 0.02),
    _better(
        "Exploratory, added after pilots had shown it: RLVR adds to SFT and DPO in answers drawn at temperature 1",
        "full chain", "SFT+DPO", 0.02, metric="sampled success",
    ),
    _better("RLVR that starts from the DPO model ends above RLVR that starts from the SFT model", "full chain", "SFT+RLVR", 0.01),
    _better("Length-normalised DPO makes a better chain than plain DPO", "full chain", "chain, plain DPO", 0.01),
    Equivalent(
        text="What RLVR was not shown, other lengths and more constraints, it moves by less than 3 points",
        arm="full chain", baseline="SFT+DPO", metric="unseen success", lower_is_better=False, d=0.03, equal=EQUAL,
    ),
    AtLeast(text="Decontamination finds every planted leak", arm="SFT", metric="leaks found", threshold=1.0),
)  # fmt: skip

PAPER = Settings(
    vocab=128_256, width=4096, depth=32, heads=32, kv_heads=8, hidden=14_336, rope_base=500_000.0, tied=False, context=4096,
    sft_rows=939_000, sft_wrong=0.0, sft_lr=5e-6, sft_batch=128, sft_warmup=0.03, pair_prompts=271_409, dpo_lr=5e-7, dpo_beta=5.0,
    plain_lr=5e-7, plain_beta=0.1, dpo_batch=128, dpo_warmup=0.1, reward_lr=3e-6, reward_batch=256, reward_updates=1_060,
    rl_prompts=29_946, rlvr_lr=3e-7, value_lr=3e-7, round_prompts=224, samples=1, epochs=4, kl=0.05, paid=10.0, unfinished=-10.0,
    value_weight=0.1, value_clip=0.2, max_tokens=2048,
)  # fmt: skip
CODE = "docs/tulu3.md of allenai/open-instruct"
PPO_CODE = "open_instruct/ppo_vllm_thread_ray_gtrl.py, default"
LLAMA = "Llama 3.1 8B"
SOURCES = {
    "vocab": LLAMA, "width": LLAMA, "depth": LLAMA, "heads": LLAMA, "kv_heads": LLAMA, "hidden": LLAMA, "rope_base": LLAMA, "tied": LLAMA,
    "context": f"{CODE}: max_seq_length 4096",
    "base_rows": "ours: the paper's base is given", "base_wrong": "ours", "base_updates": "ours", "base_batch": "ours", "base_lr": "ours",
    "sft_rows": "dossier: 939k prompts", "sft_wrong": "assumed", "sft_tokens": "ours: theirs are 2 epochs", "sft_lr": CODE,
    "sft_batch": CODE, "sft_warmup": CODE,
    "pair_prompts": "data card of the 8B preference mixture: 271,409 pairs",
    "judge_errs": "assumed: theirs is GPT-4o", "dpo_tokens": "ours: theirs is 1 epoch",
    "dpo_lr": CODE, "dpo_beta": CODE, "plain_lr": "assumed: as the normalised loss", "plain_beta": "assumed", "dpo_batch": CODE,
    "dpo_warmup": CODE,
    "reward_updates": "one epoch of the pairs", "reward_lr": CODE, "reward_batch": CODE,
    "rl_prompts": "table 22", "rlvr_tokens": "ours: theirs are 100,000 episodes (table 21)", "rlvr_lr": CODE,
    "value_lr": f"{PPO_CODE}: one rate for both", "round_prompts": f"{CODE}: 7 times 32", "samples": PPO_CODE, "epochs": "table 21",
    "kl": CODE, "paid": PPO_CODE, "unfinished": CODE, "value_weight": PPO_CODE, "value_clip": PPO_CODE, "max_tokens": CODE,
    "num_test": "ours", "num_scraped": "ours",
}  # fmt: skip
DEVIATIONS = (
    ("model", "Llama 3.1, 8B to 405B", "0.2M, taught here", "runs on two cores", "unknown"),
    (
        "tasks",
        "knowledge, reasoning, mathematics, code, instructions, safety",
        "countdown, sums, constrained strings, key recall",
        "fits 0.2M parameters",
        "every family is verifiable, where few of theirs are: RLVR has more to gain in the mean",
    ),
    (
        "demonstrations",
        "939k, from people and strong models",
        "7,000, one in ten wrong as in the base's own rows: about two epochs in a chain, six where SFT goes on",
        "two epochs as theirs; tokens must be equal",
        "the base has been taught such rows already: a smaller effect of SFT than theirs on a base that follows no instructions",
    ),
    (
        "preferences",
        "four answers of a pool of models, marked by GPT-4o on four aspects",
        "two of the policy and two of the base, marked by the verifier, one mark in ten drawn at random",
        "no judge here",
        "a judge that knows what RLVR will pay for: larger effect of DPO",
    ),
    ("learning rates", "5e-6, 5e-7, 3e-7", "tuned, a hundred times these and more", "a small model", "none expected"),
    ("gradients", "policy and value net clipped apart", "clipped together", "one trainer", "small"),
    (
        "evaluations",
        "whole benchmarks",
        "85 to 150 prompts a family, as many different ones as its level has",
        "short questions of small numbers",
        "wider intervals",
    ),
    ("rounds", "224 prompts, 4 epochs", "64 prompts, 1 epoch", "more of the tokens are new answers; tuned", "larger effect of RLVR"),
    ("rollouts", "one update behind the policy", "of the present policy", "no engines beside each other", "small"),
    (
        "loss of SFT",
        "summed over the batch",
        "that sum over its number of tokens",
        "one scale of the gradient for all batch sizes",
        "small",
    ),
    ("decontamination", "8-grams of words", "the same; a constraint is one word", "prompts are short and mostly wording", "none expected"),
    ("tokens", "each stage as long as helps", "equal for all arms; SFT gets those of a stage left out", "what is claimed", "none"),
)

STUDY = Study(
    slug="tulu3",
    arms=ARMS,
    scales={
        "smoke": Scale(settings=SMOKE, seeds=1, size="4k parameters / 6k tokens after the base"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.2M parameters / 0.21M tokens after the base"),
        "cpu": Scale(settings=CPU, seeds=5, size="0.2M parameters / 0.73M tokens after the base"),
        "paper": Scale(settings=PAPER, seeds=3, size="8B parameters / 939k demonstrations, 270k pairs, 100k episodes", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="SFT",
    headline="success",
    lower_is_better=False,
    plots=(
        Plot(title="Success on the development evaluation", kind="bars", metric="success"),
        Plot(title="Success of answers at temperature 1", kind="bars", metric="sampled success"),
        Plot(title="Success on the unseen evaluation", kind="bars", metric="unseen success"),
        Plot(title="Success after each stage, over tokens", kind="curve", curve="success / tokens"),
    ),
    deviations=DEVIATIONS,
    paper_size="8B / 939k demonstrations, 270k pairs, 100k episodes",
    failure={"success": 0.0, "unseen success": 0.0, "sampled success": 0.0},
    build_paper_model=lambda s: Transformer(arms.model_config(s)),
    paper_parameters={LLAMA: (8.03e9, "Llama 3.1 model card: 8B")},
)
