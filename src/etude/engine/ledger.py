"""The ledger: what a run has spent, by category and quantity. A budget is a limit on some of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from etude.engine.arguments import check
from etude.errors import BadInput, one_of

CATEGORIES = ("train", "generate", "judge", "prepare", "tune", "steer")
"""tune: what a run itself spends on choosing its settings. What a study's settings cost before it is in `evidence/tuning`."""
QUANTITIES = (
    "tokens", "samples", "generated_tokens", "prompt_tokens", "labels", "environment_steps", "calls", "evaluations", "steps", "flops",
    "state_bytes", "seconds",
)  # fmt: skip
DETERMINISTIC = tuple(q for q in QUANTITIES if q != "seconds")


@dataclass
class Ledger:
    """Amounts by category ("train", "prepare", ...; open to new ones) and quantity ("tokens", "flops", ...; open too).

    Counts are Python integers and so exact at any size; seconds are floats.
    """

    entries: dict[str, dict[str, float]] = field(default_factory=dict)

    def charge(self, category: str, **amounts: float) -> None:
        row = self.entries.setdefault(category, {})
        for quantity, amount in amounts.items():
            if amount < 0:
                raise ValueError(f"ledger: {category}.{quantity} charged {amount}, expected >= 0")
            row[quantity] = row.get(quantity, 0) + amount

    def total(self, quantity: str, categories: tuple[str, ...] | None = None) -> float:
        """The amount over all categories (or over those named)."""
        return sum(row.get(quantity, 0) for name, row in self.entries.items() if categories is None or name in categories)

    def of(self, quantity: str) -> dict[str, float]:
        """The amount by category, of those that have any."""
        return {name: row[quantity] for name, row in self.entries.items() if quantity in row}

    def merge(self, other: Ledger, category: str | None = None) -> None:
        """Adds another run's ledger; all of it under `category` where one is named (a base model as "prepare", say)."""
        for name, row in other.entries.items():
            self.charge(category or name, **row)

    def as_dict(self) -> dict[str, dict[str, float]]:
        return {name: dict(row) for name, row in self.entries.items()}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Mapping[str, float]]) -> Ledger:
        return cls({name: dict(row) for name, row in entries.items()})


def scoring(spent: Ledger, count: int) -> Ledger:
    """At most what a forward pass over `count` samples takes: what training on as many has taken, and half of its FLOPs (a backward pass
    takes once the forward's where inputs have no gradient, as in a first layer, and else twice).

    Of what a run has spent alone, so that a resumed one comes to the same. Nothing before anything was trained on.
    """
    trained = spent.entries.get("train", {})
    if not trained.get("samples"):
        return Ledger()
    each = {"samples": 1.0, "tokens": 1.0, "flops": 1 / 2}
    return Ledger({"prepare": {name: part * count * trained.get(name, 0) / trained["samples"] for name, part in each.items()}})


@dataclass(frozen=True)
class Budget:
    """When a run ends: a limit on one quantity of the ledger's total, or on a declared weighted sum of several.

    Budget(tokens=1_000_000), Budget(steps=500), Budget(flops=1e12), Budget(seconds=60), Budget(samples=...), or
    Budget(weights={"tokens": 1.0, "generated_tokens": 0.5}, limit=2e6). A budget in seconds promises state, not bits.
    A quantity counts over all categories; "train.samples" counts in one, so that scoring under "prepare" does not end the run.
    """

    quantity: str
    limit: float
    weights: Mapping[str, float]

    def __init__(self, *, weights: Mapping[str, float] | None = None, limit: float | None = None, **one: float) -> None:
        if weights is None:
            if len(one) != 1:
                raise BadInput("budget", " and ".join(one) or "nothing", "one quantity, such as tokens=1_000_000")
            if limit is not None:
                raise BadInput("budget.limit", "it without weights", "one quantity alone, or limit and weights")
            ((quantity, limit),) = one.items()
            _known("budget", quantity)
            weights, where = {quantity: 1.0}, f"budget.{quantity}"
        else:
            if one:
                raise BadInput("budget", f"weights and {', '.join(one)}", "one quantity, or limit and weights")
            where = "budget.limit"
            check("budget.weights", weights, Mapping[str, float])
            if not weights:
                raise BadInput("budget.weights", "nothing", "at least one quantity and its weight")
            for name, weight in weights.items():
                _known("budget.weights", name)
                if not weight > 0:
                    raise BadInput(f"budget.weights.{name}", repr(weight), "a number > 0")
            quantity = " + ".join(f"{w:g} {q}" for q, w in weights.items())
        check(where, limit, float)
        if limit is None or not limit > 0:
            raise BadInput(where, repr(limit), "a number > 0")
        object.__setattr__(self, "quantity", quantity)
        object.__setattr__(self, "limit", float(limit))
        object.__setattr__(self, "weights", dict(weights))

    def spent(self, ledger: Ledger) -> float:
        total = 0.0
        for name, weight in self.weights.items():
            category, _, quantity = name.rpartition(".")
            total += weight * ledger.total(quantity, (category,) if category else None)
        return total

    def share(self, ledger: Ledger) -> float:
        """Consumed share, 0 to 1 and a little over."""
        return self.spent(ledger) / self.limit


def _known(where: str, name: str) -> None:
    category, dot, quantity = name.rpartition(".")
    if quantity not in QUANTITIES:
        raise one_of(where, name, QUANTITIES)
    if dot and category not in CATEGORIES:
        raise one_of(where, name, [f"{c}.{quantity}" for c in CATEGORIES])
