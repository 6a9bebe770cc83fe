"""Samplers: which samples a stage shows, in which order; some listen to the losses."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from etude.engine.arguments import shown, typed
from etude.engine.protocols import Feedback, Graded, Labelled, Score, Source
from etude.engine.streams import numpy_rng
from etude.errors import BadInput, one_of


class SamplerBase:
    """A sampler that asks for nothing and remembers nothing; subclasses override `plan` and what else they need."""

    def plan(self, stage: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        raise NotImplementedError

    def observe(self, feedback: Feedback) -> None: ...

    def wants(self, stage: int) -> Score | None:
        return None

    def receive(self, score: Score, values: np.ndarray) -> None: ...

    def report(self) -> dict[str, float]:
        """What the last plan was made by, for the log."""
        return {}

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
    samples come in seeded orders without repetition until all have been seen; with `replacement`, evenly and independently. Samples
    whose domain is below 0 are in none and never drawn.
    history: the proportions of every stretch so far.
    """

    def __init__(self, update_every: int = 512, replacement: bool = False) -> None:
        if update_every < 1:
            raise BadInput("sampler.update_every", repr(update_every), "a whole number >= 1")
        self.update_every, self.replacement = update_every, replacement
        self.used: np.ndarray | None = None
        self.key: int | None = None  # of the orders within domains: drawn once, from the first stage's random numbers
        self.history: list[list[float]] = []
        self.names: list[str] = []
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
        self.names = list(source.domain_names)
        weights = self.weights(source.domain_names)
        if weights.shape != (num,):
            raise BadInput("sampler.weights", f"weights of shape {weights.shape}", f"one for each of {num} domains")
        empty = np.flatnonzero((weights > 0) & (np.bincount(source.domains[source.domains >= 0], minlength=num) == 0))
        if len(empty):
            raise BadInput("sampler.weights", f"a weight for '{self.names[empty[0]]}'", "none, as it has no samples")
        shares = weights / weights.sum()
        self.history.append([float(s) for s in shares])
        if self.key is None:
            self.key = int(rng.integers(2**62))
        domains = self.drawn(shares, rng)
        used = self.used if self.used is not None else np.zeros(num, dtype=np.int64)
        ids = np.empty(self.update_every, dtype=np.int64)
        for k in range(num):
            members, rows = np.flatnonzero(source.domains == k), np.flatnonzero(domains == k)
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

    def report(self) -> dict[str, float]:
        """{"share/NAME": of each domain in the present stretch}."""
        return {f"share/{name}": share for name, share in zip(self.names, self.history[-1], strict=True)} if self.history else {}

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
    `initial` (see `named_weights`), equal by default. smoothing: of the running means, 0 keeps only the last.
    signal: what is measured: the "loss" (of rollouts minus the reward), or the size of one of the values fed back ("reward", "advantage").
    """

    @typed("sampler.")
    def __init__(
        self,
        weigh: Callable[[np.ndarray], np.ndarray],
        update_every: int = 512,
        smoothing: float = 0.5,
        initial: Any = None,
        replacement: bool = False,
        signal: str = "loss",
    ) -> None:
        super().__init__(update_every, replacement)
        self.signal = signal
        if not 0 <= smoothing < 1:
            raise BadInput("sampler.smoothing", repr(smoothing), "a number from 0, below 1")
        self.weigh, self.smoothing = weigh, smoothing
        self.initial = None if initial is None else dict(initial) if isinstance(initial, Mapping) else check_weights(initial)
        self.losses: np.ndarray | None = None

    def weights(self, names: Sequence[str]) -> np.ndarray:
        if self.losses is None:
            self.losses = np.full(len(names), np.nan)
        if np.isnan(self.losses).all():
            return np.ones(len(names)) if self.initial is None else named_weights(self.initial, names)
        return check_weights(self.weigh(self.losses.copy()))

    def observe(self, feedback: Feedback) -> None:
        if self.losses is None or not len(feedback.ids):
            return
        if self.signal != "loss" and self.signal not in feedback.values:
            known = one_of("sampler.signal", self.signal, ["loss", *feedback.values]).expected
            raise BadInput("sampler.signal", f"'{self.signal}', which this run does not measure", known)
        measured = feedback.losses if self.signal == "loss" else np.abs(feedback.values[self.signal])
        domains = self.domains_of(feedback.ids)
        for k in np.unique(domains):
            mean = float(measured[domains == k].mean())
            self.losses[k] = mean if np.isnan(self.losses[k]) else self.smoothing * self.losses[k] + (1 - self.smoothing) * mean

    def state_dict(self) -> dict[str, Any]:
        return {"losses": copied(self.losses), **super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.losses = copied(state["losses"])


class FixedMixture(OnlineMixture):
    """Domains in fixed proportions, `update_every` samples a stage; within a domain as `Mixture`. weights: as `named_weights`."""

    @typed("sampler.")
    def __init__(self, weights: Any, update_every: int = 512, replacement: bool = False) -> None:
        super().__init__(by_loss, update_every, initial=weights, replacement=replacement)

    def weights(self, names: Sequence[str]) -> np.ndarray:
        return named_weights(self.initial, names)


def named_weights(weights: Any, names: Sequence[str]) -> np.ndarray:
    """[K], of numbers in the order of `names`, or by name, 0 for what is not named. Raises BadInput as `check_weights`, and for a name
    that is none of these."""
    if not isinstance(weights, Mapping):
        return check_weights(weights)
    for name, weight in weights.items():
        if name not in names:
            raise one_of(f"sampler.weights.{name}", name, names)
        if isinstance(weight, bool) or not isinstance(weight, int | float | np.number) or not 0 <= weight < math.inf:
            raise BadInput(f"sampler.weights.{name}", shown(weight), "a number >= 0")
    return check_weights([float(weights.get(name, 0.0)) for name in names])


def by_loss(losses: np.ndarray) -> np.ndarray:
    """Weights in proportion to the domains' losses [K], equal where all are 0; a domain not seen yet counts as the mean of the others."""
    return np.where(np.isnan(losses), np.nanmean(losses), losses) if np.nansum(np.abs(losses)) else np.ones(len(losses))


