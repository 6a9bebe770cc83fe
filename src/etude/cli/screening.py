"""`etude screen`: which methods help on a recipe of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.cli.browsing import Json, Offline
from etude.cli.output import colored, console, print_json
from etude.cli.running import names
from etude.errors import BadInput


def add(app: typer.Typer) -> None:
    app.command("screen", rich_help_panel="Run")(screen)


def screen(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in TOML, as `etude train` runs it.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Changes to it: model.depth=6")] = None,
    methods: Annotated[str, typer.Option("--methods", metavar="A,B", help="Only these; otherwise all that apply.")] = "",
    family: Annotated[str, typer.Option("--family", metavar="F", help="Only those of a family or an arena.")] = "",
    budget: Annotated[str, typer.Option("--budget", metavar="B", help="Of a confirmed run: 1e12flops or 200000tokens.")] = "",
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Fresh seeds of the confirmation.")] = 8,
    confirm: Annotated[int, typer.Option("--confirm", metavar="K", help="So many methods are confirmed.")] = 3,
    rates: Annotated[str, typer.Option("--rates", metavar="X,Y", help="Factors on the learning rate, tried for every arm.")] = "0.5,1,2",
    rungs: Annotated[int, typer.Option("--rungs", metavar="R", help="Rungs of the selection.")] = 2,
    d: Annotated[float, typer.Option("--d", metavar="D", help="Smallest effect of interest, in the metric's unit.")] = 0.01,
    metric: Annotated[str, typer.Option("--metric", metavar="M", help="Which of the recipe's measures; the held-out loss.")] = "",
    proxy: Annotated[list[str] | None, typer.Option("--proxy", metavar="KEY=VALUE", help="Screen a smaller sibling; repeatable.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", min=1, help="Processes of one thread each.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where runs are kept, reused and reported.")] = Path("runs/screen"),
    plan: Annotated[bool, typer.Option("--plan", help="Say arms, runs, time and smallest detectable effect, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Go on where the plan is over an hour.")] = False,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="List methods that have not passed `etude check`.")] = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Which methods help on your recipe: selected, confirmed on fresh seeds, combined, with a report."""
    from etude.generate import hub
    from etude.screen.report import leaderboard, plan_lines
    from etude.screen.screening import Settings
    from etude.screen.screening import screen as start
    from etude.screen.spending import spending_lines

    settings = Settings(k=confirm, seeds=seeds, rates=_numbers(rates), rungs=rungs, d=d, metric=metric, unchecked=unchecked)
    chosen = names(methods, "etude screen --methods")
    with hub.offline(offline):
        done = start(
            recipe, overrides=tuple(changes or ()), methods=chosen, family=family or None, budget=budget, settings=settings,
            workers=workers, proxy=tuple(proxy or ()), out=out, plan=plan, yes=yes, quiet=json,
        )  # fmt: skip
    if json:
        print_json(done)
        return
    if plan:
        print(*plan_lines(done), sep="\n")
        return
    from rich.markup import escape

    from etude.evidence.tables import Grid

    grid = Grid("|method", ">learning rate", f"against the baseline ({done['metric']})", "verdict")
    for name, rate, told, verdict in leaderboard(done):
        grid.add_row(escape(name), rate, escape(told), colored(verdict))
    console().print(grid)
    for name, why in done["refused"].items():
        console().print(f"[dim]not {escape(name)}: {escape(why)}[/]")
    for told in done.get("combinations", ()):
        if told["refused"]:
            console().print(f"[dim]not {escape(told['name'])}: {escape(told['refused'])}[/]")
    for line in spending_lines(done["spending"]):
        console().print(f"[yellow]{escape(line)}[/]")
    if done.get("edge"):
        console().print(f"the best learning rate is the lowest or highest tried for {escape(', '.join(done['edge']))}: try more --rates")
    console().print(escape(done["said"]))
    for text in done["lines"].values():
        print(f"\n{text}")
    print(f"\n{done['winner_recipe']}: run it with etude train {done['winner_recipe']}; the report is {out / 'report.html'}")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput("etude screen --rates", f"'{text}'", "numbers with commas between, such as 0.5,1,2") from None
