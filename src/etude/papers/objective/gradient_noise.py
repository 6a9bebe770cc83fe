"""Gradient noise: Gaussian noise of falling variance on every gradient, so that a very deep net leaves a poor start.

Nothing else of the training changes. At update t (from 0, over the whole run, never anew in an epoch), after clipping:

    g <- g + N(0, s[t]), independently per weight        s[t] = eta / (1 + t) ** gamma        s is the variance, gamma = 0.55

Source: Neelakantan et al. 2015, arXiv 1511.06807, section 3 (eta from {0.01, 0.3, 1.0}) and section 4.1 (20 hidden layers of
50 rectified units, plain gradient descent, zero and other starts).
Scaled down: 8 x 8 digits instead of 28 x 28, the same 20 hidden layers of 50. It still tests the claim, because that is about
depth and start: a net whose weights are all zero has no gradient but at its last bias, whatever the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from etude.data.images import digits
from etude.data.sources import TensorSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.optim import SGD
from etude.engine.protocols import NOISE, Method
from etude.engine.run import Run
from etude.engine.schedule import Constant
from etude.engine.streams import generator, initialise
from etude.engine.trainer import NonFinite, Trainer
from etude.errors import BadInput, one_of
from etude.evidence.claims import Better, Equivalent, Rate
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study
from etude.learn.supervised import Accuracy, Supervised
from etude.nn.mlp import DeepReLU

O = TypeVar("O", bound=torch.optim.Optimizer)


def noise_variance(step: int, eta: float, gamma: float = 0.55) -> float:
    """Variance (not deviation) of the noise at update `step`, counted from 0: eta / (1 + step) ** gamma."""
    return eta / (1 + step) ** gamma


def mean_variance(num_steps: int, eta: float, gamma: float = 0.55) -> float:
    """Mean of `noise_variance` over updates 0 .. num_steps - 1: a constant noise of this variance adds up to as much."""
    return math.fsum(noise_variance(step, eta, gamma) for step in range(num_steps)) / num_steps


def add_noise(gradients: Mapping[str, Tensor], deviation: float, rng: Callable[[str], torch.Generator]) -> None:
    """Adds N(0, deviation ** 2) to each gradient, in place.

    rng: a CPU generator for a name. Each tensor has its own, so that freezing or adding one leaves the others' noise alone;
    drawn in float32 on the CPU and moved, so that the numbers depend neither on the device nor on the gradients' precision.
    """
    for name, gradient in gradients.items():
        noise = torch.randn(gradient.shape, generator=rng(name))
        gradient.add_((noise * deviation).to(gradient.device, gradient.dtype))


def _check(where: str, eta: float, gamma: float) -> None:
    if not (math.isfinite(eta) and eta >= 0):
        raise BadInput(f"{where}.eta", repr(eta), "a number >= 0")
    if not 0 <= gamma <= 1:
        raise BadInput(f"{where}.gamma", repr(gamma), "a number from 0 (constant variance) to 1")


class GradientNoise(Method):
    """Adds annealed Gaussian noise to the clipped gradients.

    eta:   variance at the first update, in squared units of the gradient; 0 is the baseline, bit for bit.
    gamma: how fast the variance falls; 0 keeps it.
    t is `run.step`, which a checkpoint keeps. A frozen weight, or one that the loss does not reach, gets no noise.
    Raises BadInput for eta < 0 or gamma outside [0, 1].
    """

    phases = {"clipped": NOISE}
    sharded = False  # the noise is drawn for whole tensors

    def __init__(self, eta: float, gamma: float = 0.55) -> None:
        _check("GradientNoise", eta, gamma)
        self.eta, self.gamma = eta, gamma

    def clipped(self, run: Run) -> None:
        if not self.eta:
            return
        deviation = math.sqrt(noise_variance(run.step, self.eta, self.gamma))
        gradients = {n: p.grad for n, p in run.named_parameters().items() if p.grad is not None}
        add_noise(gradients, deviation, lambda name: run.rng("gradient-noise", run.step, name))


def noisy(optimizer: O, eta: float, gamma: float = 0.55, seed: int = 0) -> O:
    """Makes any torch optimizer add the noise before each of its steps; returns the same optimizer. Clip before `step()`.

    The count of updates lies in the first parameter group as "noise_step", so `state_dict` saves and restores it. Noise enters
    before moments and learning rate.
    Raises BadInput for eta or gamma out of range, for an optimizer made noisy twice, and at a step with a closure or with
    gradients that a scaler has not unscaled yet: these have no final gradient to add to when the step begins.
    """
    _check("noisy", eta, gamma)
    first = optimizer.param_groups[0]
    if "noise_step" in first:
        raise BadInput("noisy", "an optimizer with gradient noise already", "one without")
    first["noise_step"] = 0

    def before_step(this: torch.optim.Optimizer, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        # A profiler passes the optimizer itself along; what else is given is the closure.
        if any(callable(given) for given in (*positional, *named.values())):
            raise BadInput("noisy", "a step with a closure", "gradients computed before the step")
        if getattr(this, "grad_scale", None) is not None:
            raise BadInput("noisy", "scaled gradients", "scaler.unscale_(optimizer) before the step")
        step = this.param_groups[0]["noise_step"]
        this.param_groups[0]["noise_step"] = step + 1
        if eta:
            weights = [(f"{i}.{j}", p) for i, group in enumerate(this.param_groups) for j, p in enumerate(group["params"])]
            gradients = {name: p.grad for name, p in weights if p.grad is not None}
            deviation = math.sqrt(noise_variance(step, eta, gamma))
            add_noise(gradients, deviation, lambda name: generator(seed, "gradient-noise", step, name))

    optimizer.register_step_pre_hook(before_step)
    return optimizer


# --- the study --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the study. success: a run counts as one where its test accuracy is above this share."""

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
    "evaluate_every": "ours",
}

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
        "he": _arm("he", "none", "no noise"),
        "he-noise": _arm("he", "annealed", "annealed noise"),
    },
    scales={
        "smoke": Scale(
            settings=replace(CPU, depth=6, width=12, steps=20, evaluate_every=0.5), seeds=3, size="1.7k parameters / 640 samples"
        ),
        "quick": Scale(settings=replace(CPU, depth=10, steps=1500), seeds=8, size="27k parameters / 48k samples"),
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
        ("other tasks", "question answering, program learners", "none", "hours a run", "the claim on multiplication is not tested"),
        ("success", "average and best accuracy", "share of restarts above 80 %", "the best of many says little", "none"),
        ("accuracy", "not said of which update", "of the evaluation that is best on validation", "a fixed rate makes it jump", "none"),
    ],
    paper_size="88k parameters / MNIST; up to 7,000 restarts on other tasks",
    build_paper_model=lambda s: s.model(),
)  # fmt: skip
