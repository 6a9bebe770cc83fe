"""Tables on narrow terminals: nothing is cut, nothing is wider than there is room."""

import io

import pytest
from rich.console import Console

from etude.evidence.tables import BREAK, Grid, say

SLUGS = ("mixture-of-recursions", "unified-demonstration-retriever", "stacking")


def printed(thing, width):
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(thing)
    return file.getvalue()


def papers(**options):
    grid = Grid(">#", "|paper", "state", "claim", key=1, **options)
    for number, slug in enumerate(SLUGS):
        grid.add_row(
            str(number), f"[bold]{slug}[/]", "planned", "A claim of several ordinary words about a thing, incomprehensibilities included"
        )
    return grid


def numbers(**options):
    grid = Grid("|arm", ">held-out loss", ">against scratch", ">time a run", ">parameters", split=True, ruled=False, **options)
    grid.add_row("interpolate", "1.861 ± 0.11", f"-0.1821{BREAK}[-0.265, -0.0996]", "7:47", "936k")
    grid.add_row("a-rather-long-arm", "2.043 ± 0.061", "baseline", "5:29", "1.2M")
    return grid


@pytest.mark.parametrize("width", [200, 100, 80, 70, 60, 45, 36])
@pytest.mark.parametrize("make", [papers, numbers])
def test_every_word_stays_whole_and_every_line_fits(make, width):
    text = printed(make(), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    words = text.split()
    expected = (
        [*SLUGS, "incomprehensibilities", "included", "ordinary", "planned"]
        if make is papers
        else ["interpolate", "a-rather-long-arm", "-0.1821", "[-0.265,", "-0.0996]", "1.861", "936k", "1.2M"]
    )
    assert set(expected) <= set(words)


def test_room_is_used_before_anything_is_broken():
    wide = printed(numbers(), 100).splitlines()
    assert len(wide) == 3
    assert "-0.1821 [-0.265, -0.0996]" in wide[1]
    narrower = printed(numbers(), 74).splitlines()
    assert any(line.strip() == "[-0.265, -0.0996]" for line in narrower)


def test_what_does_not_fit_is_shown_in_blocks_or_entry_by_entry():
    blocks = printed(numbers(), 45).splitlines()
    assert sum(line.startswith("interpolate") for line in blocks) >= 2
    entries = printed(papers(), 45)
    assert "stacking\n  #: 2" in entries
    assert "\n  state: planned" in entries


def test_a_longer_word_than_the_room_is_all_there():
    grid = Grid("", "", header=False)
    grid.add_row("code", "github.com/" + "x" * 70)
    assert printed(grid, 40).count("x") == 70


def test_prose_is_wrapped_where_there_is_a_width_and_whole_in_a_pipe(monkeypatch):
    for columns, lines in ((None, 1), ("30", 3)):
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns:
            monkeypatch.setenv("COLUMNS", columns)
        file = io.StringIO()
        say(Console(file=file, width=30), "words " * 12)
        assert len(file.getvalue().strip().splitlines()) == lines
