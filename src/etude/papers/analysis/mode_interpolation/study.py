"""The study: models trained on their predecessors' samples, with and without the filter; and what the first one hallucinates."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.data.sources import TensorSource
from etude.data.stream import DataStream
from etude.engine.flops import FlopCounter
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.schedule import Cosine
from etude.engine.streams import derive, generator, initialise
from etude.engine.trainer import NonFinite, Trainer
from etude.errors import BadInput
from etude.evidence.claims import AtLeast, Better, Equivalent, Ratio
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study
from etude.generate.diffusion import Drawn, NoiseSchedule, NotFinite, draw, draw_flops, linear_betas
from etude.learn.diffusion import NoisePrediction
from etude.loop.rounds import Report, State, run_rounds
from etude.nn.diffusion import NoiseNet, NoiseNetConfig
from etude.papers.analysis.mode_interpolation import detector, modes
from etude.papers.analysis.mode_interpolation.picture import scatter

Keep = Callable[[Tensor, int, torch.Generator], Tensor]
"""(scores [N] of the samples drawn, how many to keep, random stream) -> indices [num_kept]."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One size of the study; the defaults are those of the cpu scale."""

    coordinates: tuple[float, ...] = (-4.0, -2.0, 0.0, 2.0, 4.0)  # of the grid's modes, on both axes, raw
    sd: float = 0.05  # of each mode, raw
    radius: float = 6.0  # in sds: farther than this from every mode is a hallucination
    num_samples: int = 10_000  # trained on in each generation
    keep_fraction: float = 0.9  # num_samples / this many are drawn, and all but num_samples dropped
    generations: int = 3
    noise_levels: int = 1000
    first_beta: float = 0.001
    last_beta: float = 0.2
    used_levels: int = 320  # the schedule's first so many
    window: tuple[int, int] = (0, 5)  # levels whose predictions the detector looks at, [first, end)
    width: int = 64
    depth: int = 3
    tied: bool = False
    batch_size: int = 512
    num_updates: int = 8_000  # a generation
    lr: float = 6e-3
    warmup: float = 0.02  # share of the updates
    final_lr: float = 0.0  # factor at the end of the cosine; 1 keeps the learning rate constant

    def __post_init__(self) -> None:
        first, end = self.window
        if not 0 <= first < end - 1 < self.used_levels:
            raise BadInput("settings.window", repr(self.window), f"at least two levels inside 0 to {self.used_levels}")
        if not 0 < self.keep_fraction <= 1:
            raise BadInput("settings.keep_fraction", repr(self.keep_fraction), "a share above 0 and at most 1")
        if self.generations < 1 or self.num_samples < self.batch_size:
            found = f"{self.generations} generations of {self.num_samples} samples"
            raise BadInput("settings", found, f"at least one generation of at least a batch of {self.batch_size}")


def build_model(settings: Settings) -> NoiseNet:
    """The net of one generation, with whatever initial values torch gives."""
    return NoiseNet(NoiseNetConfig(width=settings.width, depth=settings.depth, tied=settings.tied, num_steps=settings.used_levels))


def noise_schedule(settings: Settings) -> NoiseSchedule:
    return NoiseSchedule(linear_betas(settings.noise_levels, settings.first_beta, settings.last_beta)).first(settings.used_levels)


def train_generation(
    data: Tensor, settings: Settings, seed: int, progress: Callable[[float, float], None] | None = None
) -> tuple[NoiseNet, Ledger]:
    """A fresh model trained on data [N, 2]: (model, what it cost). Raises NonFinite."""
    model = initialise(build_model(settings), derive(seed, "model"))
    stream = DataStream(TensorSource(x=data), settings.batch_size, seed, drop_last=True)
    result = Trainer(
        model, stream, NoisePrediction(noise_schedule(settings)), optimizer=AdamW(lr=settings.lr, betas=(0.9, 0.999), weight_decay=0.0),
        schedule=Cosine(warmup=settings.warmup, final=settings.final_lr), budget=Budget(steps=settings.num_updates), seed=seed, clip=None,
        progress=progress,
    ).run()  # fmt: skip
    return result.model, result.ledger


