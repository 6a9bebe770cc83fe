"""From a word on the command line to a study: a paper's slug, number or file, or an arena as `arena-NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etude.cli.output import print_json

if TYPE_CHECKING:
    from etude.evidence.reference import Reference
    from etude.evidence.study import Study


def reference(word: str) -> Reference:
    """How a pool's processes find it. Raises BadInput for a paper or arena that is unknown."""
    from etude.arenas import LOCATE, PREFIX
    from etude.evidence.reference import Reference
    from etude.papers.catalogue import card

    return Reference(word, LOCATE) if word.startswith(PREFIX) else Reference(card(word).word)


def study(word: str) -> Study:
    return reference(word).study()


def register_study(found: Reference, reason: str, json: bool) -> None:
    """Writes its registration, and prints where."""
    from etude.evidence import places, registration

    study = found.study()
    path = registration.register(study, places.find(), reason)
    if json:
        print_json({"slug": study.slug, "registered": str(path)})
    else:
        print(path)


def slug(word: str) -> str:
    """Under which its evidence is kept."""
    from etude.arenas import PREFIX
    from etude.papers.catalogue import card

    return word if word.startswith(PREFIX) else card(word).slug
