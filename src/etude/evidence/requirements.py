"""What a study needs on this machine: its corpora and data sets, asked for before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from etude.data.cards import INSTALL, card, cards
from etude.errors import BadInput
from etude.evidence import fingerprint
from etude.evidence.registration import SCALE
from etude.evidence.study import Study


def needed(study: Study, scale: str) -> list[str]:
    """Names of the corpora that the scale's settings name, and at cpu scale of all of the study's data."""
    names = [text for text in _texts(fingerprint.settings_of(study, scale)) if text in cards()]
    return list(dict.fromkeys([*names, *(study.data if scale == SCALE else ())]))


def require(study: Study, scale: str) -> None:
    """Raises BadInput for the first that is not here, naming the command that gets it: a run may come to it after minutes only."""
    where = f"{study.slug} at {scale} scale"
    for name in needed(study, scale):
        missing = [part for part in card(name).parts or (name,) if not card(part).here]
        if missing and card(missing[0]).registry == "procedural":
            raise BadInput(where, f"no package {card(missing[0]).package.partition('==')[0]}", f"{INSTALL} first")
        if missing:
            get = " && ".join(f"etude data get {part}" for part in missing)
            raise BadInput(where, f"the corpus '{missing[0]}' not on this machine", f"`{get}` first")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
