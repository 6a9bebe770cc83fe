import copy
import json
from dataclasses import replace

import pytest

from etude.errors import BadInput
from etude.evidence import output, planned, records
from etude.evidence.places import Place
from etude.evidence.pool import RunFailed
from etude.evidence.reference import FILE, Reference, reference_of, study_from_file
from etude.evidence.runner import StudyInterrupted, run_study

pytestmark = pytest.mark.usefixtures("stub_figures")


@pytest.fixture
def run(tmp_path):
    """run_study outside any checkout, into tmp_path/out."""

    def start(study, *arguments, **options):
        return run_study(study, *arguments, **{"out": tmp_path / "out", "place": Place(tmp_path), "quiet": True, **options})

    return start


def measured(record):
    """What must not differ between two ways of running."""
    return [records.without_times(records.run_of(record, arm, seed)) for arm in record["arms"] for seed in record["seeds"]]


def test_workers_and_one_process_agree_bit_for_bit(tiny, run, tmp_path):
    serial = run(tiny(), workers=1, out=tmp_path / "serial")
    pool = run(tiny(), workers=2, out=tmp_path / "pool")
    assert measured(serial) == measured(pool)
    assert serial["arrays"] == pool["arrays"]
    assert [c | {"p": 0} for c in serial["claims"]] == [c | {"p": 0} for c in pool["claims"]]
    assert list(serial["arms"]) == ["plain", "fast", "ceiling"]
    assert serial["verdict"] == "holds"
    assert serial["complete"] is True
    logs = tmp_path / "pool" / "quick" / "logs"
    assert "an arm that prints" in "".join(path.read_text() for path in logs.iterdir())


def test_a_failing_run_in_a_worker_is_named_and_the_others_are_kept(tiny, run, tmp_path):
    broken = tiny(("    steps = 20\n", "    steps = 20\n    if gain == 2.0:\n        raise RuntimeError('no luck')\n"))
    with pytest.raises(RunFailed, match=r"the run fast, seed 0 failed: RuntimeError: no luck; finished runs are kept") as error:
        run(broken, workers=1)
    assert error.value.run == "fast, seed 0"
    assert [p.name.split("-seed")[0] for p in (tmp_path / "out" / "quick" / "runs").iterdir()] == ["plain"]
    with pytest.raises(RunFailed, match="the run fast, seed 0 failed: RuntimeError: no luck") as error:
        run(broken, workers=2, arms=["fast"])
    assert "in train" in error.value.trace


def test_a_worker_that_is_killed_is_named(tiny, run):
    killed = tiny(("    steps = 20\n", "    steps = 20\n    os.kill(os.getpid(), 9)\n"), ("import time\n", "import os\nimport time\n"))
    with pytest.raises(RunFailed, match="the run plain, seed 0 failed: its process ended with signal 9"):
        run(killed, workers=2, seeds=2, arms=["plain"])


def test_finished_runs_are_reused_and_changed_ones_are_not(tiny, run, tmp_path):
    run(tiny(), workers=1, seeds=1)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "quick" / "runs").iterdir()}
    record = run(tiny(), workers=1, seeds=3)
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())
    assert len(list((tmp_path / "out" / "quick" / "runs").iterdir())) == 9
    assert record["arms"]["plain"]["metrics"]["tokens per second"][0] < record["arms"]["plain"]["metrics"]["tokens per second"][1]
    run(tiny(("# noqa", "# another comment")), workers=1, seeds=1)
    assert len(list((tmp_path / "out" / "quick" / "runs").iterdir())) == 9
    run(tiny(("0.001 * float(matrix", "0.002 * float(matrix")), workers=1, seeds=1)
    assert len(list((tmp_path / "out" / "quick" / "runs").iterdir())) == 12


def test_ctrl_c_says_how_to_go_on(tiny, run, tmp_path):
    stopped = tiny(("    steps = 20\n", "    steps = 20\n    if gain == 4.0:\n        raise KeyboardInterrupt\n"))
    with pytest.raises(StudyInterrupted) as error:
        run(stopped, workers=1)
    assert str(error.value) == f"tiny: interrupted with 2 of 9 runs finished and kept in {tmp_path / 'out'}; run the same command to go on"
    assert error.value.exit_code == 130
    assert isinstance(error.value, KeyboardInterrupt)


def test_json_is_one_document_of_the_promised_shape(tiny, run, capsys):
    record = run(tiny(), workers=1, scale="smoke", json=True, quiet=False)
    out, err = capsys.readouterr()
    told = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert list(told)[:8] == ["slug", "scale", "seeds", "arms", "claims", "verdict", "seconds", "provenance"]
    assert (told["slug"], told["scale"], told["seeds"]) == ("tiny", "smoke", [0])
    assert told["arms"]["fast"]["loss"] == record["arms"]["fast"]["metrics"]["loss"]
    assert told["arms"]["fast"]["ledger"][0]["train"]["tokens"] == 10
    assert {"text", "estimate", "interval", "d", "verdict"} <= told["claims"][0].keys()
    assert told["claims"][0]["verdict"] == "not judged: 1 seeds, at least 3 needed"
    assert told["verdict"] == told["claims"][0]["verdict"]
    assert "[1/2] plain, seed 0: done" in err


