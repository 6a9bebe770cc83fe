"""How much of the data each short epoch shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile, islice

from etude.errors import BadInput, one_of


def cycle(start: float, end: float, factor: float) -> Iterator[float]:
    """start, start / factor, ... up to end, then times factor down to start, and so on for ever (authors' `get_cycle_sizes`).

    start, end are their sp, ep; factor is their alpha. Equal ends give a constant.
    """
    share, rising = start, True
    while True:
        yield share
        share = min(share / factor, end) if rising else max(share * factor, start)
        rising = share == start or (rising and share != end)


def grow(start: float, end: float, factor: float) -> Iterator[float]:
    """start, start / factor, ... up to end, then end for ever."""
    share = start
    while True:
        yield min(share, end)
        share = min(share / factor, end)


def shrink(start: float, end: float, factor: float) -> Iterator[float]:
    """end, end * factor, ... down to start, then start for ever."""
    share = end
    while True:
        yield max(share, start)
        share = max(share * factor, start)


KINDS = {"cycle": cycle, "grow": grow, "shrink": shrink}


@dataclass(frozen=True, kw_only=True)
class Pacing:
    """The share of the data in each short epoch.

    start, end: smallest and largest share. factor: how fast the size changes, above 0 and below 1; small is fast.
    kind: "cycle" (up and down), "grow" or "shrink" (one way). repeat: short epochs spent at each size.
    from_peak: leaves out what comes before the first epoch of the largest size: for scores of a model that begins untrained.
    """

    start: float = 0.25
    end: float = 1.0
    factor: float = 0.5
    kind: str = "cycle"
    repeat: int = 1
    from_peak: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1:
            raise BadInput("Pacing.start", repr(self.start), "a share above 0 and at most 1")
        if not self.start <= self.end <= 1:
            raise BadInput("Pacing.end", repr(self.end), f"a share from start ({self.start:g}) to 1")
        if not 0 < self.factor < 1:
            raise BadInput("Pacing.factor", repr(self.factor), "a number above 0 and below 1")
        if self.kind not in KINDS:
            raise one_of("Pacing.kind", self.kind, KINDS)
        if self.repeat < 1:
            raise BadInput("Pacing.repeat", repr(self.repeat), "a whole number >= 1")

    def sizes(self) -> Iterator[float]:
        """The sizes in order, each once a stay."""
        sizes = KINDS[self.kind](self.start, self.end, self.factor)
        return dropwhile(lambda share: share < self.end, sizes) if self.from_peak else sizes

    def share(self, stage: int) -> float:
        """Of short epoch `stage`, counted from 0."""
        return next(islice(self.sizes(), stage // self.repeat, None))

    def shares(self, epochs: float) -> list[float]:
        """Shares until their sum is at least `epochs`, passes over the whole data."""
        found: list[float] = []
        while sum(found) < epochs:
            found.append(self.share(len(found)))
        return found
