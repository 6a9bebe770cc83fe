"""The cards of the corpora: what each is, where it comes from, whether it is here. No torch or numpy, so that listing is quick."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from etude.errors import one_of

INSTALL = "`pip install -e '.[data]'`"
"""What brings the packages that data sets are made by."""


@dataclass(frozen=True, kw_only=True)
class CorpusCard:
    """What a corpus is and where it comes from.

    registry:   pip, npm, packaged (inside etude), procedural (made by an installed package) or composite (of `parts`).
    package:    name==version. extract: how the text is taken out (`extraction.EXTRACT`).
    sha256:     of the extracted text; of the packaged file; of a procedural package's own archive.
    domains:    names of its documents' domains; without any it is one running text.
    commercial: yes, no or unknown. kind: text, or samples (`etude.data.images`).
    """

    name: str
    title: str
    licence: str
    commercial: str
    note: str = ""
    package: str = ""
    registry: str = ""
    extract: str = ""
    sha256: str = ""
    bytes: int = 0
    kind: str = "text"
    domains: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        if self.registry == "packaged":
            return Path(str(files("etude.data") / "packaged" / (self.name + (".txt" if self.kind == "text" else ".npz"))))
        if self.registry == "procedural" and (found := find_spec(self.package.partition("==")[0])) and found.origin:
            return Path(found.origin).parent
        return cache_folder() / "corpora" / f"{self.name}-{self.sha256[:12]}.txt"

    @property
    def here(self) -> bool:
        if self.registry == "procedural":
            return find_spec(self.package.partition("==")[0]) is not None
        return all(card(part).here for part in self.parts) if self.parts else self.path.exists()


def cache_folder() -> Path:
    return Path(os.environ.get("ETUDE_CACHE") or Path.home() / ".cache" / "etude")


@cache
def cards() -> dict[str, CorpusCard]:
    """Every corpus by name."""
    document = tomllib.loads((files("etude.data") / "cards.toml").read_text(encoding="utf-8"))
    return {name: _card(name, row) for name, row in document.items()}


def _card(name: str, row: dict[str, Any]) -> CorpusCard:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return CorpusCard(name=name, **fields)


def card(name: str) -> CorpusCard:
    """Raises BadInput for a name that no corpus has."""
    if name not in cards():
        raise one_of("corpus", name, cards())
    return cards()[name]
