"""`etude screen`: which methods help on this recipe. Select by successive halving, confirm on fresh seeds, combine, report.

OUT/screen.json          what was asked, and the probes (reused while the question is the same)
OUT/select-1/, ...       a rung each: the runs, kept as a study's are, so that a killed screen goes on where it was
OUT/confirm/, combine/   the same on fresh seeds
OUT/report.json, report.html, leaderboard.png, curves.png, winner.toml
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.engine.arguments import typed
from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput
from etude.evidence import fingerprint, output, records
from etude.evidence.live import clock
from etude.evidence.plan import HOUR
from etude.evidence.provenance import provenance
from etude.evidence.reference import Reference
from etude.evidence.runner import StudyInterrupted, perform, workers_of
from etude.evidence.statistics import smallest_detectable
from etude.papers.card import Card
from etude.papers.suggesting import Facts
from etude.recipe.config import load
from etude.recipe.writing import plain, toml
from etude.screen import spending
from etude.screen.candidates import BARE, BASELINE, Candidate, candidate, chosen, combined
from etude.screen.certificates import certificate, code_of
from etude.screen.confirming import Confirmed, confirm, winner_of
from etude.screen.halving import Arm, Rung, ladder, select
from etude.screen.probe import Probe, Probes, Whole
from etude.screen.report import write_report
from etude.screen.trial import SCALE, Phase, names_of, study_of

RATES = (0.5, 1.0, 2.0)
SELECT_SEED = 100
SELECTED, CONFIRMED = 0, 1
"""Which half of the held-out samples a phase measures on; a combination on that of the confirmation, with seeds of its own."""
LOSS = "loss"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """k: methods that are confirmed. seeds: 0 .. seeds - 1 of the confirmation. rates: factors on the recipe's learning rate, tried for
    every arm. rungs: of the selection, each at half the budget of the next. d: smallest effect of interest, in the metric's unit.
    unchecked: methods are listed that have not shown what `etude check` asks."""

    k: int = 3
    seeds: int = 8
    rates: tuple[float, ...] = RATES
    rungs: int = 2
    d: float = 0.01
    metric: str = ""
    unchecked: bool = False

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("seeds", 2), ("rungs", 1)):
            if getattr(self, name) < least:
                raise BadInput(f"screen, {name}", repr(getattr(self, name)), f"a whole number >= {least}")
        if not self.rates or any(not (math.isfinite(rate) and rate > 0) for rate in self.rates) or len(set(self.rates)) < len(self.rates):
            raise BadInput("screen, rates", repr(self.rates), "different numbers > 0, such as 0.5,1,2")
        if not (math.isfinite(self.d) and self.d > 0):
            raise BadInput("screen, d", repr(self.d), "a number > 0")


@dataclass(kw_only=True)
class Screen:
    """What is to be screened, once the probes are in. flops: of a confirmed run. refused: paper -> why it does not apply.

    candidates: with their settings for a confirmed run. short: for each rung, by its own rule for that budget where it applies there.
    """

    document: dict[str, Any]
    settings: Settings
    candidates: dict[str, Candidate]
    short: list[dict[str, Candidate]]
    refused: dict[str, str]
    probes: dict[str, Probe]
    flops: float
    tokens: float
    metric: str
    lower_is_better: bool
    workers: int
    out: Path
    proxy: str = ""
    quiet: bool = False
    rungs: list[Rung] = field(default_factory=list)

    @property
    def n(self) -> int:
        return self.settings.seeds

    def run_of(self, name: str, share: float = 1.0) -> Whole:
        """What a run of a share of the budget is expected to take, from the probe, which began a run of the first rung.

        What a method spends before its first update grows with the budget where its settings do, and is the same elsewhere.
        """
        begin = 1.0
        if name != BASELINE and self.short[0][name] != self.candidates[name]:
            begin = share / self.rungs[0].share
        found = self.probes[name]
        return found.whole(found.updates(share * self.flops, begin), begin)


@typed("screen, ")
def screen(
    recipe: Path | str,
    *,
    overrides: Sequence[str] = (),
    methods: Sequence[str] | None = None,
    family: str | None = None,
    budget: str = "",
    settings: Settings | None = None,
    workers: int | None = None,
    proxy: Sequence[str] = (),
    out: Path | str = "runs/screen",
    plan: bool = False,
    yes: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Screens a recipe file and returns the report (with `plan`, the plan, training nothing but the probes).

    budget: "1e12flops" or "200000tokens" of each confirmed run; the recipe's own where empty. All arms spend the same FLOPs.
    proxy:  changes that make the model smaller ("model.width=48"), which the report then says.
    yes:    goes on where the plan is over an hour. Raises BadInput before anything is trained, StudyInterrupted on Ctrl-C.
    """
    settings, folder = settings or Settings(), Path(out)
    if methods is not None and family is not None:
        raise BadInput("screen", f"methods and family '{family}'", "one of the two")
    document, looked_at = plain(load(Path(recipe), (*overrides, *proxy))), chosen(methods, family)
    output.claim(folder, "screen")
    with output.alone(folder):
        asked = _prepared(document, settings, looked_at, budget, workers_of(workers), folder, " ".join(proxy), quiet)
        planned = plan_of(asked)
        if plan:
            return planned
        seconds = planned["seconds"]
        if seconds > HOUR and not yes:
            expected = "--yes to go on, a smaller --budget, fewer --seeds or --methods, or --proxy"
            raise BadInput("screen", f"about {clock(seconds)} of work", expected)
        return _run(asked, planned)


