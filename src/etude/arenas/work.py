"""The data of arenas' tasks: small, made or packaged, the same for every arm and seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from etude.data.corpora import corpus
from etude.data.tasks.arithmetic import Arithmetic
from etude.data.tasks.family import Family
from etude.data.tasks.hints import SortingHints
from etude.engine.streams import numpy_rng

DRAWS = 40
"""Tries for each problem that is not drawn twice."""


def passages(name: str, letters: int, split: str = "train") -> bytes:
    """The first letters of a packaged text."""
    return bytes(corpus(name, split).tokens[:letters].astype(np.uint8))


def two_texts(folder: Path, letters: int) -> None:
    """english.txt and code.txt, of so many letters each."""
    for name, source in (("english", "sample"), ("code", "sample-code")):
        (folder / f"{name}.txt").write_bytes(passages(source, letters))


def copied_text(folder: Path, letters: int, copies: int, share: float = 0.02) -> None:
    """clean.txt, and copies.txt: its first `copies`-th part again and again, each time with a share of its letters changed."""
    clean = np.frombuffer(passages("sample", letters), np.uint8)
    (folder / "clean.txt").write_bytes(clean.tobytes())
    rng, part = numpy_rng(0, "arena", "copies"), clean[: len(clean) // copies]
    made = np.tile(part, copies)
    changed = rng.random(len(made)) < share
    made[changed] = rng.choice(part, int(changed.sum()))
    (folder / "copies.txt").write_bytes(made.tobytes())


def problems(
    folder: Path, families: Mapping[str, tuple[Family, Sequence[int], int]], held: tuple[Family, Sequence[int]], count: int
) -> None:
    """train.jsonl: domain -> (family, difficulties, how many of each), in the fields prompt, completion and domain; held.jsonl: `count`
    problems of each difficulty of another family, none of whose prompts is trained on."""
    out: set[str] = set()
    rows = {"held": _rows(*held, count, "held", out), "train": []}
    for domain, (family, difficulties, each) in families.items():
        rows["train"] += _rows(family, difficulties, each, domain, out)
    for name, told in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")


def _rows(family: Family, difficulties: Sequence[int], count: int, domain: str, taken: set[str]) -> list[dict[str, str]]:
    """Problems whose prompts are not among `taken`, to which those held out are added; fewer where there are no more."""
    found, held = [], domain == "held"
    for difficulty in difficulties:
        rng, seen, made = numpy_rng(0, "arena", domain, family.name, difficulty), set[str](), 0
        for _ in range(DRAWS * count):
            prompt, answer, _data = family.draw(difficulty, rng)
            if prompt in taken or prompt in seen:
                continue
            seen.add(prompt)
            found.append({"prompt": prompt, "completion": answer + "\n", "domain": domain})
            made += 1
            if made == count:
                break
        taken |= seen if held else set()
    return found


# --- for recipes ------------------------------------------------------------------------------------------------------
def english_and_code(folder: Path) -> None:
    two_texts(folder, 40_000)


def half_copies(folder: Path) -> None:
    copied_text(folder, 40_000, 10)


def sums(folder: Path) -> None:
    """Additions of one to three digits, a domain each; held out: two digits."""
    family = Arithmetic()
    parts = {name: (family, (digits,), 2000) for digits, name in enumerate(("one", "two", "three"), 1)}
    problems(folder, parts, (family, (2,)), 256)


def sorting(folder: Path) -> None:
    """Lists of three to five of the numbers 1 to 9 to sort, with two tasks that sorting is made of beside them; held out: sorting alone."""
    sizes = (3, 4, 5)
    parts = {hint: (SortingHints(hint, largest=9), sizes, 600) for hint in ("sort", "successor", "fill")}
    problems(folder, parts, (SortingHints("sort", largest=9), sizes), 96)
