"""The bandit as a sampler of domains, and as the method that gives it to a run and logs what it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from etude.data.samplers import Mixture, copied
from etude.engine.protocols import Feedback, Method
from etude.engine.run import Run
from etude.errors import BadInput, one_of
from etude.papers.order.dump.bandit import learnability, probabilities, upper_bounds

LOSS = "loss"


class Bandit(Mixture):
    """Draws domains by the upper confidence bounds of their learnability, then a sample of the domain evenly, with replacement.

    update_every: samples between two looks at the bounds: those of a batch (of a `RolloutStream`, the prompts of a round).
    window: the latest rollouts of a domain that its learnability is measured on. temperature: tau; infinite, all domains are drawn
    alike, as by a `FixedMixture` of equal weights. bonus: weight of the exploration term; 0 leaves it out.
    signal: which of the feedback's values is measured; "loss" is there without rollouts. absolute: False is the control of |A|.
    counts [K] and windows are of what has been told so far; `learnability()` is L.
    Raises BadInput for settings out of range, samples without domains, a domain without samples, a signal that nobody gives or that
    is not finite.
    """

    def __init__(
        self,
        update_every: int,
        *,
        window: int = 300,
        temperature: float = 0.1,
        bonus: float = 1.0,
        signal: str = "advantage",
        absolute: bool = True,
    ) -> None:
        super().__init__(update_every, replacement=True)
        check_settings(window, temperature, bonus)
        self.window, self.temperature, self.bonus, self.signal, self.absolute = window, temperature, bonus, signal, absolute
        self.counts = np.empty(0, dtype=np.int64)
        self.windows: list[np.ndarray] = []
        self.names: list[str] = []

    def learnability(self) -> np.ndarray:
        return learnability(self.windows, self.absolute)

    def weights(self, names: Sequence[str]) -> np.ndarray:
        self.names = list(names)
        if not len(self.counts):
            self.counts, self.windows = np.zeros(len(names), dtype=np.int64), [np.empty(0) for _ in names]
        if len(self.counts) != len(names):
            raise BadInput("data", f"{len(names)} domains", f"the {len(self.counts)} that the run began with")
        return probabilities(upper_bounds(self.learnability(), self.counts, self.bonus), self.temperature)

    def plan(self, stage: int, source: Any, rng: np.random.Generator) -> np.ndarray:
        # A domain that is never drawn has the highest bonus, so one without samples is refused before it is wanted.
        if hasattr(source, "domain_names"):
            num = len(source.domain_names)
            if source.domains.min() < 0 or source.domains.max() >= num:
                raise BadInput("data", "a sample without a domain", f"one of the {num} domains for each")
            sizes = np.bincount(source.domains, minlength=num)
            if not sizes.all():
                raise BadInput("data", f"domain '{source.domain_names[int(sizes.argmin())]}' without samples", "at least one in each")
        return super().plan(stage, source, rng)

    def observe(self, feedback: Feedback) -> None:
        if not len(feedback.ids):  # a report of evaluations: only what training has drawn counts
            return
        if self.signal != LOSS and self.signal not in feedback.values:
            expected = one_of("signal", self.signal, [LOSS, *feedback.values]).expected
            raise BadInput(
                "signal", f"'{self.signal}', which this run does not measure", f"{expected}; advantages come from a RolloutStream"
            )
        values = np.asarray(feedback.losses if self.signal == LOSS else feedback.values[self.signal], dtype=np.float64)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise BadInput(f"{self.signal} of sample {feedback.ids[wrong[0]]}", str(values[wrong[0]]), "a finite number")
        domains = self.domains_of(feedback.ids)
        for k in np.unique(domains):
            own = values[domains == k]
            self.windows[k] = np.concatenate([self.windows[k], own])[-self.window :]
            self.counts[k] += len(own)

    def state_dict(self) -> dict[str, Any]:
        own = {"names": list(self.names), "counts": copied(self.counts), "windows": [w.copy() for w in self.windows]}
        return own | super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.names, self.counts = list(state["names"]), copied(state["counts"])
        self.windows = [np.array(w) for w in state["windows"]]


class Dump(Method):
    """Learnability-driven scheduling of data distributions (domains of the problems or of the data).

    window, temperature, bonus, signal: see `Bandit`. update_every: batches of the stream between two looks at the bounds.
    Logs after each update the share of each domain, "share/NAME", and its learnability, "learnability/NAME".
    Without rollouts (a recipe's supervised or language data) nothing has an advantage; signal "loss" then schedules by mean loss,
    which is not the paper's signal. An infinite temperature draws all domains alike.
    """

    slots = ("sampler",)

    def __init__(
        self,
        *,
        window: int = 300,
        temperature: float = 0.1,
        bonus: float = 1.0,
        signal: str = "advantage",
        update_every: int = 1,
        absolute: bool = True,
    ) -> None:
        check_settings(window, temperature, bonus)
        if update_every < 1:
            raise BadInput("Dump.update_every", repr(update_every), "a whole number >= 1")
        self.window, self.temperature, self.bonus = window, temperature, bonus
        self.signal, self.update_every, self.absolute = signal, update_every, absolute

    def start(self, run: Run) -> None:
        batch = getattr(run.stream, "batch_size", None)
        if not isinstance(batch, int):
            raise BadInput(
                "Dump", f"a {type(run.stream).__name__} without `batch_size`", "a stream that says how many samples it shows at a time"
            )
        self.sampler = Bandit(
            batch * self.update_every, window=self.window, temperature=self.temperature, bonus=self.bonus, signal=self.signal,
            absolute=self.absolute,
        )  # fmt: skip
        run.set_sampler(self.sampler)

    def updated(self, run: Run) -> None:
        for name, share, learn in zip(self.sampler.names, self.sampler.history[-1], self.sampler.learnability(), strict=True):
            run.log(f"share/{name}", share)
            run.log(f"learnability/{name}", float(learn))


def check_settings(window: int, temperature: float, bonus: float) -> None:
    """Raises BadInput for a window without a rollout, a temperature not above 0, or a bonus below 0 or not finite."""
    if window < 1:
        raise BadInput("Dump.window", repr(window), "a whole number >= 1")
    if not temperature > 0:
        raise BadInput("Dump.temperature", repr(temperature), "a number > 0")
    if not 0 <= bonus < math.inf:
        raise BadInput("Dump.bonus", repr(bonus), "a number >= 0")