def _prepared(
    document: dict[str, Any], settings: Settings, looked_at: Sequence[Card], budget: str, workers: int, out: Path, proxy: str, quiet: bool,
) -> Screen:  # fmt: skip
    kept = Probes(out, document, _teller(quiet))
    told = _asked_budget(budget) or document["budget"]
    base = kept.of(BARE, told)
    if isinstance(base, str):
        raise BadInput("the recipe itself", base, "a recipe that `etude train` runs")
    metric = settings.metric or _metric(base)
    if metric not in base.metrics:
        raise BadInput("screen, metric", f"'{metric}'", f"one that the recipe measures: {', '.join(base.metrics)}")
    flops, steps = _budget(told, base)
    shares = [rung.share for rung in ladder(1, 1, 1, settings.rungs)]

    def facts(share: float) -> Facts:
        epochs = share * steps * _samples_an_update(document) / base.samples if base.samples else 0.0
        return Facts(
            recipe=document, samples=base.samples, steps=share * steps, epochs=epochs, domains=base.domains, verified="rollouts" in document
        )

    found: dict[str, Candidate] = {}
    short: list[dict[str, Candidate]] = [{} for _ in shares]
    refused: dict[str, str] = {}
    probes = {BASELINE: base}
    for one in looked_at:
        made = candidate(one, facts(1.0))
        if not isinstance(made, str):
            at = [made if isinstance(less := candidate(one, facts(share)), str) else less for share in shares]
            # The shortest run is the one to refuse: what a method spends beforehand is the largest share of it.
            probed = kept.of(at[0], {"flops": shares[0] * flops})
            if isinstance(probed, Probe) and not settings.unchecked:
                probed = _unshown(one, _teller(quiet)) or probed
            if isinstance(probed, Probe):
                found[one.slug], probes[one.slug] = made, probed
                for rung, less in zip(short, at, strict=True):
                    rung[one.slug] = less
                continue
            made = probed
        refused[one.slug] = made
    rungs = ladder(len(found), len(settings.rates), settings.k, settings.rungs) if found else []
    return Screen(
        document=document, settings=settings, candidates=found, short=short, refused=refused, probes=probes, flops=flops,
        tokens=steps * base.tokens,
        metric=metric, lower_is_better=LOSS in metric, workers=workers, out=out, proxy=proxy, quiet=quiet, rungs=rungs,
    )  # fmt: skip


def _unshown(one: Card, say: Callable[[str], None]) -> str:
    """Which of its obligations a method has not met; empty where it has them all."""
    again = "(--unchecked lists it all the same)"
    try:
        done = certificate(one, lambda what: say(f"checking {what} ..."))
    except BadInput as error:
        return f"no small recipe can check it: {error.found} {again}"
    failed = ", ".join(o.name for o in done.failed)
    return f"it has not shown {failed}: `etude check {one.slug}` says what {again}" if failed else ""


