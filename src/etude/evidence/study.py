"""A study compares arms over seeds at an equal budget; its claims give verdicts.

An arm is a function of a `Job` that trains (or does whatever its paper does) and returns an `Outcome`. What it needs to
know comes from `job.settings`, a frozen dataclass that the paper defines once and fills per scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.errors import BadInput

if TYPE_CHECKING:
    from etude.evidence.claims import Claim

SCALES = ("smoke", "quick", "cpu", "paper")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One size of a study.

    settings: the paper's own frozen dataclass of sizes and hyper-parameters.
    seeds:    seeds 0 .. seeds - 1 are run.
    size:     what this size is in one phrase, for the verdict: "0.9M parameters / 1.2M tokens".
    sources:  for the paper scale: settings field -> where the value comes from (section, table, code at commit, "assumed").
    """

    settings: Any
    seeds: int
    size: str
    sources: Mapping[str, str] = field(default_factory=dict)


Failure = Mapping[str, float | tuple[int, int]]
"""What a diverged run counts as: metric -> value, count -> (successes, trials)."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train. reference: a ceiling or floor that enters no equal-budget claim. scales: where it runs (default: all).

    planned: settings -> what a run will spend, as far as that is known beforehand, in the words of a claim's `equal`:
             {"flops": 1.2e12, "train.samples": 22_000}. Claims are held against it before anything runs, and a diverged run
             is charged with it.
    failure: over the study's own, for this arm.
    instead: names of metrics that the arm measures where the headline has no meaning for it (a table beside networks). It is then shown
             with these, apart from the arms that have the headline and compared with none, and only its own `failure` counts.
    code:    files that its numbers depend on beside those of `run`: of a paper that it finds by name.
    """

    run: Callable[[Job], Outcome]
    about: str
    reference: bool = False
    scales: tuple[str, ...] = ("smoke", "quick", "cpu")
    color: str = ""
    planned: Callable[[Any], Mapping[str, float]] | None = None
    failure: Failure = field(default_factory=dict)
    instead: tuple[str, ...] = ()
    code: tuple[Path, ...] = ()


@dataclass(kw_only=True)
class Outcome:
    """What one run of one arm measured.

    metrics: final numbers, one a name. counts: name -> (successes, trials), for count claims.
    curves:  name -> (x, y) lists, e.g. {"held-out loss / flops": ([...], [...])}; x first named after the slash.
    ledger:  category -> quantity -> amount (`engine.ledger.Ledger.as_dict()`), audited by `equal=` of the claims.
    diverged: the run was stopped by NaN or Inf: the metrics are what the study names for a failure.
    arrays:  small arrays that the study's figure needs (samples to scatter); kept in the record only for seed 0.
    """

    metrics: dict[str, float]
    ledger: dict[str, dict[str, float]]
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    diverged: bool = False
    parameters: int = 0


@dataclass(kw_only=True)
class Job:
    """One (arm, seed) of a study at a scale, as handed to `Arm.run`.

    seed:     already derived: the plain number at cpu scale, a hashed one at smoke and quick, so these never show cpu data.
    folder:   the run's own folder (rounds, metrics); None where nothing is to be written. A run that was killed finds there
              what it left, so that `run_rounds(..., folder=job.folder)` goes on with its round. Only what an unfinished
              Trainer left is gone (the Trainer refuses it), unless it lies in a `part`.
    progress: call with (fraction done 0..1, current metric or None) as often as you like; `trainer_progress` adapts it. The first
              metrics said are kept as the run's probe: what a run on another instruction set must agree with.
    """

    study: str
    arm: str
    scale: str
    seed: int
    settings: Any
    folder: Path | None = None
    progress: Callable[[float, float | None], None] = lambda fraction, metric: None

    def part(self, name: str) -> Part:
        """A place for one Trainer that goes on after a kill: `Trainer(..., folder=part.folder).run(resume=part.begun)`."""
        folder = None if self.folder is None else self.folder / PARTS / name
        return Part(folder=folder, begun=folder is not None and (folder / "run.json").exists())


PARTS = "parts"
"""The folder of a job's parts."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """folder: of one Trainer inside a run, or None. begun: whether an earlier, killed run has left a beginning there."""

    folder: Path | None
    begun: bool


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure of the study. kind "curve": mean and t band over seeds of `Outcome.curves[curve]`, one line an arm;
    "bars": metric by arm with intervals; "custom": `draw(axes, record)` where record is the loaded record (dict).

    title:  where it says "at equal FLOPs" (tokens, samples ...), that is held against the ledgers when it is drawn.
    limits: between which values the quantity can lie: (0, 1) for a share, (0, inf) for a size. Intervals end there. None: 0 to 1
            where all values are there and the name has no "loss" in it, otherwise none.
    """

    title: str
    kind: str  # curve | bars | custom
    curve: str = ""
    metric: str = ""
    log_x: bool = False
    log_y: bool = False
    limits: tuple[float, float] | None = None
    draw: Callable[[Any, dict[str, Any]], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """slug: the card's. arms: name -> Arm. claims[0] is the primary one unless a claim says primary=True.

    data: names of the corpora used, whose hashes enter the provenance. deviations: (what, paper, ours, why, expected effect).
    baseline: the arm that the table measures the others against. lower_is_better names metrics for tables and the live view.
    failure: what a run stopped by NaN counts as, so that no arm need catch it: {"held-out loss": log(256), "solved": (0, 1)}. Such a run
    has these metrics and counts, no curves, and its arm's planned ledger; for `Rate` every trial of it is a failure anyway.
    headline: every arm measures it, the baseline too, but for those that name other metrics `instead`; raises BadInput.
    build_paper_model: builds the paper-scale model (called on the meta device in a test); `paper_parameters` is the published count.
    """

    slug: str
    arms: Mapping[str, Arm]
    scales: Mapping[str, Scale]
    claims: Sequence[Claim]
    baseline: str
    headline: str  # the metric that tables and the live view show
    lower_is_better: bool = True
    plots: Sequence[Plot] = ()
    data: Sequence[str] = ()
    deviations: Sequence[tuple[str, str, str, str, str]] = ()
    paper_size: str = ""
    failure: Failure = field(default_factory=dict)
    build_paper_model: Callable[[Any], Any] | None = None
    paper_parameters: Mapping[str, tuple[float, str]] = field(default_factory=dict)  # name -> (count, source)

    def __post_init__(self) -> None:
        for name, arm in self.arms.items():
            where = f"{self.slug}, arms.{name}.instead"
            if isinstance(arm.instead, str):
                raise BadInput(where, repr(arm.instead), f"a tuple of metrics, such as ({arm.instead!r},)")
            if arm.instead and name == self.baseline:
                raise BadInput(where, repr(arm.instead), f"nothing: it is the baseline, which must measure '{self.headline}'")
            if self.headline in arm.instead:
                raise BadInput(where, f"'{self.headline}'", "metrics other than the headline")

    def failure_of(self, arm: str) -> Failure:
        """What a run of the arm that NaN has stopped counts as."""
        told = self.arms[arm]
        return {**({} if told.instead else self.failure), **told.failure}
