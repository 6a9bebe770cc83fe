"""Small recipes on which a method shows what `etude check` asks: one of text in two domains, one of a table.

A method is looked at on the first that it applies to. Nothing is downloaded: the text is inside the package, the table made.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.corpora import corpus
from etude.engine.streams import derive
from etude.papers.card import Card
from etude.papers.suggesting import Facts
from etude.recipe.build import material_of
from etude.recipe.config import parse
from etude.recipe.writing import plain
from etude.screen.candidates import Candidate, candidate

STEPS = 24
BATCH = 8
LETTERS = 700
"""Of each domain: few enough that the run passes over them several times."""

_TEXT = """
schema = 1
[model]
kind = "transformer"
width = 16
depth = 4
heads = 2
[data]
context = 16
batch = {batch}
[data.domains.english]
text = "{folder}/english.txt"
[data.domains.code]
text = "{folder}/code.txt"
[optimizer]
kind = "adamw"
lr = 0.01
[budget]
steps = {steps}
"""

_TABLE = """
schema = 1
[model]
kind = "mlp"
hidden = [16]
[data]
table = "{folder}/table.csv"
target = "y"
batch = {batch}
[optimizer]
kind = "adamw"
lr = 0.01
[budget]
steps = {steps}
"""


@dataclass(frozen=True, kw_only=True)
class Testbed:
    """document: the recipe with every default. facts: what a paper's rule for its settings is told of it."""

    name: str
    document: Mapping[str, Any]
    facts: Facts


def testbeds(folder: Path) -> list[Testbed]:
    """Writes the data into `folder` and returns the recipes on them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (("english", "sample"), ("code", "sample-code")):
        (folder / f"{name}.txt").write_bytes(bytes(corpus(source, "train").tokens[:LETTERS].astype(np.uint8)))
    rng = np.random.default_rng(derive(0, "testbed", "table"))
    x = rng.normal(size=(100, 3))
    rows = [f"{a:.4f},{b:.4f},{c:.4f},{'yes' if a > b else 'no'}" for a, b, c in x]
    (folder / "table.csv").write_text("\n".join(["a,b,c,y", *rows]) + "\n", encoding="utf-8")
    made = []
    for name, template, domains in (("text of two domains", _TEXT, 2), ("a table", _TABLE, 0)):
        told = tomllib.loads(template.format(folder=folder.as_posix(), batch=BATCH, steps=STEPS))
        told["run"] = {"folder": str(folder / "run"), "device": "cpu", "evaluate_every": 0.25}
        recipe = parse(told, "testbed")
        document, source = plain(recipe), material_of(recipe).source
        assert source is not None
        facts = Facts(recipe=document, samples=len(source), steps=STEPS, epochs=STEPS * BATCH / len(source), domains=domains)
        made.append(Testbed(name=name, document=document, facts=facts))
    return made


def placed(found: Card, beds: list[Testbed]) -> tuple[Testbed, Candidate] | str:
    """The first testbed that a paper applies to, with the change that it makes there; or why none is.

    A method whose rule finds no use for it on any (it wants to be told something of the data) is taken with its card's example.
    """
    reasons = []
    for ruled in (True, False):
        for bed in beds:
            made = candidate(found, bed.facts, ruled=ruled)
            if isinstance(made, Candidate):
                return bed, made
            reasons.append(made)
    return reasons[0]
