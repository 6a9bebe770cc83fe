"""How far a screen keeps its word, on simulated learners: nothing is trained, the screen's own arithmetic decides.

    python benchmarks/screen.py             a table: coverage, family-wise error, the chance to find what is there, each with its interval
    python benchmarks/screen.py --json      {"ratios": {"coverage": ..., "fwer_ok": 1 or 0, "found": ...}}
    python benchmarks/screen.py --write     evidence/screening.json as well

A learner's loss at a learning rate x times the recipe's, a share of the budget and a seed is

    loss = 3 - 0.3 log2(share) - effect(share) + 0.02 (log2 x - log2 best)^2 + seed's own (shared by all arms) + noise

with effects, best rates and noise as each world says. 2,000 screens a world: selection at seeds >= 100, confirmation on fresh ones,
the combination of what was better; every screen's outcome is held against the known effect of the arms at the rates that it chose.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from etude.engine.streams import derive
from etude.evidence.proportions import clopper_pearson
from etude.screen.confirming import Confirmed, confirm, winner_of
from etude.screen.halving import Arm, ladder, select

ROOT = Path(__file__).resolve().parents[1]
SCREENS, SEEDS, K, D = 2000, 8, 3, 0.01
RATES = (0.5, 1.0, 2.0)
BASELINE = "baseline"
NOISE, BETWEEN, CURVE = 0.01, 0.05, 0.02


@dataclass(frozen=True, kw_only=True)
class World:
    """effects: of each method, in loss, better is positive. late: it shows in this share of the budget and above only; earliest: rungs.

    best: the learning rate's best factor of each (1 where not named). The first method is the one that is to be found.
    """

    about: str
    effects: Sequence[float]
    late: Mapping[int, float]
    best: Mapping[int, float]
    earliest: Mapping[int, int]


def world(about: str, effects: Sequence[float], late=None, best=None, earliest=None) -> World:
    return World(about=about, effects=effects, late=late or {}, best=best or {}, earliest=earliest or {})


WORLDS = {
    "none": world("10 methods, none has an effect", [0.0] * 10),
    "boundary": world("10 methods, each better by exactly d: the hardest null", [D] * 10),
    "one": world("one of 10 is better by 0.04, the others by nothing", [0.04] + [0.0] * 9),
    "rates": world("as before, and it wants twice the learning rate", [0.04] + [0.0] * 9, best={0: 2.0}),
    "late": world("it shows in the last quarter only, and says so", [0.04] + [0.0] * 9, late={0: 0.75}, earliest={0: 2}),
    "many": world("effects from -0.05 to 0.05", [0.05, 0.03, 0.02, 0.01, 0.0, 0.0, -0.01, -0.02, -0.03, -0.05]),
}


def expected(told: World, arm: Arm, share: float) -> float:
    """A learner's mean loss."""
    name, rate = arm
    number = -1 if name == BASELINE else int(name)
    effect = 0.0 if number < 0 or share < told.late.get(number, 0.0) else told.effects[number]
    return 3.0 - 0.3 * math.log2(share) - effect + CURVE * (math.log2(rate) - math.log2(told.best.get(number, 1.0))) ** 2


