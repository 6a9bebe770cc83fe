"""The primary study: sums asked digit by digit, the same training with the digits drawn in different ways."""

from __future__ import annotations

from dataclasses import replace

from etude.evidence.claims import Better, Ratio
from etude.evidence.study import Plot, Scale, Study
from etude.papers.order.skill_it.arms import Way, arm
from etude.papers.order.skill_it.figures import graph_of, mixture_of
from etude.papers.order.skill_it.settings import AdditionSettings
from etude.papers.order.skill_it.sources import CODE, DEVIATIONS, NETWORK, PARAMETERS, common
from etude.papers.order.skill_it.testbeds import addition, paper_model

CPU = AdditionSettings()
QUICK = replace(CPU, steps=200, update_every=20, probe_steps=20, num_test=200, evaluations=10)
SMOKE = replace(
    QUICK, digits=2, vocab=22, skew=(1, 3), pool=300, width=16, init_std=0.25, depth=1, heads=2, batch=16, steps=12, update_every=4,
    probe_steps=3, held=8, num_test=20, evaluations=3,
)  # fmt: skip

RANDOM, EVEN, SKILL_IT = "random", "stratified", "skill-it"
EQUAL = ("train.samples",)


def _better(text: str, baseline: str, metric: str = "area", primary: bool = False, equal: tuple[str, ...] = EQUAL) -> Better:
    return Better(text=text, arm=SKILL_IT, baseline=baseline, metric=metric, lower_is_better=False, d=0.02, equal=equal, primary=primary)


CLAIMS = (
    _better("Over the whole run, accuracy over all digits is higher with Skill-It than with digits drawn as skewed data has them", RANDOM,
            primary=True),
    _better("At the end too", RANDOM, "accuracy"),
    Ratio(
        text="It is where skewed draws end in fewer steps (1.1 times)", arm=SKILL_IT, baseline=RANDOM, curve="accuracy / steps",
        lower_is_better=False, d=0.1, equal=EQUAL,
    ),
    _better("Over the whole run it beats digits drawn evenly", EVEN),
    _better("It beats them too when they train on for what the graph and the checks cost, at the end", "stratified, longer", "accuracy",
            equal=("samples",)),
    _better("Over the whole run the learnt graph beats none (each digit drawn by its own loss)", "identity graph"),
    _better("Over the whole run the learnt graph beats the same edges at other places (the control)", "shuffled graph"),
    _better("Over the whole run it beats digits in order, the last one first", "curriculum"),
    _better("Over the whole run it beats digits in order, the first one first", "anti-curriculum"),
)  # fmt: skip

PAPER = AdditionSettings(
    **NETWORK, digits=3, skew=(13, 14, 18), pool=192_000, context=128, batch=32, steps=6_000, lr=5e-5, warmup=50 / 6_000, eta=0.1,
    update_every=1_200, checks=24, held=100, probe_steps=6_000, margin=0.0, num_test=100, evaluations=120,
)  # fmt: skip
SOURCES = common("scripts/addition/pt/skillit.sh") | {
    "digits": f"{CODE}, scripts/addition/pt: k 3",
    "pool": "every step's samples are new: 6,000 of 32",
}

STUDY = Study(
    slug="skill-it",
    arms={
        RANDOM: arm(addition, Way(kind="natural"), "digits drawn as skewed data has them, 1:1:3:5"),
        EVEN: arm(addition, Way(kind="even"), "digits drawn evenly"),
        SKILL_IT: arm(addition, Way(kind="learnt"), "drawn by losses and the graph learnt by pairs"),
        "identity graph": arm(addition, Way(kind="identity"), "drawn by each digit's own loss"),
        "shuffled graph": arm(addition, Way(kind="shuffled"), "the learnt graph's edges at other places"),
        "curriculum": arm(addition, Way(kind="in order"), "from the last digit to the first, then all evenly"),
        "anti-curriculum": arm(addition, Way(kind="in reverse"), "from the first digit to the last, then all evenly"),
        "stratified, longer": arm(addition, Way(kind="even", longer=True), "evenly, for as many more samples as graph and checks cost"),
    },
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="3k parameters / 192 sums"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.1M parameters / 26k sums"),
        "cpu": Scale(settings=CPU, seeds=5, size="0.1M parameters / 51k sums"),
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
            for k in range(1, CPU.digits + 1)
        ),
        *(mixture_of(name) for name in (SKILL_IT, "identity graph", "shuffled graph")),
        graph_of(SKILL_IT),
    ),
    deviations=(
        ("model", "GPT-Neo-125M, pretrained", "0.1M, from scratch", "runs on two cores", "no order of skills is known beforehand"),
        ("loss", "of every token of a sum, as text", "of the answer's digit alone", "the other tokens are random", "faster for all"),
        ("sums", "three digits as text", "four digits, a digit's token tells its place too", "positions are relative in our network",
         "faster for all"),
        ("random data", "digits 13:14:18", "1:1:3:5", "more room between random and even draws", "a larger gain over random"),
        ("curriculum", "by the pretrained model's losses", "by the place of the digit", "at the start all losses are alike", "small"),
        *DEVIATIONS,
    ),
    paper_size="125M / 192k sums",
    failure={"accuracy": 0.1, "area": 0.1},
    build_paper_model=paper_model,
    paper_parameters=PARAMETERS,
)  # fmt: skip
