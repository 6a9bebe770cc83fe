"""A chain of checkpoints: every stage goes on from its parent's, and what each cost is kept by stage.

    chain = Chain(base, folder)
    chain.run("SFT", lambda parent, here: sft(parent, rows, ..., folder=here.folder))
    chain.run("DPO", lambda parent, here: dpo(parent, pairs, ..., folder=here.folder), parent="SFT")

On disk a stage is `FOLDER/NAME/kept` (its model, whose child it is, what it cost) beside `FOLDER/NAME/run` (the trainer's own folder):
a finished stage is read and not trained again, one that was killed goes on where its trainer's last checkpoint is.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from etude.engine import checkpoint
from etude.engine.identity import fingerprint
from etude.engine.ledger import Ledger
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.logprobs import frozen_copy
from etude.learn.values import ActorCritic

BASE = "base"


@dataclass(kw_only=True)
class Here:
    """Where a stage is trained. folder: for its `Trainer`, or None. ledger: charged with what preparing it costs (pairs, say)."""

    folder: Path | None
    ledger: Ledger = field(default_factory=Ledger)


Make = Callable[[nn.Module, Here], Trainer[Any]]
"""(the parent, frozen; where) -> the trainer of the stage, of a model of its own."""


@dataclass(frozen=True)
class Kept:
    """A finished stage. mark: of its weights, and of its parent's."""

    model: nn.Module
    parent: str
    parent_mark: str
    made_of: str
    ledger: Ledger


class Chain:
    """base: the model that the first stage goes on from; it is not changed. folder: None keeps the stages in memory alone.

    ledgers: stage -> what it cost, rollouts and preparing included.
    """

    def __init__(self, base: nn.Module, folder: Path | str | None = None) -> None:
        self.base = frozen_copy(base)
        self.folder = None if folder is None else Path(folder)
        self.stages: dict[str, Kept] = {}

    @property
    def ledgers(self) -> dict[str, Ledger]:
        return {name: stage.ledger for name, stage in self.stages.items()}

    def run(
        self, name: str, make: Make, *, parent: str = BASE, like: Callable[[nn.Module], nn.Module] = copy.deepcopy, made_of: Any = ""
    ) -> nn.Module:
        """The stage's model, frozen: trained now, gone on with, or read from disk.

        make:    called only where there is something left to train.
        like:    from the parent, a module of the stage's shape, to read a finished one into: `ValueModel.from_policy` of a reward model.
        made_of: what the stage depends on beyond its parent, as plain values; a finished stage of other values is refused.
        An `ActorCritic` leaves its policy. Raises BadInput for a stage whose parent is not there, and for one on disk that was
        made of something else or went on from other weights.
        """
        if not re.fullmatch(r"[\w -]+", name) or name == BASE:
            raise BadInput("stage", repr(name), f"letters, digits, blanks, - and _, and not '{BASE}'")
        start = self.model(parent, child=name)
        mark = fingerprint(start)
        found = self.stages.get(name) or self._read(name, like(start))
        if found is None:
            found = self._train(name, make, parent, start, mark, repr(made_of))
        elif (found.parent, found.parent_mark, found.made_of) != (parent, mark, repr(made_of)):
            what = "made of other settings" if found.made_of != repr(made_of) else f"gone on from another '{found.parent}'"
            raise BadInput(f"stage '{name}'", f"one {what}", "the same parent and settings, or an empty folder")
        self.stages[name] = found
        return found.model

    def model(self, name: str, *, child: str = "") -> nn.Module:
        """A stage's frozen model; `base` is the one that the chain began with. Raises BadInput where there is no checkpoint of it."""
        if name == BASE:
            return self.base
        if name not in self.stages:
            kept = self._read(name, copy.deepcopy(self.base))
            if kept is None:
                known = ", ".join((BASE, *self.stages))
                where, what = (f"stage '{child}'", f"its parent '{name}'") if child else (f"stage '{name}'", "it")
                raise BadInput(where, f"no checkpoint of {what}", f"one of {known}, or that stage to be run first")
            if kept.parent_mark != fingerprint(self.model(kept.parent, child=name)):
                raise BadInput(f"stage '{name}'", f"one gone on from another '{kept.parent}'", "the same base, or an empty folder")
            self.stages[name] = kept
        return self.stages[name].model

    def _place(self, name: str, part: str) -> Path | None:
        return None if self.folder is None else self.folder / name / part

    def _read(self, name: str, shape: nn.Module) -> Kept | None:
        place = self._place(name, "kept")
        if place is None or not any(place.glob("step-*")):
            return None
        state = checkpoint.load(checkpoint.latest(place)[0])
        try:
            shape.load_state_dict(state["model"])
        except RuntimeError as error:
            raise BadInput(str(place), "a model of another shape", "one like the chain's base") from error
        ledger = Ledger.from_dict(state["ledger"])
        return Kept(frozen_copy(shape), state["parent"], state["parent_mark"], state["made_of"], ledger)

    def _train(self, name: str, make: Make, parent: str, start: nn.Module, mark: str, made_of: str) -> Kept:
        here = Here(folder=self._place(name, "run"))
        trainer = make(start, here)
        begun = trainer.folder is not None and (trainer.folder / "run.json").exists()
        result = trainer.run(resume=begun)
        model = result.model.policy if isinstance(result.model, ActorCritic) else result.model
        if fingerprint(start) != mark:
            raise BadInput(f"stage '{name}'", f"training that changed its parent '{parent}'", "training of a copy")
        here.ledger.merge(result.ledger)
        kept = Kept(frozen_copy(model), parent, mark, made_of, here.ledger)
        place = self._place(name, "kept")
        if place is not None:
            told = {"parent": parent, "parent_mark": mark, "made_of": made_of, "ledger": here.ledger.as_dict()}
            checkpoint.save(place, 1, {"model": kept.model.state_dict(), **told}, keep=1)
        return kept
