import json
import math

import pytest

from etude.errors import BadInput
from etude.evidence import derived, fingerprint, records, registration, verify
from etude.evidence.places import Place
from etude.evidence.runner import run_study

pytestmark = pytest.mark.usefixtures("stub_figures")


@pytest.fixture
def recorded(tiny, place, git, tmp_path):
    """The tiny study, tuned, registered, committed, run and recorded. Returns its place."""
    place.tuning("tiny").parent.mkdir()
    place.tuning("tiny").write_text('seeds = "100"\n[runs]\nplain = 1\nfast = 1\n')
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
    assert (found.state, found.findings) == ("older", ["etude's shared code has changed since; the record stays valid"])
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


def elsewhere(record, drift, probe=0.0, loss=0.0):
    """The record as another instruction set would have made it: curves drifted, the beginning and the final loss a little moved."""
    record["provenance"]["instruction_set"] = "sparc VIS3"
    plain = record["arms"]["plain"]
    plain["curves"]["loss / flops"][0][1][10] += drift
    plain["metrics"]["loss"][0] += loss
    if plain.get("probe"):
        plain["probe"][0][5] += probe


@pytest.fixture
def moved(tiny, recorded):
    """moved(drift, ...) writes the record as of another machine and verifies the run of plain, seed 0, here."""

    original = recorded.record("tiny").read_text()

    def start(*amounts, without=(), **more):
        record = json.loads(original)
        for holder in (record["provenance"], *record["arms"].values()):
            for key in without:
                holder.pop(key, None)
        elsewhere(record, *amounts, **more)
        records.write(recorded.record("tiny"), record | records.judged(record, tiny().study().claims))
        return verify.verify(tiny(), recorded, arm="plain", seed=0, quiet=True)

    return start


def test_on_another_machine_the_beginning_must_agree_and_the_end_may_drift(moved):
    told = moved(4e-2, probe=5e-5, loss=1e-3)
    assert (told.agrees, told.same_machine, told.verdicts_stand) == (True, False, True)
    assert told.largest == pytest.approx(4e-2)
    assert told.probe == pytest.approx(5e-5, rel=0.5)
    assert "instruction set is sparc VIS3 there" in told.lines[1]
    assert told.lines[2].startswith("the first 20 values of plain, seed 0, within 0.0001: largest difference ")
    assert told.lines[3].startswith("rerun of plain, seed 0: curves.loss / flops differs by 4.0e-02 at most; ")
    assert told.lines[3].endswith("; with it in place of the recorded run every verdict stands")


def test_on_another_machine_a_beginning_that_moved_does_not_agree(moved):
    told = moved(0.0, probe=3e-4)
    assert told.agrees  # equal bits of the whole run
    told = moved(1e-6, probe=3e-4)
    assert not told.agrees
    assert "not within 0.0001" in told.lines[2]


def test_a_verdict_that_would_change_is_told(moved):
    told = moved(4e-2, loss=5.0)
    assert (told.agrees, told.verdicts_stand) == (True, False)
    assert told.lines[3].endswith("claims[0] 'inconclusive' becomes 'holds'")


def test_a_record_without_a_probe_is_held_by_its_smoke_fingerprint(moved, recorded, tiny):
    told = moved(4e-2, without=["probe"])
    assert told.agrees
    assert told.lines[2] == "the smoke fingerprint (the record keeps no beginning of this run) within 0.0001: largest difference 0.0e+00"
    record = records.read(recorded.record("tiny"))
    record["provenance"]["smoke"]["fast"]["loss"] += 2e-4
    records.write(recorded.record("tiny"), record)
    told = verify.verify(tiny(), recorded, arm="plain", seed=0, quiet=True)
    assert not told.agrees
    assert told.lines[2].endswith("not within 0.0001: largest difference 2.0e-04 (fast.loss)")


def test_a_record_with_neither_must_agree_as_a_whole(moved):
    assert moved(5e-5, without=["probe", "smoke"]).agrees
    assert not moved(4e-2, without=["probe", "smoke"]).agrees


