"""reasoning-gym's tasks behind etude's protocol: `GymTask("zebra_puzzles")`. Needs the extra: pip install 'etude[tasks]'.

Four departures from the package's own use:
- its item i of seed s is drawn from `s + i`, so neighbouring seeds share almost all items; here each problem has a seed of its own,
  hashed from (task, seed, difficulty, index);
- its scores give part of the mark for an answer that merely contains the right one; here a response is right (1) or not (0);
- some of its scorers evaluate the response as Python; such text is never handed to them (`_harmless`), and countdown's and puzzle24's
  are replaced.
- scorers that pass over extra text are held to the answer itself or to its form (`EXACT`, `SHAPES`), and characters outside ASCII count
  only where the question or the answer has them.
Difficulty 0 is the package's default configuration, n > 0 level n - 1 of its curriculum where it has one.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import ceil, comb
from typing import Any

from etude.data.tasks.expressions import NotAnExpression, evaluate
from etude.engine.protocols import Problem
from etude.engine.streams import derive, global_streams
from etude.errors import BadInput, one_of

LONGEST = 20_000  # characters of a response
RENAMED = {"geometry": "advanced_geometry"}
"""names used by papers -> the package's own (arXiv 2505.24273's Geometry: README of jchy20/how-much-backtrack at df310b4)"""

NARROW_SEEDS = frozenset({"pool_matrix"})  # draws from numpy's global generator, whose seeds have 32 bits
LISTS = frozenset({"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"})  # fall back to `eval` for a list
FORMULAS = frozenset({"simple_integration", "intermediate_integration", "polynomial_multiplication"})  # parsed by sympy, which evaluates
EXACT = frozenset({
    "coin_flip", "fraction_simplification", "game_of_life_halting", "gsm_symbolic", "knights_knaves", "letter_jumble", "rectangle_count",
})  # fmt: skip
"""have one answer, but scorers that give the full mark for text around or near it: here only the answer itself is right"""
SHAPES = {
    "kakurasu": r"[01\s]+", "quantum_lock": r"[A-Ca-c](?:\s*→\s*[A-Ca-c])*", "sokoban": r"[UDLR]+", "survo": r"[0-9\s]+",
}  # fmt: skip
"""have several answers, and scorers that pass over what is not of this form"""
MOST_DIGITS, MOST_TERMS = 1000, 500
"""What a formula may come to when it is multiplied out, by an upper bound; beyond it the scorer would hang."""
FUNCTIONS = frozenset({"sin", "cos", "tan", "exp", "log", "sqrt"})


@cache
def _package() -> Any:
    try:
        return importlib.import_module("reasoning_gym.factory"), importlib.import_module("reasoning_gym")
    except ImportError:
        raise BadInput(
            "reasoning-gym", "a package that is not installed", "pip install 'etude[tasks]' (reasoning-gym's tasks with their verifiers)"
        ) from None


def names() -> list[str]:
    """The tasks of the installed package. Raises BadInput, naming the extra, where it is not installed."""
    return sorted(_package()[0].DATASETS)


class GymTask:
    """One task of reasoning-gym. settings: fields of its own configuration (they hold at difficulty 0).

    Raises BadInput for an unknown name (proposing a near one), unknown or refused settings, and where the extra is missing.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        factory, _ = _package()
        self.dataset = RENAMED.get(name, name)
        if self.dataset not in factory.DATASETS:
            raise one_of("task reasoning-gym", name, factory.DATASETS)
        self.settings_given = settings
        self.name = f"reasoning-gym/{self.dataset}" + (f"({json.dumps(settings, sort_keys=True)})" if settings else "")
        known = factory.DATASETS[self.dataset][1].__dataclass_fields__
        for setting in settings:
            if setting not in known or setting in ("seed", "size"):
                raise one_of(f"task {self.name}, setting", setting, [k for k in known if k not in ("seed", "size")])
        self._configs: dict[int, Any] = {}
        self._scorer: Any = None
        self._last: tuple[str, Any] = ("", None)
        self.difficulties: Sequence[int] = tuple(range(1 + self._levels()))
        self._config(0)

    def _levels(self) -> int:
        curriculum = _package()[0].CURRICULA.get(self.dataset)
        return 0 if curriculum is None else max((len(a.levels) for a in curriculum().attributes.values()), default=0)

    def _config(self, difficulty: int) -> Any:
        if difficulty not in self.difficulties:
            raise BadInput(f"task {self.name}, difficulty", repr(difficulty), f"one of 0 to {self.difficulties[-1]}")
        if difficulty not in self._configs:
            factory, _ = _package()
            try:
                if difficulty == 0:
                    config = factory.DATASETS[self.dataset][1](size=1, **self.settings_given)
                else:
                    curriculum = factory.CURRICULA[self.dataset]()
                    curriculum.set_global_level(difficulty - 1)
                    config = replace(curriculum.generate_configuration(), size=1)
                if hasattr(config, "validate"):
                    config.validate()
            except (AssertionError, TypeError, ValueError) as error:
                where = f"settings {self.settings_given}" if difficulty == 0 else "that level of its own curriculum"
                raise BadInput(f"task {self.name}, difficulty {difficulty}", where, f"what the package allows ({error})") from None
            self._configs[difficulty] = config
        return self._configs[difficulty]

    def problem(self, seed: int, index: int, difficulty: int = 0) -> Problem:
        """Item `index` of the stream (`seed`, `difficulty`); its entry in the package's form is kept as JSON in `data`."""
        failed: Exception | None = None
        for attempt in range(20):  # some generators give up on some seeds
            drawn = derive(seed, "task", self.name, difficulty, index, *([attempt] if attempt else []))
            if self.dataset in NARROW_SEEDS:
                drawn &= 0xFFFFFFFF
            config = replace(self._config(difficulty), seed=drawn)
            try:
                with global_streams(drawn):
                    entry = _package()[0].DATASETS[self.dataset][0](config=config)[0]
                break
            except (ValueError, RuntimeError) as error:
                failed = error
        else:
            where = f"task {self.name}, difficulty {difficulty}"
            raise BadInput(where, f"no problem on 20 seeds ({failed})", "a configuration that its generator can fill")
        answer = "" if entry["answer"] is None else str(entry["answer"])  # "" where the package knows none
        data = {"difficulty": difficulty, "seed": drawn, "metadata": _plain(entry["metadata"])}
        return Problem(f"{self.name}/{difficulty}/{seed}/{index}", entry["question"], answer, difficulty, data)

    def verify(self, problem: Problem, response: str) -> float:
        """1 where the package's scorer gives the full mark to the response without blanks around it, else 0.

        A response that the scorer would evaluate as Python is 0 unless it is harmless, and so is one that it raises on while it can
        score the package's own answer; otherwise raises what the scorer raised (`judging.Judge` names it).
        """
        answer = response.strip(" \t\r\n")
        if not answer or len(answer) > max(LONGEST, 2 * len(problem.answer)) or "\x00" in answer:
            return 0.0
        if self.dataset in LISTS | FORMULAS and answer == problem.answer.strip():
            return 1.0
        if any(c > "~" and c not in problem.answer and c not in problem.prompt for c in set(answer)):
            return 0.0
        if self.dataset in ("countdown", "puzzle24"):
            return float(_reaches(answer, problem.data["metadata"], self.dataset))
        if self.dataset in EXACT:
            return float(_plainly(answer) == _plainly(problem.answer))
        if not _harmless(self.dataset, answer) or not re.fullmatch(SHAPES.get(self.dataset, r"[\s\S]*"), answer):
            return 0.0
        with global_streams(0):
            scoring, entry = self._scoring(problem), self._entry(problem)
            try:
                score = scoring.score_answer(answer, entry)
            except Exception:
                scoring.score_answer(problem.answer, entry)
                return 0.0
        return score if not isinstance(score, (int, float)) or score != score else float(score >= 1.0)

    def _scoring(self, problem: Problem) -> Any:
        """A data set to score with; it holds the configuration, not the item."""
        if self._scorer is None or self._scorer[0] != problem.difficulty:
            config = replace(self._config(problem.difficulty), seed=problem.data["seed"])
            self._scorer = (problem.difficulty, _package()[0].DATASETS[self.dataset][0](config=config))
        return self._scorer[1]

    def _entry(self, problem: Problem) -> dict[str, Any]:
        """The package's entry, drawn again: its metadata may hold what JSON cannot (tuples, objects)."""
        key = problem.id
        if self._last[0] != key:
            config = replace(self._config(problem.difficulty), seed=problem.data["seed"])
            with global_streams(problem.data["seed"]):
                self._last = (key, _package()[0].DATASETS[self.dataset][0](config=config)[0])
        return self._last[1]


