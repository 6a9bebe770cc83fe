"""Addition, subtraction and multiplication written in several ways: the answer alone, from its last digit, or after working.

    plain       `128+367=` `495`
    reverse     `128+367=` `594`, the answer from its last digit
    simplified  `Input:\n128+367\nTarget:\n`, then for each digit from the right `A->5 , C->1`, then the answer
    detailed    the same prompt, then in <scratch> the digits left, the part of the answer made, the carry and each step

Delimited, plain and reversed ones stand between two `$`. Padded, operands have as many digits as the difficulty and the answer
as many as any could have; scratchpads are not padded.
Source: arXiv 2307.03381, section 3 and figure 1; the exact characters are those of the authors' code (lee-ny/teaching_arithmetic at
7e489fa, main_utils.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from etude.data.tasks.answers import LONGEST, whole_number
from etude.data.tasks.family import Family
from etude.engine.protocols import Problem
from etude.errors import BadInput, one_of

OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
FORMATS = ("plain", "reverse", "simplified", "detailed")
SCRATCHPADS = ("simplified", "detailed")


def _digits(number: int) -> list[int]:
    return [int(d) for d in str(number)]


def _list(digits: list[int]) -> str:
    return "[" + ",".join(map(str, digits)) + "]"


def _by_place(a: int, b: int) -> list[tuple[list[int], list[int], int, int]]:
    """For each place from the right: what is left of both numbers' digits, and the digit of each there (0 where it has none)."""
    x, y, steps = _digits(a), _digits(b), []
    for _ in range(max(len(x), len(y))):
        steps.append((x, y, x[-1] if x else 0, y[-1] if y else 0))
        x, y = x[:-1], y[:-1]
    return steps


def _addition(a: int, b: int, detailed: bool) -> list[str]:
    lines, carry, made = [], 0, []
    for x, y, p, q in _by_place(a, b):
        total = p + q + carry
        digit, next_carry = total % 10, total // 10
        before = f"{_list(x)} + {_list(y)} , A={_list(made)} , C={carry} , {p}+{q}+{carry}={total} , " if detailed else ""
        lines.append(f"{before}A->{digit} , C->{next_carry}")
        made, carry = [digit, *made], next_carry
    return [*lines, f"[] + [] , A={_list(made)} C={carry} , END"] if detailed else lines


def _subtraction(a: int, b: int, detailed: bool) -> list[str]:
    """Digit by digit with a borrow of 0 or -1; the first digit may come out negative, and a last line puts the number together."""
    lines, borrow, made = [], 0, []
    steps = _by_place(a, b)
    for place, (x, y, p, q) in enumerate(steps):
        total, lent = p - q + borrow, borrow
        borrow = -int(total < 0)
        lends = total < 0 and place < len(steps) - 1
        digit = total + 10 if lends else total
        if detailed:
            told = f"{p}-{q}-{-lent}{'+10' if lends else ''}={digit}"
            lines.append(f"{_list(x)} - {_list(y)} , A={_list(made)} , C={lent} , {told} , A->{digit} , C->{borrow}")
        else:
            lines.append(f"A->{digit} , C->{borrow}")
        made = [digit, *made]
    first, rest = made[0] * 10 ** (len(made) - 1), int("".join(map(str, made[1:])) or 0)
    whole = f"{first}+{rest}={first + rest}"
    return [*lines, f"[] - [] , A={_list(made)}", f"{whole} , END"] if detailed else [*lines, whole]


def _multiplication(a: int, b: int) -> list[str]:
    lines, total = [], 0
    for place, digit in enumerate(reversed(_digits(b))):
        product = digit * a
        shifted = product * 10**place
        line = f"{_list(_digits(a))} * {digit} , A={_list(_digits(product))} , k={10**place} , B={_list(_digits(shifted))}"
        lines.append(f"{line} , C={total}+{shifted}={total + shifted}")
        total += shifted
    return [*lines[:-1], f"{lines[-1]} , END"]


def check_form(form: str, operator: str) -> None:
    """Raises BadInput for an unknown operator or format, or a format that the operator does not have."""
    if operator not in OPERATORS:
        raise one_of("task arithmetic, operator", operator, list(OPERATORS))
    if form not in FORMATS:
        raise one_of("task arithmetic, form", form, FORMATS)
    if form == "simplified" and operator == "*":
        raise BadInput("task arithmetic, form", "simplified with '*'", "plain, reverse or detailed")


def rendered(a: int, b: int, operator: str = "+", form: str = "plain", *, delimited: bool = False, digits: int = 0) -> tuple[str, str]:
    """(prompt, completion) of one calculation, both operands >= 0; the completion ends where the text of an example ends.

    digits: above 0, operands are padded to so many and the answer to the most that any could have (plain and reverse alone).
    Raises BadInput as `check_form` does, for negative operands, and for operands of more digits.
    """
    check_form(form, operator)
    if a < 0 or b < 0:
        raise BadInput("task arithmetic", f"{a} {operator} {b}", "operands >= 0")
    if digits and max(len(str(a)), len(str(b))) > digits:
        raise BadInput("task arithmetic", f"{a} {operator} {b}", f"operands of at most {digits} digits")
    result = OPERATORS[operator](a, b)
    if form in SCRATCHPADS:
        if digits:
            raise BadInput("task arithmetic, digits", f"{digits} with {form}", "0: scratchpads are not padded")
        return f"Input:\n{a}{operator}{b}\nTarget:\n", _scratchpad(a, b, operator, form, result)
    sign, size = "-" if result < 0 else "", str(abs(result)).zfill(answer_width(digits, operator) if digits else 0)
    answer = sign + size
    mark = "$" if delimited else ""
    prompt = f"{mark}{a:0{max(digits, 1)}d}{operator}{b:0{max(digits, 1)}d}="
    return prompt, (answer[::-1] if form == "reverse" else answer) + mark


