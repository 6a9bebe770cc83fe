"""The paper's own scale, where its settings come from, and what this study does otherwise."""

from __future__ import annotations

from typing import Any

from etude.papers.order.skill_it.settings import AdditionSettings, GenreSettings, LegoSettings, Settings

NETWORK: dict[str, Any] = {
    "vocab": 50_257, "width": 768, "depth": 12, "heads": 12, "tied": True, "init_std": 0.02, "context": 128, "batch": 32, "held": 100,
    "margin": 0.0, "num_test": 100, "muon_lr": 0.0,
}  # fmt: skip
PAPER = Settings(
    addition=AdditionSettings(
        **NETWORK, digits=3, skew=(13, 14, 18), pool=192_000, steps=6_000, lr=5e-5, warmup=50 / 6_000, eta=0.1, update_every=1_200,
        checks=24, probe_steps=6_000, evaluations=120,
    ),
    lego=LegoSettings(
        **NETWORK, variables=5, skew=(1, 1, 1, 3, 5), pool=192_000, base_skills=1, base_steps=1, steps=6_000, lr=5e-5, warmup=50 / 6_000,
        eta=0.5, update_every=1_000, checks=20, probe_steps=6_000, evaluations=120,
    ),
    genres=GenreSettings(
        **NETWORK, genres=(), skew=(), steps=5_000, lr=5e-6, warmup=50 / 5_000, eta=0.2, update_every=500, checks=1, probe_steps=100,
        evaluations=10,
    ),
)  # fmt: skip

CODE = "authors' code at 807b3bf"
TRAINER = f"{CODE}, trainer/utils.py: create_optimizer_scheduler"
GPT_NEO = "GPT-Neo-125M as its makers describe it: 12 layers of width 768, 12 heads, inner width 3,072; positions left out"
PARAMETERS = {"GPT-Neo-125M": (125.2e6, "GPT-Neo-125M's model card; ours has no positions of its own (1.6M)")}


def common(bed: str, script: str) -> dict[str, str]:
    """Sources of the settings that all testbeds have. script: the authors' for this testbed's data."""
    told = f"{CODE}, {script}"
    found = {
        **dict.fromkeys(("vocab", "width", "depth", "heads", "tied"), GPT_NEO),
        "hidden": "8/3 of the width: SwiGLU with the parameters of their 4 x width", "context": told,
        "init_std": "not used: the model is pretrained", "batch": told, "steps": told, "lr": f"{CODE}, main.py: the default",
        "muon_lr": "none: AdamW", "warmup": f"{TRAINER}: 50 steps", "weight_decay": TRAINER, "skew": f"{told}: run_random.sh",
        "eta": told, "window": told, "update_every": told, "checks": f"{told}: num_ckpts", "held": f"{CODE}, dataset: 100 of each skill",
        "probes": "arXiv 2307.14430, appendix: learnt by pairs", "probe_steps": f"{CODE}, README.md: whole runs", "margin": "none",
        "num_test": f"{CODE}, dataset: the same 100 of each skill", "evaluations": f"{told}: num_ckpts",
    }  # fmt: skip
    return {f"{bed}.{name}": source for name, source in found.items()}


SOURCES = {
    **common("addition", "scripts/addition/pt/skillit.sh"),
    "addition.digits": f"{CODE}, scripts/addition/pt: k 3",
    "addition.pool": "every step's samples are new: 6,000 of 32",
    **common("lego", "scripts/lego/pt/skillit.sh"),
    "lego.variables": f"{CODE}, scripts/lego/pt: k 5",
    "lego.pool": "every step's samples are new: 6,000 of 32",
    **dict.fromkeys((f"lego.{name}" for name in ("base_skills", "base_steps", "base_batch", "base_lr")), "none: the base is given"),
    **common("genres", "scripts/ni/ood/skillit.sh"),
    "genres.corpus": "assumed: theirs are Natural Instructions and RedPajama",
    "genres.genres": "assumed: all",
    "genres.skew": "not used",
    "genres.lr": f"{CODE}, scripts/ni/ood/skillit.sh",
    "genres.probes": "arXiv 2307.14430, appendix: the approximate graph",
    "genres.probe_steps": "assumed",
}  # fmt: skip

DEVIATIONS = (
    ("model", "GPT-Neo-125M, pretrained", "0.1M, from scratch (LEGO: taught the first two variables here)", "runs on two cores",
     "no order of skills is known beforehand"),
    ("loss of sums and chains", "of every token, as text", "of the answer alone", "the other tokens are random", "faster for all"),
    ("sums", "three digits as text", "four digits, a digit's token tells its place too", "positions are relative in our network",
     "faster for all; what is learnt of one place tells nothing of another, so that fewer skills help others"),
    ("chains", "five variables, as text", "three variables, words without the signs between them", "two cores", "faster for all"),
    ("corpus", "Natural Instructions by task, RedPajama by source", "genres of the Brown corpus, as bytes",
     "a real corpus with domains that fits", "genres are nearer to each other"),
    ("genres' graph", "edges by the approximate method, some cut by hand", "the share of a loss that training on one genre takes away",
     "no code of theirs learns it", "nearly full: it says little"),
    ("random data", "digits 13:14:18", "1:1:3:5", "more room between random and even draws", "a larger gain over random"),
    ("curriculum", "by the pretrained model's losses", "by the place of the digit", "at the start all losses are alike", "small"),
    ("steered by", "the losses of the evaluation set itself", "samples held back from the training data",
     "no leak into what is measured", "none"),
    ("draws", "each stretch has the skills in exact proportions", "each sample's skill is drawn", "the shared mixture does so", "small"),
    ("graph", "learnt once, for all seeds", "learnt anew at every seed", "its noise is part of the method", "fewer true edges"),
    ("an edge", "any gain", "a loss lower by 5 % at least", "one seed's losses are noisy", "fewer false edges"),
    ("optimizer", "AdamW", "Muon for the hidden matrices, AdamW for the rest", "sums are learnt in half of the steps", "faster for all"),
    ("schedule", "linear decay from 50 warm-up steps", "cosine", "the shared one", "small"),
)  # fmt: skip