def sample_generation(
    model: NoiseNet, settings: Settings, seed: int, progress: Callable[[float], None] | None = None
) -> tuple[Drawn, Ledger]:
    """The samples of a trained model with the window's predictions, and what they cost."""
    schedule, ledger = noise_schedule(settings), Ledger()
    shape = (detector.num_drawn(settings.num_samples, settings.keep_fraction), 2)
    started = time.perf_counter()
    model.eval()
    drawn = draw(model, schedule, shape, generator(seed, "draw"), record=settings.window, progress=progress)
    seconds = time.perf_counter() - started
    ledger.charge("generate", flops=draw_flops(model, schedule, shape), samples=shape[0], seconds=seconds)
    return drawn, ledger


def measure(drawn: Drawn, score: Tensor, truth: modes.Modes, radius: float) -> Report:
    """All that is said of one generation's samples before any is dropped."""
    bad = modes.off_support(drawn.x, truth, radius)
    kept, variation, width = modes.coverage(drawn.x, truth, radius)
    return {
        "hallucinated": float(bad.double().mean()),
        "AUROC": detector.auroc(score, bad),
        "removed at 96 % kept": detector.removed_at(score, bad),
        "beside edges": modes.beside_edges(drawn.x[bad], truth),
        "narrow share": modes.narrow_share(drawn.x[bad], truth),
        "modes kept": kept,
        "unevenness": variation,
        "mode width": width,
    }


def keep_first(score: Tensor, num_kept: int, rng: torch.Generator) -> Tensor:
    return torch.arange(num_kept)


def keep_random(score: Tensor, num_kept: int, rng: torch.Generator) -> Tensor:
    return detector.keep_random(len(score), num_kept, rng)


def keep_steady(score: Tensor, num_kept: int, rng: torch.Generator) -> Tensor:
    return detector.keep_lowest(score, num_kept)


def planned(settings: Settings, generations: int) -> Ledger:
    """What a chain costs when nothing goes wrong: a failure does not become cheap."""
    model, ledger = build_model(settings), Ledger()
    x, t = torch.zeros(settings.batch_size, 2), torch.zeros(settings.batch_size, dtype=torch.int64)
    with FlopCounter() as step:
        model(x, t).square().mean().backward()
    shape = (detector.num_drawn(settings.num_samples, settings.keep_fraction), 2)
    updates = generations * settings.num_updates
    ledger.charge("train", flops=updates * step.total, samples=updates * settings.batch_size, steps=updates)
    ledger.charge("generate", flops=generations * draw_flops(model, noise_schedule(settings), shape), samples=generations * shape[0])
    return ledger


def plan(settings: Settings) -> dict[str, float]:
    """`planned` of a whole chain, as claims name it."""
    ledger = planned(settings, settings.generations)
    return {"flops": ledger.total("flops"), "train.samples": ledger.entries["train"]["samples"]}


SHOWN = 1_500  # samples of a generation in the picture


