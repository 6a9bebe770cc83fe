"""What methods showed in `etude check`, kept by the code that showed it: a screen asks once, and again when the code changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from etude.data.cards import cache_folder
from etude.engine.checkpoint import write_atomic
from etude.evidence import fingerprint
from etude.papers.card import Card
from etude.papers.catalogue import card
from etude.papers.loading import load_module
from etude.screen.obligations import Checked, check


def code_of(names: Sequence[str]) -> list[str]:
    """What the numbers of methods depend on beside their settings: etude's floors, the papers' own code, the libraries."""
    files: dict[str, str] = {}
    for name in names:
        found = fingerprint.code_files(Path(str(load_module(card(name)).__file__)))
        files |= {key: path.read_text(encoding="utf-8") for key, path in found.items()}
    return [fingerprint.floors_code(), fingerprint.code_hash(files), str(fingerprint.libraries()), fingerprint.instruction_set()]


def certificate(found: Card, tell: Callable[[str], None] = lambda _: None, *, anew: bool = False) -> Checked:
    """What a method showed: as it is kept for this code and card, or checked now. Raises BadInput as `check` does."""
    declared = [found.off, found.limit, found.no_limit, found.against, found.whole_batch, found.settings]
    path = cache_folder() / "checks" / f"{found.slug}-{fingerprint.digest([declared, *code_of([found.word])])}.json"
    if path.is_file() and not anew:
        try:
            return Checked.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError):
            pass  # a damaged file is made again
    done = check(found, tell)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(done.as_dict(), indent=1))
    return done
