import sys
import time

import pytest

from etude.errors import BadInput
from etude.evidence import records, verify
from etude.evidence.places import Place
from etude.evidence.requirements import needed, require
from etude.evidence.runner import run_study
from etude.papers.loading import load_study

pytestmark = pytest.mark.usefixtures("stub_figures")


@pytest.fixture
def reader(tiny):
    """The tiny study with a corpus in its quick settings, which is not fetched, and which its arms never read."""
    return tiny(
        ("    budget_tokens: int\n", "    budget_tokens: int\n    corpora: tuple[str, ...] = ('sample',)\n"),
        ("budget_tokens=100)", "budget_tokens=100, corpora=('sample', 'kjv'))"),
    )


def test_the_data_of_a_scale_is_what_its_settings_name_and_at_cpu_scale_what_the_record_rests_on():
    curriculum, stacking = load_study("cyclical-curriculum"), load_study("stacking")
    assert needed(curriculum, "smoke") == ["digits"]
    assert needed(curriculum, "cpu") == ["digits", "mnist1d"]
    assert needed(stacking, "smoke") == ["sample+code"]
    assert needed(stacking, "cpu") == ["kjv+code"]


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mnist1d", None)  # as Python itself says that there is no such package
    require(load_study("cyclical-curriculum"), "smoke")
    with pytest.raises(BadInput) as error:
        require(load_study("cyclical-curriculum"), "cpu")
    said = "cyclical-curriculum at cpu scale: found no package mnist1d, expected `pip install -e '.[data]'` first"
    assert str(error.value) == said


def test_a_run_without_its_data_is_refused_before_anything_starts(reader, tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    where = {"out": tmp_path / "out", "place": Place(tmp_path), "quiet": True, "workers": 1}
    found = "tiny at quick scale: found the corpus 'kjv' not on this machine, expected `etude data get kjv` first"
    with pytest.raises(BadInput, match=found):
        run_study(reader, **where)
    assert not (tmp_path / "out").exists()
    run_study(reader, "smoke", **where)
    assert (tmp_path / "out" / "smoke" / "record.json").exists()


def test_verify_asks_first_and_finished_runs_need_no_data(reader, tmp_path, monkeypatch):
    here = tmp_path / "cache" / "corpora" / "kjv-33146b1bed2c.txt"
    here.parent.mkdir(parents=True)
    here.write_text("the study never reads it")
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    where = {"out": tmp_path / "out", "place": Place(tmp_path), "quiet": True, "workers": 1}
    record = run_study(reader, **where)
    here.unlink()
    assert run_study(reader, **where)["claims"] == record["claims"]
    place = Place(tmp_path / "evidence")
    records.write(place.record("tiny"), record)
    started = time.monotonic()
    with pytest.raises(BadInput, match="tiny at quick scale: found the corpus 'kjv'"):
        verify.verify(reader, place, quiet=True)
    assert time.monotonic() - started < 5


def test_a_plan_with_times_on_record_does_without_the_data(reader, tmp_path, monkeypatch, capsys):
    here = tmp_path / "cache" / "corpora" / "kjv-33146b1bed2c.txt"
    here.parent.mkdir(parents=True)
    here.write_text("the study never reads it")
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    place = Place(tmp_path / "evidence")
    record = run_study(reader, out=tmp_path / "first", place=place, quiet=True, workers=1)
    for arm in record["arms"].values():
        del arm["peak_bytes"]
    records.write(place.record("tiny"), record)
    here.unlink()
    capsys.readouterr()
    told = run_study(reader, plan=True, out=tmp_path / "out", place=place, workers=1)
    assert told["seconds"] is not None
    assert told["memory"] is None
    said = "memory is not probed: tiny at quick scale: found the corpus 'kjv' not on this machine, expected `etude data get kjv` first"
    assert capsys.readouterr().err.strip() == said
    with pytest.raises(BadInput, match="found the corpus 'kjv'"):
        run_study(reader, plan=True, out=tmp_path / "out", place=Place(tmp_path / "empty"), workers=1)
