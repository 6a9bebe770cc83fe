"""The date as evidence writes it."""

from __future__ import annotations

import datetime


def now() -> str:
    """UTC to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
