"""The demonstrations: four data sets, a fifth that was scraped from the tests, and leaks planted in all; decontaminated before use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from etude.data.decontamination import Cleaned, decontaminate
from etude.engine.protocols import Problem
from etude.engine.streams import numpy_rng
from etude.papers.improvement.tulu3 import tasks
from etude.papers.improvement.tulu3.settings import Settings

Evaluations = Mapping[str, Mapping[str, list[Problem]]]
SCRAPED = "scraped"
SCRAPED_SHARE = 0.1
"""Share of every evaluation that the scraped data set holds: over the 2 % that drops it whole."""
PLANTED_SHARE = 0.01
"""Share of every evaluation that stands in its family's data set: half of what drops one, since a row may match by chance too."""
MOST = 0.02
_TOKEN = re.compile(r"(?:length|count|case|end|begin|without) [a-z0-9]+(?: \d+)?(?=[,:])|\w+|[^\w\s]")


def parts(text: str) -> list[str]:
    """Words and marks; a constraint, `count a 2`, is one word: it is all wording, and runs of 8 would be shared by chance."""
    return _TOKEN.findall(text)


@dataclass(frozen=True)
class Demonstrations:
    """rows: (prompt, answer), decontaminated. planted: (data set, row) of the leaks. cleaned: the report."""

    rows: list[tuple[str, str]]
    planted: set[tuple[str, int]]
    cleaned: Cleaned
    sizes: Mapping[str, int]

    def told(self) -> dict[str, float]:
        """leaks found: share of the planted ones that are gone. rows lost: share of the others, of data sets that were kept."""
        gone = {(name, row) for name, size in self.sizes.items() for row in set(range(size)) - set(self.cleaned.kept[name])}
        clean = {(name, row) for name, size in self.sizes.items() if name != SCRAPED for row in range(size)} - self.planted
        return {
            "leaks planted": float(len(self.planted)),
            "leaks found": len(self.planted & gone) / max(1, len(self.planted)),
            "rows lost": len(clean & gone) / max(1, len(clean)),
        }


def demonstrations(s: Settings, seed: int, evaluations: Evaluations) -> Demonstrations:
    """The SFT data. Of every evaluation one prompt in a hundred, rounded down, stands in its family's data set, every other one inside a
    longer text; a tenth of all, at least one of each evaluation, stand in the scraped set."""
    rng = numpy_rng(seed, "leaks")
    items = tasks.mixed(seed, "demonstrations", s.sft_rows)
    rows = tasks.demonstrations(items, s.sft_wrong, numpy_rng(seed, "demonstrations", "wrong"))
    data: dict[str, list[tuple[str, str]]] = {name: [] for name in tasks.families()}
    for (name, _), row in zip(items, rows, strict=True):
        data[name].append(row)
    data[SCRAPED] = rows[: s.num_scraped]
    planted: set[tuple[str, int]] = set()

    def plant(name: str, problems: list[Problem], count: int) -> None:
        for number, k in enumerate(rng.permutation(len(problems))[:count]):
            prompt = problems[int(k)].prompt
            planted.add((name, len(data[name])))
            data[name].append((f"please see {prompt}" if number % 2 else prompt, problems[int(k)].answer))

    for families in evaluations.values():
        for name, problems in families.items():
            plant(name, problems, int(PLANTED_SHARE * len(problems)))
            plant(SCRAPED, problems, max(1, int(SCRAPED_SHARE * len(problems))))
    prompts = {
        f"{which}, {name}": [p.prompt for p in problems] for which, families in evaluations.items() for name, problems in families.items()
    }
    cleaned = decontaminate({name: [prompt for prompt, _ in rows] for name, rows in data.items()}, prompts, most=MOST, tokenize=parts)
    kept = [data[name][row] for name, numbers in cleaned.kept.items() for row in numbers]
    return Demonstrations(kept, planted, cleaned, {name: len(rows) for name, rows in data.items()})