def test_the_table_ends_with_the_verdict_line(tiny, run, capsys):
    run(tiny(), workers=1, quiet=False)
    out = capsys.readouterr().out
    assert "Verdict: holds at 100 tokens; paper: 7B / 300B tokens, not tested there" in out
    assert "the signs differ for fast" in " ".join(out.split())
    assert "primary   holds: fast falls faster" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "quik"}, "tiny, scale: found 'quik', expected a known name; did you mean 'quick'?"),
        ({"scale": "paper"}, "tiny, scale: found 'paper', expected one of smoke, quick, cpu"),
        ({"arms": ["fats"]}, "tiny, arms: found 'fats', expected a known name; did you mean 'fast'?"),
        ({"arms": ["ceiling"], "scale": "smoke"}, "tiny, arms: found 'ceiling' at smoke scale, expected one that runs there: plain, fast"),
        ({"seeds": 0}, "tiny, seeds: found 0, expected a count of at least 1, or numbers >= 0"),
        ({"seeds": [1, -2]}, "tiny, seeds: found [1, -2], expected a count of at least 1, or numbers >= 0"),
        ({"workers": 0}, "workers: found 0, expected at least 1"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(options, message, tiny, run, tmp_path):
    with pytest.raises(BadInput) as error:
        run(tiny(), **options)
    assert str(error.value) == message
    assert not (tmp_path / "out").exists()


def test_an_output_folder_of_something_else_is_left_alone(tiny, run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="found files that no study wrote, expected an empty or new folder"):
        run(tiny())
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").rename(tmp_path / "thesis.txt")
    output.claim(out, "another")
    (out / "smoke" / "runs").mkdir(parents=True)
    (out / "smoke" / "runs" / "a-seed0-1.json").write_text("{}")
    with pytest.raises(BadInput, match="found runs of the study 'another', expected runs of 'tiny', or an empty folder"):
        run(tiny())
    with pytest.raises(BadInput, match=r"thesis.txt: found a file, expected a folder"):
        run(tiny(), out=tmp_path / "thesis.txt")
    with pytest.raises(BadInput, match="found not a directory, expected a folder that can be written"):
        run(tiny(), out=tmp_path / "thesis.txt" / "below")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_two_at_once_in_one_folder_are_refused(tiny, run, tmp_path):
    output.claim(tmp_path / "out", "tiny")
    with output.alone(tmp_path / "out"), pytest.raises(BadInput, match="found another etude at work in it"):
        run(tiny())


def test_an_arm_that_always_diverges_does_not_stop_the_study(tiny, run):
    told = tiny(("    steps = 20\n", "    steps = 20\n    if gain == 2.0:\n        raise NonFinite(3, 'the loss')\n"),
                ("import numpy as np\n", "import numpy as np\nfrom etude.engine.trainer import NonFinite\n"))  # fmt: skip
    record = run(told, workers=1)
    assert record["arms"]["fast"]["diverged"] == [True, True, True]
    assert record["verdict"].startswith("not judged: loss of 'fast' is nan")
    assert record["claims"][1]["verdict"] == "holds"


DIVERGES = (
    (
        "    steps = 20\n",
        "    steps = 20\n    if gain == 2.0 and job.settings.budget_tokens == 100:\n        raise NonFinite(3, 'the loss')\n",
    ),
    ("import numpy as np\n", "import numpy as np\nfrom etude.engine.trainer import NonFinite\n"),
    ('about="falls faster")', 'about="falls faster", planned=lambda s: {"train.flops": 10.0 * s.budget_tokens})'),
    ('headline="loss",', 'headline="loss", failure={"loss": 9.0, "solved": (0, 1)},'),
)


def test_a_failure_that_the_study_declares_is_judged(tiny, run):
    record = run(tiny(*DIVERGES), workers=1)
    fast = record["arms"]["fast"]
    assert (fast["diverged"], fast["metrics"]["loss"], fast["counts"]["solved"]) == ([True] * 3, [9.0] * 3, [[0, 1]] * 3)
    assert fast["ledger"] == [{"train": {"flops": 1000.0}}] * 3
    assert fast["curves"] == {"loss / flops": [[[], []]] * 3, "loss / seconds": [[[], []]] * 3}
    assert record["verdict"] == "reversed"  # 9 against 0.7, at the FLOPs that were planned
    assert record["matched"]["flops"]["fast"]["reason"] == "no curve in 3 of 3 seeds"
    assert [record["arms"]["plain"]["probe"][i][-1] for i in range(3)] == record["arms"]["plain"]["metrics"]["loss"]


def test_claims_on_curves_judge_a_diverged_run_too(tiny, run):
    curve = ('arm="fast", baseline="plain", metric="loss"', 'arm="fast", baseline="plain", curve="loss / flops"')
    assert run(tiny(*DIVERGES, curve), workers=1)["verdict"] == "reversed"
    ratio = (("Better(text", "Ratio(text"), ("import AtLeast, Better", "import AtLeast, Ratio"))
    told = run(tiny(*DIVERGES, curve, *ratio), workers=1)["claims"][0]
    assert told["note"].startswith("never reached in 3 of 3 seeds")
    assert told["interval"][0] == 0


PLANS = (
    "run=partial(train, gain={gain}, price=10.0), ",
    'run=partial(train, gain={gain}, price=10.0), planned=lambda s: {{"flops": {flops}}}, ',
)


def plan_of(gain: float, flops: str) -> tuple[str, str]:
    return PLANS[0].format(gain=gain), PLANS[1].format(gain=gain, flops=flops)


def test_unequal_planned_budgets_are_refused_before_anything_runs(tiny, run, tmp_path):
    study = tiny(plan_of(1.0, "10.0 * s.budget_tokens"), plan_of(2.0, "10.3 * s.budget_tokens"))
    where = "tiny, claims[0] (fast falls faster), planned flops at quick scale"
    for options in ({}, {"plan": True}):
        with pytest.raises(BadInput) as error:
            run(study, **options)
        told = "found 1030 for 'fast' and 1000 for 'plain' (+3.0 %), expected amounts within 2 %"
        assert str(error.value) == f"{where}: {told}"
    assert not (tmp_path / "out").exists()
    assert run(study, workers=1, seeds=1, arms=["fast"])["arms"].keys() == {"fast"}  # nothing to compare it with


def test_planned_budgets_are_printed(tiny, run, capsys):
    study = tiny(plan_of(1.0, "10.0 * s.budget_tokens"), plan_of(2.0, "10.1 * s.budget_tokens"))
    run(study, workers=1, seeds=1)
    told = run(study, plan=True, seeds=1, quiet=False)
    assert told["budgets"] == {"plain": {"flops": 1000.0}, "fast": {"flops": 1010.0}}
    out = capsys.readouterr().out
    assert "planned budget" in out
    assert "1.01k flops" in out
    assert "not said" in next(line for line in out.splitlines() if line.startswith("ceiling"))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("lambda s: 3.0", "tiny, arms.plain.planned: found float, expected a mapping such as {'flops': 1.2e12}"),
        ("lambda s: {'flops': -1}", "tiny, arms.plain.planned['flops']: found -1, expected a number >= 0"),
    ],
)
def test_a_plan_that_says_nothing_is_refused(plan, message, tiny, run):
    with pytest.raises(BadInput) as error:
        run(tiny(("gain=1.0, price=10.0), ", f"gain=1.0, price=10.0), planned={plan}, ")))
    assert str(error.value) == message


