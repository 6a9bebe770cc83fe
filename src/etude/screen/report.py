"""What a screen leaves: report.json, report.html with its figures inside, leaderboard.png, curves.png, and text for a terminal."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from etude.engine.checkpoint import write_atomic
from etude.evidence import plots, records
from etude.evidence.live import clock
from etude.evidence.plots import COLORS
from etude.evidence.study import Plot
from etude.evidence.wording import amount, effect
from etude.papers.applying import lines
from etude.papers.catalogue import card
from etude.recipe.writing import toml
from etude.screen.spending import TOLERANCE, spending_lines


def write_report(out: Path, report: dict[str, Any], record: Mapping[str, Any] | None) -> None:
    """Adds the lines that apply the winner, and writes all files."""
    report["lines"] = winner_lines(report)
    figures: dict[str, bytes] = {}
    if record is not None and report.get("confirm"):
        drawn = {
            "leaderboard": plots.draw(
                Plot(title=f"Better by, at equal FLOPs: {report['metric']}", kind="custom", draw=_bars(report)), record
            ),
            "curves": plots.draw(Plot(title=f"{report['metric']} over FLOPs", kind="curve", curve=f"{report['metric']} / flops"), record),
        }
        figures = {name: png for name, png in drawn.items() if png is not None}
    for name, png in figures.items():
        write_atomic(out / f"{name}.png", png)
    write_atomic(out / "report.json", records.strict_json(report))
    write_atomic(out / "report.html", page(report, figures))


def winner_lines(report: Mapping[str, Any]) -> dict[str, str]:
    """{"recipe", "python", "trainer"}: what applies the winner's methods elsewhere, with the settings that were screened."""
    told: dict[str, list[str]] = {}
    settings = {table["use"]: {k: v for k, v in table.items() if k != "use"} for table in report["methods"]}
    for slug in report["parts"]:
        found = card(slug)
        if found.word in settings:
            own = settings[found.word]
            found = replace(found, settings=tuple(toml(own).splitlines()) if own else ())
        for where, text in lines(found).items():
            told.setdefault(where, []).append(text)
    said = {where: "\n".join(texts) for where, texts in told.items() if where != "trainer" or len(texts) == len(report["parts"])}
    if report["changes"] and said:
        said["recipe"] = f"{said['recipe']}\n# and in the recipe: " + ", ".join(f"{k} = {v!r}" for k, v in report["changes"].items())
    return said


# --- text -------------------------------------------------------------------------------------------------------------
def leaderboard(report: Mapping[str, Any]) -> list[list[str]]:
    """Rows of [method, learning rate, effect with interval, verdict], those confirmed first, then those dropped and refused."""
    rows = []
    confirmed = report.get("confirm", {"methods": [], "rates": {}})
    for told in confirmed["methods"]:
        rows.append([told["name"], f"x{confirmed['rates'][told['name']]:g}", _effect(told), told["verdict"]])
    for told in report.get("combine", {"methods": []})["methods"]:
        if told["name"] == report["combine"]["name"]:
            rows.append([told["name"], "", _effect(told), told["verdict"]])
    rows += [[name, "", "", f"dropped, {why}"] for name, why in report["dropped"].items()]
    return rows


def _effect(told: Mapping[str, Any]) -> str:
    return "" if told["estimate"] is None else effect(told["estimate"], told["interval"])


HALVES = "selected on one half of the held-out samples, confirmed on the other"
NO_HALVES = "selected and confirmed on the same held-out data, which this measure cannot halve: keep a test set that no recipe names"


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """A plan in words."""
    better = "lower" if plan["lower_is_better"] else "higher"
    tokens = f" ({amount(plan['tokens_a_run'])} tokens of the baseline)" if plan["tokens_a_run"] else ""
    said = [f"measured: {plan['metric']}, {better} is better; {amount(plan['flops_a_run'])} FLOPs a run{tokens}"]
    for phase in plan["phases"]:
        said.append(f"  {phase['phase']}: {phase['arms']} arms, {phase['runs']} runs at {phase['share']:g} of the budget")
    for name, arm in plan["arms"].items():
        of_tokens = f"{amount(arm['tokens_a_run'])} tokens, " if arm["tokens_a_run"] else ""
        said.append(f"  {name}: {of_tokens}{clock(arm['seconds_a_run'])} a run, {amount(arm['memory'])}B of memory")
    for name, why in plan["refused"].items():
        said.append(f"  not {name}: {why}")
    if not plan["runs"]:
        return [*said, "no method applies to this recipe: nothing to run"]
    said.append(
        f"at most {plan['runs']} runs, {amount(plan['flops'])} FLOPs, about {clock(plan['seconds'])} on {plan['workers']} processes, "
        f"{amount(plan['memory'])}B of memory, {amount(plan['disk'])}B of disk"
    )
    said.append(
        f"smallest effect shown with 80 % probability by {plan['seeds']} seeds: d = {plan['d']:g} and {plan['detectable_sd']:.2f} standard "
        "deviations of a seed's difference, for one method; more where several are confirmed"
    )
    said.append(HALVES if plan["halves"] else NO_HALVES)
    if plan["proxy"]:
        said.append(f"on a proxy: {plan['proxy']}")
    return said


