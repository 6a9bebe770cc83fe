"""The one error for bad input: where it was, what was found, what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(Exception):
    """Something the user gave cannot be used. The command line prints it as one line and exits with code 2.

    where:    a file and place in it, an option or an argument, as the user knows it
    found:    what stood there
    expected: what would have been right
    """

    def __init__(self, where: str, found: str, expected: str) -> None:
        self.where, self.found, self.expected = where, found, expected
        super().__init__(where, found, expected)

    def __str__(self) -> str:
        return f"{self.where}: found {self.found}, expected {self.expected}"


def one_of(where: str, found: str, known: Iterable[str], *, show: int = 12) -> BadInput:
    """The error for a name that is not among `known`: proposes the nearest one, or lists the first `show`."""
    names = list(known)
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.6)
    if near:
        return BadInput(where, f"'{found}'", f"a known name; did you mean '{near[0]}'?")
    listed = ", ".join(names[:show]) + (" ..." if len(names) > show else "")
    return BadInput(where, f"'{found}'", f"one of {listed}" if names else "a known name (there are none)")
