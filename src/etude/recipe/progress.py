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
        self.head, self.drawn, self.noted = "", False, ""
        self.share = 0.0
        self.loss: float | None = None
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

    def note(self, text: str) -> None:
        """A few words that stand on the line from now on; they may come long before the first update."""
        self.noted = text
        self.update(self.share, self.loss)

    def update(self, share: float, loss: float | None = None) -> None:
        if self.head:
            self.say(self.head)
            self.head = ""
        now = time.monotonic()
        self.share, self.loss = share, loss
        if self.quiet or (now - self.shown < (0.2 if self.live else 10) and share < 1):
            return
        self.shown, self.drawn = now, self.live
        # The first updates are slow (counting, first allocations): they would promise hours.
        known = share >= 0.02 or (share > 0 and now - self.started > 30)
        left = (now - self.started) * (1 - share) / share if known else 0.0
        told = ("" if loss is None else f"  loss {loss:.4f}") + (f"  {self.noted}" if self.noted else "")
        line = f"{self.title}: {share:4.0%}{told}" + (f"  {_duration(left)} left" if known else "")
        print(f"\r{line:<100}" if self.live else line, end="" if self.live else "\n", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
