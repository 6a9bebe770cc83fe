"""Where the paper-scale settings come from, and what all three studies do otherwise than the paper."""

from __future__ import annotations

CODE = "authors' code at 807b3bf"
TRAINER = f"{CODE}, trainer/utils.py: create_optimizer_scheduler"
GPT_NEO = "GPT-Neo-125M as its makers describe it: 12 layers of width 768, 12 heads, inner width 3,072; positions left out"
PARAMETERS = {"GPT-Neo-125M": (125.2e6, "GPT-Neo-125M's model card; ours has no positions of its own (1.6M)")}
NETWORK = {"vocab": 50_257, "width": 768, "depth": 12, "heads": 12, "tied": True, "init_std": 0.02}


def common(script: str) -> dict[str, str]:
    """Sources of the settings that the studies share. script: the authors' for this study's data."""
    told = f"{CODE}, {script}"
    return {
        **dict.fromkeys(("vocab", "width", "depth", "heads", "tied"), GPT_NEO),
        "hidden": "8/3 of the width: SwiGLU with the parameters of their 4 x width", "context": told,
        "init_std": "not used: the model is pretrained", "batch": told, "steps": told, "lr": f"{CODE}, main.py: the default",
        "muon_lr": "none: AdamW", "warmup": f"{TRAINER}: 50 steps", "weight_decay": TRAINER, "skew": f"{told}: run_random.sh",
        "eta": told, "window": told, "update_every": told, "checks": f"{told}: num_ckpts", "held": f"{CODE}, dataset: 100 of each skill",
        "probes": "arXiv 2307.14430, appendix: learnt by pairs", "probe_steps": f"{CODE}, README.md: whole runs", "margin": "none",
        "num_test": f"{CODE}, dataset: the same 100 of each skill", "evaluations": f"{told}: num_ckpts",
    }  # fmt: skip


DEVIATIONS = (
    ("steered by", "the losses of the evaluation set itself", "samples held back from the training data", "no leak into what is measured",
     "none"),
    ("window", "the last 3 of 120 checkpoints, the newest some steps before an update", "the checks, one at each update",
     "algorithm 1 of the paper; fewer checks are charged", "losses of the window are older"),
    ("draws", "each stretch has the skills in exact proportions", "each sample's skill is drawn", "the shared mixture does so", "small"),
    ("graph", "learnt once, for all seeds", "learnt anew at every seed", "its noise is part of the method", "fewer true edges"),
    ("schedule", "linear decay from 50 warm-up steps", "cosine", "the shared one", "small"),
)  # fmt: skip
