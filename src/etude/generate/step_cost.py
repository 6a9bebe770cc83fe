"""FLOPs of decoding without counting every step: a step's cost is a polynomial in how much was read before it.

A row's step costs a + b S with kept keys and values (S tokens before it), a with recurrent memory, and a + b S + c S^2 where all is
read anew. Three counted steps of one row give a, b and c, a fourth checks them; batches cost as much as their rows. A model whose
work depends on its data (`data_dependent_flops`), or that fails the check, is counted at every step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from etude.engine.device import device_of
from etude.engine.flops import FlopCounter


def quadratic(points: list[tuple[int, int]], at: int) -> int:
    """The polynomial of degree 2 or less through three points, at another place (Lagrange's form, in whole numbers where it is whole)."""
    total = 0.0
    for i, (x, y) in enumerate(points):
        term = float(y)
        for j, (z, _) in enumerate(points):
            if i != j:
                term *= (at - z) / (x - z)
        total += term
    return round(total)


class StepCost:
    """FLOPs of steps of `decoder` up to `longest` tokens read, or None from `of` where each step must be counted."""

    def __init__(self, decoder: Any, model: nn.Module, longest: int) -> None:
        self.points: list[tuple[int, int]] = []
        if getattr(model, "data_dependent_flops", False):
            return
        device = device_of(model)

        def measured(length: int) -> int:
            state = decoder.begin(torch.zeros(1, length, dtype=torch.int64, device=device))
            with FlopCounter() as counter:
                decoder.extend(torch.zeros(1, 1, dtype=torch.int64, device=device), state)
            return counter.total

        last = max(3, longest - 1)  # the step itself reads one token more, and no more than `longest` can be read
        points = [(n, measured(n)) for n in (1, (1 + last) // 2, last)]
        if all(quadratic(points, n) == measured(n) for n in {2, last - 1}):
            self.points = points

    def of(self, rows: int, length: int) -> int | None:
        """FLOPs of one step of `rows` rows with `length` columns before it."""
        return rows * quadratic(self.points, length) if self.points else None
