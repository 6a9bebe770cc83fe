"""All commands under one name, in the order in which the help shows them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from etude.cli import arena, browsing, checking, evidence, making, running, screening, using


def command() -> Any:
    """The parser of the whole command line."""
    app = typer.Typer(
        help="Which published training method helps on my model and my data, and by how much?",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_top)
    for part in (running, screening, arena, using, browsing, evidence, making, checking):
        part.add(app)
    return typer.main.get_command(app)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print("etude", version("etude"))
        except PackageNotFoundError:
            print("etude (not installed)")
        raise typer.Exit


def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; may stand after any command.")] = False,
) -> None:
    """Which published training method helps on my model and my data, and by how much?"""