def chain(job: Job, keep: Keep, generations: int | None = None, data_share: float = 1, width_share: float = 1, **changes: Any) -> Outcome:
    """Generation 1 learns the real data; each later one, from scratch, what `keep` leaves of the one before."""
    settings = replace(job.settings, **changes)
    if data_share != 1:
        settings = replace(settings, num_samples=max(settings.batch_size, round(data_share * settings.num_samples)))
    if width_share != 1:
        settings = replace(settings, width=2 * round(width_share * settings.width / 2))
    rounds = generations or settings.generations
    truth = modes.grid(settings.coordinates, sd=settings.sd)

    def generation(number: int, state: State) -> tuple[State, Report]:
        # Named by the generation alone: arms of one seed share initial values, batches, noise and sampling noise.
        seed = derive(job.seed, "generation", number)
        said: dict[str, float] = {}

        def told(part: float) -> None:
            job.progress((number - 1 + part) / rounds, said.get("loss"))

        def trained(share: float, loss: float) -> None:
            said["loss"] = loss
            told(0.85 * share)

        model, cost = train_generation(state["data"], settings, seed, trained)
        drawn, drawing = sample_generation(model, settings, seed, lambda share: told(0.85 + 0.15 * share))
        score = detector.trajectory_variance(drawn.clean)
        report = measure(drawn, score, truth, settings.radius)
        chosen = keep(score, settings.num_samples, generator(seed, "keep"))
        report |= {
            f"removed at {kept:g} kept": detector.removed_at(score, modes.off_support(drawn.x, truth, settings.radius), kept)
            for kept in KEPT
        }
        report["hallucinated, kept"] = float(modes.off_support(drawn.x[chosen], truth, settings.radius).double().mean())
        ledger = Ledger.from_dict(state["ledger"])
        ledger.merge(cost)
        ledger.merge(drawing)
        report |= {"flops": ledger.total("flops"), "seconds": ledger.total("seconds")}
        shown = [*state["shown"], drawn.x[:SHOWN].double().numpy().round(3)]
        return {"data": drawn.x[chosen], "ledger": ledger.as_dict(), "shown": shown}, report

    real = truth.sample(settings.num_samples, generator(job.seed, "real"))
    identity = json.dumps([job.study, job.arm, job.seed, asdict(settings)])
    try:
        state, reports = run_rounds(generation, {"data": real, "ledger": {}, "shown": []}, rounds, folder=job.folder, identity=identity)
    except (NonFinite, NotFinite):
        return Outcome(metrics=FAILED, ledger=planned(settings, rounds).as_dict(), diverged=True)
    first, last = reports[0], reports[-1]
    metrics = {name: last[name] for name in MEASURED} | {f"{name}, generation 1": first[name] for name in MEASURED}
    rates = [r["hallucinated"] for r in reports]
    numbers = [float(i) for i in range(1, rounds + 1)]
    return Outcome(
        metrics=metrics,
        ledger=state["ledger"],
        curves={
            "hallucinated / generation": (numbers, rates),
            "modes kept / generation": (numbers, [r["modes kept"] for r in reports]),
            "unevenness / generation": (numbers, [r["unevenness"] for r in reports]),
            ROC: (
                [1 - kept for kept in KEPT],
                [first[f"removed at {kept:g} kept"] for kept in KEPT],
            ),
            "hallucinated / flops": ([r["flops"] for r in reports], rates),
            "hallucinated / seconds": ([r["seconds"] for r in reports], rates),
        },
        arrays={"modes": truth.means.numpy(), "radius": np.array([settings.radius * truth.sd])}
        | {f"generation {i}": points for i, points in enumerate(state["shown"], start=1)},
        parameters=sum(p.numel() for p in build_model(settings).parameters()),
    )


