"""Records: what a study measured, raw and per seed, with the verdict that follows from it and where it all comes from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput, reason
from etude.evidence import jobs
from etude.evidence.claims import Claim, Entrant
from etude.evidence.matched import matched_effects, signs_differ
from etude.evidence.ranking import ranking
from etude.evidence.study import Study
from etude.evidence.verdict import Judged, judge, primary_of
from etude.evidence.wording import remark

SCHEMA = 1


Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # arm -> finished runs, one a seed


def build(study: Study, scale: str, seeds: Sequence[int], runs: Runs, provenance: Any) -> dict[str, Any]:
    """The record of finished runs (arm -> one a seed, in the order of `seeds`), judged."""
    names = list(dict.fromkeys([study.headline, *(name for done in runs.values() for run in done for name in run["metrics"])]))
    curves = list(dict.fromkeys(name for done in runs.values() for run in done for name in run["curves"]))
    record: dict[str, Any] = {
        "schema": SCHEMA, "slug": study.slug, "scale": scale, "size": study.scales[scale].size, "paper_size": study.paper_size,
        "seeds": list(seeds), "baseline": study.baseline, "headline": study.headline, "lower_is_better": study.lower_is_better,
        "arms": {arm: _gather(study, arm, done, names, curves) for arm, done in runs.items()},
        "arrays": {arm: done[0]["arrays"] for arm, done in runs.items() if done[0]["arrays"]},
        "seconds": sum(run["seconds"] for done in runs.values() for run in done), "provenance": provenance,
    }  # fmt: skip
    return record | judged(record, study.claims)


def judged(record: Mapping[str, Any], claims: Sequence[Claim]) -> dict[str, Any]:
    """All that follows from a record's raw values: {"matched", "claims", "verdict", "line"}, and the "ranking" of entrants."""
    matched = matched_effects(record)
    found = {"matched": matched, **verdicts({**record, "matched": matched}, claims)}
    entrants = [claim for claim in claims if isinstance(claim, Entrant)]
    if entrants:
        arms, first = [claim.arm for claim in entrants], entrants[0]
        found["ranking"] = [one.as_dict() for one in ranking(record, arms, first.baseline, first.metrics)]
    return found


def verdicts(record: Mapping[str, Any], claims: Sequence[Claim]) -> dict[str, Any]:
    """{"claims", "verdict", "line"} from the raw values alone: the primary claim's verdict (of entrants, how many are better and how
    many worse), and its line with the sizes."""
    # Who was left out of a partial run is no entrant of it.
    claims = [claim for claim in claims if not claim.family or claim.arms_named[1] in record["arms"]]
    judged = judge(record, claims) if claims else []
    first = primary_of(claims) if claims else None
    verdict = "no claims" if not judged else _counted(judged) if first is None else judged[first].verdict
    line = f"{verdict} at {record['size']}" + (f" ({remark(record)})" if remark(record) else "")
    if record["paper_size"]:
        line += f"; paper: {record['paper_size']}, not tested there"
    if first is not None:
        for sentence in signs_differ(record["matched"], claims[first].arms_named):
            line += f"; {sentence}"
    return {"claims": [told.as_dict() for told in judged], "verdict": verdict, "line": line}


def _counted(judged: Sequence[Judged]) -> str:
    """ "2 of 5 better than the baseline, 1 worse" """
    better, worse = (sum(one.verdict == word for one in judged) for word in ("holds", "reversed"))
    return f"{better} of {len(judged)} better than the baseline" + f", {worse} worse" * bool(worse)


