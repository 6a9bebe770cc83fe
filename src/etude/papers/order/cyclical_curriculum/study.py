"""The study: short epochs of swinging size against whole ones, on noisy and on clean labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from etude.data.images import Part, Splits, digits, mnist1d, with_label_noise
from etude.data.sources import TensorSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.protocols import Batch, Method
from etude.engine.run import Run
from etude.engine.schedule import Constant
from etude.engine.streams import derive, initialise
from etude.engine.trainer import NonFinite, RunResult, Trainer
from etude.errors import one_of
from etude.evidence.claims import Better
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study
from etude.learn.supervised import Accuracy, Supervised
from etude.nn.convolution import Convolution
from etude.nn.mlp import MLP
from etude.papers.order.cyclical_curriculum.sampler import CyclicalCurriculum
from etude.papers.order.cyclical_curriculum.scores import KeepLosses, easy_scores, hard_scores


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the study, on two data sets: `noisy` has wrong labels in its training part, `clean` has none."""

    noisy: str = "digits"
    clean: str = "mnist1d"
    noise: float = 0.15  # share of the noisy set's training labels that are wrong
    epochs: float = 20  # passes over the data; a curriculum shows as many samples
    batch: int = 32
    lr_noisy: float = 3e-3  # constant, as is the other
    lr_clean: float = 1e-2
    beta2: float = 0.999
    eps: float = 1e-7
    start: float = 0.25  # sp
    end: float = 1.0  # ep
    factor: float = 0.5  # alpha
    repeat: int = 5  # short epochs at each size, for one-way pacing
    hidden: int = 128  # units of the perceptron for the digits
    evaluations: int = 20  # at equal sample counts, whatever the epochs

    def model(self, data: str) -> nn.Module:
        if data == "cifar10":
            return cifar_model()
        return MLP((64, self.hidden, 10)) if data == "digits" else Convolution()


DATA = {"digits": digits, "mnist1d": mnist1d}


def splits(data: str) -> Splits:
    if data not in DATA:
        raise one_of("Settings.noisy or clean", data, DATA)
    return DATA[data]()


def cifar_model() -> nn.Module:
    """The small network of the authors' CIFAR-10 example, [B, 3, 32, 32] -> [B, 10]: 66,890 trainable parameters."""
    layers: list[nn.Module] = []
    for inputs, outputs, pool in ((3, 32, True), (32, 64, True), (64, 64, False)):
        layers += [nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 10))


class WrongLabels(Method):
    """Counts how many of the samples trained on have a wrong label. wrong: [N] bool."""

    def __init__(self, wrong: Tensor) -> None:
        self.wrong, self.seen, self.found = wrong.numpy(), 0, 0

    def batch(self, run: Run, batch: Batch) -> None:
        self.seen += len(batch)
        self.found += int(self.wrong[batch.ids].sum())


def one_run(
    job: Job, data: str, labels: Tensor, lr: float, seed: int, methods: Sequence[Method], epochs: float, begin: float, end: float
) -> RunResult[nn.Module]:
    """Trains a fresh model on `labels`; `begin` to `end` is its part of the job's progress."""
    s: Settings = job.settings
    parts = splits(data)

    def accuracy(part: Part) -> Accuracy:
        return Accuracy(part.x, part.y)

    return Trainer(
        initialise(s.model(data), seed),
        DataStream(TensorSource(x=parts.train.x, y=labels), s.batch, seed),
        Supervised(),
        optimizer=AdamW(lr=lr, betas=(0.9, s.beta2), eps=s.eps, weight_decay=0.0),
        schedule=Constant(),
        methods=methods,
        # In the category "train": measuring losses for a self-paced curriculum must not shorten its training.
        budget=Budget(weights={"train.samples": 1.0}, limit=epochs * len(labels)),
        seed=seed,
        clip=None,
        evaluators={"test": accuracy(parts.test), "validation": accuracy(parts.validation)},
        evaluate_every=1 / s.evaluations,
        progress=lambda share, loss: job.progress(begin + (end - begin) * min(share, 1.0), loss),
    ).run()


def picked(result: RunResult[nn.Module]) -> dict[str, float]:
    """The evaluation with the best validation accuracy, the first of equal ones; never chosen by looking at the test."""
    rows = result.history[1:]
    return rows[int(np.argmax([row["validation/accuracy"] for row in rows]))]