ROC = "hallucinations removed / valid samples removed"
KEPT = (1.0, 0.99, 0.98, 0.96, 0.94, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Shares of valid samples kept at which the ROC curve is read."""

MEASURED = (
    "hallucinated", "hallucinated, kept", "AUROC", "removed at 96 % kept", "beside edges", "narrow share", "modes kept", "unevenness",
    "mode width",
)  # fmt: skip
WORST = {"hallucinated": 1.0, "hallucinated, kept": 1.0, "AUROC": 0.5, "unevenness": 1.0}
FAILED = {name + end: WORST.get(name, 0.0) for name in MEASURED for end in ("", ", generation 1")}
"""What a diverged run counts as: nothing but hallucinations, a detector that says nothing."""

COLORS = {"none": "#6b7280", "random": "#3b6fb6", "variance": "#d1652b"}
ARMS = {
    "none": Arm(
        run=partial(chain, keep=keep_first), about="no filter: the first samples drawn are the next data",
        color=COLORS["none"], planned=plan,
    ),
    "random": Arm(run=partial(chain, keep=keep_random), about="a random filter of the same size", color=COLORS["random"], planned=plan),
    "variance": Arm(
        run=partial(chain, keep=keep_steady), about="keeps the samples whose predicted clean version moved least",
        color=COLORS["variance"], planned=plan,
    ),
    "uneven": Arm(
        run=partial(chain, keep=keep_first, generations=1, coordinates=(0.0, 2.0, 6.0, 8.0)),
        about="one generation on modes with gaps of 2 and 4, 2 on each axis: where between them are the hallucinations?",
    ),
    "fewer": Arm(run=partial(chain, keep=keep_first, generations=1, data_share=0.25), about="one generation on a quarter of the data"),
    "narrower": Arm(run=partial(chain, keep=keep_first, generations=1, width_share=0.5), about="one generation of a net of half the width"),
}  # fmt: skip

CPU = Settings()
EQUAL = ("flops", "train.samples")
CLAIMS = (
    Ratio(
        text="filtered by the variance of its predictions, a chain hallucinates less by its last generation than with a random filter",
        arm="variance", baseline="random", metric="hallucinated", d=0.2, equal=EQUAL, primary=True,
    ),
    Equivalent(
        text="the random filter changes nothing: what helps is which samples are dropped, not that some are",
        arm="random", baseline="none", metric="hallucinated", d=0.03, equal=EQUAL,
    ),
    AtLeast(
        text="the variance of the predictions tells hallucinations from samples on the support (AUROC at least 0.8)",
        arm="none", metric="AUROC, generation 1", threshold=0.8,
    ),
    AtLeast(
        text="it removes 95 % of the hallucinations while 96 % of the valid samples stay",
        arm="none", metric="removed at 96 % kept, generation 1", threshold=0.95,
    ),
    AtLeast(
        text="hallucinations lie between neighbouring modes, not anywhere off the support (evenly scattered: half)",
        arm="none", metric="beside edges, generation 1", threshold=0.5, d=0.1,
    ),
    AtLeast(
        text="there are more of them in narrow gaps than in wide ones (by length alone: half)",
        arm="uneven", metric="narrow share, generation 1", threshold=0.5, d=0.1,
    ),
    Better(
        text="a model of a quarter of the data hallucinates more, after as many updates",
        arm="none", baseline="fewer", metric="hallucinated, generation 1", d=0.005, equal=(),
    ),
    AtLeast(text="the filtered chain keeps every mode", arm="variance", metric="modes kept", threshold=1.0),
)  # fmt: skip

CODE = "authors' code, train_toy_filter.py at 7cd5f358"
PAPER = Settings(
    num_samples=100_000, keep_fraction=100_000 / 102_500, generations=5, used_levels=1000, window=(0, 10), width=128, tied=True,
    batch_size=10_000, num_updates=100_000, lr=1e-3, warmup=0.0, final_lr=1.0,
)  # fmt: skip
SOURCES = {
    "coordinates": "authors' code, toy_data.py: 25 modes, spacing 2", "sd": "authors' code, toy_data.py",
    "radius": "assumed (the paper: negligible density)",
    "num_samples": "figure 3: 100,000", "keep_fraction": f"{CODE}: 2,500 more are drawn", "generations": "authors' code, run.sh",
    "noise_levels": "authors' code, run.sh", "first_beta": CODE, "last_beta": CODE, "used_levels": "all", "window": f"{CODE}: the last 10",
    "width": CODE, "depth": CODE, "tied": "authors' code, toy_model.py: one block repeated", "batch_size": CODE,
    "num_updates": "authors' code, run.sh: 10,000 epochs of 10 batches", "lr": CODE, "warmup": CODE, "final_lr": f"{CODE}: constant",
}  # fmt: skip

PAPER_SIZE = "25 modes, 67k parameters / 1G training samples a generation, 5 generations"
DEVIATIONS = (
    ("data", "100,000 samples, drawn once", "10,000, drawn anew for each seed", "time", "more hallucinations; the spread over seeds shows"),
    ("training", "100,000 updates of 10,000 samples", "8,000 of 512", "time", "many more hallucinations, wider modes"),
    ("learning rate", "1e-3, constant", "6e-3, down to 0 along a cosine", "the best of a grid at so few updates", "fewer hallucinations"),
    (
        "blocks",
        "three in the text; the released code applies one block three times",
        "three blocks (paper scale: as released)",
        "tied, 14 to 19 % hallucinate at this size, and the detector is weaker",
        "fewer hallucinations",
    ),
    ("width", "128", "64", "time", "more hallucinations"),
    ("noise levels", "1,000", "the first 320 of the 1,000", "abar is 3e-5 there: almost pure noise already", "none"),
    ("window", "last 10 steps", "last 5", "the best of a grid on a tuning seed; short training blurs what is earlier", "better detection"),
    ("dropped", "2,500 of 102,500", "a tenth", "2 % and more hallucinate", "stronger filtering, more risk for rare modes"),
    ("no filter", "draws what it keeps", "draws as many as the filters do, keeps the first", "equal FLOPs, equal measurement", "none"),
    ("order of batches", "fixed", "shuffled each epoch", "etude's streams shuffle", "none"),
    ("initial values", "the released code's own rule", "torch's default for linear layers", "assumed to matter little", "none"),
    ("other data", "1D mixtures, shapes, MNIST, hands", "left out", "1D hallucinates at 2e-4; images need GPUs", "not tested here"),
    ("sweeps", "gaps, data sizes, widths, each at many values", "two values of each, one generation", "time", "a trend is not shown"),
)

PICTURE = scatter(("random", "variance"))
STUDY = Study(
    slug="mode-interpolation",
    arms=ARMS,
    scales={
        "smoke": Scale(
            settings=Settings(
                coordinates=(-1.0, 1.0),
                sd=0.15,
                radius=3.0,
                num_samples=240,
                noise_levels=30,
                used_levels=30,
                width=16,
                batch_size=120,
                num_updates=30,
                lr=1e-2,
                generations=2,
            ),
            seeds=2,
            size="3k parameters / 30 updates a generation",
        ),
        "quick": Scale(
            settings=Settings(coordinates=(-2.0, 0.0, 2.0), num_samples=4_000, num_updates=1_600, generations=2),
            seeds=3,
            size="9 modes, 43k parameters / 0.8M training samples a generation, 2 generations",
        ),
        "cpu": Scale(settings=CPU, seeds=3, size="25 modes, 43k parameters / 4.1M training samples a generation, 3 generations"),
        "paper": Scale(settings=PAPER, seeds=1, size=PAPER_SIZE, sources=SOURCES),
    },
    claims=CLAIMS,
    baseline="random",
    headline="hallucinated",
    plots=(
        Plot(title="Samples between the modes", kind="custom", draw=PICTURE),
        Plot(title="Hallucinations by generation", kind="curve", curve="hallucinated / generation"),
        Plot(title="How evenly modes are kept", kind="curve", curve="unevenness / generation"),
        Plot(
            title="Hallucinations removed over valid samples removed (ROC)",
            kind="curve",
            curve="hallucinations removed / valid samples removed",
        ),
        Plot(title="Hallucinated in generation 1", kind="bars", metric="hallucinated, generation 1"),
        Plot(title="Removed while 96 % of valid samples stay", kind="bars", metric="removed at 96 % kept, generation 1"),
    ),
    paper_size=PAPER_SIZE,
    deviations=DEVIATIONS,
    build_paper_model=build_model,
)
