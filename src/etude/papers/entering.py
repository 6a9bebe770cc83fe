"""What a paper is given in an arena where models learn from their own samples, and what it gives back.

A package enters by a file `arena.py` with a function `improvement(work)`, or says there why it does not: `improvement = "reason"`.
It may sample, judge, train and search as it likes; all that it does is charged to the ledger that it returns, which is to come to
`work.flops`. What it is measured on it never sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from etude.data.tokenizers import Tokenizer
from etude.engine.ledger import Ledger
from etude.engine.protocols import Problem, Sampling, Task
from etude.engine.streams import derive
from etude.evidence.study import Part
from etude.generate.local import LocalGenerator
from etude.learn.logprobs import frozen_copy
from etude.learn.problems import ProblemPool
from etude.nn.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Work:
    """A base model to improve, and what with.

    base:       the taught model; never trained itself (`trainable`, `frozen`).
    task, pool: whose verifier says 1 for a right answer; problems to learn from, a domain a difficulty, the easiest first.
    demonstrations: problem's number in the pool -> a right answer, of some of them.
    end, line:  token ids: what closes an answer; what closes a line of it, and so a step. context, max_tokens: in tokens; of an answer with
                its end.
    flops:      for everything after the base: samples, scores, training.
    part(name): where a `Trainer` of this work goes on after a kill. progress: called with (share done, loss or None).
    """

    task: Task
    base: Transformer
    tokenizer: Tokenizer
    end: int
    line: int
    context: int
    max_tokens: int
    pool: ProblemPool
    demonstrations: Mapping[int, str]
    flops: float
    seed: int
    part: Callable[[str], Part] = field(default=lambda name: Part(folder=None, begun=False))
    progress: Callable[[float, float | None], None] = field(default=lambda share, loss: None)

    def seed_of(self, *names: str | int) -> int:
        return derive(self.seed, *names)

    def frozen(self) -> Transformer:
        """A copy of the base to sample from, or to hold a policy to."""
        return frozen_copy(self.base)

    def trainable(self) -> Transformer:
        """A copy of the base to train."""
        return frozen_copy(self.base).requires_grad_(True).train()

    def generator(self, model: nn.Module, ledger: Ledger | None = None) -> LocalGenerator:
        return LocalGenerator(model, self.tokenizer, context=self.context, ledger=ledger)

    def sampling(self, temperature: float = 1.0) -> Sampling:
        return Sampling(temperature=temperature, max_tokens=self.max_tokens, stop_tokens=(self.end,))

    def encode(self, text: str) -> np.ndarray:
        return np.asarray(self.tokenizer.encode(text), dtype=np.int64)

    def problems(self) -> list[Problem]:
        return [self.pool[number] for number in range(len(self.pool))]

    def rows(self) -> list[tuple[str, str]]:
        """The demonstrations as (prompt, answer)."""
        return [(self.pool[number].prompt, answer) for number, answer in self.demonstrations.items()]

    def right(self, number: int, answer: str) -> bool:
        return self.task.verify(self.pool[number], answer) >= 1

    def left(self, ledger: Ledger) -> float:
        """FLOPs that are still there to be spent."""
        return self.flops - ledger.total("flops")


@dataclass(frozen=True, kw_only=True)
class Improved:
    """model: what answers from now on. ledger: all that it cost after the base. told: numbers worth recording, by name."""

    model: nn.Module
    ledger: Ledger
    told: Mapping[str, float] = field(default_factory=dict)


Improve = Callable[[Work], Improved]
"""How a paper enters."""
