"""What a recipe's data comes to: samples to train on and to measure on, a loss, and what a model must know about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from etude.data.tokenizers import Tokenizer
from etude.engine.ledger import Ledger
from etude.engine.protocols import Evaluator, Objective, Sampler, Source, Stream
from etude.learn.problems import ProblemPool
from etude.recipe.prompts import Asker


@dataclass(frozen=True, kw_only=True)
class Material:
    """vocab: of language data, else None. inputs, outputs: numbers a sample and predictions of other data.

    grid:      (dimensions, size along each) of images. groups: [N] the domain or class of each training sample, an index into
               `group_names`; None where there are neither.
    facts:     what identifies the data (hashes, counts) and what a user of the model needs (classes, scaling): plain JSON,
               written to the run's folder and compared on resume.
    objective_for, evaluators_for: where the objective needs the model as it is before training (a frozen reference).
    stream_for: (model, sampler, note) -> the stream, where it is not the source's samples in batches.
    spent:     what making it has cost (a scorer's calls).
    asker, held_out_problems, stop_tokens: of data that is answered rather than read: how prompts reach the model, those that are
               measured on, and what ends a response beside the model's own ends. held_out_lines: of rows, where those held out stand.
    """

    source: Source
    objective: Objective
    evaluators: Mapping[str, Evaluator]
    facts: Mapping[str, Any]
    vocab: int | None = None
    tokenizer: Tokenizer | None = None
    context: int = 0
    inputs: int = 0
    outputs: int = 0
    grid: tuple[int, int] | None = None
    groups: np.ndarray | None = None
    group_names: Sequence[str] = field(default_factory=tuple)
    objective_for: Callable[[nn.Module], Objective] | None = None
    evaluators_for: Callable[[Objective], Mapping[str, Evaluator]] | None = None
    stream_for: Callable[[nn.Module, Sampler, Callable[[str], None] | None], Stream] | None = None
    asker: Asker | None = None
    held_out_problems: ProblemPool | None = None
    held_out_lines: Sequence[int] = ()
    stop_tokens: tuple[int, ...] = ()
    spent: Ledger = field(default_factory=Ledger)

    def learnt_by(self, model: nn.Module) -> tuple[Objective, Mapping[str, Evaluator]]:
        """The objective and the evaluators for a model that is about to be trained."""
        objective = self.objective if self.objective_for is None else self.objective_for(model)
        return objective, self.evaluators if self.evaluators_for is None else self.evaluators_for(objective)

    @property
    def kind(self) -> str:
        return "text" if self.vocab is not None else "images" if self.grid else "a table"
