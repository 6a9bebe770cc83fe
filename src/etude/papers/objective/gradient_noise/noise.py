"""The noise: its variance over the run, a method for the trainer, and a wrapper over any torch optimizer.

Source: Neelakantan et al. 2015, arXiv 1511.06807, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from etude.engine.protocols import NOISE, Method
from etude.engine.run import Run
from etude.engine.streams import generator
from etude.errors import BadInput

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