def train(job: Job, how: str, epochs: float = 1.0) -> Outcome:
    """One arm on both data sets. how: "vanilla", "cycle", "random-cycle", "self-paced", "easy-up" or "hard-up".

    epochs: as a multiple of the settings'. Curves over FLOPs and seconds begin where the scoring model has left off.
    """
    s: Settings = job.settings
    metrics: dict[str, float] = {}
    curves: dict[str, tuple[list[float], list[float]]] = {}
    total, parameters = Ledger(), 0
    scored = how in ("cycle", "easy-up", "hard-up")
    for place, (name, data, noise, lr) in enumerate((("noisy", s.noisy, s.noise, s.lr_noisy), ("clean", s.clean, 0.0, s.lr_clean))):
        true = splits(data).train.y
        labels = with_label_noise(true, noise, 10, derive(job.seed, "noise"))
        wrong, prepared, losses = WrongLabels(labels != true), Ledger(), None
        begin, end = place / 2, (place + 1) / 2
        try:
            if scored:
                # Another start and another order than the run that is measured: the scores come from a model of their own.
                keep, middle = KeepLosses(), (begin + end) / 2
                scorer = one_run(job, data, labels, lr, derive(job.seed, "scorer"), [keep], s.epochs, begin, middle)
                prepared.merge(scorer.ledger, "prepare")
                losses, begin = keep.losses, middle
            methods = [wrong, *curriculum(s, how, losses)]
            result = one_run(job, data, labels, lr, job.seed, methods, epochs * s.epochs, begin, end)
        except NonFinite:
            return failed(s, epochs)
        metrics |= {
            f"{name} accuracy": picked(result)["test/accuracy"],
            f"{name} validation accuracy": picked(result)["validation/accuracy"],
            f"{name} final accuracy": result.metrics["test/accuracy"],
            f"{name} final loss": result.metrics["test/loss"],
        }
        if noise:
            metrics["wrong labels seen"] = wrong.found / wrong.seen
        for x in ("flops", "seconds"):
            xs, ys = result.curve("test/accuracy", x)
            curves[f"{name} accuracy / {x}"] = ([v + prepared.total(x) for v in xs], ys)
        shares, ys = result.curve("test/accuracy", "share")
        curves[f"{name} accuracy / samples"] = ([v * epochs * s.epochs * len(labels) for v in shares], ys)
        total.merge(prepared)
        total.merge(result.ledger)
        parameters = max(parameters, result.parameters)
    return Outcome(metrics=metrics, curves=curves, ledger=total.as_dict(), parameters=parameters)


def curriculum(s: Settings, how: str, losses: np.ndarray | None) -> list[Method]:
    if how == "vanilla":
        return []
    if how in ("random-cycle", "self-paced"):
        scores = "random" if how == "random-cycle" else "easy"
        return [CyclicalCurriculum(scores, start=s.start, end=s.end, factor=s.factor)]
    scores = hard_scores(losses) if how.startswith("hard") else easy_scores(losses)
    one_way = how.endswith("up")
    return [
        CyclicalCurriculum(
            scores, start=s.start, end=s.end, factor=s.factor, pacing="grow" if one_way else "cycle", repeat=s.repeat if one_way else 1
        )
    ]


def failed(s: Settings, epochs: float) -> Outcome:
    """A run that overflowed: chance, charged as if it had gone on."""
    samples = sum(epochs * s.epochs * len(splits(data).train) for data in (s.noisy, s.clean))
    metrics = {"wrong labels seen": s.noise}
    for name in ("noisy", "clean"):
        metrics |= {f"{name} {what}": 0.1 for what in ("accuracy", "validation accuracy", "final accuracy")}
        metrics[f"{name} final loss"] = float(np.log(10))
    return Outcome(metrics=metrics, ledger={"train": {"samples": samples}}, diverged=True)


def _arm(how: str, about: str, epochs: float = 1.0) -> Arm:
    return Arm(run=lambda job: train(job, how, epochs), about=about)


CPU = Settings()
PAPER = Settings(noisy="cifar10", clean="cifar10", noise=0.0, epochs=30, batch=128, lr_noisy=1e-3, lr_clean=1e-3, evaluations=30)
CODE = "authors' code at 90bfae0"
SOURCES = {
    "noisy": "ours: the published sets have no labels made wrong",
    "clean": f"{CODE}, example/cifar.ipynb",
    "noise": "ours",
    "epochs": f"{CODE}, example/cifar.ipynb: 30 (54 short epochs)",
    "batch": f"{CODE}, example/cifar.ipynb: 128",
    "lr_noisy": "ours: as lr_clean",
    "lr_clean": f"{CODE}, example/cifar.ipynb: Keras's adam as it comes, 1e-3, constant",
    "beta2": f"{CODE}, example/cifar.ipynb: Keras's adam as it comes, 0.999",
    "eps": f"{CODE}, example/cifar.ipynb: Keras's adam as it comes, 1e-7",
    "start": f"{CODE}, example/cifar.ipynb: start_percent 0.25",
    "end": f"{CODE}, example/cifar.ipynb: end_percent 1",
    "factor": f"{CODE}, example/cifar.ipynb: multiplier 0.5",
    "repeat": f"{CODE}, ChangeDatasize.py: count = 5, in a comment",
    "hidden": "ours (not used by the convolutional network)",
    "evaluations": "ours: as many as vanilla epochs, so that both arms pick from as many",
}
NOISY, CLEAN, SAMPLES = "noisy accuracy", "clean accuracy", ("train.samples",)

