"""Samplers: which samples a stage shows, in which order; some listen to the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from etude.engine.arguments import shown, typed
from etude.engine.protocols import Feedback, Labelled, Score, Source
from etude.engine.streams import numpy_rng
from etude.errors import BadInput


class SamplerBase:
    """A sampler that asks for nothing and remembers nothing; subclasses override `plan` and what else they need."""

    def plan(self, stage: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        raise NotImplementedError

    def observe(self, feedback: Feedback) -> None: ...

    def wants(self, stage: int) -> Score | None:
        return None

    def receive(self, score: Score, values: np.ndarray) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Shuffle(SamplerBase):
    """Every sample once, in a seeded order; or as many draws with replacement."""

    @typed("sampler.")
    def __init__(self, replacement: bool = False) -> None:
        self.replacement = replacement

    def plan(self, stage: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(len(source), size=len(source)) if self.replacement else rng.permutation(len(source))


def draw_without_replacement(weights: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """`size` different indices, one after another with probability proportional to `weights` among those left.

    Exponential keys (Efraimidis and Spirakis 2006): the smallest Exp(1) / w have exactly that distribution, in one pass.
    Raises BadInput for weights that are negative or not finite, or fewer that are not zero than the draw.
    """
    weights = check_weights(weights)
    positive = int((weights > 0).sum())
    if positive < size:
        raise BadInput("sampler.weights", f"{positive} above zero", f"at least the {size} to be drawn without replacement")
    with np.errstate(divide="ignore"):
        keys = rng.exponential(size=len(weights)) / weights
    chosen = np.argpartition(keys, size - 1)[:size] if size < len(keys) else np.arange(len(keys))
    return chosen[np.argsort(keys[chosen], kind="stable")]


def check_weights(weights: Any) -> np.ndarray:
    """As float64 [N]. Raises BadInput where they are no such array, one is negative or not finite, or all are zero."""
    try:
        weights = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput("sampler.weights", shown(weights), "numbers >= 0, one a sample") from error
    if weights.ndim != 1 or not len(weights):
        raise BadInput("sampler.weights", f"numbers of shape {list(weights.shape)}", "one row of numbers >= 0, one a sample")
    if not np.isfinite(weights).all():
        at = int(np.flatnonzero(~np.isfinite(weights))[0])
        raise BadInput("sampler.weights", f"{weights[at]} at {at}", "finite numbers")
    if (weights < 0).any():
        raise BadInput("sampler.weights", f"{weights.min():g} at {int(weights.argmin())}", "numbers >= 0")
    if not weights.any():
        raise BadInput("sampler.weights", "only zeros", "at least one number > 0")
    return weights


class WeightedDraw(SamplerBase):
    """Each stage draws `share` of the samples without replacement, with probability proportional to `weights` [N]."""

    @typed("sampler.")
    def __init__(self, weights: Any, share: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise BadInput("sampler.share", repr(share), "a share above 0 and at most 1")
        self.weights, self.share = check_weights(weights), share

    def plan(self, stage: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        if len(self.weights) != len(source):
            raise BadInput("sampler.weights", f"{len(self.weights)} weights", f"one for each of {len(source)} samples")
        return draw_without_replacement(self.weights, max(1, int(self.share * len(source))), rng)


REMEMBERED = 16
"""Stretches whose samples feedback may still be about: a round that redraws rejected groups uses up several."""


class Mixture(SamplerBase):
    """Draws each sample's domain by weights, then a sample of it; every stretch of `update_every` samples has weights of its own.

    A subclass gives them (`weights`). A stage is one such stretch, so let it be a multiple of the batch size. Within a domain
    samples come in seeded orders without repetition until all have been seen; with `replacement`, evenly and independently.
    history: the proportions of every stretch so far.
    """

    def __init__(self, update_every: int = 512, replacement: bool = False) -> None:
        if update_every < 1:
            raise BadInput("sampler.update_every", repr(update_every), "a whole number >= 1")
        self.update_every, self.replacement = update_every, replacement
        self.used: np.ndarray | None = None
        self.key: int | None = None  # of the orders within domains: drawn once, from the first stage's random numbers
        self.history: list[list[float]] = []
        self.shown = np.empty((0, 2), dtype=np.int64)  # samples of the last stretches and their domains: what feedback is about

    def weights(self, names: Sequence[str]) -> np.ndarray:
        """Weights [K] >= 0 of the next stretch, one for each of the domains."""
        raise NotImplementedError

    def drawn(self, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Domains [update_every] of a stretch, by shares [K] that sum to 1: each sample's by itself."""
        return rng.choice(len(shares), size=self.update_every, p=shares)

    def plan(self, stage: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        if not isinstance(source, Labelled):
            raise BadInput("data", "samples without domains", "a source that labels its samples with domains")
        num = len(source.domain_names)
        weights = self.weights(source.domain_names)
        if weights.shape != (num,):
            raise BadInput("sampler.weigh", f"weights of shape {weights.shape}", f"one for each of {num} domains")
        shares = weights / weights.sum()
        self.history.append([float(s) for s in shares])
        if self.key is None:
            self.key = int(rng.integers(2**62))
        domains = self.drawn(shares, rng)
        used = self.used if self.used is not None else np.zeros(num, dtype=np.int64)
        ids = np.empty(self.update_every, dtype=np.int64)
        for k in range(num):
            members, rows = np.flatnonzero(source.domains == k), np.flatnonzero(domains == k)
            if len(rows) and not len(members):
                raise BadInput("sampler.weigh", f"a weight for '{source.domain_names[k]}'", "none, as it has no samples")
            if self.replacement:
                ids[rows] = members[rng.integers(len(members), size=len(rows))] if len(rows) else []
                continue
            # Position in an endless run of permutations: the same member never comes twice before all have come once.
            place = used[k] + np.arange(len(rows))
            for turn in np.unique(place // len(members)):
                order = numpy_rng(self.key, "domain", k, int(turn)).permutation(members)
                here = place // len(members) == turn
                ids[rows[here]] = order[place[here] % len(members)]
            used[k] += len(rows)
        self.used = used
        self.shown = np.concatenate([self.shown, np.stack([ids, source.domains[ids]], axis=1)])[-REMEMBERED * self.update_every :]
        return ids

    def domains_of(self, ids: np.ndarray) -> np.ndarray:
        """Domains [n] of samples of the last stretches. Raises BadInput for another sample."""
        known, first = np.unique(self.shown[:, 0], return_index=True)
        place = np.searchsorted(known, ids).clip(max=max(len(known) - 1, 0))
        if not len(known) or (known[place] != ids).any():
            raise BadInput("feedback", "a sample that was not drawn lately", f"one of the last {REMEMBERED} stretches")
        return self.shown[first[place], 1]

    def state_dict(self) -> dict[str, Any]:
        # Copies: a state taken now must not follow what happens next.
        return {name: copied(getattr(self, name)) for name in ("used", "key", "history", "shown")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("used", "key", "history", "shown"):
            setattr(self, name, copied(state[name]))


def copied(value: Any) -> Any:
    """An array or a list of its own; anything else as it is."""
    return value.copy() if isinstance(value, (np.ndarray, list)) else value


class OnlineMixture(Mixture):
    """Proportions that follow the domains' losses: every `update_every` samples, p = weigh(mean loss of each domain).

    weigh: [K] mean losses (NaN where a domain was not seen since the start) -> [K] weights; before any feedback they are
    `initial`, equal by default. smoothing: of the running means, 0 keeps only the last.
    """

    @typed("sampler.")
    def __init__(
        self,
        weigh: Callable[[np.ndarray], np.ndarray],
        update_every: int = 512,
        smoothing: float = 0.5,
        initial: Any = None,
        replacement: bool = False,
    ) -> None:
        super().__init__(update_every, replacement)
        if not 0 <= smoothing < 1:
            raise BadInput("sampler.smoothing", repr(smoothing), "a number from 0, below 1")
        self.weigh, self.smoothing = weigh, smoothing
        self.initial = None if initial is None else check_weights(initial)
        self.losses: np.ndarray | None = None

    def weights(self, names: Sequence[str]) -> np.ndarray:
        if self.losses is None:
            self.losses = np.full(len(names), np.nan)
        if np.isnan(self.losses).all():
            return np.ones(len(names)) if self.initial is None else self.initial
        return check_weights(self.weigh(self.losses.copy()))

    def observe(self, feedback: Feedback) -> None:
        if self.losses is None:
            return
        domains = self.domains_of(feedback.ids)
        for k in np.unique(domains):
            mean = float(feedback.losses[domains == k].mean())
            self.losses[k] = mean if np.isnan(self.losses[k]) else self.smoothing * self.losses[k] + (1 - self.smoothing) * mean

    def state_dict(self) -> dict[str, Any]:
        return {"losses": copied(self.losses), **super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.losses = copied(state["losses"])


class FixedMixture(OnlineMixture):
    """Domains in fixed proportions, `update_every` samples a stage; within a domain as `Mixture`. weights: [K]."""

    @typed("sampler.")
    def __init__(self, weights: Any, update_every: int = 512, replacement: bool = False) -> None:
        super().__init__(lambda losses: np.asarray(weights), update_every, initial=weights, replacement=replacement)


def by_loss(losses: np.ndarray) -> np.ndarray:
    """Weights in proportion to the domains' losses [K]; a domain not seen yet counts as the mean of the others."""
    return np.where(np.isnan(losses), np.nanmean(losses), losses)


def by_softmax(losses: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Weights exp(loss / temperature), largest 1; a domain not seen yet counts as the mean of the others."""
    filled = by_loss(losses)
    return np.exp((filled - filled.max()) / temperature)
