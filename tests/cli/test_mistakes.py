"""Mistakes on the command line, each one line with exit code 2, alone; and pages on narrow terminals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from etude.cli import main, output
from etude.papers import catalogue

SAMPLE = Path(__file__).parent.parent / "sample_package"
SHIPPED = Path(__file__).parents[2] / "evidence"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")
    output.console.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["demo", ""], "etude demo: found an empty argument, expected what `etude demo --help` says"),
        (["demo", "  "], "etude demo: found an empty argument, expected what `etude demo --help` says"),
        (["demo", "--out", ""], "etude demo: found an empty argument after --out, expected what `etude demo --help` says"),
        (["run", "stacking", "--arms", ""], "etude run: found an empty argument after --arms, expected what `etude run --help` says"),
        (["run", "stacking", "--arms="], "etude run --arms: found an empty value, expected a value, or none of the option"),
        (["run", "stacking", "--arms", "stack,"], "etude run --arms: found 'stack,', expected names with one comma between two"),
        (["run", "stacking", "--arms", ","], "etude run --arms: found ',', expected names with one comma between two"),
        (["run", "stacking", "--arms", "stakc"], "stacking, arms: found 'stakc', expected a known name; did you mean 'stack'?"),
        (["train", "r.toml", ""], "etude train: found an empty argument, expected what `etude train --help` says"),
        (["train", ""], "etude train: found an empty argument, expected what `etude train --help` says"),
        (["cite", ""], "etude cite: found an empty argument, expected what `etude cite --help` says"),
        (["show", ""], "etude show: found an empty argument, expected what `etude show --help` says"),
        (["data", "get", ""], "etude data get: found an empty argument, expected what `etude data get --help` says"),
        (["evidence", "--verify="], "etude evidence --verify: found an empty value, expected a value, or none of the option"),
        (["run", "stacking", "--seeds", "0-99999999999"], "etude run --seeds: found '0-99999999999', expected at most 10,000 seeds"),
        (["run", "stacking", "--seeds", "99999999999", "--plan"], "etude run --seeds: found '99999999999', expected at most 10,000 seeds"),
        (["run", "stacking", "--seeds", "1,5-10004"], "etude run --seeds: found '1,5-10004', expected at most 10,000 seeds"),
        (["cite", "runs/none"], "runs/none: found no such file or folder, expected a paper's slug, or the folder or record of a run"),
    ],
)
def test_one_line_and_nothing_else(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_seeds_from_python_are_bounded_too() -> None:
    from etude.errors import BadInput
    from etude.evidence.runner import run_study

    for seeds in (10**12, range(10**9), 10**30):
        with pytest.raises(BadInput, match="expected at most 10,000"):
            run_study("stacking", "smoke", seeds)
    for wrong, message in (
        ({"seeds": "5"}, "run_study, seeds: found '5'"),
        ({"arms": "stack"}, "run_study, arms: found 'stack', expected a list"),
        ({"workers": 1.5}, "run_study, workers: found 1.5, expected a whole number"),
        ({"sale": "smoke"}, "run_study, sale: found an unknown key, expected a known one; did you mean 'scale'?"),
        ({"out": " "}, "stacking, out: found an empty text"),
    ):
        with pytest.raises(BadInput, match=message):
            run_study("stacking", **({"scale": "smoke"} | wrong))  # type: ignore[arg-type]


def test_data_that_is_not_here_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evidence").mkdir()
    monkeypatch.setenv("ETUDE_EVIDENCE", str(tmp_path / "evidence"))
    assert main(["run", "stacking", "--scale", "cpu", "--out", "out"]) == 2
    get = "`etude data get kjv && etude data get code` first"
    line = f"error: stacking at cpu scale: found the corpus 'kjv' not on this machine, expected {get}\n"
    assert capsys.readouterr() == ("", line)
    assert not (tmp_path / "out").exists()


def test_what_a_run_refuses_at_once_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No title before it; and the folder of a study that never ran is free for another."""
    text = (SAMPLE / "my_method.py").read_text()
    refused = tmp_path / "refused.py"
    wrong = text.replace("        readings =", "        raise BadInput('here', 'this', 'that')\n        readings =", 1)
    refused.write_text(
        wrong.replace("from dataclasses import dataclass\n", "from dataclasses import dataclass\nfrom etude.errors import BadInput\n")
    )
    for workers in ("1", "2"):
        assert main(["run", str(refused), "--scale", "smoke", "--workers", workers, "--out", "out"]) == 2
        assert capsys.readouterr().err == "error: here: found this, expected that\n"
    assert main(["run", str(SAMPLE / "my_method.py"), "--scale", "smoke", "--workers", "1", "--out", "out", "--json"]) == 0
    other = tmp_path / "another.py"
    other.write_text(text.replace("my-method", "another"))
    assert main(["run", str(other), "--scale", "smoke", "--out", "out"]) == 2
    assert "out: found runs of the study 'my-method'" in capsys.readouterr().err