def answer_width(digits: int, operator: str) -> int:
    """Most digits of an answer to operands of `digits`, without the sign."""
    return {"+": digits + 1, "-": digits, "*": 2 * digits}[operator]


def _scratchpad(a: int, b: int, operator: str, form: str, result: int) -> str:
    detailed = form == "detailed"
    steps = _multiplication(a, b) if operator == "*" else (_addition if operator == "+" else _subtraction)(a, b, detailed)
    if not detailed:
        return "\n".join(steps) + f".\n{result}"
    x, y = _digits(a), _digits(b)
    sign, size = "-" if result < 0 else "", " ".join(str(abs(result)))
    head = ["<scratch>", f"{_list(x)} has {len(x)} digits.", f"{_list(y)} has {len(y)} digits."]
    return "\n".join([*head, *steps, "</scratch>", sign + size])


def result_of(completion: str, form: str = "plain", *, delimited: bool = False, width: int = 0) -> int | None:
    """The number that a completion gives, None where it gives none as its format writes one; working is not held against it.

    width: digits of a padded answer, 0 for answers as they are.
    """
    if len(completion) > LONGEST:
        return None
    text = completion
    if form in SCRATCHPADS:
        closing = "</scratch>\n" if form == "detailed" else ".\n"
        head, found, text = text.rpartition(closing)
        if not found or not head:
            return None
        sign = text.startswith("-")
        parts = text[sign:].split(" ") if form == "detailed" else [text[sign:]]
        if form == "detailed" and any(len(p) != 1 for p in parts):
            return None
        return whole_number("-" * sign + "".join(parts))
    if delimited:
        if not text.endswith("$"):
            return None
        text = text[:-1]
    if form == "reverse":
        text = text[::-1]
    if not width:
        return whole_number(text)
    sign = text.startswith("-")
    if len(text) - sign != width or not text[sign:].isascii() or not text[sign:].isdigit():
        return None
    size = int(text[sign:])
    return None if sign and not size else -size if sign else size


class Arithmetic(Family):
    """difficulty: digits of both operands, without leading zeros (one digit: 0 to 9). Right is an answer in the format asked for."""

    name = "arithmetic"
    difficulties = tuple(range(1, 11))

    def __init__(self, operator: str = "+", form: str = "plain", delimited: bool = False, padded: bool = False) -> None:
        check_form(form, operator)
        if (padded or delimited) and form in SCRATCHPADS:
            raise BadInput("task arithmetic", f"{'padded' if padded else 'delimited'} with {form}", "plain or reverse")
        self.operator, self.form, self.delimited, self.padded = operator, form, delimited, padded
        parts = [
            *([] if operator == "+" else [operator]),
            *([] if form == "plain" else [form]),
            *(["$"] * delimited),
            *(["padded"] * padded),
        ]
        if parts:
            self.name = f"arithmetic({','.join(parts)})"

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        low = 10 ** (difficulty - 1) if difficulty > 1 else 0
        a, b = (int(n) for n in rng.integers(low, 10**difficulty, 2))
        digits = difficulty if self.padded else 0
        prompt, answer = rendered(a, b, self.operator, self.form, delimited=self.delimited, digits=digits)
        return prompt, answer, {"result": OPERATORS[self.operator](a, b), "width": answer_width(digits, self.operator) if digits else 0}

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        return result_of(answer, self.form, delimited=self.delimited, width=data["width"]) == data["result"]

    def verify(self, problem: Problem, response: str) -> float:
        """As every task's; a scratchpad is the response itself, and its last line the answer."""
        if self.form in SCRATCHPADS:
            return float(self.right(problem.data, response.strip(" \t\r\n")))
        return super().verify(problem, response)


def carries(a: int, b: int) -> int:
    """How often a digit is carried in a + b."""
    return (sum(_digits(a)) + sum(_digits(b)) - sum(_digits(a + b))) // 9


def balanced_additions(
    count: int, rng: np.random.Generator, digits: int = 3, *, avoid: frozenset[tuple[int, int]] = frozenset()
) -> np.ndarray:
    """[count, 2] different pairs, in the order drawn: all of one digit, a share of 0.09 of each length between, the rest of `digits`, each
    number of carries filling at most an even share (arXiv 2307.03381, section 3; `create_balanced_data` of the authors' code, whose
    draws of a length are from 0 up, and which lets a pair come twice). avoid: pairs that are not to be drawn (a test set's).

    Raises BadInput where so many different pairs are not found.
    """
    if digits < 2 or count < 100:
        raise BadInput("balanced_additions", f"{count} pairs of {digits} digits", "at least 100 pairs of at least 2 digits")
    pairs = [(a, b) for a in range(10) for b in range(10) if (a, b) not in avoid]
    seen, quota = set(pairs) | avoid, -(-count // (digits + 1))
    filled = np.bincount([carries(a, b) for a, b in pairs], minlength=digits + 1)
    between = int(0.09 * count)
    for length in range(2, digits + 1):
        wanted = len(pairs) + between if length < digits else count
        for a, b in rng.integers(0, 10**length, (60 * count, 2)).tolist():
            if len(pairs) >= wanted:
                break
            carried = carries(a, b)
            if (a, b) not in seen and filled[carried] < quota:
                pairs.append((a, b))
                seen.add((a, b))
                filled[carried] += 1
    if len(pairs) < count:
        raise BadInput("balanced_additions", f"{count} pairs of {digits} digits", f"at most what there is: {len(pairs)} were found")
    return np.array(pairs[:count], dtype=np.int64)
