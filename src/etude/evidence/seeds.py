"""Seeds as they are asked for on the command line. No torch here: a slip of the keyboard is told at once."""

from __future__ import annotations

from etude.errors import BadInput

MOST = 10_000
"""Of one call: more would take longer to plan than any of them to run."""


def asked(text: str, where: str) -> int | list[int] | None:
    """ "5" is a count, "100-104" and "100,102" name the seeds, "" leaves the choice to the scale. Raises BadInput."""
    if not text:
        return None
    wrong = BadInput(where, f"'{text}'", "a whole number >= 1, or seeds such as 100-104 or 100,102")
    parts = [part.partition("-") for part in text.split(",")]
    if not all(_is_seed(first) and (not dash or (_is_seed(last) and int(first) <= int(last))) for first, dash, last in parts):
        raise wrong
    too_many = BadInput(where, f"'{text}'", f"at most {MOST:,} seeds")
    if len(parts) == 1 and not parts[0][1]:
        count = int(text)
        if not count:
            raise wrong
        if count > MOST:
            raise too_many
        return count
    ranges = [range(int(first), int(last or first) + 1) for first, _, last in parts]
    if sum(r.stop - r.start for r in ranges) > MOST:  # counted before they are listed, which may need more memory than there is
        raise too_many
    return [seed for r in ranges for seed in r]


def _is_seed(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18
