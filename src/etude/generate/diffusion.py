"""Denoising diffusion: the noise schedule, and the exact posterior sampler that goes back along it.

Levels t = 0 .. T - 1, from little to much noise. With alpha[t] = 1 - beta[t] and abar[t] = alpha[0] * ... * alpha[t]:

    forward   x_t = sqrt(abar[t]) x_0 + sqrt(1 - abar[t]) e,  e ~ N(0, I)
    clean     x0_hat = (x_t - sqrt(1 - abar[t]) e_hat) / sqrt(abar[t])
    back      x_{t-1} ~ N(m, v[t]),  m = sqrt(abar[t-1]) beta[t] / (1 - abar[t]) x0_hat + sqrt(alpha[t]) (1 - abar[t-1]) / (1 - abar[t]) x_t

Source: Ho et al. 2020, arXiv 2006.11239, eqs. 4, 7 and 15. Shapes: N samples of D coordinates, K recorded steps.
Coefficients are float64: abar falls below what float32 can hold long before the last step of common schedules, and a
sampler that divides by it would give NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from etude.engine.flops import FlopCounter
from etude.errors import BadInput

NoiseModel = Callable[[Tensor, Tensor], Tensor]
"""(x [N, ...], t int64 [1] or [N]) -> the noise predicted in x, of x's shape."""


