"""The page of one paper, as `etude show` prints it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.padding import Padding

from etude.cli.output import colored, console
from etude.cli.standing import history, standing
from etude.evidence import places, tuning
from etude.evidence.tables import Grid
from etude.evidence.wording import claim_effect
from etude.papers.applying import lines
from etude.papers.catalogue import FAMILIES, Card

DEVIATION = ("what", "paper", "ours", "why", "expected_effect")
"""The columns of `Study.deviations`."""

_APPLIES = {
    "recipe": "a method that composes with a training run",
    "program": "a program around training: rounds, or no training at all",
    "analysis": "a measurement of what training does",
}


def as_dict(card: Card) -> dict[str, Any]:
    """The card with its evidence, and the lines that apply it."""
    found = standing(card.slug)
    evidence = None if found is None else {k: getattr(found, k) for k in ("verdict", "line", "scale", "seeds", "claims")}
    spent = tuning.load(places.find(), card.slug)
    more = {"evidence": evidence, "tuning": spent and spent.as_dict(), "apply": lines(card)}
    return card.as_dict() | more | history(card.slug)


def print_page(card: Card) -> None:
    """Title, claim, method and evidence, as text."""
    out = console()
    heading = " · ".join(x for x in (f"paper {card.number}" if card.number else card.origin, card.slug, card.state) if x)
    out.print(f"[bold]{escape(card.title)}[/]\n[dim]{escape(heading)}[/]\n")
    if card.claim:
        out.print(Padding(escape(card.claim), (0, 0, 1, 0)))
    facts = {
        "authors": ", ".join(card.authors),
        "published": " ".join(x for x in (str(card.year or ""), f"arXiv {card.arxiv}" if card.arxiv else "") if x),
        "authors' code": f"github.com/{card.authors_code}" if card.authors_code else "none found" if card.number else "",
        "family": f"{card.family}: {FAMILIES[card.family]}" if card.family in FAMILIES else card.family,
        "applies as": _APPLIES[card.applies],
        "touches": ", ".join(card.slots),
        "arenas": ", ".join(card.arenas),
        "tags": ", ".join(card.tags),
    }
    grid = Grid("|", "", header=False, ruled=False)
    for name, value in facts.items():
        if value:
            grid.add_row(f"[dim]{name}[/]", escape(value))
    out.print(grid)
    _print_lines(card)
    _print_evidence(card)


def _print_lines(card: Card) -> None:
    """What to write to apply it, as it can be copied."""
    out, titles = console(), {"recipe": "In a recipe", "python": "In Python", "trainer": "In a trainer of transformers or TRL"}
    for door, text in lines(card).items():
        out.print(f"\n[bold]{titles[door]}[/]")
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_evidence(card: Card) -> None:
    out, found, past = console(), standing(card.slug), history(card.slug)
    if found:
        out.print(f"\n[bold]Evidence[/]  {colored(found.line)}")
        grid = Grid("claim", "|verdict", "effect, with its interval")
        for claim in found.claims:
            said = claim_effect({"estimate": None, "interval": None} | claim, level=True)
            grid.add_row(escape(str(claim.get("text", ""))), colored(str(claim.get("verdict", ""))), escape(said))
        out.print(grid)
    out.print()
    if past["registered"] or past["attempts"]:
        out.print(f"registered: {past['registered'] or 'no'}; attempts: {past['attempts']}, of which abandoned: {past['abandoned']}")
    if tuned := tuning.told(places.find(), card.slug):
        out.print(escape(tuned))
    for plot in past["plots"]:
        out.print(f"plot: {plot}", soft_wrap=True)
    if card.state == "ready":
        out.print(f"Run it: [bold]etude run {escape(card.word)} --scale smoke[/]" + ("" if found else "  (nothing on record yet)"))
    else:
        out.print("Planned, not yet here.")


def print_deviations(slug: str, rows: Sequence[Sequence[str]]) -> None:
    """Paper, ours, why and expected effect, one row each."""
    if not rows:
        console().print(f"{slug}: no departures from the paper are written down.")
        return
    grid = Grid("what", "paper", "ours", "why", "expected effect", spaced=True)
    for row in rows:
        grid.add_row(*(escape(str(x)) for x in row))
    console().print(grid)
