"""How far etude's intervals keep their word: exact coverage of the count intervals, simulated error rates of Student's t.

    python benchmarks/calibration.py            tables
    python benchmarks/calibration.py --json     {"ratios": {...}}: lowest coverage of etude's interval over that of plain Newcombe's
    python benchmarks/calibration.py --write    evidence/calibration.json and the tables of docs/statistics.md (a few minutes)

Counts are enumerated, not simulated; seeds are 10,000 draws of normal values. `--most N` enumerates up to N trials (default 50).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from etude.evidence import coverage
from etude.evidence import proportions as pr
from etude.evidence.estimate import rule_of
from etude.evidence.statistics import smallest_detectable, t_bounds

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "statistics.md"
DRAWS, D = 10_000, 0.5
TRIALS = (*range(3, 21), 25, 30, 40, 50)
UNEQUAL = ((3, 10), (5, 10), (5, 20), (8, 20), (10, 30), (10, 50), (20, 50))
WHOLE_TABLES = 12  # plain paired Newcombe looks at all four cells: enumerated up to here


def counts(most: int) -> list[dict[str, float]]:
    """One row per n (or n1, n2): lowest coverage over the grid, and the mean, of every count interval at 95 %."""
    rows = []
    for n in (n for n in TRIALS if n <= most):
        one = coverage.one_proportion(n, pr.clopper_pearson)
        pairs = coverage.paired_proportions(
            n, coverage.table_of_limits(n, n, lambda i, j, n=n: pr.exact_paired_difference(i, j, n), paired=True)
        )
        row = {"n1": n, "n2": n, "one": one.lowest, "one_mean": one.mean, "paired": pairs.lowest, "paired_mean": pairs.mean}
        if n <= WHOLE_TABLES:
            row["paired_newcombe"] = coverage.paired_tables(n, pr.paired_newcombe).lowest
        rows.append({**row, **_two(n, n)})
    return rows + [{"n1": a, "n2": b, **_two(a, b)} for a, b in UNEQUAL if max(a, b) <= most]


def _two(n1: int, n2: int) -> dict[str, float]:
    exact = coverage.two_proportions(n1, n2, coverage.table_of_limits(n1, n2, lambda i, j: pr.exact_difference(i, n1, j, n2)))
    plain = coverage.two_proportions(n1, n2, coverage.table_of_limits(n1, n2, lambda i, j: pr.newcombe(i, n1, j, n2)))
    return {"two": exact.lowest, "two_mean": exact.mean, "newcombe": plain.lowest, "newcombe_mean": plain.mean}


def seeds() -> list[dict[str, float]]:
    """Simulated coverage and verdicts of Student's t; effects and d in standard deviations of the per-seed effect."""
    rows = []
    for n in (3, 5, 8):
        for effect in (0.0, D, 1.0, 2.0, 3.0):
            low, high = t_bounds(np.random.default_rng([n, int(10 * effect)]).normal(effect, 1.0, size=(DRAWS, n)))
            said = [rule_of(a, b, D) for a, b in zip(low, high, strict=True)]
            shares = {v: said.count(v) / DRAWS for v in ("holds", "reversed", "no effect", "inconclusive")}
            rows.append({"n": n, "effect": effect, "coverage": float(((low <= effect) & (effect <= high)).mean()), **shares})
    return rows


def ratios(rows: list[dict[str, float]]) -> dict[str, float]:
    """Per interval, the lowest coverage anywhere over that of Newcombe's formula as published."""
    return {
        "two_samples_lowest_coverage": min(r["two"] for r in rows) / min(r["newcombe"] for r in rows),
        "pairs_lowest_coverage": min(r["paired"] for r in rows if "paired_newcombe" in r)
        / min(r["paired_newcombe"] for r in rows if "paired_newcombe" in r),
    }


def page(counted: list[dict[str, float]], simulated: list[dict[str, float]]) -> str:
    """docs/statistics.md with its three tables made anew."""

    def cell(row: dict[str, float], key: str) -> str:
        return f"{row[key]:.4f}" if key in row else ""

    table = [
        f"| {r['n1']}{'' if r['n1'] == r['n2'] else ' and ' + str(r['n2'])} | "
        + " | ".join(cell(r, k) for k in ("one", "paired", "two", "two_mean", "newcombe", "paired_newcombe"))
        + " |"
        for r in counted
    ]
    drawn = [
        f"| {r['n']} | {r['effect']:g} | {r['coverage']:.4f} | "
        + " | ".join(f"{r[k]:.4f}" for k in ("holds", "reversed", "no effect", "inconclusive"))
        + " |"
        for r in simulated
    ]
    detect = [f"| {n} | {smallest_detectable(1.0, n):.2f} |" for n in (3, 4, 5, 6, 8, 10, 16)]
    text = PAGE.read_text(encoding="utf-8")
    for mark, rows in (("counts", table), ("seeds", drawn), ("detect", detect)):
        begin, end = (text.index(f"<!-- {which}{mark} -->") for which in ("", "/"))
        head = text[begin:end].split("\n")[:3]  # the mark and the table's two head lines
        text = text[:begin] + "\n".join([*head, *rows]) + "\n" + text[end:]
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--most", type=int, default=0, help="trials an arm; 12 with --json, 50 otherwise")
    told = parser.parse_args()
    counted = counts(told.most or (WHOLE_TABLES if told.json else max(TRIALS)))
    if told.json:
        print(json.dumps({"ratios": ratios(counted)}))
        return
    simulated = seeds()
    if told.write:
        kept = {"level": 0.95, "draws": DRAWS, "d": D, "counts": counted, "seeds": simulated, "ratios": ratios(counted)}
        (ROOT / "evidence" / "calibration.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(counted, simulated), encoding="utf-8")
    else:
        print(page(counted, simulated))


if __name__ == "__main__":
    main()
