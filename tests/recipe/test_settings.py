"""Settings of methods and architectures: every error at its key."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from etude.engine.protocols import Method
from etude.engine.schedule import Schedule, WarmupStableDecay
from etude.errors import BadInput
from etude.papers.loading import load_methods
from etude.recipe.build import method_of
from etude.recipe.settings import made
from etude.recipe.tables import MethodTable


@dataclass(frozen=True, kw_only=True)
class Shape:
    vocab: int = 7
    width: int = 8


@dataclass(frozen=True, kw_only=True)
class Whole:
    shape: Shape = field(default_factory=Shape)
    shares: tuple[float, ...] | None = None
    router: str = "expert"
    inner: Shape | None = None

    def __post_init__(self) -> None:
        if self.router == "none":
            raise BadInput("Whole.router", "'none'", "a router")


class Plain(Method):
    def __init__(self, at: float, after: Schedule | None = None, names: list[str] | None = None, anything=None) -> None:
        self.at, self.after, self.names, self.anything = at, after, names, anything


def test_tables_become_dataclasses_and_the_data_sets_its_part():
    built = made(Whole, {"shape": {"width": 16}, "shares": [1, 0.5]}, "model", {"vocab": 300})
    assert built == Whole(shape=Shape(vocab=300, width=16), shares=(1.0, 0.5), inner=Shape(vocab=300))
    assert made(Whole, {}, "model", {"vocab": 9}).shape.vocab == 9


def test_a_schedule_may_be_a_table():
    built = made(Plain, {"at": 1, "after": {"kind": "wsd", "decay": 0.5}}, "methods[0]")
    assert built.after == WarmupStableDecay(warmup=0.02, decay=0.5)
    assert isinstance(built.at, float)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Plain, {}, "p.at: found nothing, expected a value, which Plain needs"),
        (Plain, {"at": "x"}, "p.at: found 'x', expected a number"),
        (Plain, {"at": True}, "p.at: found True, expected a number"),
        (Plain, {"at": 1, "names": [1]}, r"p.names\[0\]: found 1, expected a text"),
        (Plain, {"at": 1, "after": 3}, "p.after: found 3, expected a table of its settings"),
        (Plain, {"at": 1, "after": {"kind": "sine"}}, "p.after.kind: found 'sine'"),
        (Plain, {"at": 1, "after": {"decay": 0.1}}, "p.after.decay: found 0.1, expected a key of a cosine schedule"),
        (Plain, {"at": 1, "after": {"kind": "linear", "warmup": 2}}, "p.after.warmup: found 2, expected less than or equal to 1"),
        (Plain, {"aat": 1}, "p.aat: found an unknown key, expected a known one; did you mean 'at'"),
        (Whole, {"router": "none"}, "p.router: found 'none', expected a router"),
        (Whole, {"shape": {"width": "w"}}, "p.shape.width: found 'w', expected a whole number"),
        (Whole, {"shape": {"vocab": 3}}, "p.shape.vocab: found 3, expected no such key: the data sets it"),
        (Whole, {"shape": 3}, "p.shape: found 3"),
    ],
)
def test_what_is_wrong_is_named(kind, settings, message):
    with pytest.raises(BadInput, match=message):
        made(kind, settings, "p", {"vocab": 5})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"at": "x"}, r"methods\[0\].at: found 'x', expected a number"),
        ({"at": 2}, r"methods\[0\].at: found 2.0, expected a share"),
        ({"factor": 2.5}, r"methods\[0\].factor: found 2.5, expected a whole number"),
        ({"operator": "stak"}, r"methods\[0\].operator: found 'stak'"),
        ({"facto": 2}, r"methods\[0\].facto: .*did you mean 'factor'"),
    ],
)
def test_a_paper_s_method_names_its_keys(settings, message):
    with pytest.raises(BadInput, match=message):
        method_of(MethodTable(use="stacking", **settings), 0, load_methods)