TAMPERED = [
    ("line", lambda r: r.update(line="holds everywhere"), "line 'holds everywhere' on record"),
    ("interval", lambda r: r["claims"][0]["interval"].__setitem__(0, 0.3), "claims[0].interval: [0.3, "),
    ("level", lambda r: r["claims"][1].update(level=0.95001), "claims[1].level: 0.95001 on record, 0.95 from its values"),
    ("n", lambda r: r["claims"][0].update(n=30), "claims[0].n: 30 on record, 3 from its values"),
    ("d", lambda r: r["claims"][0].update(d=0.5), "claims[0].d: 0.5 on record, 0.05 from its values"),
    ("text", lambda r: r["claims"][0].update(text="fast wins"), "claims[0].text: fast wins on record, fast falls faster from its values"),
    ("matched", lambda r: r["matched"]["seconds"]["fast"].update(estimate=-1.0), "matched.seconds.fast.estimate: -1.0 on record"),
    ("mid", lambda r: r["matched"]["flops"]["fast"].update(mid_schedule="plain"), "matched.flops.fast.mid_schedule: plain on record"),
    ("gone", lambda r: r["matched"].pop("seconds"), "matched.seconds.fast: nothing on record, "),
    ("none", lambda r: r["matched"]["flops"]["fast"].update(estimate=None, reason="x"), "matched.flops.fast: no estimate (x) on record, "),
    ("more", lambda r: r["claims"].append(r["claims"][0]), "3 claims on record, 2 in the study"),
    ("damaged", lambda r: r["arms"]["fast"].pop("metrics"), "the record cannot be judged: claim: metrics of arm 'fast': found 'loss'"),
    ("torn", lambda r: r.pop("baseline"), "the record is damaged (KeyError('baseline'))"),
    ("hashes", lambda r: r["provenance"].pop("hashes"), "the record is damaged (KeyError('hashes'))"),
]


@pytest.mark.parametrize(("change", "finding"), [t[1:] for t in TAMPERED], ids=[t[0] for t in TAMPERED])
def test_what_does_not_follow_from_the_values_is_found(change, finding, tiny, recorded):
    path = recorded.record("tiny")
    record = records.read(path)
    change(record)
    records.write(path, record)
    recorded.head("tiny").unlink()
    found = standing(tiny(), recorded, smoke=False)
    assert found.state == "broken"
    assert any(line.startswith(finding) for line in found.findings), found.findings


def test_what_the_record_repeats_of_its_study_is_compared(tiny, recorded):
    record = records.read(recorded.record("tiny"))
    record["size"], record["seeds"] = "100M tokens", [4, 5, 6]
    record["arms"]["fast"]["reference"] = True
    records.write(recorded.record("tiny"), record | records.judged(record, tiny().study().claims[1:]))
    found = standing(tiny(), recorded, smoke=False).findings
    assert "size: '1k tokens' in the study, '100M tokens' on record" in found
    assert "other arms than on record: fast" in found
    assert "seeds [4, 5, 6] on record, 3 in the study" in found


def test_a_head_of_another_record_is_found_and_written_anew(tiny, recorded):
    head = recorded.head("tiny")
    kept = head.read_text()
    assert json.loads(kept)["bytes"] == recorded.record("tiny").stat().st_size
    head.write_text(kept.replace('"holds"', '"reversed"'))
    found = standing(tiny(), recorded, smoke=False)
    assert (found.state, found.findings) == ("broken", ["its head (what `etude list` shows) is not that of the record"])
    assert derived.rejudge(tiny().study(), recorded) == found.findings
    assert head.read_text() == kept
    head.write_text("{")
    assert "tiny.json in heads is unreadable" in standing(tiny(), recorded, smoke=False).findings[0]
    head.unlink()
    assert standing(tiny(), recorded, smoke=False).state == "current"
    assert derived.rejudge(tiny().study(), recorded) == ["its head was missing"]
    assert derived.rejudge(tiny().study(), recorded) == []
    assert head.read_text() == kept


def test_judging_anew_changes_no_raw_value_and_no_claim(tiny, recorded):
    path = recorded.record("tiny")
    whole = path.read_text()
    record = records.read(path)
    record["matched"]["seconds"]["fast"]["estimate"] = -1.0
    record["verdict"] = "reversed"
    records.write(path, record)
    changed = derived.rejudge(tiny().study(), recorded)
    assert changed[0] == "verdict 'reversed' on record, 'holds' from its values"
    assert path.read_text() == whole
    with pytest.raises(BadInput, match=r"tiny, registration: found claims\[0\].d: 0.04, registered 0.05, expected the study as it was"):
        derived.rejudge(tiny(("d=0.05", "d=0.04")).study(), recorded)


def commit(git, text):
    git("add", "-A")
    git("commit", "-qm", text)


def findings(tiny, place):
    found = standing(tiny(), place, smoke=False)
    return found.state, found.findings


def test_that_the_registration_came_first_is_proven_by_git(tiny, recorded, git):
    commit(git, "recorded")
    assert findings(tiny, recorded) == ("current", [])
    assert standing(tiny(), recorded, smoke=False).notes == []