def by_softmax(losses: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Weights exp(loss / temperature), largest 1; a domain not seen yet counts as the mean of the others."""
    filled = np.where(np.isnan(losses), np.nanmean(losses), losses)
    return np.exp((filled - filled.max()) / temperature)


class Curriculum(SamplerBase):
    """Easy samples first: each stage draws `update_every` samples evenly from the easiest share of all, which grows from stage to stage.

        c(k) = min(1, (k (1 - start^power) / over + start^power)^(1 / power))      k: stage, power 2: the square root, 1: a line

    (competence, Platanios et al., arXiv 1903.09848.) Samples as difficult as the hardest one let in are in too. No sample comes twice in a
    stage that has enough of them. update_every: samples a stage, a multiple of the batch. over: stages until all samples are in.
    difficulty: [N], or None for the source's own; hardest_first turns it round. measured: it is each sample's loss under the present model
    instead, measured (and charged as "prepare") at the beginning and, until all samples are in, every `measure_every` stages.
    history: of each stage the share, the difficulty of the hardest sample let in, and the mean over those drawn.
    Raises BadInput for settings out of range, samples without a difficulty, or one that is not finite.
    """

    @typed("sampler.")
    def __init__(
        self,
        difficulty: Any = None,
        *,
        start: float = 0.25,
        over: int = 10,
        power: float = 2.0,
        update_every: int = 512,
        hardest_first: bool = False,
        measured: bool = False,
        measure_every: int = 10,
    ) -> None:
        if not 0 < start <= 1:
            raise BadInput("sampler.start", repr(start), "a share above 0 and at most 1")
        for name, value in (("over", over), ("update_every", update_every), ("measure_every", measure_every)):
            if value < 1:
                raise BadInput(f"sampler.{name}", repr(value), "a whole number >= 1")
        if not 0 < power < math.inf:
            raise BadInput("sampler.power", repr(power), "a number > 0")
        if measured and difficulty is not None:
            raise BadInput("sampler.difficulty", "it beside measured losses", "one of them")
        self.given = None if difficulty is None else check_difficulty(difficulty)
        self.start, self.over, self.power, self.update_every = start, over, power, update_every
        self.hardest_first, self.measured, self.measure_every = hardest_first, measured, measure_every
        self.losses: np.ndarray | None = None
        self.digest = ""
        self.history: list[list[float]] = []

    def share(self, stage: int) -> float:
        """Of the samples that stage `stage` draws from."""
        first = self.start**self.power
        return min(1.0, (stage * (1 - first) / self.over + first) ** (1 / self.power))

    def wants(self, stage: int) -> Score | None:
        return Score() if self.measured and stage % self.measure_every == 0 and self.share(stage) < 1 else None

    def receive(self, score: Score, values: np.ndarray) -> None:
        self.losses = check_difficulty(values)

    def plan(self, stage: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        difficulty, share = self._difficulty(source), self.share(stage)
        ranked = -difficulty if self.hardest_first else difficulty
        last = np.partition(ranked, place := math.ceil(share * len(ranked)) - 1)[place]
        inside = np.flatnonzero(ranked <= last)
        turns = -(-self.update_every // len(inside))
        ids = np.concatenate([rng.permutation(inside) for _ in range(turns)])[: self.update_every]
        self.history.append([share, float(-last if self.hardest_first else last), float(difficulty[ids].mean())])
        return ids

    def _difficulty(self, source: Source) -> np.ndarray:
        if self.measured:
            # A run that begins with all samples needs no losses to choose by.
            return np.zeros(len(source)) if self.losses is None else self.losses
        found = self.given
        if found is None:
            if not isinstance(source, Graded):
                raise BadInput(
                    "data", "samples without a difficulty", "a source that has one for each (`difficulty` [N]), or a list of them"
                )
            found = check_difficulty(source.difficulty)
        if len(found) != len(source):
            raise BadInput("sampler.difficulty", f"{len(found)} numbers", f"one for each of {len(source)} samples")
        digest = hashlib.blake2b(found.tobytes(), digest_size=8).hexdigest()
        if self.digest not in ("", digest):
            raise BadInput("sampler.difficulty", "other numbers than the run began with", "the same ones")
        self.digest = digest
        return found

    def report(self) -> dict[str, float]:
        """{"curriculum/share", "curriculum/hardest", "curriculum/mean"} of the present stage."""
        return dict(zip((f"curriculum/{n}" for n in ("share", "hardest", "mean")), self.history[-1], strict=True)) if self.history else {}

    def state_dict(self) -> dict[str, Any]:
        return {"losses": copied(self.losses), "digest": self.digest, "history": copied(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses, self.digest, self.history = copied(state["losses"]), state["digest"], copied(state["history"])


def check_difficulty(values: Any) -> np.ndarray:
    """As float64 [N]. Raises BadInput where they are no such array or one is not finite."""
    try:
        values = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInput("sampler.difficulty", shown(values), "numbers, one a sample") from error
    if values.ndim != 1 or not len(values):
        raise BadInput("sampler.difficulty", f"numbers of shape {list(values.shape)}", "one row of numbers, one a sample")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise BadInput("sampler.difficulty", f"{values[wrong[0]]} of sample {wrong[0]}", "finite numbers")
    return values
