"""The study: one language model a seed, tuned on for as many tokens by next tokens, by DITTO and by two kinds of unlikelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from etude.evidence.claims import AtLeast, Better, Equivalent
from etude.evidence.study import Arm, Plot, Scale, Study
from etude.papers.objective.ditto import arms
from etude.papers.objective.ditto.settings import Settings

CPU = Settings()
QUICK = replace(
    CPU, corpus="sample", echo_updates=100, base_updates=250, updates=60, num_prompts=60, num_pairs=60, held_out_windows=64, evaluations=3,
)  # fmt: skip
SMOKE = replace(
    QUICK, tokenizer="byte", vocab=256, width=16, depth=1, context=128, batch=4, echo_updates=2, base_updates=8, updates=6, prompt=16,
    continuation=16, num_prompts=4, num_copies=2, num_pairs=4, held_out_windows=4, evaluations=2,
)  # fmt: skip


def planned(settings: Settings) -> Mapping[str, float]:
    return {"train.tokens": settings.tokens}


def _arm(way: arms.Way, about: str) -> Arm:
    return Arm(run=lambda job: arms.run(job, way), about=about, planned=planned)


ARMS = {
    "mle": _arm(arms.MLE, "the base, tuned on next tokens"),
    "ditto": _arm(arms.ditto(), "half of the updates on repeated sentences, each copy to be half as likely as the one before"),
    "unlikelihood": _arm(arms.TOKENS, "next tokens, and unlikelihood of the tokens that stood before"),
    "sequence unlikelihood": _arm(arms.SEQUENCES, "half of the updates on greedy continuations, unlikelihood of the 4-grams they repeat"),
    "decay 1": _arm(arms.ditto(decay=1.0), "ditto, each copy to be as likely as the one before"),
    "base": Arm(run=lambda job: arms.run(job, None), about="the base as it is", reference=True),
}

EQUAL = ("train.tokens",)
# Left out after pilots: that it says fewer whole sentences again. No arm, nor the base, says more than 4 % of them again.
CLAIMS = (
    Better(
        text="Continued greedily, the model tuned by DITTO repeats fewer of its 4-grams than one tuned on next tokens",
        arm="ditto", baseline="mle", metric="repetition", d=0.05, equal=EQUAL, primary=True,
    ),
    Equivalent(
        text="Its loss on held-out text is the same, within 2 % of the perplexity",
        arm="ditto", baseline="mle", metric="held-out loss", d=0.02, equal=EQUAL,
    ),
    Better(  # this one and the next were added after pilots, see evidence/tuning/ditto.md
        text="Drawn at temperature 0.3, where loops are not bound to come, its continuations repeat fewer 4-grams too (added after pilots)",
        arm="ditto", baseline="mle", metric="repetition, low temperature", d=0.05, equal=EQUAL,
    ),
    Better(
        text="There, copies that are to be as likely as the one before help less (added after pilots)",
        arm="ditto", baseline="decay 1", metric="repetition, low temperature", d=0.05, equal=EQUAL,
    ),
    Better(
        text="It repeats less than a model tuned by unlikelihood of earlier tokens",
        arm="ditto", baseline="unlikelihood", metric="repetition", d=0.02, equal=EQUAL,
    ),
    Better(
        text="It repeats less than a model tuned by unlikelihood of its own continuations",
        arm="ditto", baseline="sequence unlikelihood", metric="repetition", d=0.02, equal=EQUAL,
    ),
    Better(
        text="Its held-out loss is lower than that of a model tuned by unlikelihood of earlier tokens",
        arm="ditto", baseline="unlikelihood", metric="held-out loss", d=0.01, equal=EQUAL,
    ),
    Better(
        text="The decay is what does it: copies that are to be as likely as the one before help less (the control)",
        arm="ditto", baseline="decay 1", metric="repetition", d=0.05, equal=EQUAL,
    ),
    Better(
        text="Said for the fifth time in a row, a sentence is less likely than after tuning on next tokens",
        arm="ditto", baseline="mle", metric="probability, last copy", d=0.02, equal=EQUAL,
    ),
    AtLeast(
        text="Tuned on next tokens, the model finds most sentences likelier the fifth time in a row than the first (self-reinforcement)",
        arm="mle", metric="risen, last copy", threshold=0.75,
    ),
    AtLeast(
        text="Self-reinforcement is stronger for the likelier half of sentences: these gain more from the first to the fifth time",
        arm="mle", metric="growth, difference", threshold=0.0, d=0.01,
    ),
)  # fmt: skip

PAPER = Settings(
    corpus="wikitext-103", tokenizer="words", ends=".", vocab=267_744, width=1_024, depth=16, heads=8, hidden=2_731, tied=False,
    shifted=False, init_std=0.02, context=1_536, echo_updates=0, echoes=0.0, base_updates=286_000, base_lr=1e-4, batch=48,
    updates=10_000, lr=1e-4, unlikelihood_lr=1e-4, warmup=0.056, weight_decay=0.0, coin="row", num_prompts=1_618, evaluations=100,
)  # fmt: skip
CODE = "authors' code at 35f5a22"
DITTO = f"{CODE}, runs/DITTO.sh"
NETWORK = f"{CODE}, fairseq/custom/transformer_arch.py over fairseq's transformer_lm_big"
SOURCES = {
    "corpus": f"{CODE}, README.md", "tokenizer": f"{CODE}, README.md: words of the binarised Wikitext-103",
    "ends": f"{CODE}, fairseq/custom/repetetion_penalty_accum_loss.py", "vocab": "assumed: words of Wikitext-103 as fairseq counts them",
    "width": NETWORK, "depth": NETWORK, "heads": NETWORK, "tied": NETWORK, "shifted": NETWORK,
    "echo_updates": f"{CODE}, runs/MLE.sh: none",
    "echoes": f"{CODE}, runs/MLE.sh: none", "init_std": "assumed",
    "hidden": "2/3 of their 4,096: SwiGLU with the parameters of their two matrices",
    "context": DITTO, "base_updates": f"{CODE}, runs/MLE.sh", "base_lr": f"{CODE}, runs/MLE.sh: of NAG",
    "batch": f"{DITTO}: 6 rows accumulated on each of the README's 8 devices (the base: 3)",
    "updates": f"{DITTO}: at most", "lr": f"{DITTO}: of NAG", "unlikelihood_lr": "assumed: as DITTO's",
    "warmup": f"{CODE}, runs/MLE.sh: 16,000 of 286,000 updates; none for DITTO", "weight_decay": f"{DITTO}: fairseq's default",
    "decay": f"{DITTO}: rep_reduce_gamma", "rate": f"{DITTO}: sequence-level-train-rate",
    "coin": f"{CODE}, fairseq/custom/language_modeling_pealize_rep.py: one a micro-batch, which is one row",
    "alpha": f"{DITTO}: rank-alpha", "prompt": f"{CODE}, runs/Generate_and_eval_greedy.sh",
    "continuation": f"{CODE}, runs/Generate_and_eval_greedy.sh", "num_prompts": "assumed: the test split in stretches of 150 tokens",
    "top_p": "assumed", "temperature": "ours", "num_copies": "ours", "num_pairs": "ours", "held_out_windows": "ours",
    "evaluations": f"{DITTO}: every 100 updates",
}  # fmt: skip
DEVIATIONS = (
    ("text", "Wikitext-103, words", "King James Bible, 512 byte pairs", "two cores", "more repetition in the text itself"),
    ("ends of sentences", "the full stop", ". ? ! : ;", "a third of rows have no three full stops", "shorter sentences repeated"),
    ("model", "16 layers of width 1,024, dropout", "2 of width 64, tokens with a map of the one before, no dropout", "two cores; such a "
     "map lets it copy", "loops that come of a short view, not of self-reinforcement, are left under greedy decoding"),
    ("base", "text alone", "200 updates on rows of random tokens again and again, then a tenth of such rows", "on text models of this "
     "size do not come to copy, no self-reinforcement to cure (trials)", "self-reinforcement is partly taught"),
    ("decoding", "greedy and nucleus", "temperature 0.3 beside them", "greedy continuations of a base without self-reinforcement loop as "
     "much (trials)", "none on the first claim"),
    ("optimizer", "NAG, at most 10,000 updates of 48 rows", "AdamW, 150 of 16", "two cores", "unknown"),
    ("checkpoint", "the best by validation perplexity", "the last", "no choice on data that is measured on", "small"),
    ("coin", "one a row in the code", "one an update, as the paper puts it", "the text is the paper's", "none"),
    ("room", "a copy and some tokens", "two whole copies after the prefix", "a copy cut short teaches little", "none"),
    ("quality", "MAUVE", "distinct 2-grams, human text beside", "no judge of texts of this kind", "none"),
)  # fmt: skip

STUDY = Study(
    slug="ditto",
    arms=ARMS,
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="7k parameters / 1.5k tokens"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.14M parameters / 0.9M tokens, 0.15M more"),
        "cpu": Scale(settings=CPU, seeds=5, size="0.14M parameters / 5.6M tokens, 0.4M more"),
        "paper": Scale(settings=PAPER, seeds=1, size="0.75B parameters / 740M tokens of tuning", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="mle",
    headline="repetition",
    plots=(
        Plot(title="Repeated 4-grams of greedy continuations", kind="bars", metric="repetition"),
        Plot(title="Repeated 4-grams over tuning, at equal tokens", kind="curve", curve="repetition / tokens"),
        Plot(title="Held-out loss over tuning, at equal tokens", kind="curve", curve="held-out loss / tokens"),
        Plot(title="Probability of a sentence said again and again", kind="curve", curve="probability / copy", limits=(0, 1)),
    ),
    data=("kjv",),
    deviations=DEVIATIONS,
    paper_size="0.75B / Wikitext-103",
    failure={
        "repetition": 1.0,
        "held-out loss": math.log(CPU.vocab),
        "probability, last copy": 1.0,
        "risen, last copy": 0.0,
        "growth, difference": 0.0,
    },
    build_paper_model=arms.network,
)
