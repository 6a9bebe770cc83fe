"""The command line as a user meets it: exit codes, one-line errors, JSON, and what is not loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from etude.cli import main
from etude.papers import catalogue

SAMPLE = Path(__file__).parent.parent / "sample_package"


@pytest.fixture(autouse=True)
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An evidence folder of the test's own, and a terminal of a known width."""
    from etude.cli import output

    folder = tmp_path / "evidence"
    folder.mkdir()
    monkeypatch.setenv("ETUDE_EVIDENCE", str(folder))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")
    output.console.cache_clear()
    return folder


def planned() -> str:
    return next(c.slug for c in reversed(catalogue.cards()) if c.state == "planned")


def ready() -> str:
    found = next((c.slug for c in catalogue.cards() if c.state == "ready"), None)
    if found is None:
        pytest.skip("no paper is ready")
    return found


def record(evidence: Path, slug: str, **more: object) -> None:
    claim = {"text": "It helps", "verdict": "holds", "estimate": 0.05, "interval": [0.03, 0.07], "d": 0.01, "primary": True}
    told = {
        "schema": 1,
        "slug": slug,
        "scale": "cpu",
        "seeds": [0, 1, 2],
        "verdict": "holds",
        "line": "holds at 0.9M; paper: 7B",
        "claims": [claim],
    }
    (evidence / "records").mkdir(exist_ok=True)
    (evidence / "records" / f"{slug}.json").write_text(json.dumps(told | more))


def registered(evidence: Path, slug: str) -> str:
    """Registers the paper's study as `etude run --register` does; returns the date that the file says."""
    from etude.evidence import registration
    from etude.evidence.places import Place

    registration.register(catalogue.load_study(slug), Place(evidence, evidence))
    told = registration.load(Place(evidence, evidence), slug)
    assert told is not None
    return told["date"]


