"""`etude list`, `search`, `show`, `cite`: the catalogue. None of them loads torch, except `show --deviations`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.cli.output import colored, console, print_json
from etude.errors import BadInput, one_of

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout and nothing else.")]
"""The --json option of every door that has results."""
Offline = Annotated[bool, typer.Option("--offline", help="Ask nothing of the Hub; use what its cache holds.")]
"""The --offline option of every door that may read a model of the Hub."""


WIDE = 120
"""Columns from which on the list is a table; what came out would be wrapped there to a few words a line in fewer."""


def add(app: typer.Typer) -> None:
    for name, door in (("list", list_papers), ("search", search), ("show", show), ("cite", cite)):
        app.command(name, rich_help_panel="Catalogue")(door)


def list_papers(
    planned: Annotated[bool, typer.Option("--planned", help="Also those that are planned.")] = False,
    family: Annotated[str, typer.Option("--family", metavar="F", help="Only one family of papers.")] = "",
    json: Json = False,
) -> None:
    """What runs here, and what came out."""
    from rich.markup import escape
    from rich.padding import Padding
    from rich.text import Text

    from etude.cli.standing import standing
    from etude.evidence.tables import Grid
    from etude.papers.catalogue import FAMILIES, cards

    found = cards()
    families = [*FAMILIES, *sorted({c.family for c in found} - set(FAMILIES))]
    if family and family not in families:
        raise one_of("etude list --family", family, families)
    found = [c for c in found if not family or c.family == family]
    results = {c.slug: standing(c.slug) for c in found if c.ready}
    if json:
        none = {"verdict": None, "line": None}
        print_json([c.as_dict() | {k: getattr(results.get(c.slug), k, None) for k in none} for c in found])
        return
    shown = [c for c in found if planned or c.state != "planned"]
    if shown:
        wide = console().width >= WIDE
        grid = Grid(">#", "|paper", "|family", "title, and what came out", key=1)
        for c in shown:
            title = Padding(Text(c.title, "dim", no_wrap=True, overflow="ellipsis"), (0, 0, 0, 5))
            result = results.get(c.slug)
            if c.state == "ready":
                said = colored(result.line) if result else f"[dim]not recorded yet: etude run {c.slug}[/]"
            else:
                said = "[dim]planned[/]" if c.state == "planned" else "[red]out of order:[/] " + escape(c.problem)
            name = f"[bold]{c.slug}[/]" if c.state == "ready" else c.slug
            home = c.family if c.origin == "etude" else c.origin
            if wide:
                grid.add_row(str(c.number or ""), name, home, f"[dim]{escape(c.title)}[/]\n{said}")
            elif c.state == "planned":
                console().print(f"{c.number or '':>3}  {name} [dim]({escape(home)}, planned)[/]", title)
            else:
                console().print(f"{c.number or '':>3}  {name} [dim]({escape(home)})[/]", title, Padding(said, (0, 0, 0, 5)))
        if wide:
            console().print(grid)
    rest = sum(c.state == "planned" for c in found)
    if rest and not planned:
        console().print(f"{rest} more planned: etude list --planned")


def search(
    words: Annotated[list[str], typer.Argument(metavar="WORDS", help="What you would type into a search box.")],
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many papers.")] = 6,
    json: Json = False,
) -> None:
    """Find papers by words."""
    from rich.markup import escape

    from etude.evidence.tables import Grid
    from etude.papers.catalogue import cards
    from etude.papers.search import search as rank

    found = rank(" ".join(words), cards(), limit)
    if json:
        print_json([c.as_dict() | {"score": score} for c, score in found])
        return
    if not found:
        console().print("No paper has these words: etude list --planned shows all.")
        return
    grid = Grid(">#", "|paper", "|state", "claim", key=1)
    for c, _ in found:
        grid.add_row(str(c.number or ""), f"[bold]{c.slug}[/]", c.state, escape(c.claim))
    console().print(grid)


def show(
    paper: Annotated[str, typer.Argument(metavar="PAPER", help="A slug, its number, or a method's file.")],
    deviations: Annotated[
        bool, typer.Option("--deviations", help="Where our study departs from the paper, why, and what that may change.")
    ] = False,
    json: Json = False,
) -> None:
    """One paper: claim, method, evidence."""
    from etude.cli import paper_page
    from etude.papers.catalogue import card, load_study

    found = card(paper)
    if found.problem:
        raise BadInput(f"paper {found.slug}", f"a package out of order ({found.problem})", "a working installation")
    if deviations:
        rows = load_study(paper).deviations
        if json:
            print_json([dict(zip(paper_page.DEVIATION, row, strict=True)) for row in rows])
        else:
            paper_page.print_deviations(found.slug, rows)
    elif json:
        print_json(paper_page.as_dict(found))
    else:
        paper_page.print_page(found)


def cite(
    what: Annotated[str, typer.Argument(metavar="PAPER|RUN", help="A paper, or the folder or record of a run.")],
    json: Json = False,
) -> None:
    """BibTeX of a paper, or of what a run stands on: its methods' papers, etude, its data."""
    from etude.papers.catalogue import card, cards
    from etude.papers.citation import of_paper, of_recipe, of_record, of_run

    path = Path(what)
    if what in {c.slug for c in cards()} or not (path.is_dir() or path.suffix in (".json", ".toml") or ("/" in what and not path.exists())):
        references = [of_paper(card(what))]
    else:
        from etude.cli.standing import mark_of, recipe_of, record_of

        if (recipe := recipe_of(path)) is not None:
            references = of_recipe(recipe, str(path))
        elif (mark := mark_of(path)) is not None:
            references = of_run(mark, str(path))
        else:
            references = of_record(record_of(path))
    if json:
        print_json([reference.as_dict() for reference in references])
    else:
        print(*(reference.bibtex for reference in references), sep="\n\n")
