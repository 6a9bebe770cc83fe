"""Arguments held against signatures: every mistake by its name, nothing that is right refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pytest
import torch

from etude.engine.arguments import check, check_fields, shown, typed
from etude.engine.ledger import Budget
from etude.engine.optim import SGD, AdamW, Muon
from etude.engine.protocols import Method
from etude.engine.schedule import Cosine, Schedule
from etude.errors import BadInput
from etude.papers.loading import method

if TYPE_CHECKING:
    from nowhere import Nothing  # type: ignore[import-not-found]


class Calls(Protocol):
    def __call__(self, x: int) -> int: ...
    def also(self) -> None: ...


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (3, int), (np.int64(3), int), (3, float), (np.float32(2.5), float), (True, bool), (np.bool_(True), bool), ("a", str),
        (None, int | None), ("a", Literal["a", 1]), ([1, 2], list[int]), ((1, 2), list[int]), ([1, 2.5], tuple[float, ...]),
        ((1, "a"), tuple[int, str]), ({"a": 1}, Mapping[str, float]), (Path("a"), Path | str), (len, Callable[[Any], int]),
        (np.zeros(3), Sequence[int]), (Cosine(), Schedule), (lambda share: 1.0, Schedule), (int, type), (object(), Any), (3, "unknown"),
    ],
)  # fmt: skip
def test_what_is_right_passes(value, hint):
    check("here", value, hint)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (True, int, "here: found True, expected a whole number"),
        (2.0, int, "here: found 2.0, expected a whole number"),
        ("3", int, "here: found '3', expected a whole number"),
        (True, float, "here: found True, expected a number"),
        (float("nan"), float, "here: found nan, expected a finite number"),
        (float("inf"), float | None, "here: found inf, expected a finite number or None"),
        (10**400, float, "expected a finite number"),
        (1, bool, "here: found 1, expected True or False"),
        (3, str, "here: found 3, expected a text"),
        ("ab", Literal["abc", "x"], "here: found 'ab', expected abc or x; did you mean 'abc'?"),
        (True, Literal[1], "here: found True, expected 1"),
        ("abc", Sequence[str], "here: found 'abc', expected a list"),
        ([1, "a"], list[int], "here[1]: found 'a', expected a whole number"),
        ((1, 2), tuple[int, int, int], "here: found 2 values, expected 3"),
        ([1, None], Sequence[int] | None, "here[1]: found None, expected a whole number"),
        ({"a": "b"}, dict[str, int], "here.a: found 'b', expected a whole number"),
        ({1: 1}, dict[str, int], "here, key: found 1, expected a text"),
        (3, Callable[[int], int], "here: found 3, expected a function"),
        (lambda x: x, Calls, "here: found the function <lambda>, expected a Calls"),
        (Cosine, Schedule, "here: found the class Cosine, expected one made from it, Cosine(...)"),
        (Budget, Budget | None, "here: found the class Budget, expected one made from it, Budget(...)"),
        (object(), Path | str, "here: found an object, expected a path or a text"),
    ],
)
def test_what_is_wrong_is_said(value, hint, message):
    with pytest.raises(BadInput) as caught:
        check("here", value, hint)
    assert message in str(caught.value)


def test_a_function_s_call_is_checked_before_it_runs():
    ran = []

    @typed("f, ")
    def f(a: int, b: str = "x", *, c: float | None = None, d: Nothing = 3) -> None:
        ran.append((a, b, c, d))

    f(1, "y", c=2)
    f(1, d="whatever its hint means")
    assert len(ran) == 2
    for call, message in (
        (lambda: f(), "f, a: found nothing, expected a value"),
        (lambda: f(1, 2), "f, b: found 2, expected a text"),
        (lambda: f(1, zz="y"), "f, zz: found an unknown key, expected a known one; known: a, b, c, d"),
        (lambda: f(1, "x", 3.0), "f: found 3 arguments in order, expected at most 2, the others by name"),
        (lambda: f(1, a=1), "f, a: found two values, expected one"),
        (lambda: f(1, c="x"), "f, c: found 'x', expected a number or None"),
    ):
        with pytest.raises(BadInput) as caught:
            call()
        assert str(caught.value) == message
    assert len(ran) == 2


def test_a_default_is_right_whatever_its_hint_says():
    @typed("f, ")
    def f(limit: float = float("inf")) -> float:
        return limit

    assert f(float("inf")) == f()
    with pytest.raises(BadInput, match="finite"):
        f(float("nan"))


def test_the_fields_of_a_dataclass():
    @dataclass(frozen=True)
    class Shape:
        width: int
        parts: tuple[int, ...] = ()

        def __post_init__(self) -> None:
            check_fields(self)

    assert Shape(3, (1, 2)).width == 3
    with pytest.raises(BadInput, match=r"Shape.parts\[0\]: found 'a', expected a whole number"):
        Shape(3, ("a",))  # type: ignore[arg-type]


class Part:
    def __init__(self, start: float) -> None:
        if start < 0:
            raise BadInput("Part.start", repr(start), "a number >= 0")


class Takes(Method):
    def __init__(self, start: float = 0.5, word: str = "stack", anything: Any = None) -> None:
        self.part = Part(start)
        if word not in ("stack", "zero"):
            raise BadInput("Takes.word", f"'{word}'", "one of stack, zero")
        self.numbers = None if anything is None else np.asarray(anything, dtype=np.float64)


class Below(Takes):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Takes(stat=1), "Takes.stat: found an unknown key, expected a known one; did you mean 'start'?"),
        (lambda: Takes("a"), "Takes.start: found 'a', expected a number"),
        (lambda: Takes(start=-1), "Takes.start: found -1, expected a number >= 0"),
        (lambda: Below(start=-1), "Below.start: found -1, expected a number >= 0"),
        (lambda: Takes(word="stak"), "Takes.word: found 'stak', expected stack or zero; did you mean 'stack'?"),
        (lambda: Takes(word="qqqq"), "Takes.word: found 'qqqq', expected one of stack, zero"),
        (lambda: Takes(anything={}), "Takes.anything: found {} (float() argument must be"),
        (lambda: Takes(word="zero", anything={}), "Takes: found float() argument must be"),
    ],
)
def test_a_method_s_arguments(make, message):
    with pytest.raises(BadInput) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("slug", "settings", "message"),
    [
        ("stacking", {"factor": 3.5}, "Grow.factor: found 3.5, expected a whole number"),
        ("stacking", {"factor": True}, "Grow.factor: found True, expected a whole number"),
        ("stacking", {"warmup": float("nan")}, "Grow.warmup: found nan, expected a finite number"),
        ("stacking", {"operator": "stak"}, "Grow.operator: found 'stak', expected stack, interpolate, random or zero; did"),
        ("stacking", {"after": 3}, "Grow.after: found 3, expected a schedule"),
        ("stacking", {"facto": 2}, "Grow.facto: found an unknown key, expected a known one; did you mean 'factor'?"),
        ("gradient-noise", {}, "GradientNoise.eta: found nothing, expected a value"),
        ("gradient-noise", {"eta": "a"}, "GradientNoise.eta: found 'a', expected a number"),
        ("gradient-noise", {"eta": float("inf")}, "GradientNoise.eta: found inf, expected a finite number"),
        ("cyclical-curriculum", {"repeat": 1.5}, "CyclicalCurriculum.repeat: found 1.5, expected a whole number"),
        ("cyclical-curriculum", {"factor": 2.0}, "CyclicalCurriculum.factor: found 2.0, expected a number above 0 and below 1"),
        ("cyclical-curriculum", {"pacing": "cyle"}, "CyclicalCurriculum.pacing: found 'cyle', expected a known name; did you mean"),
        ("cyclical-curriculum", {"scores": 5}, "CyclicalCurriculum.scores: found numbers of shape []"),
        ("cyclical-curriculum", {"scores": [[1.0]]}, "CyclicalCurriculum.scores: found numbers of shape [1, 1]"),
        ("cyclical-curriculum", {"scores": {}}, "CyclicalCurriculum.scores: found {} (float() argument"),
    ],
)  # fmt: skip
def test_the_papers_methods_refuse_what_their_hints_rule_out(slug, settings, message):
    with pytest.raises(BadInput) as caught:
        method(slug)(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamW(lr=float("inf")), "optimizer.lr: found inf, expected a finite number"),
        (lambda: AdamW(lr="a"), "optimizer.lr: found 'a', expected a number"),
        (lambda: AdamW(lr=0), "optimizer.lr: found 0, expected a number > 0"),
        (lambda: AdamW(betas=(0.9,)), "optimizer.betas: found 1 values, expected 2"),
        (lambda: AdamW(betas=(0.9, 1.0)), "optimizer.betas[1]: found 1.0, expected a number from 0 to below 1"),
        (lambda: AdamW(eps=0.0), "optimizer.eps: found 0.0, expected a number > 0"),
        (lambda: AdamW(weight_decay=float("nan")), "optimizer.weight_decay: found nan, expected a finite number"),
        (lambda: SGD(momentum=-0.1), "optimizer.momentum: found -0.1, expected a number from 0 to below 1"),
        (lambda: SGD(nesterov=True), "optimizer.nesterov: found True without momentum"),
        (lambda: Muon(rest=3), "optimizer.rest: found 3, expected an AdamW"),
        (lambda: Cosine(warmup="a"), "schedule.warmup: found 'a', expected a number"),
        (lambda: Cosine(final=float("nan")), "schedule.final: found nan, expected a finite number"),
        (lambda: Budget(steps=float("inf")), "budget.steps: found inf, expected a finite number"),
        (lambda: Budget(steps="5"), "budget.steps: found '5', expected a number"),
        (lambda: Budget(weights={"tokens": float("inf")}, limit=3), "budget.weights.tokens: found inf, expected a finite number"),
        (lambda: Budget(weights={"tokens": 1.0}), "budget.limit: found None, expected a number"),
        (lambda: Budget(weights={}, limit=3), "budget.weights: found nothing"),
        (lambda: Budget(steps=3, limit=3), "budget.limit: found it without weights"),
        (lambda: Budget(steps=3, weights={"tokens": 1.0}, limit=3), "budget: found weights and steps"),
    ],
)
def test_optimizers_schedules_and_budgets(make, message):
    with pytest.raises(BadInput) as caught:
        make()
    assert message in str(caught.value)


def test_values_are_quoted_shortly():
    assert shown("x" * 100) == "'" + "x" * 39 + "...'"
    assert shown(10**5000) == "a huge number"
    assert [shown(v) for v in (len, torch.zeros(2), AdamW, [1, "a"], np.zeros(2))] == [
        "the function len", "a Tensor", "the class AdamW", "[1, 'a']", "a ndarray",
    ]  # fmt: skip