# --- figures and the page ---------------------------------------------------------------------------------------------
def _bars(report: Mapping[str, Any]) -> Any:
    told = [*report["confirm"]["methods"]]
    if "combine" in report:
        told += [m for m in report["combine"]["methods"] if m["name"] == report["combine"]["name"]]

    def draw(axes: Any, record: Mapping[str, Any]) -> None:
        shown = [m for m in told if m["estimate"] is not None]
        for y, method in enumerate(reversed(shown)):
            low, high = method["interval"]
            axes.plot([low, high], [y, y], color=COLORS[0], linewidth=2)
            axes.plot([method["estimate"]], [y], "o", color=COLORS[0], markersize=6)
        axes.set_yticks(range(len(shown)), [m["name"] for m in reversed(shown)])
        axes.axvline(0, color="#22262b", linewidth=0.8)
        d = shown[0]["d"] if shown else 0
        axes.axvspan(-d, d, color="#eceef1", zorder=0)
        axes.set_ylim(-0.6, max(len(shown) - 0.4, 0.6))
        axes.set_xlabel("better than the baseline by; grey: too small to be of interest")

    return draw


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #22262b; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
td, th { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e3e6ea; }
pre { background: #f5f6f8; padding: .8rem; overflow-x: auto; } img { max-width: 100%; } .quiet { color: #6b7280; }
"""


def page(report: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """The report as one HTML file that needs nothing else."""
    plan = report["plan"]
    parts = [f"<p><strong>{html.escape(report['said'])}</strong></p>"]
    if plan["proxy"]:
        parts.append(f"<p>Screened on a proxy ({html.escape(plan['proxy'])}): what helps there may not help on the model itself.</p>")
    parts.append(_table(["method", "learning rate", "against the baseline", "verdict"], leaderboard(report)))
    for name, png in figures.items():
        parts.append(f'<p><img alt="{name}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>')
    for where, text in report["lines"].items():
        parts.append(
            f"<h3>{ {'recipe': 'In a recipe', 'python': 'In Python', 'trainer': 'In a trainer of transformers or TRL'}[where] }</h3>"
        )
        parts.append(f"<pre>{html.escape(text)}</pre>")
    if report.get("edge"):
        parts.append(
            f"<p>The best learning rate is the lowest or highest tried for {html.escape(', '.join(report['edge']))}: try more.</p>"
        )
    for told in report.get("combinations", ()):
        if told["refused"]:
            parts.append(f"<p>{html.escape(told['name'])} do not go together: {html.escape(told['refused'])}.</p>")
    if report["spending"]:
        said = "".join(f"<li>{html.escape(line)}</li>" for line in spending_lines(report["spending"]))
        parts.append(f"<h2>Runs that did not spend their budget within {TOLERANCE:.0%}</h2><ul>{said}</ul>")
    if report["refused"]:
        parts.append(
            "<h2>What does not apply, and why</h2>" + _table(["method", "reason"], [list(item) for item in report["refused"].items()])
        )
    for phase in report["select"]:
        rows = [[r["name"], f"x{r['rate']:g}", ", ".join(f"{v:.4f}" for v in r["values"])] for r in phase["results"]]
        parts.append(f"<h2>{html.escape(phase['phase'])}, {phase['share']:g} of the budget</h2>")
        parts.append(_table(["method", "learning rate", report["metric"]], rows))
    parts.append("<h2>How it was done</h2><p class=quiet>" + "<br>".join(html.escape(line) for line in plan_lines(plan)) + "</p>")
    parts.append(
        "<p class=quiet>Intervals and verdicts are of the confirmation alone: seeds that the selection has not seen, paired with the "
        "baseline's, Holm over the methods confirmed. Every arm had the same learning rates to choose from.</p>"
    )
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Which methods help</title><style>{STYLE}</style>\n<h1>Which methods help on this recipe?</h1>\n{body}\n</html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{first}</tr>{body}</table>"
