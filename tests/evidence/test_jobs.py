import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import ToyStream, squared, toy_model

from etude.engine.ledger import Budget
from etude.engine.streams import derive
from etude.engine.trainer import NonFinite, Trainer
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


def trainer(folder: Path | None) -> Trainer:
    model, stream = toy_model(), ToyStream()
    return Trainer(model, stream, squared, budget=Budget(steps=10), folder=folder, checkpoint_every=0.2, count_flops=False)


class Killed(BaseException):
    """In the place of a kill: nothing of the arm's runs after it."""


def test_what_a_killed_run_left_is_there_again(tmp_path):
    found = []

    def run(job: Job) -> Outcome:
        assert job.folder is not None
        found.append([p.name for p in job.folder.iterdir()] if job.folder.exists() else None)
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "candidates.jsonl").write_text("x")
        job.progress(0.5, 1.0)
        if len(found) == 1:
            raise Killed
        return outcome()

    with pytest.raises(Killed):
        execute(run, tmp_path)
    told = execute(run, tmp_path)
    assert found == [None, ["candidates.jsonl"]]
    assert (told["resumed"], told["probe"]) == (True, [])  # its beginning was another run's
    other = execute(run, tmp_path, seed=4)
    assert (other["resumed"], other["probe"]) == (False, [1.0])


@pytest.mark.parametrize("below", ["", "base"])
def test_a_trainer_that_was_killed_starts_anew_in_the_jobs_folder(below, tmp_path):
    kills = [True, False]

    def run(job: Job) -> Outcome:
        assert job.folder is not None
        made = trainer(job.folder / below)
        if kills.pop(0):
            made.progress = kill_after(5)
        return outcome(metrics={"loss": made.run().ledger.total("steps")})

    with pytest.raises(Killed):
        execute(run, tmp_path)
    assert execute(run, tmp_path)["metrics"]["loss"] == 10


def test_a_trainer_in_a_part_goes_on_after_a_kill(tmp_path):
    kills, begun, results = [True, False], [], []

    def run(job: Job) -> Outcome:
        part = job.part("base")
        begun.append(part.begun)
        made = trainer(part.folder)
        if kills.pop(0):
            made.progress = kill_after(5)
        results.append(made.run(resume=part.begun))
        return outcome()

    with pytest.raises(Killed):
        execute(run, tmp_path)
    execute(run, tmp_path)
    assert begun == [False, True]
    assert results[0].resumed_from.startswith("step-")
    fresh = trainer(tmp_path / "fresh").run()
    assert all(torch.equal(a, b) for a, b in zip(fresh.model.parameters(), results[0].model.parameters(), strict=True))


def test_the_trainer_of_a_finished_round_stays(tmp_path):
    from etude.loop.rounds import run_rounds

    kills = [False, True, False, False]

    def run(job: Job) -> Outcome:
        assert job.folder is not None
        folder = job.folder

        def step(number, state):
            made = trainer(folder / f"round-{number}")
            if kills.pop(0):
                made.progress = kill_after(5)
            made.run()
            return state, {"earlier": float((folder / "round-1" / "run.json").exists())}

        return outcome(metrics={"loss": run_rounds(step, {}, 3, folder=folder)[1][2]["earlier"]})

    with pytest.raises(Killed):
        execute(run, tmp_path)
    assert execute(run, tmp_path)["metrics"]["loss"] == 1.0
    assert kills == []


def kill_after(updates: int):
    seen = []

    def progress(share, loss):
        seen.append(share)
        if len(seen) == updates:
            raise Killed

    return progress


def test_the_beginning_is_kept_as_a_probe(tmp_path):
    def run(job: Job) -> Outcome:
        job.progress(0.0)
        for i in range(50):
            job.progress(i / 50, math.nan if i == 1 else float(i))
        return outcome()

    assert execute(run, tmp_path)["probe"] == [0.0, *map(float, range(2, 21))]


def test_a_failure_is_declared_once(tmp_path):
    def run(job: Job) -> Outcome:
        raise NonFinite(4, "the loss")

    def planned(settings):
        return {"flops": 10.0 * settings["a"], "prepare.flops": 5, "parameters": 7}

    failure = {"loss": 5.5, "accuracy": 0.1, "solved": (0, 1)}
    arm = Arm(run=run, about="", planned=planned, failure={"accuracy": 0.5})
    study = replace(study_of(run), arms={"arm": arm}, failure=failure)
    told = jobs.execute(study, output.task(tmp_path, "cpu", "arm", 3, "c0ffee"), lambda fraction, metric: None)
    assert told["diverged"] is True
    assert (told["metrics"], told["counts"]) == ({"loss": 5.5, "accuracy": 0.5}, {"solved": [0, 1]})
    assert told["ledger"] == {"train": {"flops": 20.0}, "prepare": {"flops": 5.0}}
    assert told["curves"] == {}


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
