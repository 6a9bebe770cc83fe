"""The catalogue: cards, states, outside packages, search and citations."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from etude.errors import BadInput
from etude.papers import catalogue, outside
from etude.papers.card import APPLIES, ARENAS, SLOTS, Card, card_from, module_name
from etude.papers.citation import bibtex, bibtex_of_etude, escape
from etude.papers.search import search, words

SAMPLE = Path(__file__).parent.parent / "sample_package"


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    catalogue.cards.cache_clear()
    yield
    catalogue.cards.cache_clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sample package as an installer leaves it: its files, and metadata with the entry points of its pyproject.toml."""
    return install(tmp_path / "site", monkeypatch)


def install(site: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, str] | None = None, name: str = "sample-paper") -> Path:
    import shutil
    import tomllib

    project = tomllib.loads((SAMPLE / "pyproject.toml").read_text())["project"]
    if not site.exists():
        shutil.copytree(SAMPLE / "src", site, ignore=shutil.ignore_patterns("__pycache__"))
    info = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    declared = entries if entries is not None else project["entry-points"]["etude.papers"]
    (info / "entry_points.txt").write_text("[etude.papers]\n" + "".join(f"{k} = {v}\n" for k, v in declared.items()))
    monkeypatch.syspath_prepend(str(site))
    for module in [m for m in sys.modules if m.split(".")[0] == "sample_paper"]:
        monkeypatch.delitem(sys.modules, module)
    return site


def own() -> list[Card]:
    return [c for c in catalogue.cards() if c.origin == "etude"]


def test_there_are_87_papers_numbered_without_gaps() -> None:
    cards = own()
    assert [c.number for c in cards] == list(range(1, 88))
    assert len({c.slug for c in cards}) == len({c.arxiv for c in cards}) == len({c.claim for c in cards}) == 87


def test_families_have_their_sizes() -> None:
    sizes = {family: sum(c.family == family for c in own()) for family in catalogue.FAMILIES}
    assert list(sizes.values()) == [17, 16, 11, 11, 7, 6, 6, 6, 5, 2]


@pytest.mark.parametrize("card", own(), ids=lambda c: c.slug)
def test_card_is_complete(card: Card) -> None:
    assert re.fullmatch(r"\d{4}\.\d{4,5}", card.arxiv)
    submitted = 2000 + int(card.arxiv[:2])
    assert card.year == submitted or card.slug == "learning-curves"  # printed in 2017, put on arXiv later
    assert 60 <= len(card.claim) <= 400
    assert card.claim.endswith(".")
    assert "from memory" not in card.claim
    assert set(card.slots) <= set(SLOTS)
    assert "evidence" in card.slots
    assert set(card.arenas) <= set(ARENAS)
    assert card.applies in APPLIES
    assert 4 <= len(card.tags) == len(set(card.tags))
    assert card.authors_code == "" or re.fullmatch(r"[\w.-]+/[\w.-]+", card.authors_code)
    assert card.module == f"etude.papers.{card.family}.{module_name(card.slug)}"


def test_every_arena_has_members() -> None:
    for arena in ARENAS:
        assert sum(arena in c.arenas for c in own()) >= 5


def test_ready_is_what_has_a_module() -> None:
    for c in own():
        base = Path(catalogue.__file__).parent / c.family / module_name(c.slug)
        assert c.ready == (base.with_suffix(".py").exists() or (base / "__init__.py").exists())


@pytest.mark.parametrize(
    ("slug", "name"),
    [("skill-it", "skill_it"), ("qwen2.5-math", "qwen2_dot_5_math"), ("3d-net", "three_d_net"), ("3d.net", "three_d_dot_net")],
)
def test_module_names(slug: str, name: str) -> None:
    assert module_name(slug) == name
    assert name.isidentifier()


def test_a_paper_is_found_by_slug_number_and_module_name() -> None:
    assert catalogue.card("24") == catalogue.card("cyclical_curriculum") == catalogue.card("cyclical-curriculum")
    assert catalogue.card("qwen2.5-math").number == 82


def test_unknown_paper_proposes_the_nearest() -> None:
    with pytest.raises(BadInput, match="paper: found 'stackin', expected a known name; did you mean 'stacking'?"):
        catalogue.card("stackin")
    with pytest.raises(BadInput, match="expected one of "):
        catalogue.card("zzzz")


def test_what_can_be_run_is_proposed_first_to_who_wants_to_run() -> None:
    ready, planned = ([c.slug for c in catalogue.cards() if c.state == state] for state in ("ready", "planned"))
    with pytest.raises(BadInput, match=f"did you mean '{planned[0]}' .planned..$"):
        catalogue.card(planned[0][:-1], to_run=True)
    with pytest.raises(BadInput, match=f"^paper: found 'zzzz', expected one of {', '.join(ready[:3])}") as unknown:
        catalogue.load_study("zzzz")
    assert not any(slug in str(unknown.value) for slug in planned)


