"""The study: the same model and updates on the whole pool, on parts of it drawn evenly, by loss, or by what covers the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, log

from etude.evidence.claims import Better, Equivalent
from etude.evidence.study import Arm, Plot, Scale, Study
from etude.papers.order.ingenious import arms
from etude.papers.order.ingenious.arms import How, train
from etude.papers.order.ingenious.settings import Settings

CPU = Settings()
QUICK = replace(
    CPU,
    corpora=("sample", "sample-code"),
    pool=1_600,
    updates=400,
    warm_start=150,
    redraw_every=20,
    update_every=5,
    partition_size=800,
    num_test=64,
)
SMOKE = replace(
    QUICK, pool=128, originals=0.05, context=16, width=16, depth=2, heads=2, batch=8, updates=12, warm_start=4, redraw_every=2,
    update_every=2, partition_size=40, num_test=8, evaluations=2, longer=1.5,
)  # fmt: skip


LONGER = ("smoke", "cpu")  # what two minutes have no room for


def _arm(how: How, about: str, scales: tuple[str, ...] = ("smoke", "quick", "cpu"), reference: bool = False) -> Arm:
    def planned(settings: Settings) -> Mapping[str, float]:
        updates = how.updates(settings)
        return {"train.steps": updates, "train.samples": updates * settings.batch}

    return Arm(run=lambda job: train(job, how), about=about, planned=planned, reference=reference, scales=scales)


RANDOM, INGENIOUS = arms.random_subset(fixed=False), arms.ingenious
BASELINE = "random, redrawn"
ARMS = {
    BASELINE: _arm(How(choosing=RANDOM), "a quarter drawn evenly, again and again"),
    "ingenious": _arm(How(choosing=INGENIOUS), "a quarter drawn by its gains in coverage, again and again"),
    "full": _arm(How(), "the whole pool, stopped as early"),
    "random, fixed": _arm(How(choosing=arms.random_subset(fixed=True)), "a quarter drawn evenly, once"),
    "highest loss": _arm(How(choosing=arms.highest_loss), "the quarter of the highest loss under the present model", LONGER),
    "largest gains": _arm(How(choosing=arms.largest_gains), "the quarter of the largest gains, for good"),
    "temperature 1": _arm(How(choosing=arms.at_temperature(1.0)), "ingenious at the authors' temperature", LONGER),
    "random, as many FLOPs": _arm(
        How(choosing=RANDOM, updates=arms.same_flops), "random, redrawn, and what ingenious prepares spent on updates", LONGER
    ),
    "full, longer": _arm(How(updates=lambda s: round(s.longer * s.updates)), "the whole pool, trained fully", LONGER),
    "each text once": _arm(How(distinct=True), "what no method knows: the pool without near copies", LONGER, reference=True),
    "random, clean": _arm(How(choosing=RANDOM, copied=False), "random, redrawn, on a pool without near copies", LONGER),
    "ingenious, clean": _arm(How(choosing=INGENIOUS, copied=False), "ingenious on a pool without near copies", LONGER),
}

EQUAL = ("train.samples",)


def _better(text: str, baseline: str, equal: tuple[str, ...] = EQUAL, primary: bool = False) -> Better:
    return Better(text=text, arm="ingenious", baseline=baseline, metric="loss", d=0.01, equal=equal, primary=primary)


CLAIMS = (
    _better(
        "On a pool half of near copies, subsets drawn by coverage (its temperature tuned) end at a lower held-out loss than subsets drawn "
        "evenly, at equal updates",
        BASELINE, primary=True,
    ),
    _better("Than the whole pool, at equal updates", "full"),
    _better("Than one subset drawn evenly, for good, at equal updates", "random, fixed"),
    _better("Than the samples of the highest loss, at equal updates", "highest loss"),
    _better("Than the samples of the largest gains, for good, at equal updates (the control: the draw is what does it)", "largest gains"),
    _better("Than subsets drawn evenly that may use the FLOPs of its preparing too", "random, as many FLOPs", ("flops",)),
    Equivalent(
        text="At the authors' temperature it is what an even draw is, at this size (added after trials of the temperature)",
        arm="temperature 1", baseline=BASELINE, metric="loss", d=0.02, equal=EQUAL,
    ),
    Equivalent(
        text="On a pool without near copies it is what an even draw is, within 0.02 nats",
        arm="ingenious, clean", baseline="random, clean", metric="loss", d=0.02, equal=EQUAL,
    ),
    Equivalent(
        text="It comes within one in a hundred of the accuracy of full training (0.004 of characters)",
        arm="ingenious", baseline="full, longer", metric="accuracy", lower_is_better=False, d=0.004, equal=(),
    ),
    Better(
        text="Less of what it trains on after the warm start is a text with near copies than under an even draw",
        arm="ingenious", baseline=BASELINE, metric="copies seen", d=0.02, equal=EQUAL,
    ),
)  # fmt: skip

PAPER = Settings(
    corpora=("Wikipedia", "BookCorpus"), pool=41_543_418, copied=0.0, originals=0.02, shift=0, num_test=0, vocab=30_522, width=768,
    depth=12, heads=12, hidden=2_048, context=128, batch=1_024, updates=250_000, lr=1e-4, warmup=0.01, weight_decay=0.01, evaluations=10,
    warm_start=ceil(41_543_418 / 1_024), redraw_every=25_000, update_every=5, partition_size=27_696, temperature=1.0,
)  # fmt: skip
CODE = "authors' code at 932ddde"
SCRIPT = f"{CODE}, train_mlm_nsp_ingenious.py"
SOURCES = {
    "corpora": f"{CODE}, utils/prepare_bookcorpus_wiki.py", "pool": f"{CODE}, run_mlm_nsp_ingenious.py: a comment's rows",
    "copied": "none made", "originals": "not used", "shift": "not used", "num_test": "not used: GLUE",
    "vocab": f"{CODE}, run_mlm_nsp_ingenious.py: vocab_size", "width": f"{CODE}, run_mlm_nsp_ingenious.py: hidden_size",
    "depth": f"{CODE}, run_mlm_nsp_ingenious.py: num_hidden_layers", "heads": f"{CODE}, run_mlm_nsp_ingenious.py: num_attention_heads",
    "hidden": "8/3 of the width: SwiGLU with the parameters of their 3,072", "context": SCRIPT, "batch": f"{SCRIPT}: 128 on each of 8 GPUs",
    "updates": f"{CODE}, run_mlm_nsp_ingenious.py: default of max_train_steps; the script goes on to 1,000,000", "lr": SCRIPT,
    "warmup": f"{SCRIPT}: 10,000 of 1,000,000", "weight_decay": SCRIPT, "longer": f"{SCRIPT}: 1,000,000 updates",
    "evaluations": "assumed", "share": SCRIPT, "warm_start": f"{SCRIPT}: one epoch", "redraw_every": SCRIPT,
    "update_every": f"{SCRIPT}: update_losses_every 125,000", "partition_size": f"{SCRIPT}: 1,500 parts", "layer": f"{SCRIPT}: 9 of 12",
    "temperature": SCRIPT, "eps": "assumed: submodlib's default, which the code leaves as it is",
}  # fmt: skip
DEVIATIONS = (
    (
        "model and objective",
        "BERT, 110M, masked words and next sentences",
        "0.1M decoder, next characters",
        "two cores",
        "poorer features: coverage knows less",
    ),
    (
        "data",
        "41.5 million samples of Wikipedia and books",
        "4,000 windows, half of them near copies of 80",
        "a pool on which coverage can matter",
        "more room for the method",
    ),
    (
        "temperature",
        "1",
        "tuned; 1 is an arm",
        "gains are sums over a part (2,000 samples here, 27,700 there) of distances between features, which lie closer here",
        "more room for the method",
    ),
    (
        "warm start",
        "one epoch, 16 % of 250,000 updates",
        "one epoch, 36 % of 700",
        "earlier, features told near copies from other windows badly (trial)",
        "small",
    ),
    (
        "representations",
        "of masked inputs, over the first segment alone",
        "of inputs as they are, over all positions",
        "one segment, nothing masked",
        "none",
    ),
    (
        "passes over a subset",
        "2.5 before the next is drawn",
        "0.4",
        "the best of 0.16, 0.4, 0.8 and 1.2 for an even draw; coverage was as good at 0.8",
        "a stronger baseline",
    ),
    ("negative cosines", "left in, which serve nobody", "0", "the same gains (test)", "none"),
    ("a part's last sample", "has no gain and is never drawn", "is ranked and drawn too", "budgets then add up exactly", "none"),
    ("budgets of parts", "rounded up in each", "largest remainders: ceil(share x all) in sum", "the subset has the size it should", "none"),
    (
        "ranking again",
        "an option of the script (every 125,000 updates) that the released code no longer takes: once",
        "as the script asks: every fifth subset",
        "what their script is written for",
        "unknown",
    ),
    ("seed of the draws", "the clock", "named streams of the run's seed", "repeatable", "none"),
    ("schedule", "that of 1,000,000 updates, cut off", "ends with each arm's budget", "early stopping at its best", "a stronger baseline"),
    (
        "measure",
        "GLUE after fine-tuning",
        "held-out loss and accuracy on next characters",
        "a model of this size learns no GLUE",
        "unknown",
    ),
)

STUDY = Study(
    slug="ingenious",
    arms=ARMS,
    scales={
        "smoke": Scale(settings=SMOKE, seeds=2, size="10k parameters / 1.5k characters"),
        "quick": Scale(settings=QUICK, seeds=3, size="0.1M parameters / 0.4M characters"),
        "cpu": Scale(settings=CPU, seeds=4, size="0.1M parameters / 0.7M characters"),
        "paper": Scale(settings=PAPER, seeds=1, size="110M parameters / 33 billion tokens", sources=SOURCES),
    },
    claims=CLAIMS,
    baseline=BASELINE,
    headline="loss",
    plots=(
        Plot(title="Held-out loss over updates", kind="curve", curve="loss / updates"),
        Plot(title="Held-out loss over FLOPs, preparing included", kind="curve", curve="loss / flops"),
        Plot(title="Share of what was trained on that has near copies", kind="bars", metric="copies seen"),
        Plot(title="Different texts trained on (effective, of those there are)", kind="bars", metric="distinct texts"),
        Plot(title="Time of preparing, in updates", kind="bars", metric="preparing seconds, in updates", limits=(0, float("inf"))),
    ),
    data=CPU.corpora,
    deviations=DEVIATIONS,
    paper_size="110M / 41.5 million samples, 250,000 updates of 1,024",
    failure={
        "loss": log(256),
        "accuracy": 0.0,
        "copies seen": 1.0,
        "distinct texts": 0.0,
        "preparing seconds, in updates": 0.0,
    },
    build_paper_model=arms.paper_model,
    paper_parameters={"BERT-base": (110e6, "arXiv 1810.04805, section 3")},
)
