"""Drafts of new papers: what is written runs as it is, and nothing is overwritten."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from etude.errors import BadInput
from etude.papers import catalogue
from etude.papers.draft import draft


def test_a_draft_outside_etude_is_a_paper_whose_own_test_passes(tmp_path: Path) -> None:
    paths = draft("my-idea.2", tmp_path)
    assert [p.name for p in paths] == ["my_idea_dot_2.py", "my_idea_dot_2.toml", "test_my_idea_dot_2.py"]
    found = catalogue.card(str(paths[0]))
    assert (found.slug, found.title, found.slots) == ("my-idea.2", "My idea.2", ("gradients", "evidence"))
    spec = spec_from_file_location("drafted_test", paths[2])
    assert spec is not None
    assert spec.loader is not None
    tests = module_from_spec(spec)
    spec.loader.exec_module(tests)
    tests.test_equation_by_hand()
    tests.test_switched_off_is_the_baseline()
    tests.test_bad_input()
    for arm in catalogue.load_study(str(paths[0])).arms:
        tests.test_smoke(arm)


def test_a_planned_paper_is_drafted_with_its_claim(tmp_path: Path) -> None:
    planned = next(c for c in reversed(catalogue.cards()) if c.state == "planned")
    module, card, _ = draft(planned.slug, tmp_path)
    text = module.read_text()
    assert f"Source: arXiv {planned.arxiv}." in text
    assert " ".join(planned.claim.split()) in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 140
    assert catalogue.card(str(module)).claim == planned.claim
    assert card.name == module.with_suffix(".toml").name


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("mine")
    with pytest.raises(BadInput, match=r"test_mine.py: found a file that is there already, expected a free name"):
        draft("mine", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["test_mine.py"]
    assert (tmp_path / "test_mine.py").read_text() == "mine"


@pytest.mark.parametrize("slug", ["My-Paper", "a_b", "", "-a", "a--b", "a/b", "../a"])
def test_bad_slugs(slug: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="slug: found .*, expected lower-case words and numbers joined by hyphens"):
        draft(slug, tmp_path)


def test_a_ready_paper_is_not_drafted_again(tmp_path: Path) -> None:
    ready = next((c.slug for c in catalogue.cards() if c.ready), None)
    if ready is None:
        pytest.skip("no paper is ready")
    with pytest.raises(BadInput, match="whose paper is there already"):
        draft(ready, tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="expected a folder that can be written"):
        draft("mine", tmp_path / "file")