def linear_betas(num_steps: int, first: float, last: float) -> Tensor:
    """beta[0] = first to beta[num_steps - 1] = last in equal steps, float64 [num_steps]."""
    if num_steps < 2:
        raise BadInput("num_steps", repr(num_steps), "a whole number >= 2")
    if not 0 < first <= last < 1:
        raise BadInput("betas", f"{first!r} to {last!r}", "0 < first <= last < 1")
    return torch.linspace(first, last, num_steps, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """betas: float64 [T]. variance: of the step back, "large" (beta[t]) or "small" (the exact posterior's for a known x_0).

    Both are the true one in a limit (Ho et al., section 3.2); the last step back, to the clean sample, adds no noise.
    `schedule.first(n)` keeps only the n least noisy levels: enough where abar[n - 1] is almost 0 already.
    """

    betas: Tensor
    variance: str = "large"

    def __post_init__(self) -> None:
        if self.betas.dtype != torch.float64 or self.betas.ndim != 1 or not len(self.betas):
            raise BadInput("betas", f"{self.betas.dtype} of shape {list(self.betas.shape)}", "float64 [T], T >= 1")
        if not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise BadInput("betas", f"{float(self.betas.min())!r} to {float(self.betas.max())!r}", "numbers above 0 and below 1")
        if self.variance not in ("large", "small"):
            raise BadInput("variance", f"'{self.variance}'", "large or small")
        object.__setattr__(self, "abar", torch.cumprod(1 - self.betas, 0))

    abar: Tensor = None  # type: ignore[assignment]  # [T] float64, made above

    @property
    def num_steps(self) -> int:
        return len(self.betas)

    def first(self, num_steps: int) -> NoiseSchedule:
        """The schedule's first `num_steps` levels, unchanged."""
        if not 1 <= num_steps <= self.num_steps:
            raise BadInput("num_steps", repr(num_steps), f"a whole number from 1 to {self.num_steps}")
        return NoiseSchedule(self.betas[:num_steps], self.variance)

    def noised(self, clean: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t for clean [N, ...], levels t [N] and standard normal noise of clean's shape."""
        abar = self.abar.to(t.device)[t].reshape(-1, *[1] * (clean.ndim - 1))
        return abar.sqrt().to(clean.dtype) * clean + (1 - abar).sqrt().to(clean.dtype) * noise

    def clean(self, x: Tensor, t: int, noise: Tensor) -> Tensor:
        """x0_hat: the clean sample that x at level t would come from if `noise` were the noise in it."""
        abar = float(self.abar[t])
        return (x - math.sqrt(1 - abar) * noise) / math.sqrt(abar)

    def mean_back(self, x: Tensor, t: int, noise: Tensor) -> Tensor:
        """The posterior mean m, with x0_hat put in: (x - beta / sqrt(1 - abar) e_hat) / sqrt(alpha).

        Equal to the form with x0_hat above, without dividing by sqrt(abar) and multiplying by it again.
        """
        beta, abar = float(self.betas[t]), float(self.abar[t])
        return (x - beta / math.sqrt(1 - abar) * noise) / math.sqrt(1 - beta)

    def variance_back(self, t: int) -> float:
        """v[t]; 0 at t = 0."""
        if not t:
            return 0.0
        beta = float(self.betas[t])
        return beta if self.variance == "large" else beta * (1 - float(self.abar[t - 1])) / (1 - float(self.abar[t]))


class NotFinite(BadInput):
    """A sampler came to NaN or Inf: the model, or a schedule that it was not made for, cannot be sampled from."""


@dataclass(frozen=True)
class Drawn:
    """x: [N, ...] samples. clean: [N, K, ...] the predictions x0_hat of the recorded steps, in the order they were made."""

    x: Tensor
    clean: Tensor


@torch.no_grad()
def draw(
    model: NoiseModel,
    schedule: NoiseSchedule,
    shape: tuple[int, ...],
    rng: torch.Generator,
    *,
    record: tuple[int, int] = (0, 0),
    batch_size: int = 2048,
    progress: Callable[[float], None] | None = None,
) -> Drawn:
    """`shape[0]` samples of shape `shape[1:]`, from N(0, I) at the last level back to level 0.

    record:   (first, end): the levels t with first <= t < end whose x0_hat is kept; (0, K) are the last K steps.
    rng:      a CPU generator; numbers are drawn per batch, so the samples depend on `batch_size`.
    progress: called with the share done, at least once a batch.
    Raises BadInput for a window beyond the schedule, and NotFinite (a BadInput) where samples are NaN or Inf.
    """
    first, end = record
    if not 0 <= first <= end <= schedule.num_steps:
        raise BadInput("record", f"levels {first} to {end}", f"a window inside 0 to {schedule.num_steps}, the schedule's levels")
    parts: list[Drawn] = []
    for start in range(0, shape[0], batch_size):
        x = torch.randn((min(batch_size, shape[0] - start), *shape[1:]), generator=rng)
        kept: list[Tensor] = []
        for t in reversed(range(schedule.num_steps)):
            noise = model(x, torch.tensor([t]))
            if first <= t < end:
                kept.append(schedule.clean(x, t, noise))
            x = schedule.mean_back(x, t, noise)
            if t:
                x = x + math.sqrt(schedule.variance_back(t)) * torch.randn(x.shape, generator=rng)
            if progress is not None and not t % 32:
                progress((start + len(x) * (1 - t / schedule.num_steps)) / shape[0])
        # Checked here and not only at the end of a study: NaN is in no mode and beyond no radius, and would count as nothing.
        if not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
            raise NotFinite("samples", f"{bad} of {len(x)} with NaN or Inf", "finite samples")
        parts.append(Drawn(x, torch.stack(kept, 1) if kept else x.new_empty((len(x), 0, *shape[1:]))))
    return Drawn(torch.cat([p.x for p in parts]), torch.cat([p.clean for p in parts]))


@torch.no_grad()
def draw_flops(model: NoiseModel, schedule: NoiseSchedule, shape: tuple[int, ...], batch_size: int = 2048) -> int:
    """FLOPs of `draw` with these arguments: the model's, counted on one step for each size of batch."""
    full, rest = divmod(shape[0], batch_size)
    total = 0
    for size, batches in ((batch_size, full), (rest, 1)):
        if size and batches:
            with FlopCounter() as counter:
                model(torch.zeros(size, *shape[1:]), torch.tensor([0]))
            total += counter.total * batches * schedule.num_steps
    return total
