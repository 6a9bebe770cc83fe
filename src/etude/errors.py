"""The one error for bad input: where it was, what was found, what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


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

    def at(self, where: str) -> BadInput:
        """The same at another place: what one part calls `schedule.warmup`, its user may have written elsewhere."""
        return BadInput(where, self.found, self.expected)


def reason(error: OSError) -> str:
    """What the system found, in words that follow "found": "no such file", "permission denied"."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    said = error.strerror or str(error) or "an error"
    return said[:1].lower() + said[1:]


def nearest(found: str, known: Iterable[str]) -> str | None:
    """The name among `known` that `found` most likely meant, if any is near."""
    near = difflib.get_close_matches(found, list(known), n=1, cutoff=0.6)
    return near[0] if near else None


def one_of(where: str, found: str, known: Iterable[str], *, show: int = 12) -> BadInput:
    """The error for a name that is not among `known`: proposes the nearest one, or lists the first `show`."""
    names = list(known)
    near = nearest(found, names)
    if near:
        return BadInput(where, f"'{found}'", f"a known name; did you mean '{near}'?")
    listed = ", ".join(names[:show]) + (" ..." if len(names) > show else "")
    return BadInput(where, f"'{found}'", f"one of {listed}" if names else "a known name (there are none)")


def choice(where: str, found: str, words: Iterable[str]) -> BadInput:
    """The error for a word that is none of a few: lists them all, and proposes the nearest one."""
    listed = list(words)
    near = nearest(found, listed)
    every = f"{', '.join(listed[:-1])} or {listed[-1]}" if len(listed) > 1 else "".join(listed)
    return BadInput(where, f"'{found}'", every + (f"; did you mean '{near}'?" if near else ""))


def numbered(what: str, numbers: Sequence[int], *, show: int = 5) -> str:
    """ "row 3", "rows 3 and 7", "rows 3, 7, 9, 12, 15 and 20 more"."""
    first = [str(n) for n in numbers[:show]]
    last = f"{len(numbers) - show} more" if len(numbers) > show else first.pop() if len(first) > 1 else ""
    return f"{what}{'s' * (len(numbers) > 1)} {', '.join(first)}" + (f" and {last}" if last else "")