STUDY = Study(
    slug="cyclical-curriculum",
    baseline="vanilla",
    headline=NOISY,
    lower_is_better=False,
    arms={
        "vanilla": _arm("vanilla", "whole epochs"),
        "ccl": _arm("cycle", "sizes swing, small epochs are drawn easy first by the losses of another model"),
        "random-cycle": _arm("random-cycle", "sizes swing, small epochs are drawn evenly: the control of the order"),
        "self-paced": _arm("self-paced", "as ccl, by the model's own present losses"),
        "easy-up": _arm("easy-up", "sizes only grow, easy first by the same losses as ccl"),
        "hard-up": _arm("hard-up", "sizes only grow, hard first by the same losses as ccl"),
        "vanilla-double": _arm("vanilla", "whole epochs, twice as many: what the scoring model costs, spent on training", 2.0),
    },
    scales={
        "smoke": Scale(
            settings=replace(CPU, clean="digits", lr_clean=3e-3, epochs=1.5, hidden=16, evaluations=3),
            seeds=3,
            size="1.2k parameters / 1.6k samples twice",
        ),
        "quick": Scale(
            settings=replace(CPU, clean="digits", lr_clean=3e-3, hidden=64), seeds=12, size="4.8k parameters / 22k samples twice"
        ),
        "cpu": Scale(settings=CPU, seeds=20, size="9.6k parameters / 22k noisy digits and 70k clean signals"),
        "paper": Scale(settings=PAPER, seeds=5, size="67k parameters / 1.5M samples", sources=SOURCES),
    },
    claims=[
        Better(
            text="With 15 % wrong labels, the cyclical curriculum beats whole epochs in test accuracy, at equal samples trained on",
            arm="ccl", baseline="vanilla", metric=NOISY, d=0.01, lower_is_better=False, equal=SAMPLES, primary=True,
        ),
        Better(
            text="With 15 % wrong labels, it beats the same swing with small epochs drawn evenly (the control: the order is the cause)",
            arm="ccl", baseline="random-cycle", metric=NOISY, d=0.01, lower_is_better=False, equal=SAMPLES,
        ),
        Better(
            text="With 15 % wrong labels, it beats whole epochs that may use the scoring model's FLOPs too",
            arm="ccl", baseline="vanilla-double", metric=NOISY, d=0.01, lower_is_better=False, equal=("flops",),
        ),
        Better(
            text="With 15 % wrong labels, it beats an easy-first curriculum that only grows, at equal samples trained on",
            arm="ccl", baseline="easy-up", metric=NOISY, d=0.01, lower_is_better=False, equal=SAMPLES,
        ),
        Better(
            text="With 15 % wrong labels, it beats a hard-first curriculum that only grows, at equal samples trained on",
            arm="ccl", baseline="hard-up", metric=NOISY, d=0.01, lower_is_better=False, equal=SAMPLES,
        ),
        Better(
            text="On clean labels, the cyclical curriculum beats whole epochs in test accuracy, at equal samples trained on",
            arm="ccl", baseline="vanilla", metric=CLEAN, d=0.01, lower_is_better=False, equal=SAMPLES,
        ),
        Better(
            text="With 15 % wrong labels, the cyclical curriculum ends (no epoch picked) above whole epochs",
            arm="ccl", baseline="vanilla", metric="noisy final accuracy", d=0.01, lower_is_better=False, equal=SAMPLES,
        ),
    ],
    plots=[
        Plot(title="Test accuracy over samples trained on, 15 % wrong labels", kind="curve", curve="noisy accuracy / samples"),
        Plot(title="Test accuracy over samples trained on, clean labels", kind="curve", curve="clean accuracy / samples"),
        Plot(title="Share of wrong labels among the samples trained on", kind="bars", metric="wrong labels seen"),
    ],
    data=("digits", "mnist1d"),
    paper_size="18 data sets, 15 networks; the example: 67k parameters / 1.5M samples",
    deviations=[
        ("data", "18 image and text sets", "digits with 15 % wrong labels, MNIST-1D", "runs on two cores", "less room for any curriculum"),
        ("seeds", "5", "20", "400 test digits: one seed's difference is uncertain by about a point", "narrower intervals"),
        ("measure", "best test accuracy over all epochs", "at the epoch picked on validation", "54 chances against 30", "smaller gains"),
        ("evaluation", "after every epoch, short or whole", "at equal numbers of samples", "both arms pick from as many", "smaller gains"),
        ("whole epochs inside the cycle", "drawn by score, then shuffled", "the default shuffle's", "the same samples", "none"),
        ("self-paced start", "begins at the first whole epoch, budget + 1", "the same start, equal samples", "equal budgets", "none"),
        ("one-way curricula", "scores of the present model", "ccl's scores", "only the sizes differ from ccl", "small"),
    ],
    build_paper_model=lambda s: s.model(s.clean),
    paper_parameters={"CIFAR-10 example, trainable": (66_890, f"{CODE}, example/cifar.ipynb: the printed summary")},
)  # fmt: skip
