"""`etude arena`: questions that cross papers."""

from __future__ import annotations

from typing import Annotated

import typer

from etude.arenas import LOCATE, NAMES, SEPARATOR
from etude.cli.browsing import Json
from etude.cli.output import colored, console, print_json
from etude.cli.running import Out, Plan, Reason, Register, Scale, Seeds, Workers, Yes, names
from etude.cli.studies import register_study
from etude.errors import BadInput
from etude.evidence.seeds import asked


def add(app: typer.Typer) -> None:
    app.command("arena", rich_help_panel="Run")(arena)


def arena(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Which arena; without it: what there is, and who enters.")] = "",
    scale: Scale = "quick",
    seeds: Seeds = "",
    methods: Annotated[
        str, typer.Option("--methods", metavar="A,B", help="Only these papers, or files of yours, beside the baseline.")
    ] = "",
    workers: Workers = None,
    out: Out = None,
    plan: Plan = False,
    register: Register = False,
    reason: Reason = "",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Every paper of a question on the same work at the same cost, ranked."""
    chosen, which = names(methods, "etude arena --methods"), asked(seeds, "etude arena --seeds")
    from etude.arenas import arena as arenas

    if not name:
        _list(json)
        return
    from etude.evidence.reference import Reference
    from etude.papers.catalogue import card
    from etude.papers.outside import is_file

    named = arenas.named(name)
    members = named.members()
    files, slugs = [], []
    for word in chosen or ():
        found = card(word, to_run=True)
        slugs.append(found.slug)
        if is_file(word):
            files.append(word)
        elif found.slug not in members or isinstance(members[found.slug], str):
            why = members.get(found.slug, "its card does not name this arena")
            raise BadInput(f"etude arena {name}, {found.slug}", str(why), "one that enters: `etude arena` lists them")
    reference = Reference(SEPARATOR.join([name, *files]), LOCATE)
    if register:
        register_study(reference, reason, json)
        return
    from etude.evidence.runner import run_study

    arms = None if chosen is None else list(dict.fromkeys([arenas.BASELINE, *slugs]))
    run_study(reference, scale, which, arms, workers, out, plan=plan, json=json, reason=reason, yes=yes)


def _list(json: bool) -> None:
    from rich.markup import escape

    from etude.arenas import arena as arenas
    from etude.cli.standing import standing
    from etude.evidence.tables import Grid

    found = [(one, one.members()) for one in map(arenas.named, NAMES)]
    told = [
        {
            "name": one.name, "question": one.question, "tasks": {name: goal.about for name, goal in one.goals.items()},
            "members": [slug for slug, how in members.items() if not isinstance(how, str)],
            "not_entered": {slug: how for slug, how in members.items() if isinstance(how, str)},
            "line": getattr(standing(one.slug), "line", None),
        }
        for one, members in found
    ]  # fmt: skip
    if json:
        print_json(told)
        return
    for one in told:
        grid = Grid("|what", "which", title=f"{one['name']}: {one['question']}", ruled=False)
        for name, about in one["tasks"].items():
            grid.add_row("task", escape(f"{name}: {about}"))
        for slug in one["members"]:
            grid.add_row("[bold]enters[/]", slug)
        for slug, why in one["not_entered"].items():
            grid.add_row("[dim]not entered[/]", escape(f"{slug}: {why}"))
        grid.add_row("on record", colored(one["line"]) if one["line"] else f"[dim]nothing yet: etude arena {one['name']}[/]")
        console().print(grid)