@pytest.mark.parametrize("width", [60, 80])
def test_pages_on_a_narrow_terminal(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("ETUDE_EVIDENCE", str(SHIPPED))
    ready = [c.slug for c in catalogue.cards() if c.state == "ready" and c.origin == "etude"]
    every = [c.slug for c in catalogue.cards() if c.origin == "etude"]
    for arguments, slugs in (
        (["list"], ready),
        (["list", "--planned"], every),
        (["search", "recursive", "--limit", "20"], ["mixture-of-recursions", "relaxed-recursive-transformers"]),
        (["evidence"], [slug for slug in ready if (SHIPPED / "records" / f"{slug}.json").exists()]),
        (["evidence", "--check", "--no-smoke"], ready),
        (["data", "list"], ["shakespeare", "sample+code"]),
        (["show", "stacking"], ["stacking"]),
    ):
        output.console.cache_clear()
        main(arguments)
        text = capsys.readouterr().out
        assert set(slugs) <= set(text.split()), arguments
        titles = {c.title[:24] for c in catalogue.cards()} if arguments[0] == "list" else set()  # which alone are cut
        assert not [line for line in text.splitlines() if "…" in line and line.strip()[:24] not in titles]
        # A path, and a line of Python to be copied, stay whole.
        assert max(len(line.rstrip()) for line in text.splitlines() if not line.startswith(("plot: ", "etude."))) <= width


@pytest.mark.parametrize("width", [60, 80])
def test_deviations_keep_their_words(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for slug in ("stacking", "mode-interpolation", "mixture-of-recursions", "cyclical-curriculum", "gradient-noise"):
        output.console.cache_clear()
        assert main(["show", slug, "--deviations"]) == 0
        shown = set(capsys.readouterr().out.split())
        words = {word for row in catalogue.load_study(slug).deviations for cell in row for word in cell.split()}
        assert {w for w in words if len(w) <= width - 20} <= shown


def test_a_record_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from etude.evidence import records, report

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("ETUDE_EVIDENCE", str(SHIPPED))
    record = records.read(SHIPPED / "records" / "stacking.json")
    report.show(record)
    text = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 60
    assert set(record["arms"]) <= set(text.split())


def test_a_plan_on_a_narrow_terminal_and_no_more_workers_than_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from etude.evidence.plan import Cost, Plan
    from etude.evidence.study import Study

    asked: list[int] = []

    def make(study: Study, reference: object, tasks: list, workers: int, *rest: object, **more: object) -> Plan:
        asked.append(workers)
        costs = {arm: Cost(seconds=75.0, memory=2**29, disk=2**20, source="the record of 2026-11-24") for arm in study.arms}
        return Plan(
            slug=study.slug, scale="cpu", size=study.scales["cpu"].size, arms=costs, seeds=[0, 1, 2], workers=workers, runs=len(tasks),
            kept=0, seconds=100.0, memory=2**30, disk=2**20, disk_free=2**33, detectable=0.1, detectable_unit="in the claim's unit",
            budgets={arm: {"flops": 5e12, "train.samples": 22_000} for arm in study.arms},
        )  # fmt: skip

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("etude.evidence.plan.make", make)
    assert main(["run", "stacking", "--scale", "cpu", "--plan", "--workers", "99999999999"]) == 0
    text = capsys.readouterr().out
    assert asked == [15]
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 60
    assert {"scratch", "interpolate", "22k"} <= set(text.split())


def test_cite_names_what_a_run_stands_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/recipe.toml").write_text(
        'schema = 1\n[data]\ncorpus = "kjv+code"\n[model]\nuse = "mixture-of-recursions"\n'
        '[[methods]]\nuse = "stacking:Grow"\n[[methods]]\nuse = "gradient-noise"\neta = 0.1\n[[methods]]\nuse = "./mine.py"\n'
    )
    assert main(["cite", "run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(r["kind"], r["key"]) for r in told] == [
        ("paper", "stacking"), ("paper", "gradient-noise"), ("paper", "mixture-of-recursions"), ("software", "etude"),
        ("data", "data-kjv"), ("data", "data-code"),
    ]  # fmt: skip
    assert told[-1]["licence"] == "BSD-3-Clause"
    assert "package sympy from the pip registry; licence: BSD-3-Clause" in told[-1]["bibtex"]
    assert "Wenyu Du and Tongxu Luo" in told[0]["bibtex"]
    (tmp_path / "demo").mkdir()
    record = {"slug": "demo", "scale": "quick", "arms": {"baseline": {}, "stacking": {}, "cyclical-curriculum": {}}, "provenance": {}}
    (tmp_path / "demo" / "record.json").write_text(json.dumps(record))
    assert main(["cite", "demo"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("@")] == [
        "@misc{stacking,", "@misc{cyclical-curriculum,", "@software{etude,"
    ]  # fmt: skip
    (tmp_path / "python").mkdir()
    mark = {"identity": {}, "methods": ["etude.papers.objective.gradient_noise.noise.GradientNoise", "mine.Own"]}
    (tmp_path / "python" / "run.json").write_text(json.dumps(mark))
    assert main(["cite", "python", "--json"]) == 0
    assert [r["key"] for r in json.loads(capsys.readouterr().out)] == ["gradient-noise", "etude"]


def test_authors_are_listed_only_with_where_they_were_looked_up() -> None:
    for c in catalogue.cards():
        if c.origin == "etude":
            assert bool(c.authors) == bool(c.authors_source), c.slug
            assert len(set(c.authors)) == len(c.authors), c.slug
            assert all(name == name.strip() != "" and "," not in name and " and " not in name for name in c.authors)


def test_a_paper_without_authors_is_shown_and_cited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nameless.py"
    path.write_text('CARD = {"slug": "nameless", "title": "No Names", "year": 2024, "arxiv": "2401.00001"}\n')
    assert main(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert "No Names" in out
    assert not any(line.lstrip().startswith("authors") for line in out.splitlines())
    assert main(["cite", str(path)]) == 0
    out = capsys.readouterr().out
    assert "author " not in out
    assert all(word in out for word in ("{{No Names}}", "{2024}", "https://arxiv.org/abs/2401.00001"))


def test_the_package_lists_what_it_loads_when_asked() -> None:
    code = "import sys, etude; names = dir(etude); print(set(etude.__all__) <= set(names), 'torch' in sys.modules, '_HOMES' in names)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False False\n"


def test_data_list_does_without_torch() -> None:
    code = "import sys; from etude.cli import main; c = main(['data', 'list', '--json']); print('torch' in sys.modules, c, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "False 0\n"
    assert json.loads(done.stdout)
