"""Arithmetic expressions, parsed strictly and computed exactly: whole numbers, + - * /, parentheses. Never `eval`."""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST = 400  # characters
DEEPEST = 40  # parentheses inside one another
_TOKEN = re.compile(r"[0-9]+|[-+*/()]", re.ASCII)


class NotAnExpression(ValueError):
    """The text is not an expression of this grammar, or divides by zero."""


def evaluate(text: str, *, signed: bool = False) -> tuple[Fraction, list[int], list[str]]:
    """(value, the numbers in it from left to right, the operations). Raises NotAnExpression.

    signed: a sum may begin with a minus (`-3+5`). Otherwise no sign before a number or parenthesis; never leading zeros; blanks only
    between tokens: "1 2" is two numbers, hence refused.
    """
    if len(text) > LONGEST:
        raise NotAnExpression(f"longer than {LONGEST} characters")
    tokens: list[str] = []
    at = 0
    while at < len(text):
        if text[at] == " ":
            at += 1
            continue
        match = _TOKEN.match(text, at)
        if match is None or (len(match[0]) > 1 and match[0][0] == "0"):
            raise NotAnExpression(f"at character {at + 1}")
        tokens.append(match[0])
        at = match.end()
    parser = _Parser(tokens, signed)
    value = parser.sum(0)
    if parser.at != len(tokens):
        raise NotAnExpression(f"'{tokens[parser.at]}' is left over")
    return value, [int(t) for t in tokens if t[0].isdigit()], [t for t in tokens if t in "+-*/"]


class _Parser:
    def __init__(self, tokens: list[str], signed: bool) -> None:
        self.tokens, self.signed, self.at = tokens, signed, 0

    def _next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def sum(self, depth: int) -> Fraction:
        minus = self.signed and self._next() == "-"
        self.at += minus
        value = -self.product(depth) if minus else self.product(depth)
        while (sign := self._next()) in ("+", "-"):
            self.at += 1
            other = self.product(depth)
            value = value + other if sign == "+" else value - other
        return value

    def product(self, depth: int) -> Fraction:
        value = self.atom(depth)
        while (sign := self._next()) in ("*", "/"):
            self.at += 1
            other = self.atom(depth)
            if sign == "/" and other == 0:
                raise NotAnExpression("divides by zero")
            value = value * other if sign == "*" else value / other
        return value

    def atom(self, depth: int) -> Fraction:
        token = self._next()
        self.at += 1
        if token == "(" and depth < DEEPEST:
            value = self.sum(depth + 1)
            if self._next() != ")":
                raise NotAnExpression("a parenthesis is not closed")
            self.at += 1
            return value
        if token and token[0].isdigit():
            return Fraction(int(token))
        raise NotAnExpression(f"'{token}' where a number or '(' is expected" if token else "ends too early")
