"""The method: gives a run its sampler of skills, learns the graph before the first update, and logs what it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from etude.engine.ledger import Ledger
from etude.engine.protocols import Method, Stage
from etude.engine.run import Run
from etude.errors import BadInput, one_of
from etude.papers.order.skill_it.mixture import checked
from etude.papers.order.skill_it.probing import Prober, learnt
from etude.papers.order.skill_it.sampler import Online, skills_of

GRAPHS = ("pairs", "alone", "identity")


class SkillIt(Method):
    """Draws the data's domains, which are the skills, by how much they help with what is still hard.

    graph:        "pairs" or "alone" learn it by short runs before the first update (K (K + 1) / 2 or K of them); "identity" is no graph;
                  or rows of numbers >= 0: graph[i][j], how much training on domain i helps with domain j, in the order of the data.
    eta:          how strongly losses tilt the mixture; 0 draws all domains alike.
    window:       checks whose losses are summed. checks: how often losses are checked between two updates of the mixture.
    update_every: batches between two updates of the mixture; a multiple of `checks`.
    targets:      domains that matter, by default all: the graph has a column for each, and the window's mean is taken.
    untrained:    domains that are measured and never drawn: the graph has no row for them.
    held:         samples of each measured domain that are measured on and never trained on.
    probe_steps:  updates of each short run, at the full rate of the run's optimizer; probe_lr: where that is another trainer's.
    margin:       the share of a loss that help must take away to count, with "pairs".

    What short runs and checks cost is charged as "prepare" (a budget in steps counts the run's own updates alone; one in tokens or FLOPs
    counts everything). Logs "share/NAME" with each update, "skill_loss/NAME" at each check and, where it was learnt, "graph/NAME/NAME".
    """

    slots = ("sampler",)

    def __init__(
        self,
        *,
        graph: str | Sequence[Sequence[float]] = "pairs",
        eta: float = 0.5,
        window: int = 3,
        update_every: int = 100,
        checks: int = 1,
        targets: Sequence[str] = (),
        untrained: Sequence[str] = (),
        held: int = 32,
        probe_steps: int = 100,
        probe_lr: float = 5e-5,
        margin: float = 0.0,
    ) -> None:
        if isinstance(graph, str) and graph not in GRAPHS:
            raise one_of("SkillIt.graph", graph, GRAPHS)
        counts = {"window": window, "update_every": update_every, "checks": checks, "held": held, "probe_steps": probe_steps}
        for name, value in counts.items():
            if value < 1:
                raise BadInput(f"SkillIt.{name}", repr(value), "a whole number >= 1")
        if update_every % checks:
            raise BadInput("SkillIt.update_every", repr(update_every), f"a multiple of checks ({checks})")
        if eta < 0:
            raise BadInput("SkillIt.eta", repr(eta), "a number >= 0")
        if not probe_lr > 0:
            raise BadInput("SkillIt.probe_lr", repr(probe_lr), "a number > 0")
        if not 0 <= margin < 1:
            raise BadInput("SkillIt.margin", repr(margin), "a number from 0, below 1")
        self.graph = graph if isinstance(graph, str) else tuple(map(tuple, graph))
        self.eta, self.window, self.update_every, self.checks = eta, window, update_every, checks
        self.targets, self.untrained, self.held = tuple(targets), tuple(untrained), held
        self.probe_steps, self.probe_lr, self.margin = probe_steps, probe_lr, margin

    def start(self, run: Run) -> None:
        source, size = getattr(run.stream, "source", None), getattr(run.stream, "batch_size", None)
        if source is None or not isinstance(size, int):
            raise BadInput("SkillIt", f"a {type(run.stream).__name__}", "a stream of samples that have a loss, with domains")
        self.skills = skills_of(source, self.held, run.numpy_rng("skill-it", "held"), self.targets, self.untrained)
        shape = len(self.skills.trained), len(self.skills.measured)
        graph = None
        if not isinstance(self.graph, str):
            graph = checked(self.graph, *shape)
        elif self.graph == "identity":
            graph = (self.skills.trained[:, None] == self.skills.measured[None]).astype(np.float64)
        elif self.graph == "pairs" and not np.array_equal(self.skills.trained, self.skills.measured):
            raise BadInput("SkillIt.graph", "'pairs', where other skills are measured than trained on", "'alone', or rows of numbers")
        self.sampler = Online(
            self.skills, size * (self.update_every // self.checks), graph=graph, eta=self.eta, window=self.window, checks=self.checks,
            mean=bool(self.targets),
        )  # fmt: skip
        self.told = 0
        run.set_sampler(self.sampler)

    def stage_start(self, run: Run, stage: Stage) -> None:
        # Not at `start`: another trainer than etude's knows its length, and a resumed run has its graph, only now.
        if run.budget.quantity == "steps" and run.budget.limit < self.update_every:
            raise BadInput("SkillIt.update_every", repr(self.update_every), f"at most {run.budget.limit:g}, the run's updates")
        if self.sampler.graph is not None:
            return
        assert isinstance(self.graph, str)
        prober = Prober(run, self.skills, self.probe_steps, self.probe_lr)
        self.sampler.graph = learnt(prober, self.graph, self.margin)
        if not self.sampler.graph.any():
            raise BadInput("SkillIt.probe_steps", f"{self.probe_steps}, in which no loss fell", "more steps, or a graph of your own")
        charge(run.ledger, prober.ledger)
        if run.share >= 1:
            raise BadInput("SkillIt.probe_steps", f"{self.probe_steps}, which spend the whole budget", "fewer, or a larger budget")
        for i, row in zip(self.skills.trained, self.sampler.graph, strict=True):
            for j, value in zip(self.skills.measured, row, strict=True):
                run.log(f"graph/{self.skills.names[i]}/{self.skills.names[j]}", float(value))

    def updated(self, run: Run) -> None:
        for name, share in zip(self.skills.names, self.sampler.history[-1], strict=True):
            run.log(f"share/{name}", share)
        if len(self.sampler.losses) > self.told:
            self.told = len(self.sampler.losses)
            for k, loss in zip(self.skills.measured, self.sampler.losses[-1], strict=True):
                run.log(f"skill_loss/{self.skills.names[k]}", float(loss))

    def state_dict(self) -> dict[str, Any]:
        return {"told": self.told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.told = state["told"]


def charge(ledger: Ledger, spent: Ledger) -> None:
    """Adds what probing spent, as "prepare": all but its steps, as a budget in steps counts updates of the run's own model."""
    for quantity in {name for row in spent.entries.values() for name in row} - {"steps"}:
        ledger.charge("prepare", **{quantity: spent.total(quantity)})
