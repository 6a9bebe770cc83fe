"""A further study: a real corpus whose genres are the skills, as skill-it.genres."""

from __future__ import annotations

from dataclasses import replace

from etude.evidence.claims import Better, Equivalent
from etude.evidence.study import Plot, Scale, Study
from etude.papers.order.skill_it.arms import Way, arm
from etude.papers.order.skill_it.figures import graph_of, mixture_of
from etude.papers.order.skill_it.settings import GenreSettings
from etude.papers.order.skill_it.sources import CODE, DEVIATIONS, NETWORK, PARAMETERS, common
from etude.papers.order.skill_it.testbeds import genres, paper_model

CPU = GenreSettings(
    genres=("reportage", "religion", "learned", "science fiction", "romance", "humour"), skew=(), vocab=256, context=64, batch=16,
    steps=400, update_every=40, probes="alone", probe_steps=40, held=32, num_test=60, evaluations=8, eta=0.2,
)  # fmt: skip
QUICK = replace(CPU, steps=100, update_every=20, probe_steps=10, num_test=20, evaluations=4)
SMOKE = replace(
    QUICK, corpus="sample+code", genres=(), width=16, init_std=0.25, depth=1, heads=2, context=16, batch=4, steps=12, update_every=4,
    probe_steps=2, held=8, num_test=8, evaluations=3,
)  # fmt: skip

SKILL_IT = "skill-it"
EQUAL = ("train.samples",)


def _better(text: str, baseline: str, metric: str = "loss", primary: bool = False) -> Better:
    return Better(text=text, arm=SKILL_IT, baseline=baseline, metric=metric, d=0.01, equal=EQUAL, primary=primary)


CLAIMS = (
    _better("The held-out loss, mean over genres, ends lower with Skill-It than with windows drawn as the corpus has them", "random",
            primary=True),
    _better("It ends lower than with genres drawn evenly", "stratified"),
    Equivalent(
        text="Where every genre helps every other, the graph says little: it ends as each genre drawn by its own loss does",
        arm=SKILL_IT, baseline="identity graph", metric="loss", d=0.02, equal=EQUAL,
    ),
)  # fmt: skip

PAPER = GenreSettings(
    **NETWORK, corpus="brown", skew=(), context=128, batch=32, steps=5_000, lr=5e-6, warmup=50 / 5_000, eta=0.2, update_every=500, checks=1,
    held=100, probes="alone", probe_steps=100, margin=0.0, num_test=100, evaluations=10,
)  # fmt: skip
SOURCES = common("scripts/ni/ood/skillit.sh") | {
    "corpus": "assumed: theirs are Natural Instructions and RedPajama", "genres": "assumed: all", "skew": "not used",
    "probes": "arXiv 2307.14430, appendix: the approximate graph", "probe_steps": "assumed",
    "num_test": f"{CODE}, dataset: 100 of each skill",
}  # fmt: skip

GENRES = Study(
    slug="skill-it.genres",
    arms={
        "random": arm(genres, Way(kind="natural"), "windows drawn as the corpus has them"),
        "stratified": arm(genres, Way(kind="even"), "genres drawn evenly"),
        SKILL_IT: arm(genres, Way(kind="learnt"), "drawn by losses and the graph learnt from each genre alone"),
        "identity graph": arm(genres, Way(kind="identity"), "drawn by each genre's own loss"),
    },
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="8k parameters / 768 tokens"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.13M parameters / 0.1M tokens"),
        "cpu": Scale(settings=CPU, seeds=5, size="0.13M parameters / 0.4M tokens"),
        "paper": Scale(settings=PAPER, seeds=5, size="125M parameters / 20M tokens", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="random",
    headline="loss",
    plots=(
        Plot(title="Held-out loss, mean over genres", kind="curve", curve="loss / steps"),
        Plot(title="Held-out loss at the end, mean over genres", kind="bars", metric="loss"),
        mixture_of(SKILL_IT),
        mixture_of("identity graph"),
        graph_of(SKILL_IT),
    ),
    data=("brown",),
    deviations=(
        ("model", "GPT-Neo-125M or a 3B model, pretrained", "0.13M, from scratch", "runs on two cores", "unknown"),
        ("data", "Natural Instructions by task, RedPajama by source", "six genres of the Brown corpus, as bytes",
         "a real corpus with domains that fits", "genres are nearer to each other"),
        ("graph", "edges from the approximate method, some cut by hand", "the share of a loss that training on one genre takes away",
         "no code of theirs learns it", "nearly full: it says little"),
        *DEVIATIONS,
    ),
    paper_size="125M / Natural Instructions",
    failure={"loss": 5.545, "area": 5.545},
    build_paper_model=paper_model,
    paper_parameters=PARAMETERS,
)  # fmt: skip