def _samples_an_update(document: Mapping[str, Any]) -> int:
    return document["data"]["batch"] * document["run"]["accumulate"]


def _metric(base: Probe) -> str:
    """The first loss on held-out data, or else the first thing that is measured."""
    return next((name for name in base.metrics if name.endswith(LOSS)), base.metrics[0] if base.metrics else "")


def _asked_budget(asked: str) -> dict[str, float]:
    """{"flops" or "tokens": amount} of "1e12flops"; empty where nothing is asked."""
    if not asked:
        return {}
    unit = next((u for u in ("flops", "tokens") if asked.lower().replace(" ", "").endswith(u)), "")
    try:
        amount = float(asked.lower().replace(" ", "").removesuffix(unit).replace("_", ""))
    except ValueError:
        amount = 0.0
    if not unit or not (math.isfinite(amount) and amount > 0):
        raise BadInput("screen, budget", f"'{asked}'", "such as 1e12flops or 200000tokens")
    return {unit: amount if unit == "flops" else max(1, round(amount))}


def _budget(told: Mapping[str, Any], base: Probe) -> tuple[float, float]:
    """(FLOPs of a run, updates of the baseline in them). told: the budget that the baseline was probed with."""
    if "flops" in told:
        return told["flops"], base.budget
    if "seconds" in told or any(name.endswith("seconds") for name in told.get("weights", ())):
        expected = "one in tokens, steps, samples or FLOPs; or --budget 1e12flops"
        raise BadInput("screen, budget", "the recipe's budget in seconds", expected)
    steps = round(base.budget)
    return base.whole(steps).flops, steps


# --- the plan ---------------------------------------------------------------------------------------------------------
def plan_of(asked: Screen) -> dict[str, Any]:
    """Arms, runs, tokens, FLOPs, time, memory, disk and the smallest effect that the confirmation can show. JSON values."""
    names = [BASELINE, *asked.candidates]
    phases = []
    left, rates = len(asked.candidates), len(asked.settings.rates)
    for number, rung in enumerate(asked.rungs):
        phases.append({"phase": f"select {number + 1}", "arms": (left + 1) * rates, "runs": (left + 1) * rates, "share": rung.share})
        waiting = sum(made.earliest_rung > number for made in asked.candidates.values())
        left, rates = min(left, max(rung.keep, waiting)), rung.rates
    k = left
    if k:
        phases.append({"phase": "confirm", "arms": k + 1, "runs": (k + 1) * asked.n, "share": 1.0})
    if k > 1:
        phases.append({"phase": "combine, if two go together", "arms": 3, "runs": 3 * asked.n, "share": 1.0})
    flops = sum(phase["runs"] * phase["share"] for phase in phases) * asked.flops
    memory = max(asked.probes[name].memory for name in names) * asked.workers
    runs = sum(phase["runs"] for phase in phases)
    # Who is dropped is not known yet: all arms are taken to be as many in each phase.
    seconds = sum(phase["runs"] * asked.run_of(name, phase["share"]).seconds for phase in phases for name in names) / len(names)
    whole = {name: asked.run_of(name) for name in names}
    return {
        "metric": asked.metric, "lower_is_better": asked.lower_is_better, "flops_a_run": asked.flops, "tokens_a_run": asked.tokens,
        "arms": {
            name: {
                "seconds_a_run": run.seconds, "tokens_a_run": run.tokens, "memory": asked.probes[name].memory,
                "device_memory": asked.probes[name].device_memory, "disk": run.disk,
            }
            for name, run in whole.items()
        },
        "refused": asked.refused, "phases": phases, "runs": runs, "flops": flops, "seconds": seconds / asked.workers,
        "workers": asked.workers, "memory": memory, "disk": runs * max(run.disk for run in whole.values()),
        "halves": asked.metric.partition("/")[0] in asked.probes[BASELINE].halves, "seeds": asked.n, "d": asked.settings.d,
        "detectable_sd": smallest_detectable(1.0, asked.n), "proxy": asked.proxy,
    }  # fmt: skip


