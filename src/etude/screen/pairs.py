"""Which methods go together: every pair on the first small recipe that takes both, as a matrix.

works           it trains, is killed twice, resumed, and ends in the same bits
conflict        refused before anything runs, by the names of what clashes
does not apply  no small recipe takes both
broken          it begins, but does not end in the same bits
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from etude.errors import BadInput
from etude.evidence import jobs
from etude.papers.card import Card
from etude.papers.catalogue import cards
from etude.recipe.config import parse
from etude.screen.candidates import Candidate, candidate, combined
from etude.screen.kills import kept_exactly
from etude.screen.testbeds import Testbed, testbeds
from etude.screen.trial import trainer_of

KILLS = 2
Outcome = Literal["works", "conflict", "does not apply", "broken"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """said: where it works, or why it does not."""

    first: str
    second: str
    outcome: Outcome
    said: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def pairs(
    found: Sequence[Card],
    chosen: Callable[[tuple[Card, Card]], bool] = lambda _: True,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Pair]:
    """Every pair of the papers' methods, or those that `chosen` picks. tell: is told what begins."""
    done = []
    with tempfile.TemporaryDirectory(prefix="etude-pairs-") as name, jobs.one_thread():
        folder = Path(name)
        beds = testbeds(folder)
        for number, (a, b) in enumerate(filter(chosen, itertools.combinations(found, 2))):
            tell(f"{a.slug} with {b.slug}")
            outcome, said = _pair(a, b, beds, folder / str(number))
            done.append(Pair(first=a.slug, second=b.slug, outcome=outcome, said=said))
    return done


def composable() -> list[Card]:
    """The papers that have something to add to a recipe."""
    return [c for c in cards() if c.state == "ready" and c.applies == "recipe" and c.use]


def _pair(a: Card, b: Card, beds: Sequence[Testbed], folder: Path) -> tuple[Outcome, str]:
    reasons: dict[str, str] = {}
    conflict = ""
    # As in `placed`: a method whose rule has no use for it on any is taken with its card's example.
    ruled = {card.slug: any(isinstance(candidate(card, bed.facts), Candidate) for bed in beds) for card in (a, b)}
    for bed in beds:
        made = {card.slug: candidate(card, bed.facts, ruled=ruled[card.slug]) for card in (a, b)}
        parts = [m for m in made.values() if isinstance(m, Candidate)]
        if len(parts) < len(made):
            reasons |= {slug: m for slug, m in made.items() if isinstance(m, str) and slug not in reasons}
            continue
        together = combined(parts)
        refused = together if isinstance(together, str) else _refusal(together, bed)
        if isinstance(together, str) or refused:
            conflict = conflict or refused
            continue
        folder.mkdir()
        try:
            differs = kept_exactly(together.of(bed.document), folder, KILLS, f"{a.slug} with {b.slug}")
        except BadInput as error:
            return "broken", str(error)
        return ("broken", f"resumed, {differs} is another") if differs else ("works", bed.name)
    if conflict:
        return "conflict", conflict
    return "does not apply", "; ".join(f"{slug}: {why}" for slug, why in reasons.items())


def _refusal(together: Candidate, bed: Testbed) -> str:
    """Why the engine refuses the two before anything runs; empty where it does not."""
    try:
        trainer_of(parse(together.of(bed.document), "check"))
    except BadInput as error:
        return f"found {error.found}, expected {error.expected}"
    return ""
