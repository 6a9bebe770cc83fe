"""The study: a very deep net on digits from poor and good starts, and a recurrent net on parity, with the noise and without."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from etude.data.images import digits
from etude.data.sources import TensorSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import SGD, AdamW
from etude.engine.protocols import Method
from etude.engine.schedule import Constant
from etude.engine.streams import derive, generator, initialise
from etude.engine.trainer import NonFinite, Trainer
from etude.errors import one_of
from etude.evidence.claims import Better, Equivalent, Rate
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study
from etude.learn.supervised import Accuracy, Supervised
from etude.nn.mlp import DeepReLU
from etude.nn.recurrent import RecurrentClassifier, RecurrentConfig
from etude.papers.objective.gradient_noise.noise import GradientNoise, mean_variance


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the study. success: a run counts as one where its test accuracy is above this share.

    The fields from `bits` on are of the second task, the parity of bit strings; a seed has several `restarts` of it.
    """

    inputs: int = 64
    classes: int = 10
    depth: int = 20  # hidden layers
    width: int = 50
    batch: int = 32
    steps: int = 6000
    lr: float = 0.1
    clip: float = 10.0  # global norm
    eta: float = 0.05
    eta_good: float = 0.01  # from the start "he"; as in the paper, eta is chosen for each start
    gamma: float = 0.55
    small: float = 0.1  # deviation of the weights in the start "normal"
    success: float = 0.8
    evaluate_every: float = 0.05
    bits: int = 8  # of every string there is, three quarters are trained on
    units: int = 8  # of the gated recurrent net
    parity_steps: int = 600
    parity_lr: float = 0.1  # Adam
    parity_clip: float = 1.0
    parity_eta: float = 1e-3
    parity_success: float = 0.95
    restarts: int = 8

    def model(self) -> DeepReLU:
        return DeepReLU(self.inputs, self.classes, depth=self.depth, width=self.width)

    def noise(self, kind: str, start: str) -> list[Method]:
        """kind: "none", "annealed", or "constant": one variance throughout, adding up to the annealed one's over the run."""
        eta = self.eta_good if start == "he" else self.eta
        if kind == "none":
            return []
        if kind == "constant":
            return [GradientNoise(mean_variance(self.steps, eta, self.gamma), gamma=0.0)]
        return [GradientNoise(eta, self.gamma)]

    def parity_model(self) -> RecurrentClassifier:
        return RecurrentClassifier(RecurrentConfig(cell="gru", width=self.units), inputs=1, classes=2)


def set_start(model: nn.Module, start: str, seed: int, small: float = 0.1) -> None:
    """The weights before the first update: "zero", "normal" (N(0, small ** 2), biases zero) or "he" (the model's own rule)."""
    if start not in STARTS:
        raise one_of("start", start, STARTS)
    if start == "he":
        initialise(model, seed)
        return
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.zero_()
            if start == "normal" and parameter.ndim > 1:
                parameter.normal_(std=small, generator=generator(seed, "init", name))


METRICS = ("accuracy", "last accuracy", "validation accuracy")
STARTS = {"zero": "all weights zero", "normal": "weights from N(0, 0.1 ** 2)", "he": "weights scaled to keep the signal's size"}


def train(job: Job, start: str, noise: str) -> Outcome:
    """One restart from `start` with the noise "none", "annealed" or "constant"; a run that overflows is a failure at chance level."""
    s: Settings = job.settings
    data, model = digits(), s.model()
    set_start(model, start, job.seed, s.small)
    parameters = sum(p.numel() for p in model.parameters())
    trainer = Trainer(
        model,
        DataStream(TensorSource(x=data.train.x, y=data.train.y), s.batch, job.seed, drop_last=True),
        Supervised(),
        optimizer=SGD(lr=s.lr),
        schedule=Constant(),
        methods=s.noise(noise, start),
        budget=Budget(steps=s.steps),
        seed=job.seed,
        clip=s.clip,
        evaluators={"test": Accuracy(data.test.x, data.test.y), "validation": Accuracy(data.validation.x, data.validation.y)},
        evaluate_every=s.evaluate_every,
        progress=lambda share, loss: job.progress(share, loss),
    )
    try:
        result = trainer.run()
    except NonFinite:
        # Charged as if it had gone on: a failure does not become a success by having been cheap.
        planned = {"train": {"samples": float(s.steps * s.batch), "steps": float(s.steps)}}
        chance = 1 / s.classes
        return Outcome(
            metrics=dict.fromkeys(METRICS, chance), counts={"success": (0, 1)}, ledger=planned, diverged=True,
            parameters=parameters, curves={"accuracy / step": ([0.0, float(s.steps)], [chance, chance])},
        )  # fmt: skip
    # At a fixed rate these nets fall back for a while and recover: the evaluation is chosen, on validation, as one keeps a checkpoint.
    best = max(result.history, key=lambda row: row["validation/accuracy"])
    accuracy = best["test/accuracy"]
    return Outcome(
        metrics=dict(zip(METRICS, (accuracy, result.metrics["test/accuracy"], best["validation/accuracy"]), strict=True)),
        counts={"success": (int(accuracy > s.success), 1)},
        curves={"accuracy / step": result.curve("test/accuracy", "step")},
        ledger=result.ledger.as_dict(),
        parameters=parameters,
    )