def test_list_shows_ready_papers_and_counts_the_rest(capsys: pytest.CaptureFixture[str], evidence: Path) -> None:
    record(evidence, ready())
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "holds at 0.9M; paper: 7B" in out
    assert f"{sum(c.state == 'planned' for c in catalogue.cards())} more planned: etude list --planned" in out
    assert planned() not in out
    assert main(["list", "--planned"]) == 0
    out = capsys.readouterr().out
    assert all(c.slug in out for c in catalogue.cards())
    assert "more planned" not in out


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_list_shows_titles_in_the_terminals_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["list", "--planned"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    for title in (c.title for c in catalogue.cards()):
        assert any(title[:24] in line for line in lines), title


def test_list_json_gives_all_with_state(capsys: pytest.CaptureFixture[str], evidence: Path) -> None:
    record(evidence, ready())
    assert main(["list", "--json"]) == 0
    found = [c for c in json.loads(capsys.readouterr().out) if c["origin"] == "etude"]
    assert len(found) == 87
    assert {c["state"] for c in found} == {"ready", "planned"}
    assert [c["verdict"] for c in found if c["slug"] == ready()] == ["holds"]


def test_list_of_one_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--family", "growth", "--json"]) == 0
    assert {c["family"] for c in json.loads(capsys.readouterr().out)} == {"growth"}


def test_an_unreadable_record_does_not_break_the_list(capsys: pytest.CaptureFixture[str], evidence: Path) -> None:
    (evidence / "records").mkdir()
    (evidence / "records" / f"{ready()}.json").write_text("{")
    assert main(["list"]) == 0
    assert "unreadable record (no JSON)" in capsys.readouterr().out


def test_show_tells_claims_registration_and_attempts(capsys: pytest.CaptureFixture[str], evidence: Path) -> None:
    slug = ready()
    record(evidence, slug)
    date = registered(evidence, slug)
    (evidence / "attempts").mkdir()
    lines = [{"attempt": 1, "state": "started"}, {"attempt": 1, "state": "finished"}, {"attempt": 2, "state": "started"}]
    (evidence / "attempts" / f"{slug}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"attem')
    assert main(["show", slug]) == 0
    out = capsys.readouterr().out
    assert "It helps" in out
    assert "better by 0.05 [0.03, 0.07]" in " ".join(out.split())
    assert f"registered: {date}; attempts: 2, of which abandoned: 1" in out
    assert main(["show", slug, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["evidence"]["claims"][0]["interval"] == [0.03, 0.07]
    assert (told["attempts"], told["abandoned"], told["registered"]) == (2, 1, date)


def test_show_a_planned_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "skill-it", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["number"], told["evidence"], told["registered"]) == (31, None, None)
    assert main(["show", planned()]) == 0
    assert "Planned, not yet here." in capsys.readouterr().out


def test_show_deviations_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(SAMPLE / "my_method.py"), "--deviations"]) == 0
    assert "my-method: no departures from the paper are written down." in capsys.readouterr().out


def test_search(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "power", "law", "rehearsal", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["slug"] == "power-law-rehearsal"
    assert main(["search", "qqqq"]) == 0
    assert "No paper has these words" in capsys.readouterr().out


def test_cite_a_paper_and_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["cite", "gradient-noise"]) == 0
    assert "eprint        = {1511.06807}" in capsys.readouterr().out
    run = tmp_path / "run" / "quick"
    run.mkdir(parents=True)
    (run / "record.json").write_text(json.dumps({"slug": "stacking", "scale": "quick", "provenance": {"etude": "0.1.0", "torch": "2.13"}}))
    assert main(["cite", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "@misc{stacking," in out
    assert "note    = {stacking at scale quick, torch 2.13}" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["lst"], "error: etude, command: found 'lst', expected a known name; did you mean 'list'?"),
        (["list", "--jso"], "error: etude list, option: found '--jso', expected a known name; did you mean '--json'?"),
        (["list", "--family", "grow"], "error: etude list --family: found 'grow', expected a known name; did you mean 'growth'?"),
        (["show"], "error: etude show: found no PAPER, expected what `etude show --help` says"),
        (["show", "entigrap"], "error: paper: found 'entigrap', expected a known name; did you mean 'entigraph' (planned)?"),
        (["run", "no/such.py"], "error: no/such.py: found no such file, expected a Python file that defines STUDY"),
        (["run", "stacking", "--workers", "x"], "error: etude run --workers: found 'x', expected a whole number"),
        (["run", "stacking", "--workers=0"], "error: etude run --workers: found '0', expected a whole number >= 1"),
        (["search", "a", "--limit"], "error: etude search --limit: found no value, expected one"),
        (["cite", "a", "b"], "error: etude cite: found 'b', which is too much, expected what `etude cite --help` says"),
        (["cite", "no/run.json"], "error: no/run.json: found no such file, expected the record of a run"),
        (["train", "r.toml", "lr"], "error: etude train: found 'lr', expected changes of the form key=value"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", line + "\n")


def test_a_planned_paper_does_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", planned()]) == 2
    expected = f"error: paper {planned()}: found a paper that is planned, not yet here, expected one that `etude list` shows\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("error", "code", "said"), [(KeyboardInterrupt(), 130, "interrupted"), (OSError("disk full"), 1, "OSError: disk full")]
)
def test_other_failures(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise error

    monkeypatch.setattr(catalogue, "cards", fails)
    assert main(["list"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1
    assert main(["list", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in ("list", "search", "show", "cite", "run", "train", "demo", "evidence", "data", "init", "new-paper"):
        assert f" {name} " in out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("etude")


def test_a_file_runs_to_a_verdict_as_one_json_document(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(SAMPLE / "my_method.py"), "--scale", "smoke", "--workers", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["slug"], told["scale"], told["seeds"]) == ("my-method", "smoke", [0, 1, 2])
    assert len(told["arms"]["two"]["error"]) == 3
    assert told["claims"][0]["verdict"] == told["verdict"]
    assert main(["cite", "runs/my-method"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("@software{etude,")
    assert "my-method at scale smoke" in out


def test_seeds_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(SAMPLE / "my_method.py")
    assert main(["run", path, "--scale", "smoke", "--workers", "1", "--json", "--seeds", "100-101,105", "--out", "here"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == [100, 101, 105]
    assert (tmp_path / "here" / "smoke" / "record.json").is_file()


@pytest.mark.parametrize("seeds", ["0", "-1", "x", "3-1", "1,,2", "1.5"])
def test_bad_seeds(seeds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "stacking", f"--seeds={seeds}"]) == 2
    line = f"error: etude run --seeds: found '{seeds}', expected a whole number >= 1, or seeds such as 100-104 or 100,102\n"
    assert capsys.readouterr().err == line


def test_evidence_lists_checks_and_verifies(capsys: pytest.CaptureFixture[str], evidence: Path) -> None:
    assert main(["evidence"]) == 0
    assert "Nothing is on record yet." in capsys.readouterr().out
    assert main(["evidence", "--check", "--no-smoke", "--json"]) == 1
    assert {s["state"] for s in json.loads(capsys.readouterr().out)} <= {"unregistered", "broken"}
    assert main(["evidence", "--check", "--verify", "stacking"]) == 2
    assert main(["evidence", "--seed", "1"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: etude evidence: found --check and --verify, expected one of them",
        "error: etude evidence: found --arm or --seed, expected --verify with them",
    ]
    record(evidence, ready())
    assert main(["evidence", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["slug"] == ready()


def test_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    assert "sample" in capsys.readouterr().out
    assert main(["data", "list", "--json"]) == 0
    found = {c["name"]: c for c in json.loads(capsys.readouterr().out)}
    assert found["sample"]["here"] is True
    assert main(["data", "get", "sample", "--json"]) == 0
    out, err = capsys.readouterr()
    assert Path(json.loads(out)["paths"][0]).is_file()
    assert "here already" in err
    assert main(["data", "get", "samples"]) == 2
    assert "did you mean 'sample'?" in capsys.readouterr().err


def test_new_paper(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["new-paper", "my-idea", "--to", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / f"{n}") for n in ("my_idea.py", "my_idea.toml", "test_my_idea.py")]
    assert main(["new-paper", "my-idea", "--to", str(tmp_path)]) == 2


def etude(*arguments: str, code: str = "from etude.cli import main; main()") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True, check=False, env=dict(os.environ)
    )


@pytest.mark.parametrize(
    "arguments", [("list",), ("show", "stacking"), ("search", "noise"), ("cite", "stacking"), ("--help",)], ids=lambda a: a[0]
)
def test_the_catalogue_never_loads_torch(arguments: tuple[str, ...]) -> None:
    code = "import sys; from etude.cli import main; c = main(); print('torch' in sys.modules, 'numpy' in sys.modules, c, file=sys.stderr)"
    done = etude(*arguments, code=code)
    numpy = arguments[0] == "search"
    assert done.stderr == f"False {numpy} 0\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "import sys; from etude.cli import main; sys.exit(main())"
    command = [sys.executable, "-W", "error", "-c", code, "list", "--planned"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def spent(*arguments: str, code: str = "from etude.cli import main; main()") -> float:
    """Processor seconds of a whole process, the best of five: wall time would measure what else the machine is doing."""
    found = []
    for _ in range(5):
        before = os.times()
        assert etude(*arguments, code=code).returncode == 0
        after = os.times()
        found.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(found)


@pytest.mark.parametrize("argument", ["--help", "list"])
def test_the_first_doors_open_at_once(argument: str) -> None:
    """0.3 s, or on a machine that is slow or busy twice what its parser and tables need to be imported."""
    took = spent(argument)
    assert took < 0.3 or took < 2 * spent(code="import typer, rich.console, rich.table, pydantic.main, importlib.metadata")


def test_list_reads_heads_and_no_record(capsys: pytest.CaptureFixture[str], evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 87 records of half a megabyte nothing is read of them; a record without its head is read itself."""
    from dataclasses import replace

    all_ready = tuple(replace(c, ready=True) for c in catalogue.cards())
    monkeypatch.setattr(catalogue, "cards", lambda: all_ready)
    (evidence / "heads").mkdir()
    for c in all_ready:
        record(evidence, c.slug, arms="x" * 500_000)
        head = {
            "bytes": (evidence / "records" / f"{c.slug}.json").stat().st_size,
            "verdict": "holds",
            "line": "from the head",
            "claims": [],
        }
        (evidence / "heads" / f"{c.slug}.json").write_text(json.dumps(head))
    opened: list[Path] = []
    whole = Path.read_text

    def read(self: Path, *arguments: Any, **options: Any) -> str:
        opened.append(self)
        return whole(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", read)
    assert main(["list", "--json"]) == 0
    assert {c["line"] for c in json.loads(capsys.readouterr().out)} == {"from the head"}
    assert [p for p in opened if p.parent.name == "records"] == []
    assert sum(p.stat().st_size for p in opened) < 500_000
    other, gone = all_ready[0].slug, all_ready[1].slug
    record(evidence, other, line="another record", arms="y")
    (evidence / "heads" / f"{gone}.json").unlink()
    assert main(["list", "--json"]) == 0
    told = {c["slug"]: c["line"] for c in json.loads(capsys.readouterr().out)}
    assert (told[other], told[gone]) == ("another record", "holds at 0.9M; paper: 7B")


def test_a_record_with_an_endless_interval_is_shown(capsys: pytest.CaptureFixture[str], evidence: Path) -> None:
    claim = {"text": "It helps", "verdict": "inconclusive", "estimate": 0.05, "interval": ["-Infinity", 0.07], "d": 0.01, "primary": True}
    record(evidence, ready(), claims=[claim])
    assert main(["show", ready()]) == 0
    assert "better by 0.05 [-∞, 0.07]" in " ".join(capsys.readouterr().out.split())


def test_rejudge_by_name(capsys: pytest.CaptureFixture[str], evidence: Path) -> None:
    assert main(["evidence", "--rejudge", "all"]) == 0
    assert main(["evidence", "--rejudge", "stackin"]) == 2
    assert main(["evidence", "--rejudge", "stacking"]) == 2
    assert main(["evidence", "--rejudge", "stacking", "--check"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "did you mean 'stacking'?" in lines[0]
    assert "expected a record" in lines[1]
    assert lines[2] == "error: etude evidence: found --check and --rejudge, expected one of them"