def test_planned_paper_says_so() -> None:
    planned = next(c for c in own() if not c.ready)
    assert not catalogue.ready(planned.slug)
    with pytest.raises(BadInput) as error:
        catalogue.load_study(planned.slug)
    assert str(error.value) == f"paper {planned.slug}: found a paper that is planned, not yet here, expected one that `etude list` shows"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"slug": "a"}, "here: found no title, expected a card with slug and title"),
        ({"slug": "a", "title": "A", "yaer": 1}, "here, key: found 'yaer', expected a known name; did you mean 'year'?"),
        ({"slug": "a", "title": "A", "year": "2024"}, "here, year: found '2024', expected a whole number"),
        ({"slug": "a", "title": "A", "year": True}, "here, year: found True, expected a whole number"),
        ({"slug": "a", "title": "A", "slots": "model"}, "here, slots: found 'model', expected a list of strings"),
        ({"slug": "a", "title": "A", "slots": ["modle"]}, "here, slots: found 'modle', expected a known name; did you mean 'model'?"),
        ({"slug": "a", "title": "A", "applies": "recip"}, "here, applies: found 'recip', expected a known name; did you mean 'recipe'?"),
        ({"slug": "a", "title": 3}, "here, title: found 3, expected a string"),
    ],
)
def test_bad_cards_are_refused(values: dict, message: str) -> None:
    with pytest.raises(BadInput) as error:
        card_from(values, "here")
    assert str(error.value) == message


def test_as_dict_is_plain() -> None:
    values = catalogue.card("skill-it").as_dict()
    assert values["slots"] == ["sampler", "data", "evidence"]
    assert values["state"] in ("ready", "planned")
    assert all(isinstance(v, str | int | list | bool) for v in values.values())


# Outside packages and files.


def test_installed_package_joins_without_being_imported(installed: Path) -> None:
    found = catalogue.card("sample-paper")
    assert (found.state, found.origin, found.module) == ("ready", "sample-paper", "sample_paper.shrinking_steps")
    assert found.arenas == ("curricula",)
    assert "sample_paper" not in sys.modules
    assert catalogue.cards()[-1] == found
    assert search("zebra", catalogue.cards())[0][0] == found


def test_installed_package_is_loaded_when_asked(installed: Path) -> None:
    study = catalogue.load_study("sample-paper")
    assert study.slug == "sample-paper"
    assert list(study.arms) == ["fixed", "shrinking"]
    assert list(catalogue.load_methods("sample-paper")) == ["ShrinkingSteps"]


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ({"gone": "no_such_package.paper"}, "module no_such_package.paper, which is not installed"),
        ({"gone": "sample_paper.no_such_module"}, "module sample_paper.no_such_module, which is not installed"),
        ({"gone": "sample_paper.shrinking_steps"}, "found 'sample-paper', expected 'gone'"),
        ({"stacking": "sample_paper.shrinking_steps"}, "found 'stacking', expected a slug that no other paper has"),
    ],
)
def test_package_out_of_order_is_shown_and_refused(
    entries: dict[str, str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, entries, name="broken")
    broken = [c for c in catalogue.cards() if c.state == "broken"]
    assert len(broken) == 1
    assert problem in broken[0].problem
    assert catalogue.card("stacking").origin == "etude"
    with pytest.raises(BadInput, match="out of order"):
        catalogue.load_study(broken[0].slug)


def test_single_file_is_a_paper() -> None:
    path = str(SAMPLE / "my_method.py")
    found = catalogue.card(path)
    assert (found.slug, found.state, found.origin) == ("my-method", "ready", "file")
    study = catalogue.load_study(path)
    assert study is catalogue.load_study(path)
    assert list(catalogue.load_methods(path)) == ["MyMethod"]


def test_two_files_of_one_name_stay_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        text = (SAMPLE / "my_method.py").read_text().replace('"my-method"', f'"{folder}"')
        (tmp_path / folder / "method.py").write_text(text)
    assert [catalogue.load_study(str(tmp_path / x / "method.py")).slug for x in "ab"] == ["a", "b"]


IMPORTABLE = "a module that can be imported"
JSON = "enclosed in double quotes: line 1 column 2 (char 1)), expected " + IMPORTABLE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "method.py: found no such file, expected a Python file that defines STUDY"),
        ("x = 1\n", "method.py: found no STUDY, expected STUDY, an etude.evidence.study.Study"),
        ("STUDY = 3\n", "method.py: found a STUDY that is 3, expected STUDY, an etude.evidence.study.Study"),
        ("def f(:\n", "method.py:1: found no valid Python (invalid syntax), expected a Python file that defines STUDY"),
        ("x = 1\n1 / 0\n", "method.py:2: found an error on import (ZeroDivisionError: division by zero), expected " + IMPORTABLE),
        ("import json\njson.loads('{')\n", "method.py:2: found an error on import (JSONDecodeError: Expecting property name " + JSON),
        (
            "import no_such\n",
            "method.py:1: found an error on import (ModuleNotFoundError: No module named 'no_such'), expected " + IMPORTABLE,
        ),
        ("exit(3)\n", "method.py:1: found an error on import (SystemExit: 3), expected " + IMPORTABLE),
        ("CARD = dict(slug='a')\n", "method.py:1: found a computed CARD, expected a dict of plain strings, numbers and lists"),
        ("CARD = {'slug': 'a', 'titel': 'A'}\n", "method.py, key: found 'titel', expected a known name; did you mean 'title'?"),
    ],
)
def test_bad_files_are_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "method.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput) as error:
        catalogue.load_study(str(path))
    assert str(error.value).removeprefix(f"{tmp_path}/") == message


