"""Optimizers from a recipe's tables: one, or several named ones that together own every parameter."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim import Optimizer

from etude.engine.optim import SGD, AdamW, Muon, Named, OptimizerSpec, Several
from etude.errors import BadInput
from etude.recipe.tables import AdamWTable, MuonTable, Recipe, SGDTable

OptimizerTable = AdamWTable | SGDTable | MuonTable


def optimizer_of(recipe: Recipe) -> OptimizerSpec:
    """Raises BadInput where two of several optimizers take what the others leave."""
    if recipe.optimizers is None:
        return _spec(recipe.optimizer)
    rest = [name for name, table in recipe.optimizers.items() if table.over is None]
    if len(rest) > 1:
        raise BadInput("optimizers", f"{' and '.join(rest)} without `over`", "at most one that takes the parameters which no other owns")
    parts = {name: (_spec(table), table.over) for name, table in recipe.optimizers.items() if table.over is not None}
    return Covering(parts, (rest[0], _spec(recipe.optimizers[rest[0]])) if rest else None)


def _spec(table: OptimizerTable) -> OptimizerSpec:
    if isinstance(table, MuonTable):
        return Muon(lr=table.lr, momentum=table.momentum, weight_decay=table.weight_decay, rest=_adamw(table.rest))
    if isinstance(table, SGDTable):
        return SGD(lr=table.lr, momentum=table.momentum, nesterov=table.nesterov, weight_decay=table.weight_decay)
    return _adamw(table)


def _adamw(table: AdamWTable) -> AdamW:
    return AdamW(lr=table.lr, betas=table.betas, eps=table.eps, weight_decay=table.weight_decay)


@dataclass(frozen=True)
class Covering(Several):
    """`Several`, where every parameter has an owner: `rest` (name, spec) takes those that no part names.

    It looks again whenever the model is replaced. Raises BadInput for a parameter without an owner, which would never train.
    """

    rest: tuple[str, OptimizerSpec] | None = None

    def build(self, parameters: Named) -> dict[str, Optimizer]:
        built = super().build(parameters)
        taken = tuple(prefix for _, prefixes in self.parts.values() for prefix in prefixes)
        left = {name: p for name, p in parameters.items() if not name.startswith(taken)}
        if not left:
            if self.rest is not None:
                raise BadInput(f"optimizers.{self.rest[0]}", "no parameter left for it", "at least one that no other owns")
            return built
        if self.rest is None:
            found = f"none for {next(iter(left))}" + (f" and {len(left) - 1} more parameters" if len(left) > 1 else "")
            raise BadInput("optimizers", found, "one without `over`, which takes what the others leave")
        name, spec = self.rest
        return built | {f"{name}.{kind}": optimizer for kind, optimizer in spec.build(left).items()}