def one_screen(told: World, rng: np.random.Generator) -> dict[str, bool | int]:
    """What one screen came to: intervals that hold the truth, of how many; a false and a true finding."""
    names = [str(i) for i in range(len(told.effects))]

    def run(arms: Sequence[Arm], share: float, seeds: int) -> dict[Arm, list[float]]:
        common = rng.normal(0.0, BETWEEN, seeds)
        return {arm: (expected(told, arm, share) + common + rng.normal(0.0, NOISE, seeds)).tolist() for arm in arms}

    earliest = {str(i): rung for i, rung in told.earliest.items()}
    kept = select(names, RATES, ladder(len(names), len(RATES), K), earliest, BASELINE, lambda _, arms, share: run(arms, share, 1))
    base = (BASELINE, kept.rates[BASELINE])

    def gain(arm: Arm) -> float:
        return expected(told, base, 1.0) - expected(told, arm, 1.0)

    values = run([(name, rate) for name, rate in kept.rates.items()], 1.0, SEEDS)
    first = confirm({name: found for (name, _), found in values.items()}, BASELINE, D)
    true = {name: gain((name, rate)) for name, rate in kept.rates.items()}
    # Two that go together: their effects add up, at the rate of the better.
    better = [c.name for c in first if (c.estimate or 0.0) > 0]
    second: list[Confirmed] = []
    single, both = first[0].name, ""
    if len(better) > 1:
        both = " + ".join(better[:2])
        true[both] = true[single] + told.effects[int(better[1])]
        common = rng.normal(0.0, BETWEEN, SEEDS)
        means = {BASELINE: expected(told, base, 1.0)}
        means |= {name: means[BASELINE] - true[name] for name in (single, both)}
        second = confirm({name: (m + common + rng.normal(0.0, NOISE, SEEDS)).tolist() for name, m in means.items()}, BASELINE, D)
    winner = winner_of(first, second, both, single)
    said = [*first, *second]
    inside = [c.interval is not None and c.interval[0] <= true[c.name] <= c.interval[1] for c in said]
    null = {c.name: (true[c.name] <= D + 1e-12, true[c.name] >= -1e-12) for c in said}
    wrong = [c for c in said if (c.verdict == "holds" and null[c.name][0]) or (c.verdict == "reversed" and null[c.name][1])]
    return {
        "inside": sum(inside), "intervals": len(inside), "false": bool(wrong),
        "false_winner": winner is not None and true[winner.name] <= D + 1e-12,
        "kept": "0" in kept.rates, "found": any(c.name == "0" and c.verdict == "holds" for c in first),
    }  # fmt: skip


def simulate(name: str, screens: int) -> dict[str, float | list[float] | str]:
    told = WORLDS[name]
    rng = np.random.default_rng(derive(0, "screens", name))
    done = [one_screen(told, rng) for _ in range(screens)]

    def share(key: str) -> dict[str, float | list[float]]:
        count = sum(bool(d[key]) for d in done)
        return {key: count / screens, f"{key}_interval": list(clopper_pearson(count, screens))}

    inside, intervals = sum(d["inside"] for d in done), sum(d["intervals"] for d in done)
    # Intervals of one screen are not independent: the interval of the coverage is over screens, whole ones.
    shares = np.array([d["inside"] / d["intervals"] for d in done])
    half = 1.96 * float(shares.std(ddof=1)) / math.sqrt(screens)
    coverage = inside / intervals
    return {
        "about": told.about, "screens": screens, "coverage": coverage, "coverage_interval": [coverage - half, coverage + half],
        **share("false"), **share("false_winner"), **share("kept"), **share("found"),
    }  # fmt: skip


def ratios(rows: Mapping[str, Mapping]) -> dict[str, float]:
    """coverage: the lowest of all worlds, asked at least 0.95. fwer_ok: 1 where no world's family-wise error is shown to be above 0.05."""
    return {
        "coverage": min(row["coverage"] for row in rows.values()),
        "fwer": max(row["false"] for row in rows.values()),
        "fwer_ok": float(all(row["false_interval"][0] <= 0.05 and row["false_winner_interval"][0] <= 0.05 for row in rows.values())),
        "found": rows["one"]["found"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--screens", type=int, default=SCREENS)
    told = parser.parse_args()
    rows = {name: simulate(name, told.screens) for name in WORLDS}
    if told.write:
        kept = {"seeds": SEEDS, "k": K, "d": D, "rates": RATES, "noise": NOISE, "worlds": rows, "ratios": ratios(rows)}
        (ROOT / "evidence" / "screening.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    if told.json:
        print(json.dumps({"ratios": ratios(rows)}))
        return
    for name, row in rows.items():
        print(f"{name}: {row['about']}")
        for key in ("coverage", "false", "false_winner", "kept", "found"):
            low, high = row[f"{key}_interval"]
            print(f"    {key:<14}{row[key]:.4f} [{low:.4f}, {high:.4f}]")
    print(ratios(rows))


if __name__ == "__main__":
    main()
