import io

import pytest
from rich.console import Console

from etude.errors import BadInput
from etude.evidence import places, plots, records, report
from etude.evidence.places import Place
from etude.evidence.runner import run_study
from etude.evidence.study import Plot


@pytest.fixture
def record(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(plots, "draw", lambda plot, record: b"")
        return run_study(tiny(), out=tmp_path / "out", place=Place(tmp_path), quiet=True, workers=1)


def text_of(show, *arguments):
    file = io.StringIO()
    show(*arguments, Console(file=file, width=160))
    return file.getvalue()


def test_the_table_says_effect_interval_and_cost(record):
    record["arms"]["plain"]["metrics"]["loss"] = [1.0, 2.0, 3.0]
    record["arms"]["fast"]["metrics"]["loss"] = [0.5, 1.4, 2.6]
    lines = text_of(report.show, record).splitlines()
    plain = next(line for line in lines if line.startswith("plain")).split()
    assert plain[:5] == ["plain", "2", "±", "2.5", "baseline"]  # t = 4.303, sd 1 over sqrt(3): 2.48
    assert plain[5:7] == ["1k", "100"]
    fast = next(line for line in lines if line.startswith("fast"))
    assert "better by 0.5 [0.252, 0.748]" in fast  # differences -0.5, -0.6, -0.4
    record["lower_is_better"] = False
    fast = next(line for line in text_of(report.show, record).splitlines() if line.startswith("fast"))
    assert "worse by 0.5 [0.252, 0.748]" in fast
    assert next(line for line in lines if line.startswith("ceiling (reference)"))


def test_verdicts_of_all_records_failures_included(record, tmp_path):
    place = Place(tmp_path / "evidence")
    records.write(place.record("tiny"), record)
    records.write(place.record("bad"), {**record, "slug": "bad", "verdict": "reversed", "paper_size": ""})
    place.record("torn").write_text("{")
    lines = report.verdict_table(place, {"bad": "A | B"}).splitlines()
    assert len(lines) == 4
    effect = "better by 0.267 [0.267, 0.267], d = 0.05, n = 3"
    assert lines[2] == f"| A \\| B | fast falls faster | **reversed** | {effect} | 100 tokens, 3 seeds | – |"
    assert lines[3].endswith("| 7B / 300B tokens, not tested here |")


def test_a_claim_and_the_table_say_the_same_of_the_same_numbers(record):
    lines = text_of(report.show, record).splitlines()
    row = next(line for line in lines if line.startswith("fast"))
    claim = next(line for line in lines if line.startswith("primary"))
    assert "better by 0.267 [0.267, 0.267]" in row
    assert "(better by 0.267, 95 % interval [0.267, 0.267], d 0.05, n 3)" in claim
    matched = [line for line in lines if line.startswith("fast") and "FLOPs" in line]
    assert "loss better by 0.267 [0.267, 0.267]" in matched[0]


def test_a_smoke_run_says_that_it_shows_nothing(record):
    record = {**record, "scale": "smoke"}
    record |= records.judged(record, [])
    assert record["line"].startswith("no claims at 100 tokens (smoke: shows that everything runs, nothing about the method); paper: 7B")


def test_figures_are_the_same_for_the_same_record(record):
    plot = Plot(title="Loss", kind="curve", curve="loss / flops")
    first, again = plots.draw(plot, record), plots.draw(plot, record)
    assert first is not None
    assert first == again
    assert first.startswith(b"\x89PNG")
    assert b"Software" not in first
    record["arms"]["fast"]["curves"]["loss / flops"][0][1][-1] = 1.5
    assert plots.draw(plot, record) != first


def test_what_was_not_measured_is_not_drawn(record):
    assert plots.draw(Plot(title="A", kind="curve", curve="accuracy / flops"), record) is None
    assert plots.draw(Plot(title="B", kind="bars", metric="accuracy"), record) is None


def test_a_custom_figure_gets_the_axes_and_the_record(record):
    seen = []

    def draw(axes, told):
        seen.append(told["arrays"]["plain"]["matrix"])
        axes.plot([0, 1], [0, 1])

    assert plots.draw(Plot(title="C", kind="custom", draw=draw), record)
    assert len(seen[0]) == 2
    with pytest.raises(BadInput, match="plot 'D': found no draw, expected draw=function of"):
        plots.draw(Plot(title="D", kind="custom"), record)
    with pytest.raises(BadInput, match="plot 'E', kind: found 'curv', expected a known name; did you mean 'curve'"):
        plots.draw(Plot(title="E", kind="curv"), record)


def test_where_evidence_lies(tmp_path, monkeypatch, git):
    monkeypatch.setenv("ETUDE_EVIDENCE", str(tmp_path / "none"))
    with pytest.raises(BadInput, match="ETUDE_EVIDENCE: found .*none, expected an existing folder"):
        places.find()
    (tmp_path / "checkout" / "proofs").mkdir()
    monkeypatch.setenv("ETUDE_EVIDENCE", str(tmp_path / "checkout" / "proofs"))
    assert places.find() == Place(tmp_path / "checkout" / "proofs", tmp_path / "checkout")
    monkeypatch.delenv("ETUDE_EVIDENCE")
    found = places.find()
    assert found.root.name in ("evidence", "_evidence")


def test_the_table_goes_between_its_marks_and_nothing_else_changes(tmp_path):
    from etude.evidence.report import put_table

    file = tmp_path / "R.md"
    file.write_text("before\n<!-- verdicts -->\nold\n<!-- /verdicts -->\nafter\n")
    put_table(file, "| new |\n")
    put_table(file, "| new |\n")
    assert file.read_text() == "before\n<!-- verdicts -->\n| new |\n<!-- /verdicts -->\nafter\n"
    file.write_text("no marks")
    with pytest.raises(BadInput, match="no marks for the table"):
        put_table(file, "| new |\n")
    assert file.read_text() == "no marks"


def test_tokens_that_were_not_trained_on_stand_apart():
    from etude.evidence.report import _other_tokens

    read = {"train": {"tokens": 100.0, "flops": 1.0}, "prepare": {"tokens": 60.0}}
    assert _other_tokens({"ledger": [read, {"train": {"tokens": 100.0}}]}) == 30.0