# --- the phases -------------------------------------------------------------------------------------------------------
def _run(asked: Screen, planned: Mapping[str, Any]) -> dict[str, Any]:
    everyone = {BASELINE: BARE, **asked.candidates}
    report: dict[str, Any] = {"plan": dict(planned), "select": [], "dropped": {}, "refused": asked.refused, "spending": []}
    if not asked.candidates:
        return _written(asked, report, None, {})
    sign = 1.0 if asked.lower_is_better else -1.0

    def measure(number: int, arms: list[Arm], share: float) -> dict[Arm, list[float]]:
        title = f"select, rung {number + 1} of {len(asked.rungs)}"
        made = {BASELINE: BARE, **asked.short[number]}
        told = _phase(asked, f"select-{number + 1}", title, {arm: made[arm[0]] for arm in arms}, [SELECT_SEED + number], share, SELECTED)
        report["spending"] += told["off"]
        return {arm: [sign * v for v in values] for arm, values in told["values"].items()}

    earliest = {name: made.earliest_rung for name, made in asked.candidates.items()}
    found = select(list(asked.candidates), asked.settings.rates, asked.rungs, earliest, BASELINE, measure)
    report |= {"select": found.history, "dropped": found.dropped, "edge": found.edge}
    best: dict[str, Arm] = {name: (name, rate) for name, rate in found.rates.items()}
    seeds = list(range(asked.n))
    told = _phase(asked, "confirm", "confirm", {arm: everyone[name] for name, arm in best.items()}, seeds)
    report["spending"] += told["off"]
    outcomes = _confirmed(asked, told, seeds)
    report["confirm"] = {"rates": found.rates, "methods": [c.as_dict() for c in outcomes], "values": _by_name(told["values"])}
    second: list[Confirmed] = []
    single = outcomes[0].name if outcomes else BASELINE
    together, tried = _combination(asked, outcomes)
    report["combinations"] = tried
    if together is not None:
        rate = best[single][1]
        trio = {best[BASELINE]: BARE, best[single]: asked.candidates[single], (together.name, rate): together}
        seeds = list(range(asked.n, 2 * asked.n))
        more = _phase(asked, "combine", "combine", trio, seeds)
        report["spending"] += more["off"]
        second = _confirmed(asked, more, seeds)
        report["combine"] = {"name": together.name, "methods": [c.as_dict() for c in second], "values": _by_name(more["values"])}
        asked.candidates[together.name], best[together.name] = together, (together.name, rate)
    winner = winner_of(outcomes, second, "" if together is None else together.name, single)
    return _written(asked, report, winner, best, told["record"])


def _phase(
    asked: Screen, name: str, title: str, arms: Mapping[Arm, Candidate], seeds: Sequence[int], share: float = 1.0, half: int = CONFIRMED
) -> dict[str, Any]:
    """Runs a phase's arms, or finds them done. {"values": arm -> [one a seed], "record": a study's record of it, "labels": the record's
    arms -> name, "off": runs that did not spend their budget}."""
    named = names_of(arms)
    phase = Phase(
        document=asked.document, arms=named, flops=share * asked.flops, metric=asked.metric,
        lower_is_better=asked.lower_is_better, half=half,
    )  # fmt: skip
    folder = asked.out / name
    file = folder / "phase.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(file, phase.as_json())
    reference = Reference(str(file), "etude.screen.trial:study_of")
    study = study_of(str(file))
    hashes = {
        arm: fingerprint.digest([phase.recipe(arm, 0, Path()), half, *code_of(candidate.parts)]) for arm, (candidate, _) in named.items()
    }
    tasks = [output.task(folder, SCALE, arm, seed, hashes[arm]) for seed in seeds for arm in named]
    try:
        runs = perform(
            study, reference, tasks, min(asked.workers, len(tasks)), folder, asked.quiet, title=f"{title}, {phase.flops:.3g} FLOPs a run"
        )
    except StudyInterrupted as error:
        raise error.of(f"screen, {title}") from None
    record = records.build(study, SCALE, list(seeds), runs, provenance(study, SCALE))
    values = {arm: [run["metrics"][asked.metric] for run in runs[label]] for arm, label in zip(arms, named, strict=True)}
    off = [{"phase": title, **one} for one in spending.off_budget(record, phase.flops)]
    return {"values": values, "record": record, "labels": dict(zip(named, (name for name, _ in arms), strict=True)), "off": off}


