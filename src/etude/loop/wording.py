"""Rounds in words: metrics, and rows of any shape, each as one line to be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JUDGED = ("reward", "judgement", "right", "score")
"""What a row was found worth; it comes first, so that it is never what a narrow line cuts off."""
UNREAD = ("id", "request", "tokens", "ids", "spent")
"""Fields that say nothing to a reader."""


def metrics_in_words(metrics: Mapping[str, float]) -> str:
    """ "reward 0.25  finished 1"."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def row_in_words(row: Mapping[str, Any]) -> str:
    """ "reward: 1  prompt: 3+4=  completion: 7": what was judged first; neither ids nor tokens."""
    fields = sorted(row.items(), key=lambda item: item[0] not in JUDGED)
    said = ((name, _said(value)) for name, value in fields if name not in UNREAD)
    return "  ".join(f"{name}: {words}" for name, words in said if words)


def cut(text: str, width: int) -> str:
    """The text in `width` characters."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def _said(value: Any) -> str:
    if isinstance(value, str):
        # What a model wrote may be anything, also what moves a terminal's cursor.
        return "".join(c if c.isprintable() else "\ufffd" for c in value.replace("\n", " | "))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    if isinstance(value, Mapping):
        inner = {name: words for name, entry in value.items() if name not in UNREAD and (words := _said(entry))}
        return next(iter(inner.values())) if len(inner) == 1 else ", ".join(f"{name}: {words}" for name, words in inner.items())
    if isinstance(value, list):
        if len(value) > 4 and all(type(entry) is int for entry in value):  # tokens, whatever their field is called
            return ""
        return "; ".join(filter(None, (_said(entry) for entry in value)))
    return "" if value is None else str(value)
