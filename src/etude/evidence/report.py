"""What a study shows at its end: a table of arms, a line per claim; and the table of verdicts over all records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput
from etude.evidence import records, tables
from etude.evidence.live import clock
from etude.evidence.places import Place
from etude.evidence.plan import Plan
from etude.evidence.statistics import t_interval
from etude.evidence.tables import BREAK, Grid
from etude.evidence.wording import BETTER, HIGHER, amount, claim_effect, effect, remark

TASK = "score, "
"""How the metric of one task of an arena begins."""

VERDICT_STYLES = {"holds": "bold green", "reversed": "bold red", "no effect": "yellow", "inconclusive": "yellow"}


def show(record: Mapping[str, Any], console: Console | None = None, tuned: str = "") -> None:
    """Prints the table, effects at equal FLOPs and wall time, and the verdicts, to stdout unless told otherwise.

    tuned: what tuning cost, as `tuning.line` says it.
    """
    console = console or tables.stdout()
    n = len(record["seeds"])
    tables.say(console, Text(f"{record['slug']} · {record['size']} · {n} seed{'s' * (n != 1)}", "bold"))
    console.print(arms_table(record))
    apart = apart_table(record)
    if apart is not None:
        console.print(apart)
    ranked = ranking_table(record)
    if ranked is not None:
        console.print(ranked)
    matched = matched_table(record)
    if matched is not None:
        console.print(matched)
    if tuned:
        tables.say(console, Text(tuned, "dim"))
    for claim in record["claims"]:
        tables.say(console, claim_line(claim))
    style = "dim" if remark(record) else VERDICT_STYLES.get(record["verdict"], "bold")
    tables.say(console, Text.assemble("Verdict: ", (record["line"], style)))


def arms_table(record: Mapping[str, Any]) -> Grid:
    """Per arm that has it: the headline metric with its t interval, the paired effect against the baseline, what it cost, its size."""
    headline, baseline = record["headline"], record["baseline"]
    better = "↓" if record["lower_is_better"] else "↑"
    tokens = "tokens trained + other" if any(map(_other_tokens, record["arms"].values())) else "tokens"
    numbers = (f"{headline} {better}", f"against {baseline}", "FLOPs", tokens, "time a run", "parameters")
    table = Grid("|arm", *(f">{name}" for name in numbers), split=True, ruled=False)
    base = record["arms"].get(baseline)
    for name, arm in record["arms"].items():
        if _instead(arm):
            continue
        values = _values(arm["metrics"].get(headline, []))
        against = "baseline" if name == baseline else "–"
        if base is not None and name != baseline and headline in arm["metrics"]:
            against = _effect(_values(arm["metrics"][headline]) - _values(base["metrics"][headline]), record["lower_is_better"])
            against = against.replace(" [", f"{BREAK}[")
        other = _other_tokens(arm)
        trained = amount(_total(arm["ledger"], "tokens") - other) + (f" +{BREAK}{amount(other)}" if other else "")
        cost = [amount(_total(arm["ledger"], "flops")), trained]
        size = amount(float(np.mean(arm["parameters"]))) if any(arm["parameters"]) else "–"
        table.add_row(
            escape(name) + _marks(arm), _with_interval(values), escape(against), *cost, clock(float(np.mean(arm["seconds"]))), size
        )
    return table


def apart_table(record: Mapping[str, Any]) -> Grid | None:
    """The arms that measure something else than the headline, with that and compared with none; None where there are none."""
    table = Grid("|arm", "measure", ">mean", ">time a run", ruled=False, title="Apart from these: arms that are measured otherwise")
    for name, arm in record["arms"].items():
        for number, metric in enumerate(_instead(arm)):
            first, seconds = (escape(name) + _marks(arm), clock(float(np.mean(arm["seconds"])))) if not number else ("", "")
            table.add_row(first, escape(metric), _with_interval(_values(arm["metrics"].get(metric, []))), seconds)
    return table if table.rows else None


def ranking_table(record: Mapping[str, Any]) -> Grid | None:
    """Entrants and their baseline, best first: the interquartile mean over tasks and seeds, how often it is the better one, each task."""
    ranked = record.get("ranking")
    if not ranked:
        return None
    names = [name.removeprefix(TASK) for name in ranked[0]["tasks"]]
    columns = (">interquartile mean of gains", f">better than {record['baseline']}", *(f">{name}" for name in names))
    title = "Ranking over tasks and seeds (95 % intervals of a bootstrap within tasks)"
    table = Grid(">", "|arm", *columns, ruled=False, title=title)
    for place, one in enumerate(ranked, 1):
        low, high = one["interval"]
        chance = "–"
        if one["improvement"] is not None:
            ends = one["improvement_interval"]
            chance = f"{one['improvement']:.0%}{BREAK}[{ends[0]:.0%}, {ends[1]:.0%}]"
        tasks = [f"{value:.3f}" for value in one["tasks"].values()]
        table.add_row(str(place), escape(one["arm"]), escape(f"{one['iqm']:+.4f}{BREAK}[{low:+.4f}, {high:+.4f}]"), escape(chance), *tasks)
    return table


def matched_table(record: Mapping[str, Any]) -> Grid | None:
    """The effects at equal FLOPs and at equal wall time, where curves were recorded."""
    if not record["matched"]:
        return None
    table = Grid("|arm", ">equal", ">at", ">effect", split=True, ruled=False, title="At equal cost (smaller total of the two)")
    for quantity, entries in record["matched"].items():
        equal = "FLOPs" if quantity == "flops" else "wall time"
        for arm, e in entries.items():
            if e["estimate"] is None:
                table.add_row(escape(arm), equal, "–", escape(f"no estimate:{BREAK}{e['reason']}"))
                continue
            where = f"{amount(e['at'])} FLOPs" if quantity == "flops" else f"{e['at']:.3g} s"
            if e["mid_schedule"]:  # whose run goes on behind this point
                where += f"{BREAK}{'' if e['mid_schedule'] == arm else e['mid_schedule'] + ' '}mid-schedule"
            table.add_row(escape(arm), equal, escape(where), _matched_effect(record, e))
    return table


def claim_line(claim: Mapping[str, Any]) -> Text:
    """One claim: its verdict, its text, the estimate with its interval against d."""
    said = claim_effect(claim, level=True)
    numbers = f" ({said}, d {claim['d']:g}, n {claim['n']})" if said else ""
    note = f" [{claim['note']}]" if claim.get("note") else ""
    rank = "         " if claim["kind"] == "Entrant" else "primary  " if claim["primary"] else "secondary"
    verdict = claim["verdict"]
    return Text.assemble(f"{rank} ", (verdict, VERDICT_STYLES.get(verdict, "yellow")), f": {claim['text']}{numbers}{note}")


def show_plan(plan: Plan, console: Console | None = None) -> None:
    """Prints a plan, to stdout unless told otherwise."""
    console = console or tables.stdout()
    tables.say(console, Text(f"{plan.slug} · {plan.scale} · {plan.size}", "bold"))
    table = Grid("|arm", ">time a run", ">memory", ">disk", "known from", "planned budget", ruled=False)
    for arm, cost in plan.arms.items():
        budget = _amounts(plan.budgets.get(arm, {})) or f"not said{_amounts(cost.spent, '; spent before: ')}"
        sizes = [_bytes(value) + " or more" * (cost.begun and value is not None) for value in (cost.memory, cost.disk)]
        table.add_row(escape(arm), "unknown" if cost.seconds is None else clock(cost.seconds), *sizes, cost.source, budget)
    console.print(table)
    kept = f", {plan.kept} finished before" if plan.kept else ""
    tables.say(console, f"{plan.runs} runs: {len(plan.arms)} arms x {len(plan.seeds)} seeds{kept}; {plan.workers} at a time")
    took = "unknown" if plan.seconds is None else "about " + clock(plan.seconds)
    more = " or more" * any(cost.begun and cost.memory is not None for cost in plan.arms.values())
    disk = f"disk {_bytes(plan.disk or None)}{more * bool(plan.disk)} of {_bytes(plan.disk_free)} free"
    tables.say(console, f"time {took}, memory {_bytes(plan.memory)}{more}, {disk}")
    if math.isfinite(plan.detectable):
        tables.say(console, f"smallest detectable effect (80 % power): {plan.detectable:.3g} {plan.detectable_unit}")
    else:
        tables.say(console, f"no effect can be judged from {len(plan.seeds)} seed: at least 3 are needed")


def _amounts(told: Mapping[str, float], before: str = "") -> str:
    return before * bool(told) + ", ".join(f"{amount(value)} {quantity}" for quantity, value in told.items())


def verdict_table(place: Place, titles: Mapping[str, str] | None = None) -> str:
    """Markdown: every record's verdict, whatever it is, with effect, scale and paper's scale. titles: slug -> what to call it."""
    lines = ["| Study | Claim | Verdict | Effect | Measured at | Paper |", "|---|---|---|---|---|---|"]
    for record in recorded(place, place.recorded()):
        slug = record["slug"]
        claim = next((c for c in record["claims"] if c["primary"]), None)
        text, said = (claim["text"], claim_effect(claim)) if claim is not None else ("–", "")
        effect = f"{said}, d = {claim['d']:g}, n = {claim['n']}" if claim is not None and said else "–"
        if record.get("ranking"):
            tasks = ", ".join(name.removeprefix(TASK) for name in record["ranking"][0]["tasks"])
            text = f"Which is better than the {record['baseline']} over {tasks}?"
            effect = "ranked: " + ", ".join(f"{one['arm']} {one['iqm']:+.3f}" for one in record["ranking"])
        cells = [
            (titles or {}).get(slug, slug), text, f"**{record['verdict']}**", effect,
            f"{record['size']}, {len(record['seeds'])} seeds", f"{record['paper_size']}, not tested here" if record["paper_size"] else "–",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def put_table(file: Path, table: str) -> None:
    """Puts the table between the lines `<!-- verdicts -->` and `<!-- /verdicts -->` of a Markdown file. Raises BadInput."""
    first, last = "<!-- verdicts -->\n", "<!-- /verdicts -->"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(str(file), f"a file that cannot be read ({error})", "a Markdown file") from error
    before, opened, rest = text.partition(first)
    _, closed, after = rest.partition(last)
    if not opened or not closed:
        raise BadInput(str(file), "no marks for the table", f"the lines {first.strip()} and {last}")
    write_atomic(file, before + first + table + last + after)


def recorded(place: Place, slugs: Iterable[str]) -> list[dict[str, Any]]:
    """The records of these slugs that can be read; those that cannot are left to `etude evidence --check`."""
    found = []
    for slug in slugs:
        try:
            found.append(records.read(place.record(slug)))
        except BadInput:
            continue
    return found


def _instead(arm: Mapping[str, Any]) -> Sequence[str]:
    return arm.get("instead") or ()  # records of old have none


def _marks(arm: Mapping[str, Any]) -> str:
    return " (reference)" * arm["reference"] + f" ({sum(arm['diverged'])} diverged)" * any(arm["diverged"])


def _total(ledgers: Sequence[Mapping[str, Mapping[str, float]]], quantity: str) -> float:
    return float(np.mean([sum(row.get(quantity, 0) for row in ledger.values()) for ledger in ledgers]))


def _other_tokens(arm: Mapping[str, Any]) -> float:
    """Of a run's tokens those not trained on: read by a scorer, or by what was prepared."""
    apart = [{name: row for name, row in ledger.items() if name != "train"} for ledger in arm["ledger"]]
    return _total(apart, "tokens")


def _values(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)


def _with_interval(values: np.ndarray) -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return "–"
    if len(values) == 1:
        return f"{values.mean():.4g}"
    low, high = t_interval(values)
    return f"{values.mean():.4g} ± {(high - low) / 2:.2g}"


def _effect(differences: np.ndarray, lower_is_better: bool) -> str:
    """Of paired differences, arm - baseline."""
    gains = (-differences if lower_is_better else differences)[np.isfinite(differences)]
    if not len(gains):
        return "–"
    return effect(float(gains.mean()), t_interval(gains) if len(gains) > 1 else None)


def _matched_effect(record: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """As better or worse where the measure is the headline, whose good direction is known; else as higher or lower."""
    value, ends, words = entry["estimate"], entry["interval"], HIGHER
    if entry["measure"] == record["headline"]:
        words = BETTER
        if record["lower_is_better"]:
            value, ends = -value, [-end for end in reversed(ends)]
    return escape(f"{entry['measure']}{BREAK}{effect(value, ends, words)}")


def _bytes(value: int | None) -> str:
    if value is None:
        return "unknown"
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value} B"
