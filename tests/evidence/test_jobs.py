import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from etude.engine.streams import derive
from etude.engine.trainer import NonFinite
from etude.errors import BadInput
from etude.evidence import jobs, output
from etude.evidence.study import Arm, Job, Outcome, Scale, Study


def study_of(run, **more) -> Study:
    scales = {"quick": Scale(settings={"a": 1}, seeds=1, size="s"), "cpu": Scale(settings={"a": 2}, seeds=1, size="s")}
    return Study(slug="one", arms={"arm": Arm(run=run, about="")}, scales=scales, claims=[], baseline="arm", headline="loss", **more)


def execute(run, tmp_path: Path, scale: str = "cpu", seed: int = 3):
    return jobs.execute(study_of(run), output.task(tmp_path, scale, "arm", seed, "c0ffee"), lambda fraction, metric: None)


def outcome(**more) -> Outcome:
    return Outcome(**{"metrics": {"loss": 1.0}, "ledger": {}, **more})


def test_text_of_numbers_is_exact_and_strict():
    value = {"a": [0.1 + 0.2, 1e-310, math.inf, -math.inf], "b": "NaN-like", "c": [math.nan]}
    text = jobs.dumps(value)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    back = jobs.loads(text)
    assert back["a"] == value["a"]
    assert back["b"] == value["b"]
    assert math.isnan(back["c"][0])


def test_only_cpu_scale_sees_the_plain_seed(tmp_path):
    seen = []

    def run(job: Job) -> Outcome:
        seen.append((job.scale, job.seed, job.settings))
        return outcome()

    execute(run, tmp_path, "cpu")
    execute(run, tmp_path, "quick")
    assert seen == [("cpu", 3, {"a": 2}), ("quick", derive(3, "quick") % 2**31, {"a": 1})]
    assert len({jobs.job_seed(s, scale) for s in range(50) for scale in ("smoke", "quick", "cpu")}) == 150


def test_a_finished_run_reads_back_as_written(tmp_path):
    ledger = {"train": {"tokens": np.int64(7), "flops": 1e9}}
    curves = {"loss / flops": ([1.0, 2.0], [0.1, np.float32(0.2)])}
    run = execute(lambda job: outcome(ledger=ledger, curves=curves, counts={"ok": (2, 3)}, arrays={"z": np.eye(2)}, parameters=5), tmp_path)
    assert run == jobs.load(output.task(tmp_path, "cpu", "arm", 3, "c0ffee"))
    assert run["curves"]["loss / flops"] == [[1.0, 2.0], [0.1, float(np.float32(0.2))]]
    assert run["ledger"] == {"train": {"tokens": 7, "flops": 1e9}}
    assert (run["counts"], run["arrays"]) == ({"ok": [2, 3]}, {"z": [[1, 0], [0, 1]]})
    assert jobs.load(output.task(tmp_path, "cpu", "arm", 3, "0ther")) is None


def test_a_torn_or_foreign_file_is_no_finished_run(tmp_path):
    task = output.task(tmp_path, "cpu", "arm", 3, "c0ffee")
    execute(lambda job: outcome(), tmp_path)
    whole = task.file.read_text()
    for text in (whole[:-5], "", "[]", whole.replace("c0ffee", "f00d")):
        task.file.write_text(text)
        assert jobs.load(task) is None


def test_an_arm_stopped_by_nan_has_diverged(tmp_path):
    def run(job: Job) -> Outcome:
        raise NonFinite(4, "the loss")

    told = execute(run, tmp_path)
    assert told["diverged"] is True
    assert told["metrics"] == {}


def test_what_an_arm_left_over_is_cleared_before_it_runs_again(tmp_path):
    task = output.task(tmp_path, "cpu", "arm", 3, "c0ffee")
    task.folder.mkdir(parents=True)
    (task.folder / "half").write_text("x")
    found = []

    def run(job: Job) -> Outcome:
        assert job.folder is not None
        found.append(job.folder.exists())
        return outcome()

    execute(run, tmp_path)
    assert found == [False]


def test_draws_from_the_global_streams_repeat_and_leave_no_trace(tmp_path):
    def run(job: Job) -> Outcome:
        return outcome(metrics={"loss": torch.rand(()).item(), "n": float(np.random.rand())})  # noqa: NPY002

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = execute(run, tmp_path)["metrics"]
    torch.rand(3)
    assert execute(run, tmp_path)["metrics"] == first
    assert execute(run, tmp_path, seed=4)["metrics"] != first
    torch.manual_seed(5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"loss": 1.0}, "one, arm, seed 3: found dict, expected an Outcome"),
        (outcome(metrics={"acc": 1.0}), "one, arm, seed 3: found metrics acc, expected the headline metric 'loss' among them"),
        (outcome(metrics={"loss": 1.0, "ledger": 2.0}), "one, arm, seed 3: found a metric named 'ledger', expected another name"),
        (outcome(curves={"loss / step": ([1.0], [])}), "one, arm, seed 3, curve 'loss / step': found 1 x and 0 y, expected equal lengths"),
        (outcome(counts={"ok": (4, 3)}), "one, arm, seed 3, count 'ok': found 4 of 3, expected 0 <= successes <= trials"),
    ],
)
def test_an_outcome_that_cannot_be_recorded_is_refused(result, message, tmp_path):
    with pytest.raises(BadInput) as error:
        execute(lambda job: result, tmp_path)
    assert str(error.value).startswith(message)
    assert not output.task(tmp_path, "cpu", "arm", 3, "c0ffee").file.exists()


def test_one_thread_inside_and_prints_on_stderr(capsys):
    before = torch.get_num_threads()
    with jobs.one_thread():
        assert torch.get_num_threads() == 1
        print("hello")
    assert torch.get_num_threads() == before
    assert capsys.readouterr() == ("", "hello\n")