@pytest.mark.parametrize(("text", "line"), [("def f():\n    return 1 / 0\nf()\n", 2), ("\n\ndef f(:\n", 3)])
def test_an_error_in_a_file_beside_the_users_is_named_there(text: str, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper_of_test.py").write_text(text)
    (tmp_path / "method.py").write_text("import helper_of_test\n")
    with pytest.raises(BadInput, match=rf"/helper_of_test.py:{line}: found an error on import \("):
        catalogue.load_study(str(tmp_path / "method.py"))


def test_a_recipe_of_the_same_name_is_no_card_and_no_file_is_named_but_the_one_given(tmp_path: Path) -> None:
    (tmp_path / "method.toml").write_text("schema = 1\n")
    for name, message in (
        ("method.txt", "method.txt: found a file that does not end in .py, expected a Python file that defines STUDY"),
        ("method.toml", "method.toml: found a file that does not end in .py"),
        ("method.py", "method.py: found no STUDY"),
    ):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_text("x = 1\n")
        with pytest.raises(BadInput, match=f"/{message}"):
            catalogue.load_study(str(tmp_path / name))
    (tmp_path / "method.toml").write_text("titel = 'A'\n")
    with pytest.raises(BadInput, match="/method.toml, key: found 'titel'"):
        catalogue.card(str(tmp_path / "method.py"))


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "method.py").write_bytes(b"# caf\xe9\n")
    with pytest.raises(BadInput, match=r"found bytes that are not UTF-8 at 5, expected a Python file"):
        catalogue.card(str(tmp_path / "method.py"))


def test_study_of_another_slug_is_refused(tmp_path: Path) -> None:
    text = (SAMPLE / "my_method.py").read_text().replace('slug="my-method"', 'slug="other"')
    (tmp_path / "method.py").write_text(text)
    with pytest.raises(BadInput, match=r"STUDY.slug: found 'other', expected 'my-method', as on its card"):
        catalogue.load_study(str(tmp_path / "method.py"))


def test_card_beside_a_package(tmp_path: Path) -> None:
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "__init__.py").write_text("")
    (tmp_path / "paper.toml").write_text('slug = "paper"\ntitle = "P"\n')
    assert outside.written_card(tmp_path / "paper" / "__init__.py") == {"slug": "paper", "title": "P"}


# Search and citations.


@pytest.mark.parametrize(
    ("query", "slug"),
    [
        ("stacking layers growth", "stacking"),
        ("easy-first curriculum cycles", "cyclical-curriculum"),
        ("hallucinations diffusion", "mode-interpolation"),
        ("router token recursion depth", "mixture-of-recursions"),
        ("noise added to gradients", "gradient-noise"),
        ("sudoku message", "recurrent-relational-networks"),
        ("2405.15319", "stacking"),
    ],
)
def test_search_finds(query: str, slug: str) -> None:
    found = search(query, own())
    assert found[0][0].slug == slug
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert len(found) <= 10


def test_search_by_the_beginning_of_a_word() -> None:
    assert {c.slug for c, _ in search("hypernet", own())} == {"hypernetwork-continual"}


def test_search_without_words_or_hits() -> None:
    with pytest.raises(BadInput, match="search: found '!', expected at least one word"):
        search("!", own())
    assert search("qqqq", own()) == []
    assert search("word", []) == []


def test_words_drop_plurals() -> None:
    assert words("Losses of TOKENS, less bias") == ["losse", "of", "token", "less", "bia"]


def test_bibtex() -> None:
    card = Card(slug="a-b", title="50% of {A} & B", year=2024, arxiv="2401.00001", authors=("Ann Ek", "Bo Li"))
    assert bibtex(card) == (
        "@misc{a-b,\n"
        "  title         = {{50\\% of A \\& B}},\n"
        "  author        = {Ann Ek and Bo Li},\n"
        "  year          = {2024},\n"
        "  eprint        = {2401.00001},\n"
        "  archivePrefix = {arXiv},\n"
        "  url           = {https://arxiv.org/abs/2401.00001}\n"
        "}"
    )
    assert "author " not in bibtex(Card(slug="a", title="A"))
    assert "Mayee F. Chen and Nicholas Roberts" in bibtex(catalogue.card("skill-it"))
    assert escape("a_b\\") == "a\\_b\\textbackslash{}"
    assert "version = {0.1.0}" in bibtex_of_etude("0.1.0")
