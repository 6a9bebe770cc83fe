import tomllib

import pytest

from etude.cli.studies import study
from etude.errors import BadInput
from etude.evidence import places, records, registration, tuning, verify
from etude.evidence.runner import run_study

pytestmark = pytest.mark.usefixtures("stub_figures")

COST = 'seeds = "100-103"\nshared = 0.5\nnote = "one is lost"\n[runs]\nplain = 4\nfast = 2.5\n'


def write(place, text):
    place.tuning("tiny").parent.mkdir(exist_ok=True)
    place.tuning("tiny").write_text(text)


def test_what_tuning_cost_is_priced_by_the_record():
    told = tuning.Tuning(seeds="100", runs={"plain": 4, "fast": 2.5}, shared=0.5)
    record = {
        "baseline": "plain",
        "arms": {"plain": {"ledger": [{"train": {"flops": 1e6}, "prepare": {"flops": 1e6}}, {"train": {"flops": 4e6}}]}},
    }
    said = "tuned beforehand on seeds 100, in no ledger: plain 4 runs (12M FLOPs), fast 2.5 runs, all alike 0.5 runs (1.5M FLOPs)"
    assert tuning.line(told, record) == said
    assert tuning.line(told) == "tuned beforehand on seeds 100, in no ledger: plain 4 runs, fast 2.5 runs, all alike 0.5 runs"


def test_registration_run_and_check_say_it(tiny, place, git, tmp_path, capsys):
    write(place, COST)
    text = registration.register(tiny().study(), place).read_text()
    assert tomllib.loads(text)["tuning"] == {
        "seeds": "100-103", "shared": 0.5, "note": "one is lost", "runs": {"plain": 4, "fast": 2.5},
    }  # fmt: skip
    git("add", "-A")
    git("commit", "-qm", "registered")
    run_study(tiny(), "cpu", out=tmp_path / "out", place=place, workers=1)
    priced = "plain 4 runs (40k FLOPs), fast 2.5 runs (25k FLOPs), all alike 0.5 runs (5k FLOPs); one is lost"
    assert f"tuned beforehand on seeds 100-103, in no ledger: {priced}" in " ".join(capsys.readouterr().out.split())
    assert tuning.told(place, "tiny").endswith(priced)
    assert verify.check([tiny().study()], place, smoke=False)[0].notes == []
    write(place, COST.replace("fast = 2.5", "fast = 3"))  # corrected later: no other study for that
    assert registration.differences(registration.load(place, "tiny"), tiny().study()) == []
    place.tuning("tiny").unlink()
    found = verify.check([tiny().study()], place, smoke=False)[0]
    assert (found.state, found.notes) == ("current", ["what tuning cost is not on file: tuning/tiny.toml"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("seeds = 100\n[runs]\na = 1\n", r"found seeds, runs, expected seeds = \"100-103\" and a table \[runs\]"),
        (COST.replace("4", "-4"), "plain: found -4, expected a number of runs >= 0"),
        (COST.replace("note", "nota"), "found 'nota', expected a known name; did you mean 'note'"),
        ("seeds = [", "unreadable content"),
    ],
)
def test_a_file_that_says_something_else_is_refused(text, found, place):
    write(place, text)
    with pytest.raises(BadInput, match=found):
        tuning.load(place, "tiny")


def test_every_recorded_study_says_what_its_tuning_cost():
    place = places.find()
    for slug in place.recorded():
        told = tuning.load(place, slug)
        assert told is not None, slug
        assert set(told.runs) <= set(study(slug).arms), slug
        assert "FLOPs" in tuning.line(told, records.read(place.record(slug))), slug
        assert place.tuning(slug).with_suffix(".md").is_file()