def test_a_plan_counts_over_categories():
    told = {"train.flops": 3.0, "prepare.flops": 4.0, "train.samples": 5.0}
    assert planned.spent(told, "flops") == 7.0
    assert planned.spent(told, "train.flops") == 3.0
    assert planned.spent(told, "tokens") is None


def test_a_partial_run_judges_what_it_can(tiny, run):
    record = run(tiny(), workers=1, arms=["plain", "fast"])
    assert record["claims"][0]["verdict"] == "holds"
    assert record["claims"][1]["verdict"] == "not judged: arm 'ceiling' was not run"
    assert record["complete"] is False


def test_a_study_given_as_an_object_is_found_again(tiny):
    where = tiny()
    study = study_from_file(where.word)
    assert reference_of(study) == where
    assert reference_of(replace(study, slug="other")) is None


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (Reference("x", "etude.nowhere:find"), "locate: found 'etude.nowhere:find' (No module named 'etude.nowhere'), expected mod"),
        (Reference("x", "builtins:len"), "study x: found int, expected a Study"),
        (Reference("nothing.py", FILE), "study: found 'nothing.py', expected a Python file that defines STUDY"),
    ],
)
def test_what_is_no_study_is_refused(reference, message):
    with pytest.raises(BadInput) as error:
        run_study(reference)
    assert str(error.value).startswith(message)


def test_a_claim_about_an_unknown_arm_is_refused_before_running(tiny, run, tmp_path):
    with pytest.raises(BadInput, match=r"claims\[1\] \(AtLeast\): found 'ceilin'"):
        run(tiny(('arm="ceiling"', 'arm="ceilin"')))
    assert not (tmp_path / "out").exists()


def test_the_record_can_be_judged_again_from_its_raw_values(tiny, run, tmp_path):
    record = run(tiny(), workers=1)
    read = records.read(tmp_path / "out" / "quick" / "record.json")
    assert read["arms"] == record["arms"]
    assert read["line"].startswith("holds at 100 tokens")
    worse = copy.deepcopy(read)
    worse["arms"]["fast"]["metrics"]["loss"] = [1.0, 1.01, 1.0]
    assert records.verdicts(worse, tiny().study().claims)["verdict"] == "reversed"
    assert sorted(p.name for p in (tmp_path / "out" / "quick" / "plots").iterdir()) == ["final-loss.png", "loss-over-flops.png"]
