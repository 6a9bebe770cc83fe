"""`etude evidence`: what is on record, and whether it is still true."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etude.cli.browsing import Json
from etude.cli.failures import FAILED
from etude.cli.output import colored, console, print_json
from etude.errors import BadInput

if TYPE_CHECKING:
    from etude.evidence.places import Place

_STATE_COLORS = {"current": "green", "older": "green", "stale": "yellow", "unproven": "yellow", "broken": "red"}


def add(app: typer.Typer) -> None:
    app.command("evidence", rich_help_panel="Run")(evidence)


def evidence(
    check: Annotated[
        bool, typer.Option("--check", help="Is every ready paper registered, recorded after that, and still current?")
    ] = False,
    verify: Annotated[str, typer.Option("--verify", metavar="PAPER", help="Judge its record again and rerun one arm and seed.")] = "",
    arm: Annotated[str, typer.Option("--arm", metavar="A", help="With --verify: the arm to rerun, not the quickest.")] = "",
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="With --verify: the seed to rerun, not the first.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke/--no-smoke", help="With --check: rerun the smoke scales too.")] = True,
    rejudge: Annotated[str, typer.Option("--rejudge", metavar="PAPER|all", help="Write its verdicts anew from its raw values.")] = "",
    redraw: Annotated[str, typer.Option("--redraw", metavar="PAPER|all", help="Draw its figures anew from its record.")] = "",
    into: Annotated[Path | None, typer.Option("--into", metavar="FILE", help="Put the table of verdicts between FILE's marks.")] = None,
    json: Json = False,
) -> None:
    """What is on record, and whether it is still true; exit code 1 if it is not.

    --check names a state:
    current; older (code that all papers share has changed, still valid);
    stale (the paper's own code, settings or data changed);
    unproven (git does not show the registration before the record);
    broken (what it says does not follow from the raw values; where a rule of
    judging has changed since, --rejudge writes it anew);
    unrecorded; unregistered.

    --verify asks for equal bits on the record's instruction set and
    libraries, elsewhere for a beginning within 1e-4.
    """
    if into is not None:
        from etude.evidence import places, report
        from etude.papers.catalogue import cards

        report.put_table(into, report.verdict_table(places.find(), {c.slug: f"{c.slug} ({c.family})" for c in cards()}))
        return
    asked = [name for name, given in (("--check", check), ("--verify", verify), ("--rejudge", rejudge), ("--redraw", redraw)) if given]
    if len(asked) > 1:
        raise BadInput("etude evidence", " and ".join(asked), "one of them")
    if not verify and (arm or seed is not None):
        raise BadInput("etude evidence", "--arm or --seed", "--verify with them")
    if verify:
        _verify(verify, arm or None, seed, json)
    elif rejudge:
        _rejudge(rejudge, json)
    elif redraw:
        _redraw(redraw, json)
    elif check:
        _check(smoke, json)
    else:
        _recorded(json)


def _verify(paper: str, arm: str | None, seed: int | None, json: bool) -> None:
    from etude.cli.studies import reference
    from etude.evidence.verify import verify

    result = verify(reference(paper), arm=arm, seed=seed, quiet=json)
    if json:
        print_json(asdict(result))
    else:
        for line in result.lines:
            print(line)
        print(f"{result.slug}: {'agrees' if result.agrees else 'does not agree'}")
    if not result.agrees:
        raise SystemExit(FAILED)


def _rejudge(paper: str, json: bool) -> None:
    from etude.cli.studies import study
    from etude.evidence import places
    from etude.evidence.derived import rejudge

    place = places.find()
    changed = {slug: rejudge(study(slug), place) for slug in _slugs(paper, place)}
    if json:
        print_json(changed)
        return
    for slug, lines in changed.items():
        print(f"{slug}: " + ("written anew" if lines else "nothing to change"))
        for line in lines:
            print(f"  {line}")


def _redraw(paper: str, json: bool) -> None:
    from etude.cli.studies import study
    from etude.evidence import places, plots

    place = places.find()
    done = {slug: plots.redraw(study(slug), place) for slug in _slugs(paper, place)}
    if json:
        print_json({slug: {"drawn": [*map(str, drawn)], "left": [*map(str, left)]} for slug, (drawn, left) in done.items()})
        return
    for slug, (drawn, left) in done.items():
        print(f"{slug}: {len(drawn)} figures in {place.plots(slug)}")
        for file in left:
            print(f"  {file.name} belongs to no plot of the study, and was left as it is")


def _slugs(paper: str, place: Place) -> list[str]:
    from etude.cli.studies import slug

    return place.recorded() if paper == "all" else [slug(paper)]


def _all() -> list[str]:
    """All that has evidence: etude's own ready papers, and the arenas."""
    from etude.arenas import NAMES, PREFIX
    from etude.papers.catalogue import cards

    return [c.slug for c in cards() if c.state == "ready" and c.origin == "etude"] + [PREFIX + name for name in NAMES]


def _check(smoke: bool, json: bool) -> None:
    from rich.markup import escape

    from etude.cli.studies import study
    from etude.evidence.tables import BREAK, Grid
    from etude.evidence.verify import Standing, check

    studies, result = [], []
    for slug in _all():
        try:
            studies.append(study(slug))
        except BadInput as error:
            result.append(Standing(slug=slug, state="broken", findings=[str(error)]))
    result += check(studies, smoke=smoke)
    if json:
        print_json([asdict(s) | {"sound": s.sound} for s in result])
    else:
        grid = Grid("|paper", "|state", "|verdict", ">attempts", "findings")
        for s in result:
            color = _STATE_COLORS.get(s.state, "bright_black")
            tried = f"{s.attempts}" + f"{BREAK}({s.abandoned} abandoned)" * bool(s.abandoned)
            said = escape("\n".join(s.findings)) + "".join(f"\n[dim]{escape(note)}[/]" for note in s.notes)
            grid.add_row(f"[bold]{s.slug}[/]", f"[{color}]{s.state}[/]", colored(s.verdict), tried, said.strip())
        console().print(grid)
        sound = sum(s.sound for s in result)
        console().print(f"{sound} of {len(result)} sound." + (" What to do: etude evidence --help" if sound < len(result) else ""))
    if not all(s.sound for s in result):
        raise SystemExit(FAILED)


def _recorded(json: bool) -> None:
    from etude.cli.standing import history, standing
    from etude.evidence.tables import Grid

    found = {slug: standing(slug) for slug in _all()}
    kept = {slug: s for slug, s in found.items() if s is not None}
    if json:
        print_json([{"slug": slug, **asdict(s), **history(slug)} for slug, s in kept.items()])
        return
    grid = Grid("|paper", "what came out", ">attempts")
    for slug, s in kept.items():
        grid.add_row(f"[bold]{slug}[/]", colored(s.line), str(history(slug)["attempts"]))
    console().print(grid if kept else "Nothing is on record yet.")
    console().print("Is it still true? etude evidence --check, etude evidence --verify PAPER")
