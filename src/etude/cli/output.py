"""How results are printed: one JSON document, or text and tables by rich."""

from __future__ import annotations

import json
import math
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

COLORS = {"holds": "green", "reversed": "red", "no effect": "yellow", "inconclusive": "bright_black"}
"""Of the verdicts."""


def print_json(value: Any) -> None:
    """Exactly one JSON document on stdout. Numbers that JSON does not know (NaN, infinities) become null."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy and torch, without importing them
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


@cache
def console() -> Console:
    """The console on stdout. Paths and numbers keep one color; words are wrapped to the terminal's width."""
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError that is being handled: `main` knows what to do with it

    return Pipe(highlight=False, soft_wrap=False)


def colored(verdict: str) -> str:
    """A verdict in rich markup, in its color."""
    from rich.markup import escape

    color = next((c for word, c in COLORS.items() if verdict.startswith(word)), "")
    return f"[{color}]{escape(verdict)}[/]" if color else escape(verdict)