def test_a_registration_commit_that_is_not_there_proves_nothing(tiny, recorded, git):
    record = records.read(recorded.record("tiny"))
    for commit_name, said in (("12" * 20, "its commit 1212121212 is not in this repository"), (None, "the record names no commit of it")):
        record["registration"] = {**record["registration"], "commit": commit_name}
        records.write(recorded.record("tiny"), record, recorded.head("tiny"))
        assert findings(tiny, recorded) == ("unproven", [f"registration: {said}"])
    record["registration"] = None
    records.write(recorded.record("tiny"), record, recorded.head("tiny"))
    assert findings(tiny, recorded) == ("unproven", ["registration: the record names no commit of it"])


def test_a_registration_on_another_branch_proves_nothing(tiny, recorded, git):
    commit(git, "recorded")
    first = git("rev-parse", "HEAD~1").strip()[:10]
    git("checkout", "-q", "--orphan", "squashed")
    commit(git, "all at once")
    assert findings(tiny, recorded) == ("unproven", [f"registration: its commit {first} is no ancestor of HEAD"])


def test_a_registration_committed_with_or_after_the_record_proves_nothing(tiny, recorded, git):
    git("checkout", "-q", "--orphan", "squashed")
    commit(git, "all at once")
    record = records.read(recorded.record("tiny"))
    record["registration"]["commit"] = git("rev-parse", "HEAD").strip()
    records.write(recorded.record("tiny"), record, recorded.head("tiny"))
    short = record["registration"]["commit"][:10]
    same = ("unproven", [f"registration: its commit {short} does not come before the record's, {short}"])
    assert findings(tiny, recorded) == same
    commit(git, "the same runs, written again")
    assert findings(tiny, recorded) == same
    record["provenance"]["date"] = "2031-01-01T00:00:00+00:00"
    records.write(recorded.record("tiny"), record, recorded.head("tiny"))
    assert findings(tiny, recorded) == ("current", [])  # runs that are not committed yet come after what is


def test_a_registration_that_was_another_one_at_its_commit_proves_nothing(tiny, place, git, tmp_path):
    registration.register(tiny(("d=0.05", "d=0.02")).study(), place)
    commit(git, "first thought")
    first = git("rev-parse", "HEAD").strip()
    place.registered("tiny").unlink()
    registration.register(tiny().study(), place)
    commit(git, "second thought")
    run_study(tiny(), "cpu", out=tmp_path / "out", place=place, quiet=True, workers=1)
    record = records.read(place.record("tiny"))
    record["registration"]["commit"] = first
    records.write(place.record("tiny"), record, place.head("tiny"))
    assert findings(tiny, place) == ("unproven", [f"registration: since commit {first[:10]} claims[0].d: 0.05, there 0.02"])


def test_without_git_it_is_said_that_nothing_can_be_proven(tiny, recorded, git, tmp_path):
    found = standing(tiny(), Place(recorded.root), smoke=False)
    assert (found.state, found.findings) == ("current", [])
    assert found.notes == ["no git history here: that the registration came first cannot be checked"]
    commit(git, "recorded")
    git("clone", "-q", "--depth", "1", f"file://{recorded.root.parent}", str(tmp_path / "shallow"))
    found = standing(tiny(), Place(tmp_path / "shallow" / "evidence", tmp_path / "shallow"), smoke=False)
    assert (found.state, found.findings) == ("current", [])
    assert "this shallow clone may lack commit" in found.notes[0]


def test_only_what_is_on_record_can_be_verified(tiny, recorded, place):
    with pytest.raises(BadInput, match="found 'fats', expected a known name; did you mean 'fast'"):
        verify.verify(tiny(), recorded, arm="fats")
    with pytest.raises(BadInput, match="tiny, seed: found 9, expected one of 0, 1, 2"):
        verify.verify(tiny(), recorded, seed=9)
    recorded.record("tiny").unlink()
    with pytest.raises(BadInput, match=r"tiny.json: found no such file, expected a record"):
        verify.verify(tiny(), recorded)


def test_difference():
    assert derived.difference({"a": [1.0, 2.0]}, {"a": [1.0, 2.5]}) == (0.25, "a")
    assert derived.difference({"a": 0.001}, {"a": 0.002}) == (0.001, "a")  # relative to 1 below 1
    assert derived.difference({"a": math.nan}, {"a": math.nan}) == (0.0, "a")
    assert derived.difference({"a": 1.0}, {"a": math.nan})[0] == math.inf
    assert derived.difference({"a": 1.0}, {"b": 1.0}) == (math.inf, "the run (a, b)")
    assert derived.difference({"a": {"b": [1]}}, {"a": {"b": [1, 2]}}) == (math.inf, "a.b (lengths 1 and 2)")
    assert derived.difference({}, {}) == (0.0, "")


def test_the_record_on_disk_is_strict_json(recorded):
    json.loads(recorded.record("tiny").read_text(), parse_constant=lambda name: pytest.fail(name))
