"""`etude demo`, `run`, `train`: everything that computes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.cli.browsing import Json, Offline
from etude.cli.output import print_json
from etude.errors import BadInput
from etude.evidence.seeds import asked


def add(app: typer.Typer) -> None:
    for name, door in (("demo", demo), ("run", run), ("train", train)):
        app.command(name, rich_help_panel="Run")(door)


def demo(
    text: Annotated[str, typer.Argument(metavar="[TEXT]", help="A text file of yours; without it, a packaged one.")] = "",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the picture and the numbers go.")] = Path("runs/demo"),
    json: Json = False,
) -> None:
    """Your text with and without two methods, in under two minutes: a leaderboard with intervals and a picture."""
    from etude.screen.demo import demo as start

    result = start(text or None, out=out, quiet=json)
    if json:
        print_json(result)


def run(
    paper: Annotated[str, typer.Argument(metavar="PAPER", help="A slug, its number, or a file of yours that defines STUDY.")],
    scale: Annotated[
        str, typer.Option("--scale", metavar="S", help="smoke: seconds; quick: about two minutes of two idle cores; cpu: the evidence.")
    ] = "quick",
    seeds: Annotated[str, typer.Option("--seeds", metavar="N", help="So many seeds, or which: 100-104 or 100,102.")] = "",
    arms: Annotated[str, typer.Option("--arms", metavar="A,B", help="Only these arms.")] = "",
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", min=1, help="Processes of one thread each.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where runs are kept and reused.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say time, memory, budgets and smallest detectable effect, and stop.")] = False,
    register: Annotated[bool, typer.Option("--register", help="Write the registration, to be committed, and stop.")] = False,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why a study on record is run or registered again.")] = "",
    json: Json = False,
) -> None:
    """A paper's study: its arms at equal budget, over seeds, with a verdict."""
    chosen, which = names(arms, "etude run --arms"), asked(seeds, "etude run --seeds")
    from etude.papers.catalogue import card, load_study

    study = load_study(paper)  # before the runner, so that a paper that is not here costs no time
    if register:
        from etude.evidence import places, registration

        path = registration.register(study, places.find(), reason)
        if json:
            print_json({"slug": study.slug, "registered": str(path)})
        else:
            print(path)
        return
    from etude.evidence.runner import run_study

    run_study(card(paper).word, scale, which, chosen, workers, out, plan=plan, json=json, reason=reason)


def names(text: str, option: str) -> list[str] | None:
    """Those of "A,B"; None for all. Raises BadInput, naming the option, for an empty name."""
    found = [name.strip() for name in text.split(",")]
    if text and not all(found):
        raise BadInput(option, f"'{text}'", "names with one comma between two")
    return found if text else None


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in TOML.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", help="Changes to it: optimizer.lr=0.003")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last good checkpoint.")] = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Train a model as a recipe says.

    Exit code 0: done. 1: failed, as by a loss that became NaN or infinite.
    2: bad input. 130: stopped by Ctrl-C, with a checkpoint to --resume from.
    """
    wrong = next((c for c in changes or [] if "=" not in c), None)
    if wrong is not None:
        raise BadInput("etude train", f"'{wrong}'", "changes of the form key=value")
    from etude.generate import hub
    from etude.papers.loading import load_methods, load_models
    from etude.recipe.train import train_recipe

    given = tuple(changes or ())
    with hub.offline(offline):
        result = train_recipe(recipe, resolve=load_methods, models=load_models, overrides=given, resume=resume, quiet=json)
    if json:
        print_json(result)
    else:
        measured = "".join(f"{name.replace('/', ' ')} {value:.4f}, " for name, value in result["metrics"].items())
        share = f"{result['generate_share']:.0%} of the time generating, " if "generate_share" in result else ""
        print(f"{result['steps']} steps, {measured}{share}in {result['folder']}")
