"""Arms that stand outside the headline: shown with metrics of their own, compared with none."""

import io
import math
import tomllib
from dataclasses import replace

import pytest
from rich.console import Console

from etude.engine.trainer import NonFinite
from etude.errors import BadInput
from etude.evidence import jobs, output, plots, records, registration, report
from etude.evidence.runner import run_study
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study


def loss(job: Job) -> Outcome:
    return Outcome(metrics={"loss": 1.0 + job.seed % 2}, ledger={}, parameters=5)


def slope(job: Job) -> Outcome:
    return Outcome(metrics={"slope": 2.0, "needed": 10.0, "other": 0.0}, ledger={})


def stopped(job: Job) -> Outcome:
    raise NonFinite(1, "loss")


def study_of(run=slope, **more) -> Study:
    arms = {"net": Arm(run=loss, about=""), "table": Arm(run=run, about="", **{"instead": ("slope", "needed"), **more})}
    scales = {name: Scale(settings={}, seeds=2, size="s") for name in ("quick", "cpu")}
    return Study(slug="one", arms=arms, scales=scales, claims=[], baseline="net", headline="loss", failure={"loss": 9.0})


def shown(record) -> str:
    report.show(record, Console(file=(file := io.StringIO()), width=160))
    return file.getvalue()


def run(study, tmp_path):
    return run_study(study, "quick", out=tmp_path / "out", quiet=True, workers=1)


def test_it_is_shown_with_its_own_metrics_and_without_a_comparison(tmp_path):
    record = run(study_of(), tmp_path)
    assert record["arms"]["table"]["instead"] == ["slope", "needed"]
    lines = [line.split() for line in shown(record).splitlines()]
    first, apart = (next(i for i, line in enumerate(lines) if line[:1] == [word]) for word in ("net", "Apart"))
    assert first < apart
    rows = [line for line in lines[apart:] if "slope" in line or "needed" in line]
    assert [row[:5] for row in rows] == [["table", "slope", "2", "±", "0"], ["needed", "10", "±", "0"]]
    assert not any(line[:1] == ["table"] for line in lines[:apart])
    assert "baseline" not in rows[0]
    assert not any("other" in line for line in lines)


def test_bars_of_the_headline_leave_it_out(tmp_path):
    record = run(study_of(), tmp_path)
    figure = plots.paint(Plot(title="Loss", kind="bars", metric="loss"), record)
    assert figure is not None
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["net"]


def test_records_without_the_entry_are_shown_as_ever(tmp_path):
    record = run(replace(study_of(), arms={"net": Arm(run=loss, about="")}), tmp_path)
    before = shown(record)
    for arm in record["arms"].values():
        del arm["instead"]
    assert shown(record) == before
    assert report.apart_table(record) is None


def test_one_that_diverged_has_only_its_own_failure(tmp_path):
    told = run(study_of(stopped, failure={"slope": 7.0}), tmp_path)["arms"]["table"]
    assert told["metrics"]["slope"] == [7.0, 7.0]
    assert set(told["metrics"]) == {"slope", "needed"}
    assert all(map(math.isnan, told["metrics"]["needed"]))
    assert records.strict_json(told)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"slope": 1.0}, "one, table, seed 0: found metrics slope, expected the metric 'needed' among them"),
        ({"slope": 1.0, "needed": 1.0, "loss": 1.0}, "one, table, seed 0: found metrics slope, needed, loss, expected no 'loss' in an arm"),
    ],
)
def test_an_outcome_that_says_something_else_is_refused(metrics, message, tmp_path):
    study = study_of(lambda job: Outcome(metrics=metrics, ledger={}))
    with pytest.raises(BadInput) as error:
        jobs.execute(study, output.task(tmp_path, "cpu", "table", 0, "c0ffee"), lambda fraction, metric: None)
    assert str(error.value).startswith(message)


def test_what_a_study_refuses():
    with pytest.raises(BadInput, match=r"one, arms.net.instead: found \('a',\), expected nothing: it is the baseline"):
        replace(study_of(), arms={"net": Arm(run=loss, about="", instead=("a",))})
    with pytest.raises(BadInput, match="one, arms.table.instead: found 'loss', expected metrics other than the headline"):
        study_of(instead=("loss",))
    with pytest.raises(BadInput, match="one, arms.table.instead: found 'slope', expected a tuple of metrics"):
        study_of(instead="slope")


def test_it_is_registered(tiny, place):
    study = tiny().study()
    told = registration.describe(study)
    assert all("instead" not in arm for arm in told["arms"].values())  # registrations of old hold as they are
    arms = {**study.arms, "ceiling": replace(study.arms["ceiling"], instead=("slope",))}
    path = registration.register(replace(study, arms=arms, failure={"loss": 9.0}), place)
    written = tomllib.loads(path.read_text())
    assert written["arms"]["ceiling"]["instead"] == ["slope"]
    assert "ceiling" not in written["failure"] or not written["failure"]["ceiling"]
    assert any(line.startswith("arms.ceiling.instead") for line in registration.differences(written, study))
