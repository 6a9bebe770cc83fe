import json
import sys

import numpy as np
import pytest

from etude.errors import BadInput
from etude.evidence import output, plan, records, report
from etude.evidence.places import Place
from etude.evidence.plan import extrapolate, makespan
from etude.evidence.runner import run_study
from etude.evidence.statistics import smallest_detectable

pytestmark = pytest.mark.usefixtures("stub_figures")


def test_makespan_gives_each_free_worker_the_next_run():
    assert makespan([3, 1, 1, 1], 2) == 3
    assert makespan([1, 1, 1, 3], 2) == 4
    assert makespan([], 2) == 0


def test_extrapolation_counts_setting_up_once():
    # 2 s until the first report at 10 %, then 5 % a second: 17 s more from 15 % at 3 s
    assert extrapolate([(2.0, 0.1), (3.0, 0.15)], 3.0) == pytest.approx(20.0)
    assert extrapolate([(2.0, 0.1), (4.0, 1.0)], 4.1) == 4.1
    assert extrapolate([(2.0, 0.1)], 2.0) is None
    assert extrapolate([(2.0, 0.1), (5.0, 0.1)], 5.0) is None
    assert extrapolate([], 8.0) is None


def test_a_plan_from_finished_runs_starts_nothing(tiny, tmp_path):
    where = {"out": tmp_path / "out", "place": Place(tmp_path), "workers": 1}
    record = run_study(tiny(), seeds=3, quiet=True, **where)
    before = sorted((tmp_path / "out").rglob("*"))
    told = run_study(tiny(), seeds=5, plan=True, quiet=True, **where)
    assert sorted((tmp_path / "out").rglob("*")) == before
    assert (told["runs"], told["kept"], told["workers"], told["seeds"]) == (15, 9, 1, [0, 1, 2, 3, 4])
    mean = [np.mean(record["arms"][arm]["seconds"]) for arm in record["arms"]]
    assert told["seconds"] == pytest.approx(2 * sum(mean))
    assert told["arms"]["plain"]["source"] == "3 finished runs"
    assert told["arms"]["plain"]["spent"]["flops"] == np.mean([led["train"]["flops"] for led in record["arms"]["plain"]["ledger"]])
    assert told["memory"] > 1e7
    assert told["disk"] > 1000
    losses = record["arms"]
    effects = np.subtract(losses["plain"]["metrics"]["loss"], losses["fast"]["metrics"]["loss"])
    assert told["detectable"] == pytest.approx(smallest_detectable(float(np.std(effects, ddof=1)), 5, 0.05))
    assert told["detectable_unit"] == "in the primary claim's unit, from the quick record's spread"


def test_a_plan_without_earlier_runs_probes_on_a_tuning_seed(tiny, tmp_path, capsys):
    seen = tmp_path / "seen"
    study = tiny(("    steps = 20\n", f"    steps = 20\n    open('{seen}', 'a').write(str(job.seed) + ' ')\n"))
    told = run_study(study, "cpu", arms=["plain"], plan=True, json=True, out=tmp_path / "out", place=Place(tmp_path))
    assert json.loads(capsys.readouterr().out)["runs"] == 3
    assert seen.read_text() == "100 "
    assert told["arms"]["plain"]["source"] == "a whole run"
    assert told["seconds"] > 0
    assert told["disk"] > 0
    assert told["detectable"] == smallest_detectable(1.0, 3)
    assert "standard deviations" in told["detectable_unit"]
    assert not (tmp_path / "out").exists()


