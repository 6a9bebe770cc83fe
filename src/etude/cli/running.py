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


Scale = Annotated[
    str, typer.Option("--scale", metavar="S", help="smoke: seconds; quick: about two minutes of two idle cores; cpu: the evidence.")
]
Seeds = Annotated[str, typer.Option("--seeds", metavar="N", help="So many seeds, or which: 100-104 or 100,102.")]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", min=1, help="Processes of one thread each.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where runs are kept and reused.")]
Plan = Annotated[bool, typer.Option("--plan", help="Say time, memory, disk, budgets and smallest detectable effect, and stop.")]
Register = Annotated[bool, typer.Option("--register", help="Write the registration, to be committed, and stop.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why what is on record is run or registered again.")]
Yes = Annotated[bool, typer.Option("--yes", help="Go on where the plan is over an hour.")]
"""The options of every door that runs a study."""


def run(
    paper: Annotated[str, typer.Argument(metavar="PAPER", help="A slug, its number, or a file of yours that defines STUDY.")],
    scale: Scale = "quick",
    seeds: Seeds = "",
    arms: Annotated[str, typer.Option("--arms", metavar="A,B", help="Only these arms.")] = "",
    workers: Workers = None,
    out: Out = None,
    plan: Plan = False,
    register: Register = False,
    reason: Reason = "",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """A paper's study: its arms at equal budget, over seeds, with a verdict."""
    if paper.endswith(".toml"):
        if not plan:
            raise BadInput("etude run", f"'{paper}'", f"a paper or a file that defines STUDY; a recipe is run by etude train {paper}")
        _foretell(Path(paper), (), False, json)
        return
    chosen, which = names(arms, "etude run --arms"), asked(seeds, "etude run --seeds")
    from etude.cli.studies import reference, register_study

    found = reference(paper)
    found.study()  # before the runner, so that a paper that is not here costs no time
    if register:
        register_study(found, reason, json)
        return
    from etude.evidence.runner import run_study

    run_study(found, scale, which, chosen, workers, out, plan=plan, json=json, reason=reason, yes=yes)


def _foretell(recipe: Path, changes: tuple[str, ...], offline: bool, json: bool) -> None:
    from etude.generate import hub
    from etude.screen.foretold import foretold, foretold_lines

    with hub.offline(offline):
        told = foretold(recipe, changes)
    if json:
        print_json(told)
    else:
        print(*foretold_lines(told), sep="\n")


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
    plan: Annotated[
        bool, typer.Option("--plan", help="Say updates, tokens, FLOPs, time, memory and disk by its first updates, and stop.")
    ] = False,
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
    if plan:
        _foretell(recipe, tuple(changes or ()), offline, json)
        return
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
