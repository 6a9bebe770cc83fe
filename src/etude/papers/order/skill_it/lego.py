"""A further study: LEGO chains, from a base that was taught the first variables, as skill-it.lego."""

from __future__ import annotations

from dataclasses import replace

from etude.evidence.claims import Better
from etude.evidence.study import Plot, Scale, Study
from etude.papers.order.skill_it.arms import Way, arm
from etude.papers.order.skill_it.figures import graph_of, mixture_of
from etude.papers.order.skill_it.settings import LegoSettings
from etude.papers.order.skill_it.sources import CODE, DEVIATIONS, NETWORK, PARAMETERS, common
from etude.papers.order.skill_it.testbeds import lego, paper_model

CPU = LegoSettings(vocab=30, depth=3, context=20)
QUICK = replace(CPU, base_steps=100, steps=100, update_every=20, probe_steps=10, num_test=100, evaluations=5)
SMOKE = replace(
    QUICK, variables=3, skew=(1, 3, 5), pool=120, width=16, init_std=0.25, depth=1, heads=2, batch=16, base_batch=16, base_steps=4,
    steps=12, update_every=4, probe_steps=2, held=8, num_test=20, evaluations=3,
)  # fmt: skip

SKILL_IT = "skill-it"
EQUAL = ("train.samples",)


def _better(text: str, baseline: str, metric: str = "area", primary: bool = False) -> Better:
    return Better(text=text, arm=SKILL_IT, baseline=baseline, metric=metric, lower_is_better=False, d=0.02, equal=EQUAL, primary=primary)


CLAIMS = (
    _better("Over the whole run, accuracy over all variables is higher with Skill-It than drawn as skewed data has them", "random",
            primary=True),
    _better("At the end too", "random", "accuracy"),
    _better("Over the whole run it beats variables drawn evenly", "stratified"),
    _better("Over the whole run the learnt graph beats none (each variable drawn by its own loss)", "identity graph"),
)  # fmt: skip

PAPER = LegoSettings(
    **NETWORK, variables=5, skew=(1, 1, 1, 3, 5), pool=192_000, base_skills=1, base_steps=1, context=128, batch=32, steps=6_000, lr=5e-5,
    warmup=50 / 6_000, eta=0.5, update_every=1_000, checks=20, held=100, probe_steps=6_000, margin=0.0, num_test=100, evaluations=120,
)  # fmt: skip
SOURCES = common("scripts/lego/pt/skillit.sh") | {
    "variables": f"{CODE}, scripts/lego/pt: k 5", "pool": "every step's samples are new: 6,000 of 32",
    **dict.fromkeys(("base_skills", "base_steps", "base_batch", "base_lr"), "none: the base is given"),
}  # fmt: skip

LEGO = Study(
    slug="skill-it.lego",
    arms={
        "random": arm(lego, Way(kind="natural"), "variables drawn as skewed data has them"),
        "stratified": arm(lego, Way(kind="even"), "variables drawn evenly"),
        SKILL_IT: arm(lego, Way(kind="learnt"), "drawn by losses and the graph learnt by pairs"),
        "identity graph": arm(lego, Way(kind="identity"), "drawn by each variable's own loss"),
    },
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="5k parameters / 192 chains"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.15M parameters / 13k chains"),
        "cpu": Scale(settings=CPU, seeds=4, size="0.15M parameters / 51k chains"),
        "paper": Scale(settings=PAPER, seeds=5, size="125M parameters / 192k chains", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="random",
    headline="area",
    lower_is_better=False,
    plots=(
        Plot(title="Accuracy over all variables, at equal samples", kind="curve", curve="accuracy / steps"),
        *(
            Plot(title=f"Accuracy of variable {k}", kind="curve", curve=f"accuracy, variable {k} / steps")
            for k in range(1, CPU.variables + 1)
        ),
        mixture_of(SKILL_IT),
        graph_of(SKILL_IT),
    ),
    deviations=(
        ("model", "GPT-Neo-125M, pretrained", "0.15M, taught the first two variables here", "runs on two cores", "unknown"),
        ("chains", "five variables, as text", "fewer variables, words without the signs between them", "two cores", "faster for all"),
        ("loss", "of every token of a chain", "of the answer alone", "the other tokens are random", "faster for all"),
        *DEVIATIONS,
    ),
    paper_size="125M / 192k chains",
    failure={"accuracy": 0.5, "area": 0.5},
    build_paper_model=paper_model,
    paper_parameters=PARAMETERS,
)  # fmt: skip
