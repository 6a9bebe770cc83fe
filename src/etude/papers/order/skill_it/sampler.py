"""Samplers of skills: a source's domains, of which some samples are held back to measure on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.data.samplers import Mixture, copied
from etude.engine.protocols import Labelled, Score
from etude.errors import BadInput, one_of
from etude.papers.order.skill_it.mixture import mixture, windowed


@dataclass(frozen=True, kw_only=True)
class Skills:
    """Which domains are trained on and which are measured, and on what.

    names:    of all domains. trained: [K] their numbers. measured: [M]. held: [n] ids of the samples that are measured on and never
              trained on. of: [n], which of the M each of them belongs to.
    """

    names: tuple[str, ...]
    trained: np.ndarray
    measured: np.ndarray
    held: np.ndarray
    of: np.ndarray

    def means(self, values: np.ndarray) -> np.ndarray:
        """[M] mean of each measured skill's values [n]. Raises BadInput for one that is not finite."""
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            name = self.names[self.measured[self.of[wrong[0]]]]
            raise BadInput(f"loss of sample {self.held[wrong[0]]} (skill '{name}')", str(values[wrong[0]]), "a finite number")
        return np.bincount(self.of, values, len(self.measured)) / np.bincount(self.of, minlength=len(self.measured))


def skills_of(source: Any, held: int, rng: np.random.Generator, targets: Sequence[str] = (), untrained: Sequence[str] = ()) -> Skills:
    """The skills of a source with domains; `held` samples of each measured one are held back.

    targets: the domains that are measured, by default all. untrained: domains that are measured and not trained on.
    Raises BadInput for a source without domains, an unknown name, and a domain that has too few samples.
    """
    if not isinstance(source, Labelled):
        raise BadInput("data", "samples without domains", "a source that labels its samples with domains, which are the skills")
    names = tuple(source.domain_names)
    for what, chosen in (("targets", targets), ("untrained", untrained)):
        for name in chosen:
            if name not in names:
                raise one_of(what, name, names)
    measured = np.array([k for k, name in enumerate(names) if (name in targets or not targets)], dtype=np.int64)
    trained = np.array([k for k, name in enumerate(names) if name not in untrained], dtype=np.int64)
    if not len(trained):
        raise BadInput("untrained", "all domains", "at least one that is trained on")
    domains, chosen = np.asarray(source.domains), []
    for k, name in enumerate(names):
        members = np.flatnonzero(domains == k)
        least = (held if k in measured else 0) + (1 if k in trained else 0)
        if len(members) < least:
            raise BadInput("data", f"skill '{name}' with {len(members)} samples", f"at least {least}, of which {held} are measured on")
        if k in measured:
            chosen.append(np.sort(rng.permutation(members)[:held]))
    return Skills(
        names=names, trained=trained, measured=measured, held=np.concatenate(chosen), of=np.repeat(np.arange(len(measured)), held)
    )


class _Without:
    """A source's labels, those of some samples taken away, so that no mixture draws them."""

    def __init__(self, source: Any, ids: np.ndarray) -> None:
        self.domains, self.domain_names = np.array(source.domains), source.domain_names
        self.domains[ids] = -1


class HeldBack(Mixture):
    """A mixture that draws no sample that skills are measured on. A subclass gives the weights of a stretch."""

    def __init__(self, skills: Skills, update_every: int) -> None:
        super().__init__(update_every)
        self.skills = skills
        self._view: _Without | None = None

    def plan(self, stage: int, source: Any, rng: np.random.Generator) -> np.ndarray:
        if tuple(source.domain_names) != self.skills.names:
            raise BadInput("data", f"domains {', '.join(source.domain_names)}", f"those of the start: {', '.join(self.skills.names)}")
        if self._view is None:
            self._view = _Without(source, self.skills.held)
        return super().plan(stage, self._view, rng)  # type: ignore[arg-type]


class Fixed(HeldBack):
    """Skills in fixed proportions. shares: [domains], >= 0."""

    def __init__(self, skills: Skills, update_every: int, shares: Sequence[float]) -> None:
        super().__init__(skills, update_every)
        self.shares = np.asarray(shares, dtype=np.float64)

    def weights(self, names: Sequence[str]) -> np.ndarray:
        return self.shares


class InOrder(HeldBack):
    """One skill after another for the first half of the stretches, all of them evenly for the second half.

    order: numbers of domains. As the authors' group curriculum without mixing (trainer/group_curriculum_trainer.py).
    """

    def __init__(self, skills: Skills, update_every: int, stretches: int, order: Sequence[int]) -> None:
        super().__init__(skills, update_every)
        self.stretches, self.order = stretches, tuple(order)

    def weights(self, names: Sequence[str]) -> np.ndarray:
        place = len(self.history) * 2 * len(self.order) // self.stretches
        return np.ones(len(names)) if place >= len(self.order) else np.eye(len(names))[self.order[place]]


class Online(HeldBack):
    """Skill-It: between two stretches the measured skills' losses are checked; at each `checks`-th check the mixture is set anew.

    graph: [K, M], or None until it is learnt. mean: of the window instead of the sum.
    losses: [M] of every check so far. The first stretches are drawn as if every loss were 1.
    """

    def __init__(
        self, skills: Skills, update_every: int, *, graph: np.ndarray | None, eta: float, window: int, checks: int, mean: bool
    ) -> None:
        super().__init__(skills, update_every)
        self.graph, self.eta, self.window, self.checks, self.mean = graph, eta, window, checks, mean
        self.losses: list[np.ndarray] = []
        self.shares = np.empty(0)

    def weights(self, names: Sequence[str]) -> np.ndarray:
        if self.graph is None:
            raise BadInput("graph", "none yet", "one that is given, or learnt before the first stretch")
        if not len(self.shares) or (len(self.losses) and len(self.losses) % self.checks == 0):
            losses = windowed(self.losses, self.window, self.mean) if len(self.losses) else np.ones(len(self.skills.measured))
            self.shares = np.zeros(len(names))
            self.shares[self.skills.trained] = mixture(self.graph, losses, self.eta)
        return self.shares

    def wants(self, stage: int) -> Score | None:
        return Score(self.skills.held) if stage else None

    def receive(self, score: Score, values: np.ndarray) -> None:
        self.losses.append(self.skills.means(np.asarray(values, dtype=np.float64)))

    def state_dict(self) -> dict[str, Any]:
        own = {"graph": copied(self.graph), "losses": [row.copy() for row in self.losses], "shares": copied(self.shares)}
        return own | super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.graph, self.shares = copied(state["graph"]), copied(state["shares"])
        self.losses = [np.array(row) for row in state["losses"]]