def parity_strings(bits: int) -> tuple[TensorSource, TensorSource]:
    """All 2 ** bits strings of -1 and 1 with their parity, three quarters to train on and the rest held out; the same for every seed."""
    x = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * bits)
    y = (x > 0).sum(1) % 2
    order = torch.randperm(len(x), generator=generator(0, "parity", bits))
    train, held_out = order[: len(x) * 3 // 4], order[len(x) * 3 // 4 :]
    return TensorSource(x=x[train], y=y[train]), TensorSource(x=x[held_out], y=y[held_out])


def train_parity(job: Job, eta: float) -> Outcome:
    """Several restarts of the recurrent net; a success is one whose best evaluation on the held-out strings is above the bar."""
    s: Settings = job.settings
    strings, held_out = parity_strings(s.bits)
    x, y = held_out.get(np.arange(len(held_out))).values()
    total, reached, parameters = Ledger(), [], 0
    for restart in range(s.restarts):
        seed = derive(job.seed, "restart", restart)
        model = initialise(s.parity_model(), seed)
        parameters = sum(p.numel() for p in model.parameters())
        trainer = Trainer(
            model,
            DataStream(strings, s.batch, seed, drop_last=True),
            Supervised(),
            optimizer=AdamW(lr=s.parity_lr, betas=(0.9, 0.999), weight_decay=0.0),
            schedule=Constant(),
            methods=[GradientNoise(eta, s.gamma)],
            budget=Budget(steps=s.parity_steps),
            seed=seed,
            clip=s.parity_clip,
            evaluators={"held-out": Accuracy(x, y)},
            evaluate_every=s.evaluate_every,
            progress=lambda share, loss, done=restart: job.progress((done + share) / s.restarts, loss),
        )
        result = trainer.run()
        total.merge(result.ledger)
        reached.append(max(row["held-out/accuracy"] for row in result.history))
    return Outcome(
        metrics={"accuracy": sum(reached) / len(reached)},
        counts={"parity learned": (sum(a > s.parity_success for a in reached), s.restarts)},
        ledger=total.as_dict(),
        parameters=parameters,
    )


def _arm(start: str, noise: str, about: str) -> Arm:
    return Arm(run=lambda job: train(job, start, noise), about=f"{STARTS[start]}; {about}")


CPU = Settings()
PAPER = Settings(inputs=784, batch=100, steps=60_000, clip=10.0, eta=0.01)
SOURCES = {
    "inputs": "section 4.1: MNIST, 28 x 28",
    "classes": "section 4.1: MNIST",
    "depth": "section 4.1: 20 hidden layers",
    "width": "section 4.1: 50 units a layer",
    "batch": "assumed (the paper does not say)",
    "steps": "assumed (100 epochs; the paper does not say)",
    "lr": "section 4.1: 0.1 or 0.01, no momentum",
    "clip": "assumed (one of the section's thresholds; it reports runs with and without)",
    "eta": "section 3: from {0.01, 0.3, 1.0}; which one here is assumed",
    "eta_good": "section 3: from {0.01, 0.3, 1.0}; which one here is assumed",
    "gamma": "section 3: 0.55",
    "small": "section 4.1: N(0, 0.1 ** 2)",
    "success": "ours",
    "bits": "ours", "units": "ours", "parity_steps": "ours", "parity_lr": "ours", "parity_clip": "ours", "parity_eta": "ours",
    "parity_success": "ours", "restarts": "ours",
    "evaluate_every": "ours",
}  # fmt: skip

STUDY = Study(
    slug="gradient-noise",
    baseline="zero",
    headline="accuracy",
    lower_is_better=False,
    arms={
        "zero": _arm("zero", "none", "no noise"),
        "zero-noise": _arm("zero", "annealed", "annealed noise"),
        "zero-constant": _arm("zero", "constant", "constant noise of the same mean variance"),
        "normal": _arm("normal", "none", "no noise"),
        "normal-noise": _arm("normal", "annealed", "annealed noise"),
        "normal-constant": _arm("normal", "constant", "constant noise of the same mean variance"),
        "he": _arm("he", "none", "no noise"),
        "he-noise": _arm("he", "annealed", "annealed noise"),
        "he-constant": _arm("he", "constant", "constant noise of the same mean variance"),
        "parity": Arm(run=lambda job: train_parity(job, 0.0), about="a recurrent net on parity; no noise"),
        "parity-noise": Arm(run=lambda job: train_parity(job, job.settings.parity_eta), about="a recurrent net on parity; annealed noise"),
    },
    scales={
        "smoke": Scale(
            settings=replace(CPU, depth=6, width=12, steps=20, evaluate_every=0.5, parity_steps=10, restarts=1),
            seeds=3,
            size="1.7k parameters / 640 samples",
        ),
        "quick": Scale(settings=replace(CPU, depth=10, steps=1500, restarts=1), seeds=8,
            size="27k parameters / 48k samples"),
        "cpu": Scale(settings=CPU, seeds=10, size="52k parameters / 192k samples"),
        "paper": Scale(settings=PAPER, seeds=40, size="88k parameters / 6M samples", sources=SOURCES),
    },
    claims=[
        Rate(
            text="From an all-zero start more restarts of a very deep net succeed with annealed gradient noise than without",
            arm="zero-noise", baseline="zero", count="success", d=0.2, equal=("samples",), primary=True,
        ),
        Rate(
            text="From weights that are too small, N(0, 0.1 ** 2), more restarts succeed with annealed gradient noise than without",
            arm="normal-noise", baseline="normal", count="success", d=0.2, equal=("samples",),
        ),
        Better(
            text="From zero, annealed noise ends at a higher test accuracy than constant noise of the same mean variance (the control)",
            arm="zero-noise", baseline="zero-constant", metric="accuracy", lower_is_better=False, d=0.02, equal=("samples",),
        ),
        Equivalent(
            text="From a good start the noise changes the test accuracy by no more than two points",
            arm="he-noise", baseline="he", metric="accuracy", lower_is_better=False, d=0.02, equal=("samples",),
        ),
        Rate(
            text="More restarts of a recurrent net learn the parity of bit strings with annealed gradient noise than without",
            arm="parity-noise", baseline="parity", count="parity learned", d=0.1, equal=("samples",),
        ),
    ],
    plots=[
        Plot(title="Test accuracy over updates", kind="curve", curve="accuracy / step"),
        Plot(title="Test accuracy at the end", kind="bars", metric="accuracy"),
    ],
    deviations=[
        ("data", "MNIST, 28 x 28", "digits, 8 x 8, 1,097 for training", "runs on two cores", "lower best accuracy; the start is as poor"),
        ("eta", "the best of 0.01, 0.3, 1.0", "0.05; 0.01 from the good start", "tuned on seeds from 100", "none"),
        ("good start", "scaled weights", "He et al. 2015", "the usual rule for rectified units", "none"),
        ("dropout", "with and without", "without", "the start is what is tested", "none"),
        ("program learners", "binary multiplication, 7,000 restarts", "parity, 80 restarts an arm", "minutes", "its size is not tested"),
        ("question answering", "memory networks, 72 % fewer errors", "none", "hours a run", "that claim is not tested"),
        ("success", "average and best accuracy", "share of restarts above 80 %", "the best of many says little", "none"),
        ("accuracy", "not said of which update", "of the evaluation that is best on validation", "a fixed rate makes it jump", "none"),
    ],
    data=("digits",),
    paper_size="88k parameters / MNIST; up to 7,000 restarts on other tasks",
    build_paper_model=lambda s: s.model(),
)  # fmt: skip
