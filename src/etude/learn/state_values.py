"""A process value model as the `evaluate` of searches: the value of a state is read at its last token.

Rows of like length are read together; every state is one call in the ledger. Shapes: N states, T tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from etude.engine.device import evaluating
from etude.engine.flops import FlopCounter
from etude.engine.ledger import Ledger
from etude.errors import BadInput
from etude.generate.search import Evaluate, Question
from etude.learn.rows import Row, filled
from etude.learn.values import last_values

READ_TOKENS = 16_384
"""Most tokens, filling included, in one forward."""


class StateValues:
    """model: tokens [N, T] -> values [N, T] (`ValueModel`). prompt: a question's token ids; a step brings its own.

    low, high: values are cut to this range, which a model trained by squared error may leave.
    context:   of the model, in tokens; longer states are valued by what fits, from the beginning.
    ledger:    charged under `category` with calls (one a state), prompt_tokens (read), flops and seconds.
    """

    def __init__(
        self,
        model: nn.Module,
        prompt: Callable[[Question], np.ndarray],
        *,
        context: int,
        low: float = 0.0,
        high: float = 1.0,
        ledger: Ledger | None = None,
        category: str = "judge",
    ) -> None:
        if not low < high:
            raise BadInput("StateValues", f"low {low}, high {high}", "low < high")
        self.model, self.prompt, self.context, self.low, self.high = model, prompt, context, low, high
        self.ledger, self.category = ledger, category
        self._flops: dict[Any, int] = {}

    def __call__(self, requests: Sequence[Evaluate]) -> list[list[float]]:
        rows = [
            np.concatenate([self.prompt(r.question), *(np.array(s.tokens, dtype=np.int64) for s in path)])[: self.context]
            for r in requests
            for path in r.paths
        ]
        values = iter(self.of(rows).tolist())
        return [[next(values) for _ in r.paths] for r in requests]

    @torch.no_grad()
    def of(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """[N] float64 values of whole token rows."""
        started = time.perf_counter()
        values = np.zeros(len(rows))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        flops = 0
        with evaluating(self.model) as device:
            while order:
                count = max(1, min(len(order), READ_TOKENS // len(rows[order[-1]])))
                batch, order = order[-count:], order[:-count]
                data = filled([Row(rows[i], np.ones(len(rows[i]) - 1, dtype=bool)) for i in batch])
                tokens, lengths = data["tokens"].to(device), data["lengths"].to(device)
                key = (tokens.shape, tuple(p.shape for p in self.model.parameters()))
                if key in self._flops or self.ledger is None:
                    read = self.model(tokens)
                else:
                    with FlopCounter() as counter:
                        read = self.model(tokens)
                    self._flops[key] = counter.total
                flops += self._flops.get(key, 0)
                values[batch] = last_values(read, lengths).double().cpu().numpy()
        if self.ledger is not None:
            spent = {"calls": len(rows), "prompt_tokens": sum(map(len, rows)), "flops": flops}
            self.ledger.charge(self.category, **spent, seconds=time.perf_counter() - started)
        return values.clip(self.low, self.high)