def _plain(value: Any) -> Any:
    """As JSON holds it; what it cannot hold is left out as its text."""
    return json.loads(json.dumps(value, default=str, skipkeys=True))


def _plainly(text: str) -> str:
    """Without regard to case and to how much white space stands between words."""
    return " ".join(text.casefold().split())


def _harmless(dataset: str, answer: str) -> bool:
    """Whether a scorer that evaluates its text may see this one: plain lists, or formulas of plain numbers, letters and functions."""
    if dataset in LISTS:
        return len(answer) < 4000 and re.fullmatch(r"[A-Z0-9_,\[\]\s'\"-]*", answer, re.ASCII) is not None
    if dataset in FORMULAS:
        if len(answer) > 1000 or not re.fullmatch(r"[A-Za-z0-9+\-*/^(). ]*", answer, re.ASCII):
            return False
        words = re.findall(r"[A-Za-z]+", answer)
        if any(len(word) > 1 and word not in FUNCTIONS for word in words) or re.search(r"\.(?![0-9])|(?<![0-9])\.", answer):
            return False
        if re.search(r"(?<![A-Za-z])[A-Z]\s*\(|[0-9]{12}", answer):  # a name of sympy's called; enormous numbers
            return False
        return _bounded(answer)
    return True


def _bounded(formula: str) -> bool:
    """Whether a formula, multiplied out, stays within MOST_DIGITS and MOST_TERMS."""
    try:
        digits, terms = _size(ast.parse(formula.strip().replace("^", "**"), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return digits <= MOST_DIGITS and terms <= MOST_TERMS


def _size(node: ast.AST, functions: int = 0) -> tuple[int, int]:
    """Upper bounds of a formula multiplied out: digits of its largest number, number of its terms. functions: that it stands in.

    Raises ValueError for what is no formula, for what is too large already, and for a power that is not of plain numbers.
    """
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            size = len(str(value)), 1
        case ast.Constant(value=float()):
            size = 20, 1
        case ast.Name():
            size = 1, 1
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=inside):
            return _size(inside, functions)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            (d, t), (e, u) = _size(left, functions), _size(right, functions)
            size = max(d, e) + 1, t + u
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div(), right=right):
            (d, t), (e, u) = _size(left, functions), _size(right, functions)
            size = d + e, t * u
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            (d, t), power = _size(left, functions), _power(right)
            size = power * (d + len(str(t))), comb(power + t - 1, power)
        case ast.Call(func=ast.Name(id=name), args=[inside], keywords=[]) if name in FUNCTIONS and functions < 2:
            return _size(inside, functions + 1)
        case _:
            raise ValueError("no formula")
    if size[0] > MOST_DIGITS or size[1] > MOST_TERMS:
        raise ValueError("too large")
    return size


def _power(node: ast.AST) -> int:
    """The size of an exponent, rounded up: a number below 100, with a sign or a divisor at most."""
    match node:
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=inside):
            return _power(inside)
        case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(value=int())):
            return _power(left)
        case ast.Constant(value=int() | float() as value) if 0 <= value < 100:
            return ceil(value)
    raise ValueError("no plain exponent")


def _reaches(answer: str, metadata: Mapping[str, Any], dataset: str) -> bool:
    """Countdown and puzzle24, judged by etude's own parser: each number exactly once, the value exactly the target."""
    try:
        value, used, _ = evaluate(answer, signed=True)  # as the package writes its own answers
    except NotAnExpression:
        return False
    target = metadata["target"] if dataset == "countdown" else 24
    return Counter(used) == Counter(metadata["numbers"]) and value == target
