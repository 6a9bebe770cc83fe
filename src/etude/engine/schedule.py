"""Learning-rate schedules as functions of the consumed share of the budget.

A schedule is called with `share` in [0, 1] and returns the factor on the optimizer's learning rate. Shares, not steps:
a budget in tokens, FLOPs or steps then gives the same curve.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

from etude.engine.arguments import check
from etude.errors import BadInput


class Schedule(Protocol):
    def __call__(self, share: float) -> float: ...


def _share(where: str, value: float) -> None:
    check(where, value, float)
    if not 0 <= value <= 1:
        raise BadInput(where, repr(value), "a share of the budget between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Linear warm-up over the share `warmup`, then 1."""

    warmup: float = 0.0

    def __post_init__(self) -> None:
        _share("schedule.warmup", self.warmup)

    def __call__(self, share: float) -> float:
        return _warm(share, self.warmup)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Warm-up, then linearly down to `final` at the end of the budget."""

    warmup: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        _share("schedule.warmup", self.warmup)
        _share("schedule.final", self.final)

    def __call__(self, share: float) -> float:
        if share < self.warmup:
            return _warm(share, self.warmup)
        return 1 - (1 - self.final) * _after(share, self.warmup)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Warm-up, then half a cosine down to `final` (Loshchilov and Hutter, arXiv 1608.03983, eq. 5, one cycle)."""

    warmup: float = 0.0
    final: float = 0.1

    def __post_init__(self) -> None:
        _share("schedule.warmup", self.warmup)
        _share("schedule.final", self.final)

    def __call__(self, share: float) -> float:
        if share < self.warmup:
            return _warm(share, self.warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * _after(share, self.warmup)))


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay:
    """Warm-up, constant, then linearly down to `final` over the last `decay` of the budget (WSD: arXiv 2404.06395, section 4)."""

    warmup: float = 0.0
    decay: float = 0.2
    final: float = 0.0

    def __post_init__(self) -> None:
        _share("schedule.warmup", self.warmup)
        _share("schedule.decay", self.decay)
        _share("schedule.final", self.final)
        if self.warmup + self.decay > 1:
            raise BadInput("schedule.decay", f"warmup + decay = {self.warmup + self.decay:g}", "at most 1")

    def __call__(self, share: float) -> float:
        if share < self.warmup:
            return _warm(share, self.warmup)
        left = 1 - share
        return 1.0 if left >= self.decay else self.final + (1 - self.final) * max(left, 0.0) / self.decay


@dataclass(frozen=True, kw_only=True)
class Infinite:
    """Warm-up, cooldown to `constant`, held there, then an annealing tail to `final` (infinite schedules: arXiv 2403.08763, eq. 4).

    The four parts end at the shares `warmup`, `cooldown`, 1 - `anneal` and 1. The held part can be prolonged without
    knowing the end: that is the schedule's point.
    """

    warmup: float = 0.01
    cooldown: float = 0.3
    constant: float = 0.5
    anneal: float = 0.2
    final: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warmup", "cooldown", "constant", "anneal", "final"):
            _share(f"schedule.{name}", getattr(self, name))
        if not self.warmup <= self.cooldown <= 1 - self.anneal:
            raise BadInput("schedule.cooldown", repr(self.cooldown), "warmup <= cooldown <= 1 - anneal")
        if self.anneal and self.constant <= 0 < self.final:
            raise BadInput("schedule.constant", repr(self.constant), "a share > 0 where the tail ends above 0")

    def __call__(self, share: float) -> float:
        if share < self.warmup:
            return _warm(share, self.warmup)
        if share < self.cooldown:
            done = (share - self.warmup) / (self.cooldown - self.warmup)
            return self.constant + (1 - self.constant) * 0.5 * (1 + math.cos(math.pi * done))
        if share < 1 - self.anneal or not self.anneal:
            return self.constant
        done = min(1.0, (share - (1 - self.anneal)) / self.anneal)
        # The source decays the tail exponentially, which never reaches 0; a final value of 0 falls back to a line.
        return self.constant * (self.final / self.constant) ** done if self.final > 0 else self.constant * (1 - done)


def _warm(share: float, warmup: float) -> float:
    return 1.0 if warmup <= 0 or share >= warmup else share / warmup


def _after(share: float, start: float) -> float:
    return min(1.0, (share - start) / (1 - start)) if start < 1 else 1.0


SCHEDULES: dict[str, type] = {"constant": Constant, "linear": Linear, "cosine": Cosine, "wsd": WarmupStableDecay, "infinite": Infinite}
"""By the names that recipes use."""


def to_state(schedule: Schedule) -> dict[str, Any]:
    """For a checkpoint. Raises TypeError for a schedule that is none of `SCHEDULES`, which could not be rebuilt from it."""
    for name, kind in SCHEDULES.items():
        if type(schedule) is kind:
            return {"kind": name} | asdict(cast(Any, schedule))
    raise TypeError(f"a schedule given in mid-run must be one of {', '.join(SCHEDULES)}; found {type(schedule).__name__}")


def from_state(state: dict[str, Any]) -> Schedule:
    return SCHEDULES[state["kind"]](**{k: v for k, v in state.items() if k != "kind"})
