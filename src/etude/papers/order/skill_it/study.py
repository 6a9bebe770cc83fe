"""The study: the same training on the same data, its skills drawn in different ways.

Three testbeds: sums asked digit by digit (the primary claim), LEGO chains from a base that was taught their first variables, and genres of
a corpus. Arms of the last two measure under names of their own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from etude.evidence.claims import Better, Claim, Equivalent, Ratio
from etude.evidence.study import Arm, Plot, Scale, Study
from etude.papers.order.skill_it.arms import PREFIX, Way, arm
from etude.papers.order.skill_it.figures import graph_of, mixture_of
from etude.papers.order.skill_it.paper import DEVIATIONS, PAPER, PARAMETERS, SOURCES
from etude.papers.order.skill_it.settings import AdditionSettings, GenreSettings, LegoSettings, Settings
from etude.papers.order.skill_it.testbeds import paper_model

CPU = Settings(addition=AdditionSettings(), lego=LegoSettings(), genres=GenreSettings())
QUICK = replace(CPU, addition=replace(CPU.addition, steps=300, update_every=30, probe_steps=50, evaluations=10))
SHORT: dict[str, Any] = {"width": 16, "init_std": 0.25, "depth": 1, "heads": 2, "steps": 12, "evaluations": 3, "probe_steps": 2, "held": 8}
SMOKE = Settings(
    addition=replace(CPU.addition, **SHORT, digits=2, vocab=22, skew=(1, 3), pool=300, batch=16, update_every=4, checks=2, num_test=20),
    lego=replace(
        CPU.lego, **SHORT, pool=120, batch=16, base_batch=16, base_steps=4, update_every=4, checks=2,
        num_test=20,
    ),
    genres=replace(CPU.genres, **SHORT, corpus="sample+code", genres=(), context=16, batch=4, update_every=4, checks=2, num_test=8),
)  # fmt: skip

RANDOM, EVEN, SKILL_IT, IDENTITY, EXCHANGED = "random", "stratified", "skill-it", "identity graph", "exchanged graph"
FURTHER = ("smoke", "cpu")
"""Where all but the primary claim's arms run: a quick study has no time for more."""


def on_addition() -> dict[str, Arm]:
    return {
        RANDOM: arm("addition", Way(kind="natural"), "digits drawn as skewed data has them, 1:1:3:5"),
        EVEN: arm("addition", Way(kind="even"), "digits drawn evenly"),
        SKILL_IT: arm("addition", Way(kind="learnt"), "drawn by losses and the graph learnt by pairs"),
        IDENTITY: arm("addition", Way(kind="identity"), "drawn by each digit's own loss"),
        EXCHANGED: arm("addition", Way(kind="exchanged"), "the learnt graph, each digit with another one's row"),
        "random, steeper": arm("addition", Way(kind="steeper"), "digits drawn 1:2:4:8", scales=FURTHER),
        "curriculum": arm("addition", Way(kind="in order"), "from the last digit to the first, then all evenly", scales=FURTHER),
        "anti-curriculum": arm("addition", Way(kind="in reverse"), "from the first digit to the last, then all evenly", scales=FURTHER),
        "stratified, longer": arm(
            "addition", Way(kind="even", longer=True), "evenly, for as many more samples as graph and checks cost", scales=FURTHER
        ),
    }


def on(bed: str, what: str, metrics: tuple[str, ...], failure: float) -> dict[str, Arm]:
    """Arms of another testbed, which measure these metrics. what: its skills."""
    own: dict[str, Any] = {"scales": FURTHER, "instead": metrics, "failure": dict.fromkeys(metrics, failure)}
    return {
        f"{PREFIX[bed]}{name}": arm(bed, Way(kind=kind), about, **own)
        for name, kind, about in (
            (RANDOM, "natural", f"{what} drawn as the data has them"),
            (EVEN, "even", f"{what} drawn evenly"),
            (SKILL_IT, "learnt", "drawn by losses and the learnt graph"),
            (IDENTITY, "identity", "drawn by each one's own loss"),
        )
    }