def document(record: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` prints: {slug, scale, seeds, arms: {name: {metric: [per seed], ledger: [per seed]}}, claims, verdict, seconds,
    provenance}, and a few keys more.
    """
    arms = {name: {**told["metrics"], "ledger": told["ledger"]} for name, told in record["arms"].items()}
    more = {k: record[k] for k in ("line", "size", "paper_size", "matched", "ranking", "registration", "complete") if k in record}
    kept = {k: record[k] for k in ("slug", "scale", "seeds")}
    return kept | {"arms": arms} | {k: record[k] for k in ("claims", "verdict", "seconds", "provenance")} | more


def strict_json(value: Any, indent: int | None = 2) -> str:
    """JSON text of a document or record that any reader takes: what is not finite becomes null."""
    return json.dumps(_nulls(value), indent=indent, allow_nan=False)


HEAD = ("slug", "scale", "size", "paper_size", "seeds", "verdict", "line", "claims")


def head(record: Mapping[str, Any], size: int) -> dict[str, Any]:
    """What listing and showing a paper need of its record. bytes: the record's size, so that a head of another one is not used."""
    return {"schema": SCHEMA, "bytes": size, **{key: record[key] for key in HEAD}}


def write(path: Path, record: Mapping[str, Any], head_path: Path | None = None) -> None:
    """Writes a record whole or not at all, and its head (see `head`) where a place for it is named."""
    text = jobs.dumps(record, indent=1) + "\n"
    write_atomic(path, text)
    if head_path is not None:
        write_atomic(head_path, jobs.dumps(head(record, len(text.encode())), indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """The record at `path`. Raises BadInput where it is missing, unreadable or of another schema."""
    try:
        record = jobs.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(str(path), reason(error), "a record") from error
    except ValueError as error:
        raise BadInput(str(path), f"unreadable content ({error})", "a record written by etude") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise BadInput(str(path), "another schema", f"schema {SCHEMA}")
    return record


def is_timing(name: str) -> bool:
    """Whether a metric, curve or quantity measures time, and so differs from run to run: its name says "second" or "throughput"."""
    return "second" in name or "throughput" in name


def without_times(run: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a finished run that its seed and settings determine to the bit."""
    ledger = {c: {q: v for q, v in row.items() if not is_timing(q)} for c, row in run["ledger"].items()}
    kept = {k: {n: v for n, v in run[k].items() if not is_timing(n)} for k in ("metrics", "curves", "counts")}
    return {**kept, "ledger": ledger, "arrays": run.get("arrays", {}), "diverged": run["diverged"], "parameters": run["parameters"]}


def run_of(record: Mapping[str, Any], arm: str, seed: int) -> dict[str, Any]:
    """One run again, out of the record (without arrays)."""
    i, told = record["seeds"].index(seed), record["arms"][arm]
    taken = {k: {name: values[i] for name, values in told[k].items()} for k in ("metrics", "curves", "counts")}
    return taken | {"ledger": told["ledger"][i], "diverged": told["diverged"][i], "parameters": told["parameters"][i]}


def with_run(record: Mapping[str, Any], arm: str, seed: int, run: Mapping[str, Any]) -> dict[str, Any]:
    """The record with one run replaced by another of the same arm and seed. The record itself stays as it is."""
    i, told = record["seeds"].index(seed), dict(record["arms"][arm])
    for part, missing in (("metrics", math.nan), ("curves", [[], []]), ("counts", [0, 0])):
        told[part] = {name: [*values[:i], run[part].get(name, missing), *values[i + 1 :]] for name, values in told[part].items()}
    for part in ("ledger", "diverged", "parameters"):
        told[part] = [*told[part][:i], run[part], *told[part][i + 1 :]]
    return {**record, "arms": {**record["arms"], arm: told}}


def _gather(
    study: Study, arm: str, runs: Sequence[Mapping[str, Any]], all_names: Sequence[str], all_curves: Sequence[str]
) -> dict[str, Any]:  # fmt: skip
    def by_name(part: str, missing: Any) -> dict[str, list[Any]]:
        names = dict.fromkeys(name for run in runs for name in run[part])
        if part == "curves" and all(run["diverged"] for run in runs):
            names |= dict.fromkeys(all_curves)
        return {name: [run[part].get(name, missing) for run in runs] for name in names}

    metrics = by_name("metrics", float("nan"))
    if all(run["diverged"] for run in runs):  # every metric then stands there, as NaN where the arm named no value for a failure
        names = study.arms[arm].instead or all_names
        metrics |= {name: [float("nan")] * len(runs) for name in names if name not in metrics}
    return {
        "about": study.arms[arm].about, "color": study.arms[arm].color, "reference": study.arms[arm].reference,
        "instead": list(study.arms[arm].instead), "metrics": metrics,
        "counts": by_name("counts", [0, 0]), "curves": by_name("curves", [[], []]), "ledger": [run["ledger"] for run in runs],
        "diverged": [run["diverged"] for run in runs], "parameters": [run["parameters"] for run in runs],
        "seconds": [run["seconds"] for run in runs], "probe": [run.get("probe", []) for run in runs],
        "resumed": [run.get("resumed", False) for run in runs],
        "peak_bytes": [run.get("peak_bytes") for run in runs], "disk_bytes": [run.get("disk_bytes") for run in runs],
    }  # fmt: skip


def _nulls(value: Any) -> Any:
    return json.loads(json.dumps(value), parse_constant=lambda _: None)  # the constants are NaN and the infinities
