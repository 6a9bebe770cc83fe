import json
import math

import pytest

from etude.errors import BadInput
from etude.evidence import fingerprint, records, registration, verify
from etude.evidence.runner import run_study

pytestmark = pytest.mark.usefixtures("stub_figures")


@pytest.fixture
def recorded(tiny, place, git, tmp_path):
    """The tiny study, registered, committed, run and recorded. Returns its place."""
    registration.register(tiny().study(), place)
    git("add", "-A")
    git("commit", "-qm", "registered")
    run_study(tiny(), "cpu", out=tmp_path / "out", place=place, quiet=True, workers=1)
    return place


def standing(study, place, **options):
    return verify.check([study.study()], place, **options)[0]


def test_what_is_not_there_yet(tiny, place):
    assert standing(tiny(), place).state == "unregistered"
    registration.register(tiny().study(), place)
    assert standing(tiny(), place).state == "unrecorded"


def test_a_fresh_record_is_current_and_repeats_to_the_bit(tiny, recorded):
    found = standing(tiny(), recorded)
    assert (found.state, found.findings, found.verdict, found.attempts, found.abandoned) == ("current", [], "holds", 1, 0)
    assert found.sound
    told = verify.verify(tiny(), recorded, quiet=True)
    assert (told.agrees, told.verdicts_agree, told.same_machine, told.largest) == (True, True, True, 0.0)
    assert told.lines == ["every verdict follows from the raw values", f"rerun of {told.rerun}: equal bits"]
    assert verify.verify(tiny(), recorded, arm="fast", seed=2, quiet=True).rerun == "fast, seed 2"


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ([("0.001 * float(m", "0.0011 * float(m")], "the paper's code has changed"),
        ([("budget_tokens=1000", "budget_tokens=1001")], "the settings have changed"),
        ([("d=0.05", "d=0.04")], "registration: claims[0].d: 0.04, registered 0.05"),
    ],
)
def test_stale(changes, finding, tiny, recorded):
    found = standing(tiny(*changes), recorded, smoke=False)
    assert found.state == "stale"
    assert finding in found.findings
    assert not found.sound


def test_comments_and_docstrings_make_nothing_stale(tiny, recorded):
    changes = [("NPY002  from", "NPY002  drawn from"), ('"""A loss that', '"""The loss'), ("\n    steps = 20", "\n\n    steps = 20")]
    assert standing(tiny(*changes), recorded).state == "current"


def test_a_moved_smoke_fingerprint_is_stale(tiny, recorded):
    path = recorded.record("tiny")
    record = records.read(path)
    record["provenance"]["smoke"]["fast"]["loss"] += 2e-4
    records.write(path, record)
    assert standing(tiny(), recorded, smoke=False).state == "current"
    found = standing(tiny(), recorded)
    assert found.state == "stale"
    assert found.findings == ["the smoke fingerprint has moved by 2.0e-04 (fast.loss)"]


def test_other_floors_only_make_it_older(tiny, recorded, monkeypatch):
    monkeypatch.setattr(fingerprint, "floors_code", lambda: "other")
    found = standing(tiny(), recorded)
    assert (found.state, found.findings) == ("older", ["the floors below have changed since"])
    assert found.sound


def test_a_verdict_that_does_not_follow_is_broken(tiny, recorded):
    path = recorded.record("tiny")
    record = records.read(path)
    record["arms"]["fast"]["metrics"]["loss"][1] = 0.9
    records.write(path, record)
    found = standing(tiny(), recorded, smoke=False)
    assert found.state == "broken"
    assert "verdict 'holds' on record, 'inconclusive' from its values" in found.findings
    told = verify.verify(tiny(), recorded, arm="fast", seed=1, quiet=True)
    assert not told.agrees
    assert not told.verdicts_agree
    assert "metrics.loss differs by 5.0e-01; same instruction set and libraries, equal bits expected" in told.lines[-1]
    path.write_text(path.read_text()[:100])
    assert standing(tiny(), recorded).state == "broken"
    with pytest.raises(BadInput, match="found unreadable content"):
        verify.verify(tiny(), recorded)


def test_another_machine_may_differ_a_little(tiny, recorded):
    path = recorded.record("tiny")
    record = records.read(path)
    record["provenance"]["instruction_set"] = "sparc VIS3"
    record["arms"]["plain"]["metrics"]["loss"][0] *= 1 + 5e-5
    records.write(path, record)
    told = verify.verify(tiny(), recorded, arm="plain", seed=0, quiet=True)
    assert not told.same_machine
    assert told.largest == pytest.approx(5e-5 * 0.667, rel=0.01)
    assert "instruction set is sparc VIS3 there" in told.lines[1]
    record["arms"]["plain"]["metrics"]["loss"][0] *= 1 + 5e-4
    records.write(path, record)
    assert not verify.verify(tiny(), recorded, arm="plain", seed=0, quiet=True).agrees


def test_only_what_is_on_record_can_be_verified(tiny, recorded, place):
    with pytest.raises(BadInput, match="found 'fats', expected a known name; did you mean 'fast'"):
        verify.verify(tiny(), recorded, arm="fats")
    with pytest.raises(BadInput, match="tiny, seed: found 9, expected one of 0, 1, 2"):
        verify.verify(tiny(), recorded, seed=9)
    recorded.record("tiny").unlink()
    with pytest.raises(BadInput, match=r"tiny.json: found No such file or directory, expected a record"):
        verify.verify(tiny(), recorded)


def test_difference():
    assert verify.difference({"a": [1.0, 2.0]}, {"a": [1.0, 2.5]}) == (0.25, "a")
    assert verify.difference({"a": 0.001}, {"a": 0.002}) == (0.001, "a")  # relative to 1 below 1
    assert verify.difference({"a": math.nan}, {"a": math.nan}) == (0.0, "a")
    assert verify.difference({"a": 1.0}, {"a": math.nan})[0] == math.inf
    assert verify.difference({"a": 1.0}, {"b": 1.0}) == (math.inf, "the run (a, b)")
    assert verify.difference({"a": {"b": [1]}}, {"a": {"b": [1, 2]}}) == (math.inf, "a.b (lengths 1 and 2)")
    assert verify.difference({}, {}) == (0.0, "")


def test_the_record_on_disk_is_strict_json(recorded):
    json.loads(recorded.record("tiny").read_text(), parse_constant=lambda name: pytest.fail(name))
