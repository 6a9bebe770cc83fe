"""Holes in files of code, what fills them, and whether the file then parses."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from etude.data.cards import card
from etude.data.corpora import Corpus, corpus, text_bytes
from etude.engine.protocols import Completion, Generator, Sampling
from etude.engine.streams import numpy_rng
from etude.errors import BadInput
from etude.learn.corruption import Marks, infill_prompt

DEFINITION = re.compile(rb"(?m)^(?=(?:def|class) )")


@dataclass(frozen=True)
class Hole:
    """A stretch of a file to be filled: bytes `start` to `end`. kind: "name" or "line" (from its first letter to its end)."""

    file: bytes
    start: int
    end: int
    kind: str

    @property
    def middle(self) -> bytes:
        return self.file[self.start : self.end]

    def around(self, reach: int) -> tuple[bytes, bytes]:
        """The text on both sides, `reach` bytes together with the middle: as much of each as there is, evenly where there is enough."""
        room = reach - len(self.middle)
        right = min(len(self.file) - self.end, max(room - room // 2, room - self.start))
        return self.before(room - right), self.file[self.end : self.end + right]

    def before(self, reach: int) -> bytes:
        """The last `reach` bytes before it."""
        return self.file[max(0, self.start - reach) : self.start]

    def filled(self, middle: bytes) -> bytes:
        """The whole file with something else in the hole."""
        return self.file[: self.start] + middle + self.file[self.end :]


def parses(source: bytes) -> bool:
    """Whether it is a Python file, by the grammar of the Python that runs this. Nothing of it is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubtful escapes in strings are no errors
            ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


@lru_cache(maxsize=8)
def files(name: str, split: str) -> tuple[bytes, ...]:
    """The files of a corpus of code. Of running text without borders, its definitions that parse alone, each as if it were a file;
    of these every fourth is for testing, and the one before it for validation.
    """
    if card(name).domains:
        return tuple(document.tobytes() for document in corpus(name, split).documents())
    whole = [piece for piece in DEFINITION.split(text_bytes(name)) if parses(piece)]
    return tuple(piece for i, piece in enumerate(whole) if {2: "validation", 3: "test"}.get(i % 4, "train") == split)


def code(name: str, split: str) -> Corpus:
    """The same as one array with the files' borders."""
    parts = files(name, split)
    return Corpus(name, split, np.frombuffer(b"".join(parts), dtype=np.uint8), offsets=np.cumsum([0, *map(len, parts)]))


def holes(sources: Sequence[bytes], kind: str, count: int, rng: np.random.Generator, *, longest: int = 40) -> list[Hole]:
    """`count` different holes in files drawn evenly. "name": a variable of 3 to 12 letters. "line": a line of 6 to `longest` bytes
    without strings; with nothing or `pass` in its place its file does not parse. None is at the beginning of its file.

    Raises BadInput for another kind, or files that have not so many.
    """
    if kind not in ("name", "line"):
        raise BadInput("holes", f"kind '{kind}'", "name or line")
    found: dict[tuple[int, int], Hole] = {}
    places: dict[int, list[tuple[int, int]]] = {}
    for _ in range(40 * count + 100):
        number = int(rng.integers(len(sources)))
        if number not in places:
            listed = list(_names(sources[number]) if kind == "name" else _lines(sources[number], longest))
            places[number] = [listed[i] for i in rng.permutation(len(listed))]
        if not places[number]:
            continue
        hole = Hole(sources[number], *places[number].pop(), kind)
        if kind == "name" or not (parses(hole.filled(b"")) or parses(hole.filled(b"pass"))):
            found[number, hole.start] = hole
        if len(found) == count:
            return list(found.values())
    raise BadInput("holes", f"{len(found)} of kind '{kind}' in {len(sources)} files", f"{count}")


def _names(source: bytes) -> Iterator[tuple[int, int]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    starts = np.cumsum([0, *map(len, source.splitlines(keepends=True))])
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and 3 <= len(node.id) <= 12 and node.id.isascii():
            start = int(starts[node.lineno - 1]) + node.col_offset  # the parser counts in bytes of UTF-8, too
            if start and source[start : start + len(node.id)] == node.id.encode():
                yield start, start + len(node.id)


def _lines(source: bytes, longest: int) -> Iterator[tuple[int, int]]:
    starts = np.cumsum([0, *map(len, source.splitlines(keepends=True))])
    for start, end in pairwise(starts.tolist()):
        text = source[start:end].rstrip()
        stripped = text.lstrip()
        if start and 6 <= len(stripped) <= longest and source[end - 1 : end] == b"\n" and not set(stripped) & set(b"\"'#\\"):
            yield start + len(text) - len(stripped), start + len(text)


def draw(name: str, split: str, kind: str, count: int, seed: int, *, longest_file: int, longest: int) -> list[Hole]:
    """Holes of a seed in the split's files of at most `longest_file` bytes."""
    sources = [source for source in files(name, split) if len(source) <= longest_file]
    return holes(sources, kind, count, numpy_rng(seed, "holes", split, kind), longest=longest)


def infill(
    generator: Generator, sides: Sequence[tuple[bytes, bytes]], marks: Marks, *, max_tokens: int = 64, temperature: float = 0.0
) -> list[Completion]:
    """What a model of bytes, trained on corrupted spans, puts between each left and right; "length" is the `finish` of one without end.

    One trained with `prefix` reads its prompts through `PrefixReading(model, marks.separator)`.
    """
    prompts = [infill_prompt(np.frombuffer(left, np.uint8), np.frombuffer(right, np.uint8), marks) for left, right in sides]
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens, stop_tokens=(marks.end_of_span,))
    return [group[0] for group in generator.complete(prompts, sampling)]
