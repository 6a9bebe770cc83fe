"""Holes in files of code, what fills them, and whether the file then parses.

A hole is cut between tokens of the whole file, so that what is left and right of it reads as it did in training.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from etude.engine.protocols import Completion, Generator, Sampling
from etude.errors import BadInput
from etude.learn.corruption import Marks, infill_prompt

KINDS = ("name", "line")
SHORTEST_LINE, SHORTEST_NAME, LONGEST_NAME = 6, 3, 12


@dataclass(frozen=True, eq=False)
class Hole:
    """Tokens `start` to `end` of a file [n], to be filled. pieces: the bytes of each token id. kind: "name" or "line"."""

    tokens: np.ndarray
    start: int
    end: int
    kind: str
    pieces: Sequence[bytes]

    @property
    def middle(self) -> np.ndarray:
        return self.tokens[self.start : self.end]

    def around(self, reach: int) -> tuple[np.ndarray, np.ndarray]:
        """What is on both sides, `reach` tokens together with the middle: as much of each as there is, evenly where there is enough."""
        room = reach - len(self.middle)
        right = min(len(self.tokens) - self.end, max(room - room // 2, room - self.start))
        return self.tokens[max(0, self.start - room + right) : self.start], self.tokens[self.end : self.end + right]

    def before(self, reach: int) -> np.ndarray:
        """The last tokens before it, `reach` together with the middle."""
        return self.tokens[max(0, self.start - reach + len(self.middle)) : self.start]

    def filled(self, middle: np.ndarray | bytes) -> bytes:
        """The whole file with something else in the hole."""
        fill = middle if isinstance(middle, bytes) else text_of(middle, self.pieces)
        return text_of(self.tokens[: self.start], self.pieces) + fill + text_of(self.tokens[self.end :], self.pieces)


def text_of(tokens: np.ndarray, pieces: Sequence[bytes]) -> bytes:
    return b"".join(pieces[t] for t in tokens.tolist())


def parsed(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # doubtful escapes in strings are no errors
        return ast.parse(source)


def parses(source: bytes) -> bool:
    """Whether it is a Python file, by the grammar of the Python that runs this. Nothing of it is run."""
    try:
        parsed(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def holes(
    files: Sequence[np.ndarray], pieces: Sequence[bytes], kind: str, count: int, rng: np.random.Generator, *, longest: int = 40
) -> list[Hole]:
    """`count` different holes in files (token ids) drawn evenly. "name": a variable of 3 to 12 letters. "line": a line of 6 to `longest`
    bytes without strings; with nothing or `pass` in its place its file does not parse. A space before belongs to the hole where it is
    of the same token. None is at the beginning of its file.

    Raises BadInput for another kind, or files that have not so many.
    """
    if kind not in KINDS:
        raise BadInput("holes", f"kind '{kind}'", " or ".join(KINDS))
    found: dict[tuple[int, int], Hole] = {}
    places: dict[int, list[tuple[int, int]]] = {}
    for _ in range(40 * count + 100):
        number = int(rng.integers(len(files)))
        if number not in places:
            listed = list(_places(files[number], pieces, kind, longest))
            places[number] = [listed[i] for i in rng.permutation(len(listed))]
        if not places[number]:
            continue
        hole = Hole(files[number], *places[number].pop(), kind, pieces)
        if kind == "name" or not (parses(hole.filled(b"")) or parses(hole.filled(b" pass"))):
            found[number, hole.start] = hole
        if len(found) == count:
            return list(found.values())
    raise BadInput("holes", f"{len(found)} of kind '{kind}' in {len(files)} files", f"{count}")


def _places(tokens: np.ndarray, pieces: Sequence[bytes], kind: str, longest: int) -> Iterator[tuple[int, int]]:
    """Where in the tokens names or lines stand, those that begin and end with a token."""
    source = text_of(tokens, pieces)
    edges = np.cumsum([0, *(len(pieces[t]) for t in tokens.tolist())])
    numbers = {int(place): i for i, place in enumerate(edges)}
    for start, end in _names(source) if kind == "name" else _lines(source, longest):
        first = numbers.get(start)
        if first is None and source[start - 1 : start] == b" ":
            first = numbers.get(start - 1)
        if first and end in numbers:
            yield first, numbers[end]


def _names(source: bytes) -> Iterator[tuple[int, int]]:
    starts = np.cumsum([0, *map(len, source.splitlines(keepends=True))])
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Name) and SHORTEST_NAME <= len(node.id) <= LONGEST_NAME and node.id.isascii():
            start = int(starts[node.lineno - 1]) + node.col_offset  # the parser, too, counts in bytes of UTF-8
            if source[start : start + len(node.id)] == node.id.encode():
                yield start, start + len(node.id)


def _lines(source: bytes, longest: int) -> Iterator[tuple[int, int]]:
    """From its first letter to its last."""
    starts = np.cumsum([0, *map(len, source.splitlines(keepends=True))])
    for start, end in pairwise(starts.tolist()):
        text = source[start:end].rstrip()
        stripped = text.lstrip()
        if SHORTEST_LINE <= len(stripped) <= longest and source[end - 1 : end] == b"\n" and not set(stripped) & set(b"\"'#\\"):
            yield start + len(text) - len(stripped), start + len(text)


def infill(
    generator: Generator, sides: Sequence[tuple[np.ndarray, np.ndarray]], marks: Marks, *, max_tokens: int = 64, temperature: float = 0.0
) -> list[Completion]:
    """What a model trained on corrupted spans puts between each left and right (token ids); the `finish` of one without end is "length".

    One trained with `prefix` reads its prompts through `PrefixReading(model, marks.separator)`.
    """
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, stop_tokens=(marks.end_of_span,))
    return [group[0] for group in generator.complete([infill_prompt(left, right, marks) for left, right in sides], sampling)]