def test_a_record_that_keeps_no_memory_has_it_probed(tiny, tmp_path, capsys):
    place = Place(tmp_path)
    record = run_study(tiny(), seeds=3, quiet=True, out=tmp_path / "first", place=place, workers=1)
    assert all(peak > 1e7 for arm in record["arms"].values() for peak in arm["peak_bytes"])
    assert all(size > 500 for arm in record["arms"].values() for size in arm["disk_bytes"])
    records.write(place.record("tiny"), record)
    where = {"plan": True, "out": tmp_path / "out", "place": place, "workers": 2}
    known = run_study(tiny(), quiet=True, **where)
    assert {cost["source"] for cost in known["arms"].values()} == {f"the record of {record['provenance']['date'][:10]}"}
    assert known["arms"]["plain"]["memory"] == max(record["arms"]["plain"]["peak_bytes"])
    assert known["disk"] == sum(3 * int(np.mean(arm["disk_bytes"])) for arm in record["arms"].values())
    for arm in record["arms"].values():
        del arm["peak_bytes"], arm["disk_bytes"]  # as records of old
    records.write(place.record("tiny"), record)
    capsys.readouterr()
    told = run_study(tiny(), **where)
    out, err = capsys.readouterr()
    assert err == "probing 3 arms for a few seconds each, 2 at a time ...\n"
    assert "unknown" not in out
    assert told["memory"] > 1e7
    assert told["arms"]["fast"]["source"].endswith("; memory: a whole run")
    assert told["arms"]["fast"]["seconds"] == pytest.approx(np.mean(record["arms"]["fast"]["seconds"]))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot forget its peak")
def test_a_run_is_not_charged_with_the_memory_of_the_one_before(tiny, tmp_path):
    heavy = ("    steps = 20\n", "    steps = 20\n    held = np.ones(40_000_000 if gain == 1.0 else 1)\n")
    record = run_study(tiny(heavy), seeds=1, arms=["plain", "fast"], quiet=True, out=tmp_path / "out", place=Place(tmp_path), workers=1)
    assert record["arms"]["plain"]["peak_bytes"][0] - record["arms"]["fast"]["peak_bytes"][0] > 2e8


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the memory of another process is not told")
def test_what_says_nothing_for_long_has_its_memory_measured_all_the_same(tiny, tmp_path):
    study = tiny(("    steps = 20\n", "    steps = 20\n    held = np.ones(40_000_000)\n    time.sleep(60)\n"))
    loaded = study.study()
    tasks = [output.task(tmp_path / "out", "quick", "plain", 0, "none")]
    told = plan.make(loaded, study, tasks, 1, tmp_path / "out", Place(tmp_path), {}, probe_seconds=1.0).arms["plain"]
    assert told.seconds is None
    assert told.source == "its first 1 s (no progress reported)"
    assert told.memory > 3.2e8
    assert told.begun


def test_over_an_hour_of_work_is_asked_about_but_never_at_smoke_scale(tiny, tmp_path, capsys):
    place = Place(tmp_path)
    record = run_study(tiny(), seeds=3, quiet=True, out=tmp_path / "first", place=place, workers=1)
    where = {"out": tmp_path / "out", "place": place, "workers": 1}
    for scale in ("quick", "smoke"):
        slow = record | {"scale": scale}
        for arm in slow["arms"].values():
            arm["seconds"] = [3000.0] * 3
        records.write(place.record("tiny"), slow)
        if scale == "quick":
            with pytest.raises(BadInput) as error:
                run_study(tiny(), scale, arms=["plain"], **where)
            assert str(error.value).startswith("tiny, quick scale: found about 2:30:00 of work, expected --yes")
            assert not (tmp_path / "out").exists()
            run_study(tiny(), scale, arms=["fast"], seeds=1, **where)  # fifty minutes
        run_study(tiny(), scale, arms=["plain"], yes=True, **where)
        run_study(tiny(), scale, arms=["plain"], **where)  # what is finished takes no time


def test_what_is_not_known_is_said_to_be_unknown(tiny, tmp_path, capsys):
    task = output.task(tmp_path, "quick", "plain", 0, "hash")
    made = plan.make(tiny().study(), None, [task], 1, tmp_path / "out", Place(tmp_path), {}, probe_seconds=0)
    report.show_plan(made)
    out = capsys.readouterr().out
    assert "time unknown, memory unknown, disk unknown" in out
    assert made.arms["plain"].spent == {}
