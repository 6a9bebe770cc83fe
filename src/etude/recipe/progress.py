"""A progress line on stderr: share done, loss, time left. Plain lines where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType


class Progress:
    """Use as a context manager; `update(share, loss)` as often as you like."""

    def __init__(self, title: str, quiet: bool = False) -> None:
        self.title, self.quiet = title, quiet
        self.started = self.shown = 0.0
        self.head, self.drawn = "", False
        self.live = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        self.started = self.shown = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.drawn:
            print(file=sys.stderr)

    def say(self, text: str) -> None:
        if not self.quiet:
            print("\n" * self.drawn + text, file=sys.stderr)
            self.drawn = False

    def announce(self, text: str) -> None:
        """Says something with the first update: until then a run may still be refused, and that line is to stand alone."""
        self.head = text

    def update(self, share: float, loss: float | None = None) -> None:
        if self.head:
            self.say(self.head)
            self.head = ""
        now = time.monotonic()
        if self.quiet or (now - self.shown < (0.2 if self.live else 10) and share < 1):
            return
        self.shown, self.drawn = now, self.live
        left = (now - self.started) * (1 - share) / share if share > 0 else 0.0
        line = f"{self.title}: {share:4.0%}{'' if loss is None else f'  loss {loss:.4f}'}  {_duration(left)} left"
        print(f"\r{line:<78}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
