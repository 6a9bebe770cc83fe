"""`etude check`: what a method must show before a screen lists it, and which methods go together."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from etude.cli.browsing import Json
from etude.cli.output import console, print_json
from etude.errors import BadInput

GLYPHS = {"met": "[green]met[/]", "failed": "[bold red]failed[/]", "declared": "[yellow]declared[/]"}
MARKS = {"works": "[green]works[/]", "conflict": "[yellow]conflict[/]", "does not apply": "[dim]–[/]", "broken": "[bold red]broken[/]"}


def add(app: typer.Typer) -> None:
    app.command("check", rich_help_panel="Make")(check)


def check(
    methods: Annotated[list[str] | None, typer.Argument(metavar="[METHOD ...]", help="Slugs, numbers, or files of yours.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every method that can be added to a recipe.")] = False,
    pairs: Annotated[bool, typer.Option("--pairs", help="Which of them go together, as a matrix.")] = False,
    json: Json = False,
) -> None:
    """What a method must show: neutral when off, honest FLOPs, exact resumes, effects found.

    Exit code 0: all is shown. 1: something is not.
    """
    if bool(methods) == everything and not (pairs and not everything):
        raise BadInput("etude check", "no method" if not methods else "both methods and --all", "METHOD ..., --all or --pairs")
    from etude.papers.catalogue import card
    from etude.screen.pairs import composable

    found = [card(name, to_run=True) for name in methods] if methods else composable()
    broken = _pairs(found, json) if pairs else _obligations(found, json)
    if broken:
        raise typer.Exit(1)


def _obligations(found: list[Any], json: bool) -> bool:
    from etude.screen.certificates import certificate

    done = [certificate(one, (lambda _: None) if json else _tell, anew=True) for one in found]
    if json:
        print_json([c.as_dict() for c in done])
    else:
        from rich.markup import escape

        from etude.evidence.tables import Grid

        for one in done:
            grid = Grid("|obligation", "|", "seen", title=f"{one.slug}, on {one.testbed}")
            for o in one.obligations:
                grid.add_row(o.name, GLYPHS[o.state], escape(o.said))
            console().print(grid)
        failed = [one.slug for one in done if one.failed]
        which = "it" if len(failed) == 1 else "them"
        said = f"not shown by {', '.join(failed)}: a screen does not list {which}" if failed else "all is shown"
        console().print(escape(said))
    return any(one.failed for one in done)


def _pairs(found: list[Any], json: bool) -> bool:
    from etude.screen.pairs import pairs

    if len(found) < 2:
        raise BadInput("etude check --pairs", f"{len(found)} method", "two or more, or none for all")
    done = pairs(found, tell=(lambda _: None) if json else _tell)
    if json:
        print_json([p.as_dict() for p in done])
    else:
        from rich.markup import escape

        from etude.evidence.tables import Grid

        of = {(p.first, p.second): p for p in done}
        names = [c.slug for c in found]
        grid = Grid("|", *(f"|{name}" for name in names[1:]), split=True)
        for i, row in enumerate(names[:-1]):
            grid.add_row(row, *("" if j <= i else MARKS[of[row, names[j]].outcome] for j in range(1, len(names))))
        console().print(grid)
        for p in done:
            if p.outcome != "works":
                console().print(f"{p.outcome}: {escape(p.first)} with {escape(p.second)}: {escape(p.said)}")
    return any(p.outcome == "broken" for p in done)


def _tell(text: str) -> None:
    print(f"checking {text} ...", file=sys.stderr)
