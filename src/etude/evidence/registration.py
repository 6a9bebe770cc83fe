"""Registration: what a study claims, and how it will be measured, committed before the first cpu run that can show it.

`evidence/registered/SLUG.toml` holds claims (the primary one marked), arms, seeds, settings and planned budget. A run of
cpu scale on the study's own seeds is refused until that file is committed and as long as the study differs from it. Seeds
from 100 on are for tuning and free; smoke and quick use streams of their own. Registering again keeps the older text.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput
from etude.evidence import fingerprint, planned, toml, tuning
from etude.evidence.dates import now
from etude.evidence.places import Place, git
from etude.evidence.study import Study
from etude.evidence.verdict import primary_of

SCHEMA = 1
TUNING_FROM = 100
SCALE = "cpu"
BINDING = ("baseline", "headline", "seeds", "arms", "settings", "claims", "failure")
BUDGET_WORDS = ("budget", "tokens", "steps", "samples", "epochs", "rounds", "flops", "seconds")


def describe(study: Study) -> dict[str, Any]:
    """What a registration says of a study, as TOML values; `BINDING` names the parts that later runs must agree with.

    Raises BadInput for a study without cpu scale, without claims, or with more than one primary claim.
    """
    if SCALE not in study.scales:
        raise BadInput(study.slug, f"scales {', '.join(study.scales)}", "a cpu scale to register")
    scale = study.scales[SCALE]
    settings = fingerprint.plain(scale.settings)
    claims = [{"type": type(claim).__name__, **fingerprint.plain(claim)} for claim in study.claims]
    if not claims:
        raise BadInput(study.slug, "no claims", "at least one claim to register")
    for i, claim in enumerate(claims):
        claim["primary"] = i == primary_of(study.claims)
    failures = {n: fingerprint.plain(told) for n in study.arms if (told := study.failure_of(n))}
    plans = {n: planned.amounts(study, SCALE, n) for n, a in study.arms.items() if SCALE in a.scales and a.planned}
    arms = {
        n: {"about": a.about, "reference": a.reference, "instead": list(a.instead) or None}
        for n, a in study.arms.items()
        if SCALE in a.scales
    }
    budget = {k: v for k, v in settings.items() if any(w in k for w in BUDGET_WORDS)} if isinstance(settings, dict) else {}
    told = {
        "schema": SCHEMA, "slug": study.slug, "size": scale.size, "baseline": study.baseline, "headline": study.headline,
        "seeds": scale.seeds, "claims": claims, "arms": arms, "budget": budget, "settings": settings,
        "failure": failures or None, "planned": plans or None,
    }  # fmt: skip
    return tomllib.loads(toml.dumps(told))  # so that it compares equal to what is read back


def register(study: Study, place: Place, reason: str = "") -> Path:
    """Writes the registration and returns its path; an earlier one that differs is kept in it as numbered history.

    Raises BadInput for a study that cannot be registered, or where the evidence lies in no git checkout.
    """
    if place.checkout is None:
        raise BadInput(str(place.root), "no git checkout around it", "a source checkout, where a registration can be committed")
    told = describe(study)
    path = place.registered(study.slug)
    history: list[dict[str, Any]] = []
    if path.exists():
        older = load(place, study.slug)
        assert older is not None
        if not _differences(older, told):
            return path
        history = older.pop("history", [])
        entry = {"number": len(history) + 1, "date": older["date"], "replaced": now(), "reason": reason, "text": toml.dumps(older)}
        history.append(entry)
    spent = tuning.load(place, study.slug)
    told["tuning"] = None if spent is None else spent.as_dict()  # said for the record; it binds no run
    head = {"schema": told.pop("schema"), "slug": told.pop("slug"), "date": now(), "code": fingerprint.paper_code(study)}
    text = toml.dumps({**head, **told, "history": history or None})
    tomllib.loads(text)
    write_atomic(path, text)
    return path


def load(place: Place, slug: str) -> dict[str, Any] | None:
    """The registration, or None. Raises BadInput where the file cannot be read."""
    path = place.registered(slug)
    if not path.exists():
        return None
    read = toml.read(path, "a registration written by etude")
    if read.get("schema") != SCHEMA or read.get("slug") != slug or "date" not in read:
        raise BadInput(str(path), f"schema {read.get('schema')} of {read.get('slug')}", f"schema {SCHEMA} of {slug}")
    return read


def differences(registered: Mapping[str, Any], study: Study) -> list[str]:
    """In which binding parts a study departs from its registration: "claims[0].d: 0.02, registered 0.05"."""
    return _differences(registered, describe(study))


def needed(study: Study, scale: str, seeds: Sequence[int], place: Place) -> bool:
    """Whether a run must be registered: cpu scale, in a checkout, on any seed that is not for tuning."""
    return scale == SCALE and place.checkout is not None and any(seed < TUNING_FROM for seed in seeds)


def require(study: Study, place: Place) -> dict[str, Any]:
    """The registration of a study that agrees with it and is committed: {"date", "commit", "times", "code_unchanged"}.

    Raises BadInput saying what is missing.
    """
    path = place.registered(study.slug)
    again = f"etude run {study.slug} --scale {SCALE} --register, then commit the file"
    registered = load(place, study.slug)
    if registered is None:
        raise BadInput(f"{study.slug}, {SCALE} scale", "no registration", f"one made before the first run: {again}")
    differ = differences(registered, study)
    if differ:
        raise BadInput(str(path), "another study: " + "; ".join(differ), f"the study as registered, or: {again}")
    commit = git(path.parent, "log", "-1", "--format=%H", "--", path.name)
    if not commit or git(path.parent, "status", "--porcelain", "--", path.name) != "":
        found = "a registration that is not committed" if not commit else "uncommitted changes"
        raise BadInput(str(path), found, "the file committed in git before the run")
    return {
        "date": registered["date"], "commit": commit, "times": 1 + len(registered.get("history", [])),
        "code_unchanged": registered.get("code") == fingerprint.paper_code(study),
    }  # fmt: skip


def unproven(study: Study, place: Place, record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(what is missing for the proof that a record's claims were registered before it, why that cannot be told here).

    The proof: the record names a commit, which HEAD stands on, which holds the registration with the binding parts that it has
    today, and which lies before the commit of the record (one that is not committed yet comes after all).
    """
    if place.checkout is None or git(place.checkout, "rev-parse", "HEAD") is None:
        return [], ["no git history here: that the registration came first cannot be checked"]
    commit = (record.get("registration") or {}).get("commit")
    if not isinstance(commit, str) or not commit:
        return ["registration: the record names no commit of it"], []
    short, folder = commit[:10], place.checkout

    def holds(*arguments: str) -> bool:
        return git(folder, *arguments) is not None

    if not holds("cat-file", "-e", f"{commit}^{{commit}}"):
        if git(folder, "rev-parse", "--is-shallow-repository") == "true":
            return [], [f"registration: this shallow clone may lack commit {short}, so it cannot be checked"]
        return [f"registration: its commit {short} is not in this repository"], []
    if not holds("merge-base", "--is-ancestor", commit, "HEAD"):
        return [f"registration: its commit {short} is no ancestor of HEAD"], []
    path, recorded = place.registered(study.slug), place.record(study.slug)
    text = git(folder, "show", f"{commit}:{path.resolve().relative_to(folder.resolve()).as_posix()}")
    if text is None:
        return [f"registration: commit {short} holds no {path.name}"], []
    try:
        differ = _differences(tomllib.loads(text), load(place, study.slug) or {})
    except ValueError as error:
        return [f"registration: {path.name} at commit {short} cannot be read ({error})"], []
    found = [f"registration: since commit {short} {d.replace(', registered ', ', there ')}" for d in differ]
    # The commit that brought these runs, known by their date: judging them anew makes a later one, renewing them is not committed yet.
    date = str(record["provenance"].get("date", ""))
    brought = (git(recorded.parent, "log", "--reverse", "--format=%H", f"-S{date}", "--", recorded.name) or "").split()
    if date and brought and (commit == brought[0] or not holds("merge-base", "--is-ancestor", commit, brought[0])):
        found.append(f"registration: its commit {short} does not come before the record's, {brought[0][:10]}")
    return found, []


def _differences(registered: Mapping[str, Any], told: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for part in BINDING:
        _compare(part, registered.get(part), told.get(part), found)
    return found


def _compare(where: str, old: Any, new: Any, found: list[str]) -> None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new} - {"about"}):
            _compare(f"{where}.{key}", old.get(key), new.get(key), found)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            _compare(f"{where}[{i}]", one, other, found)
    elif old != new and not (old != old and new != new):  # NaN equals NaN here
        if isinstance(old, list) and isinstance(new, list):
            found.append(f"{where}: {len(new)} entries, registered {len(old)}")
        else:
            found.append(f"{where}: {_short(new)}, registered {_short(old)}")


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
