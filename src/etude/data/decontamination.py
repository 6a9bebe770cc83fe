"""Decontamination: which training texts give away test prompts, by shared runs of tokens.

A test prompt of T tokens matches a training text when the tokens inside runs of n that both hold are more than half of the T.
A data set that matches over 2 % of an evaluation's prompts is dropped whole, else the matching rows alone.
Source: Tulu 3 (arXiv 2411.15124), section on decontamination: n = 8, 50 %, 2 %. A prompt shorter than n is compared whole.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from etude.errors import BadInput

_TOKEN = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Lower-case words and single marks of punctuation."""
    return _TOKEN.findall(text.lower())


@dataclass(frozen=True, slots=True)
class Match:
    """Test prompt `test` shares `share` (0 to 1) of its tokens with training text `row`; `run` shows one shared run."""

    test: int
    row: int
    share: float
    run: str


@dataclass(frozen=True, slots=True)
class Contamination:
    """matches: by test prompt, the largest share first. num_tests, num_rows: how many were compared."""

    matches: tuple[Match, ...]
    num_tests: int
    num_rows: int
    most: float = 0.02

    @property
    def tests(self) -> list[int]:
        """Test prompts that leaked."""
        return sorted({m.test for m in self.matches})

    @property
    def rows(self) -> list[int]:
        """Training texts to drop."""
        return sorted({m.row for m in self.matches})

    @property
    def share_of_tests(self) -> float:
        return len(self.tests) / self.num_tests

    @property
    def drop_all(self) -> bool:
        """Whether the data set as a whole is to be dropped."""
        return self.share_of_tests > self.most

    def __str__(self) -> str:
        leaked = f"{len(self.tests)} of {self.num_tests} test prompts ({self.share_of_tests:.1%})"
        head = f"{leaked} are in {len(self.rows)} of {self.num_rows} rows"
        what = "drop the data set" if self.drop_all else "drop these rows" if self.matches else "nothing to drop"
        lines = [f"  test {m.test} in row {m.row}: {m.share:.0%} of its tokens, e.g. '{m.run}'" for m in self.matches[:10]]
        more = [f"  ... and {len(self.matches) - 10} more"] if len(self.matches) > 10 else []
        return "\n".join([f"{head}: {what}", *lines, *more])


def contamination(
    tests: Sequence[str], rows: Sequence[str], *, n: int = 8, share: float = 0.5, most: float = 0.02,
    tokenize: Callable[[str], Sequence[str]] = words,
) -> Contamination:  # fmt: skip
    """Compares every test prompt with every training text, in time linear in their tokens and shared runs.

    n: tokens of a run. share: above which a prompt matches. most: share of prompts above which the data set is dropped.
    Raises BadInput for no test prompts, a prompt without a token, n < 1, or a share outside [0, 1).
    """
    if not tests:
        raise BadInput("contamination: tests", "no prompt", "at least one")
    if n < 1 or not 0 <= share < 1:
        raise BadInput("contamination", f"n = {n}, share = {share}", "n >= 1 and 0 <= share < 1")
    prompts = [list(tokenize(text)) for text in tests]
    places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    sizes = set()
    for number, tokens in enumerate(prompts):
        if not tokens:
            raise BadInput(f"contamination: tests[{number}]", repr(tests[number][:40]), "a prompt with at least one token")
        size = min(n, len(tokens))
        sizes.add(size)
        for at in range(len(tokens) - size + 1):
            places[tuple(tokens[at : at + size])].append((number, at))
    found: list[Match] = []
    for row, text in enumerate(rows):
        tokens = list(tokenize(text))
        covered: dict[int, set[int]] = defaultdict(set)
        for size in sizes:
            for run in {tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)}:
                for number, at in places.get(run, ()):
                    covered[number].update(range(at, at + size))
        for number, hit in covered.items():
            part = len(hit) / len(prompts[number])
            if part > share:
                first = min(hit)
                run = " ".join(prompts[number][first : first + min(n, len(prompts[number]))])
                found.append(Match(number, row, part, run))
    found.sort(key=lambda m: (m.test, -m.share, m.row))
    return Contamination(tuple(found), len(tests), len(rows), most)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What is left of data sets. kept: data set -> the rows to train on, in order. found: (data set, evaluation) -> what was compared."""

    kept: Mapping[str, list[int]]
    found: Mapping[tuple[str, str], Contamination]

    @property
    def dropped(self) -> list[str]:
        """Data sets dropped whole."""
        return sorted({data for (data, _), contamination in self.found.items() if contamination.drop_all})

    def __str__(self) -> str:
        return "\n".join(f"{data} against {evaluation}: {told}" for (data, evaluation), told in self.found.items())


def decontaminate(
    data: Mapping[str, Sequence[str]], evaluations: Mapping[str, Sequence[str]], *, n: int = 8, share: float = 0.5, most: float = 0.02,
    tokenize: Callable[[str], Sequence[str]] = words,
) -> Cleaned:  # fmt: skip
    """Every data set's texts against every evaluation's prompts: a data set that holds over `most` of any evaluation is dropped whole,
    of the others the rows that match. n, share, most, tokenize and what is refused: as in `contamination`.

    Raises BadInput for no evaluations too.
    """
    if not evaluations:
        raise BadInput("decontaminate: evaluations", "none", "at least one")
    found = {
        (name, evaluation): contamination(prompts, texts, n=n, share=share, most=most, tokenize=tokenize)
        for name, texts in data.items()
        for evaluation, prompts in evaluations.items()
    }
    kept: dict[str, list[int]] = {}
    for name, texts in data.items():
        compared = [found[name, evaluation] for evaluation in evaluations]
        matched = {row for c in compared for row in c.rows}
        kept[name] = [] if any(c.drop_all for c in compared) else [row for row in range(len(texts)) if row not in matched]
    return Cleaned(kept, found)
