"""Reading one answer out of a response, so that no formatting passes for a right one.

A response is the answer alone on one line, or lines of working and then, as the last line and nowhere else, `> ANSWER`.
Several answers, an answer with text after it, or an answer inside the working count as none.
"""

from __future__ import annotations

import re

MARK = ">"
LONGEST = 20_000  # characters of a response that are read at all

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)


def answer_of(response: str) -> str | None:
    """The one answer, without blanks around it; None where there is none, more than one, or characters outside printable ASCII in it."""
    if len(response) > LONGEST:
        return None
    lines = [line.strip(" \t\r") for line in response.strip(" \t\r\n").split("\n")]
    marked = [line for line in lines if line.startswith(MARK)]
    if marked:
        if len(marked) > 1 or lines[-1] != marked[0]:
            return None
        answer = marked[0][len(MARK) :].strip(" \t")
    elif len(lines) == 1:
        answer = lines[0]
    else:
        return None
    return answer if answer and all(" " <= c <= "~" for c in answer) else None


def whole_number(text: str, digits: int = 40) -> int | None:
    """A whole number as it is written: ASCII digits, no sign but a minus, no leading zero, not "-0"; None for anything else."""
    if len(text) > digits + 1 or not _NUMBER.fullmatch(text) or text == "-0":
        return None
    return int(text)


def with_working(lines: list[str], answer: str) -> str:
    """A response of working and answer, as `answer_of` reads it."""
    return "".join(f"{line}\n" for line in lines) + f"{MARK} {answer}"