def _confirmed(asked: Screen, told: Mapping[str, Any], seeds: Sequence[int]) -> list[Confirmed]:
    values, d, labels = _by_name(told["values"]), asked.settings.d, told["labels"]
    baseline = next(label for label, name in labels.items() if name == BASELINE)
    found = spending.unequal(told["record"], labels, baseline, asked.metric, d)
    return confirm(values, BASELINE, d, asked.lower_is_better, seeds=seeds, unequal={labels[label]: why for label, why in found.items()})


def _combination(asked: Screen, outcomes: Sequence[Confirmed]) -> tuple[Candidate | None, list[dict[str, str]]]:
    """The methods that were better, best first, each added where it goes together with those before it; and what was tried."""
    tried: list[dict[str, str]] = []
    together: Candidate | None = None
    better = [asked.candidates[c.name] for c in outcomes if c.judged and (c.estimate or 0.0) > 0]
    kept = Probes(asked.out, asked.document, _teller(asked.quiet))
    parts = better[:1]
    for one in better[1:]:
        made = combined([*parts, one])
        found = made if isinstance(made, str) else kept.of(made, {"flops": asked.flops})
        refused = found if isinstance(found, str) else ""
        tried.append({"name": " + ".join(part.name for part in [*parts, one]), "refused": refused})
        if not refused and isinstance(made, Candidate):
            together, parts = made, [*parts, one]
    return together, tried


def _written(
    asked: Screen, report: dict[str, Any], winner: Confirmed | None, best: Mapping[str, Arm], record: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Adds what follows from the phases, writes the files and returns the report."""
    name = BASELINE if winner is None else winner.name
    rate = best[name][1] if name in best else 1.0
    made = BARE if winner is None else asked.candidates[name]
    phase = Phase(
        document=asked.document, arms={name: (made, rate)}, flops=asked.flops, metric=asked.metric,
        lower_is_better=asked.lower_is_better, half=CONFIRMED,
    )  # fmt: skip
    document = phase.recipe(name, 0, None)
    document["run"] = {**asked.document["run"], "folder": "runs/winner"}
    said = _said(asked, winner, rate)
    write_atomic(asked.out / "winner.toml", f"# {said}\n{toml(document)}")
    report |= {
        "schema": 1, "winner": None if winner is None else name, "winner_rate": rate, "said": said,
        "winner_recipe": str(asked.out / "winner.toml"), "metric": asked.metric, "lower_is_better": asked.lower_is_better,
        "parts": list(made.parts), "methods": [dict(table) for table in made.methods], "changes": dict(made.changes),
    }  # fmt: skip
    write_report(asked.out, report, record)
    return report


def _said(asked: Screen, winner: Confirmed | None, rate: float) -> str:
    where = f" on the proxy ({asked.proxy}), not on the model itself" if asked.proxy else ""
    if not asked.candidates:
        return "no method applies to this recipe"
    if winner is None:
        return f"no method was shown to help by more than {asked.settings.d:g}{where}: the recipe as it is, learning rate x{rate:g}"
    assert winner.estimate is not None
    assert winner.interval is not None
    low, high = winner.interval
    said = f"{winner.name} helps{where}: {asked.metric} better by {winner.estimate:.4g} [{low:.4g}, {high:.4g}]"
    return f"{said} at equal FLOPs, {winner.n} seeds, learning rate x{rate:g}"


def _by_name(values: Mapping[Arm, Sequence[float]]) -> dict[str, list[float]]:
    return {name: list(found) for (name, _), found in values.items()}


def _teller(quiet: bool) -> Callable[[str], None]:
    return lambda text: None if quiet else print(text, file=sys.stderr)