ARMS = {
    **on_addition(),
    **on("lego", "variables", ("LEGO area", "LEGO accuracy"), 0.5),
    **on("genres", "genres", ("genre loss",), math.log(256)),
}


def better(text: str, baseline: str, metric: str = "area", *, arm: str = SKILL_IT, d: float = 0.02, **more: Any) -> Better:
    more = {"lower_is_better": False, "equal": ("train.samples",), **more}
    return Better(text=text, arm=arm, baseline=baseline, metric=metric, d=d, **more)


LEGO, GENRES = PREFIX["lego"] + SKILL_IT, PREFIX["genres"] + SKILL_IT
CLAIMS: tuple[Claim, ...] = (
    better("Over the whole run, accuracy over all digits is higher with Skill-It than drawn as skewed data has them", RANDOM, primary=True),
    better("At the end too", RANDOM, "accuracy"),
    Ratio(
        text="It is where skewed draws end in fewer steps (1.1 times)", arm=SKILL_IT, baseline=RANDOM, curve="accuracy / steps",
        lower_is_better=False, d=0.1, equal=("train.samples",),
    ),
    better("Over the whole run it beats digits drawn evenly", EVEN),
    better("At the end it beats them too when they train on for what graph and checks cost", "stratified, longer", "accuracy",
           equal=("samples",)),
    better("Over the whole run the learnt graph beats none (each digit drawn by its own loss)", IDENTITY),
    better("Over the whole run it beats the same graph with its rows exchanged (the control)", EXCHANGED),
    better("Over the whole run it beats digits in order, the last one first", "curriculum"),
    better("On LEGO chains accuracy is higher over the whole run than drawn as skewed data has the variables", "LEGO random", "LEGO area",
           arm=LEGO),
    better("On LEGO chains it beats variables drawn evenly", "LEGO stratified", "LEGO area", arm=LEGO),
    better("On LEGO chains the learnt graph beats none", "LEGO identity graph", "LEGO area", arm=LEGO),
    better("Over genres of a corpus the held-out loss, mean over genres, ends lower than drawn as the corpus has them", "genre random",
           "genre loss", arm=GENRES, d=0.01, lower_is_better=True),
    Equivalent(
        text="Where every genre helps every other it makes no difference: it ends as genres drawn evenly do", arm=GENRES,
        baseline="genre stratified", metric="genre loss", d=0.01, equal=("train.samples",),
    ),
)  # fmt: skip

STUDY = Study(
    slug="skill-it",
    arms=ARMS,
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="4k parameters / 192 sums"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.1M parameters / 38k sums"),
        "cpu": Scale(settings=CPU, seeds=4, size="0.1M parameters / 64k sums"),
        "paper": Scale(settings=PAPER, seeds=5, size="125M parameters / 192k sums", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline=RANDOM,
    headline="area",
    lower_is_better=False,
    plots=(
        Plot(title="Accuracy over all digits, at equal samples", kind="curve", curve="accuracy / steps"),
        *(
            Plot(title=f"Accuracy of digit {k} from the right", kind="curve", curve=f"accuracy, digit {k} / steps")
            for k in range(1, CPU.addition.digits + 1)
        ),
        *(mixture_of(name) for name in (SKILL_IT, IDENTITY, EXCHANGED)),
        graph_of(SKILL_IT),
        Plot(title="LEGO chains: accuracy over all variables, at equal samples", kind="curve", curve="LEGO accuracy / steps"),
        mixture_of(LEGO),
        graph_of(LEGO),
        Plot(title="Genres: held-out loss, mean over genres", kind="curve", curve="genre loss / steps"),
        Plot(title="Genres: held-out loss at the end", kind="bars", metric="genre loss"),
        mixture_of(GENRES),
        graph_of(GENRES),
    ),
    data=("brown",),
    deviations=DEVIATIONS,
    paper_size="125M / 192k sums",
    failure={"accuracy": 0.1, "area": 0.1},
    build_paper_model=paper_model,
    paper_parameters=PARAMETERS,
)  # fmt: skip
