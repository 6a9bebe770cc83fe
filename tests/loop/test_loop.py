import io
import json
import os
import random
import re
import shutil
import signal
import time

import numpy as np
import pytest

from etude.data.tasks.judging import Failure, Judge, VerifierFailed
from etude.engine.protocols import Problem
from etude.engine.streams import numpy_rng
from etude.errors import BadInput
from etude.loop import journal as journal_module
from etude.loop.loop import Printed, history, run_loop


class Guessing:
    """Eight requests a round; a candidate is a number drawn by name; those above the state's bar are learned from."""

    def __init__(self, log=None, independent=True, pause=0.0):
        self.log, self.independent, self.pause = log, independent, pause

    def asked(self, number, request):
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{number} {request}\n")

    def plan(self, number, state):
        requests = [{"id": f"q{i}", "from": state["bar"]} for i in range(8)]
        return [requests[:3], requests[3:6], requests[6:]]

    def propose(self, number, state, wanted):
        for request in wanted:
            self.asked(number, request["id"])
            time.sleep(self.pause)
            value = int(numpy_rng(0, number, request["id"]).integers(100))
            yield {"id": f"c-{request['id']}", "request": request["id"], "text": f"{value} é"}

    def judge(self, number, state, candidates):
        for row in candidates:
            self.asked(number, row["id"])
            time.sleep(self.pause)
            yield {"id": row["id"], "score": int(row["text"].split()[0]) / 100}

    def select(self, number, state, judged):
        return [{"text": r["text"], "score": r["judgement"]["score"]} for r in judged if r["judgement"]["score"] >= state["bar"]]

    def learn(self, number, state, data, folder):
        time.sleep(self.pause)
        bar = state["bar"] + 0.01 * len(data)
        return {"bar": bar, "seen": [*state["seen"], *(r["text"] for r in data)]}, {"kept": float(len(data)), "bar": bar}


START = {"bar": 0.3, "seen": []}


def files(folder):
    """Everything that a loop keeps as text, by name."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*.json*")) if "rounds/" not in str(p)}


def test_a_round_is_on_disk_and_the_state_passes_on(tmp_path):
    state, reports = run_loop(Guessing(), START, 3, tmp_path)
    assert len(reports) == 3
    first = tmp_path / "round-001"
    assert sorted(p.name for p in first.iterdir()) == [
        "candidates.jsonl", "data.jsonl", "judgements.jsonl", "loop.json", "plan.json", "report.json",
    ]  # fmt: skip
    assert len((first / "candidates.jsonl").read_text().splitlines()) == 8
    kept = [json.loads(line) for line in (first / "data.jsonl").read_text().splitlines()]
    assert reports[0]["kept"] == len(kept)
    assert all(row["score"] >= 0.3 for row in kept)
    assert state["bar"] == pytest.approx(0.3 + 0.01 * sum(r["kept"] for r in reports))
    assert [row["round"] for row in history(tmp_path)] == [1, 2, 3]
    assert history(tmp_path)[0]["samples"][0]["judgement"]["id"] == "c-q0"


class Stop(BaseException):
    """The end of a process, as far as a loop can tell."""


@pytest.mark.parametrize("independent", [True, False])
def test_cut_short_anywhere_it_goes_on_and_ends_the_same(tmp_path, independent, monkeypatch):
    """Stopped in turn before each write of the whole loop, in the middle of a line, and after it."""
    whole, _ = run_loop(Guessing(independent=independent), START, 2, tmp_path / "whole")
    wanted, real = files(tmp_path / "whole"), journal_module.Journal.append
    for moment in (1, 7, 8, 13, 20, 32):
        for how in ("before", "torn", "after"):
            folder, count = tmp_path / f"{moment}-{how}", 0

            def append(self, row, moment=moment, how=how):
                nonlocal count
                count += 1
                if count == moment + 1:
                    if how == "torn":
                        self.path.parent.mkdir(parents=True, exist_ok=True)
                        with self.path.open("ab") as file:
                            file.write(b'{"id": "c-q')
                    if how == "after":
                        real(self, row)
                    raise Stop
                real(self, row)

            monkeypatch.setattr(journal_module.Journal, "append", append)
            if moment < 32:
                with pytest.raises(Stop):
                    run_loop(Guessing(independent=independent), START, 2, folder)
            monkeypatch.setattr(journal_module.Journal, "append", real)
            state, _ = run_loop(Guessing(independent=independent), START, 2, folder)
            assert state == whole
            assert files(folder) == wanted


@pytest.mark.parametrize("independent", [True, False])
def test_killed_at_ten_random_moments_it_leaves_the_same_records(tmp_path, independent):
    """SIGKILL in a forked child at random times; what is on disk is never asked for again."""
    run_loop(Guessing(independent=independent), START, 3, tmp_path / "whole")
    folder, log, draw, kills = tmp_path / "killed", tmp_path / "log", random.Random(11), 0

    def forked():
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run_loop(Guessing(log, independent, pause=0.012), START, 3, folder)
                code = 0
            finally:
                os._exit(code)
        return child

    while kills < 10:
        before = kept(folder)
        marked = len(log.read_text().splitlines()) if log.exists() else 0
        child = forked()
        time.sleep(draw.uniform(0.005, 0.07))
        os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == -signal.SIGKILL, "the loop outlives ten kills"
        kills += 1
        if independent:
            asked = {tuple(line.split()) for line in log.read_text().splitlines()[marked:]} if log.exists() else set()
            assert not asked & before
    assert os.waitstatus_to_exitcode(os.waitpid(forked(), 0)[1]) == 0
    assert files(folder) == files(tmp_path / "whole")


def kept(folder):
    """(round, id) of every request answered and every candidate judged on disk, whole lines only."""
    found = set()
    for name, key in (("candidates", "request"), ("judgements", "id")):
        for path in folder.glob(f"round-*/{name}.jsonl"):
            for line in path.read_text().split("\n")[:-1]:
                found.add((str(int(path.parent.name[6:])), json.loads(line)[key]))
    return found


def test_progress_is_told_and_samples_are_shown(tmp_path, capsys):
    out = io.StringIO()
    run_loop(Guessing(), START, 2, tmp_path, progress=Printed(out))
    lines = out.getvalue().splitlines()
    assert lines[0] == "round 1/2  propose 0/8"
    assert "round 1/2  judge 8/8" in lines
    assert any(line.startswith("round 2/2  done: kept ") for line in lines)
    assert any(re.fullmatch(r"    judgement: 0\.\d+  text: \d+ é", line) for line in lines)
    capsys.readouterr()
    run_loop(Guessing(), START, 2, tmp_path / "by default")
    assert capsys.readouterr().err.splitlines() == lines


def test_malformed_records_name_file_line_and_field(tmp_path):
    class Halted(Guessing):
        def judge(self, number, state, candidates):
            raise Stop

    with pytest.raises(Stop):
        run_loop(Halted(), START, 1, tmp_path)
    file = tmp_path / "round-001" / "candidates.jsonl"
    good = file.read_text()
    lines = good.splitlines()
    for line, message in (
        ('{"id": "c-q1"}', r"candidates.jsonl, line 2, field 'request': found nothing, expected a text"),
        ('{"id": 3, "request": "q1"}', r"candidates.jsonl, line 2, field 'id': found 3, expected a text"),
        ("{oops", r"candidates.jsonl, line 2: found no JSON at character 2, 'oops' \(expecting property name"),
        ("[1]", r"candidates.jsonl, line 2: found a list, expected one JSON object a line"),
        (lines[0], r"candidates.jsonl, line 2, field 'id': found 'c-q0' again, expected each once"),
        ('{"id": "c", "request": "zz"}', r"found an answer to 'zz'"),
        ('{"id": "c", "request": "q0"}', r"found a request answered twice"),
        ('{"id": "c", "request": "q1", "x": 1e999}', r"line 2: found 1e999, expected numbers that are finite"),
        ('{"id": "c", "request": "q1", "x": ' + "9" * 5000 + "}", r"line 2: found a whole number of thousands of digits"),
        ('{"id": "c", "request": "q1", "x": ' + "[" * 100_000, r"line 2: found lists or objects in each other, hundreds deep"),
    ):
        file.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
        with pytest.raises(BadInput, match=message):
            run_loop(Guessing(), START, 1, tmp_path)
    flipped = bytearray(good.encode())
    flipped[good.encode().index("é".encode()) + 1] ^= 0x80
    file.write_bytes(flipped)
    with pytest.raises(BadInput, match=r"candidates.jsonl, line 1: found byte \d+ that is no UTF-8"):
        run_loop(Guessing(), START, 1, tmp_path)
    file.write_text(good)
    plan, judgements = tmp_path / "round-001" / "plan.json", tmp_path / "round-001" / "judgements.jsonl"
    planned = plan.read_text()
    for content, message in (
        ('{"a": 1}', "plan.json: found something else, expected a list of batches"), ("[3]", "plan.json: found something else"),
        ("[[3]]", "plan.json, request None: found no id of its own"), ("[" * 100_000, "plan.json: found unreadable content"),
    ):  # fmt: skip
        plan.write_text(content)
        with pytest.raises(BadInput, match=message):
            run_loop(Guessing(), START, 1, tmp_path)
    plan.write_text(planned)
    judgements.write_text('{"id": "of nobody", "score": 1}\n')
    with pytest.raises(BadInput, match=r"judgements.jsonl: found a judgement of 'of nobody', expected judgements of .*candidates.jsonl"):
        run_loop(Guessing(), START, 1, tmp_path)
    judgements.unlink()
    run_loop(Guessing(), START, 1, tmp_path)


def test_steps_that_break_their_word_are_refused(tmp_path):
    class Silent(Guessing):
        def propose(self, number, state, wanted):
            return list(super().propose(number, state, wanted))[1:]

    class Loud(Guessing):
        def propose(self, number, state, wanted):
            yield from [*super().propose(number, state, wanted)] * 2

    class Unjudged(Guessing):
        def judge(self, number, state, candidates):
            return list(super().judge(number, state, candidates))[1:]

    class Nameless(Guessing):
        def plan(self, number, state):
            return [[{"id": "a"}, {"id": "a"}]]

    for i, (steps, message) in enumerate((
        (Silent(), "no answer to 'q0', expected an answer to each request"), (Loud(), "a request of this batch, answered once"),
        (Unjudged(), "no judgement of 'c-q0'"), (Nameless(), "the id again, expected a text that no other request has"),
    )):  # fmt: skip
        with pytest.raises(BadInput, match=message):
            run_loop(steps, START, 1, tmp_path / str(i))


class Careless(Guessing):
    """Its judge raises on one candidate, as it comes or with all of its batch, and finds no number for another."""

    def __init__(self, at_once=False):
        super().__init__()
        self.at_once = at_once

    def judge(self, number, state, candidates):
        rows = (self.judged(row) for row in candidates)
        return list(rows) if self.at_once else rows

    def judged(self, row):
        if row["id"] == "c-q4":
            raise ZeroDivisionError("by zero")
        return {"id": row["id"], "score": float("nan") if row["id"] == "c-q6" else 0.5}


@pytest.mark.parametrize("at_once", [False, True])
def test_a_judge_that_fails_is_named_with_its_candidate_which_is_kept(tmp_path, at_once):
    with pytest.raises(VerifierFailed, match=r"001, the judge of candidate 'c-q4': found ZeroDivisionError: by zero on .*é") as caught:
        run_loop(Careless(at_once), START, 1, tmp_path)
    assert json.loads(caught.value.failure.response)["request"] == "q4"
    assert len((tmp_path / "round-001" / "candidates.jsonl").read_text().splitlines()) == 8
    assert "c-q4" not in (tmp_path / "round-001" / "judgements.jsonl").read_text()
    run_loop(Guessing(), START, 1, tmp_path)  # with the judge mended it goes on


@pytest.mark.parametrize("at_once", [False, True])
def test_a_loop_goes_on_without_what_its_judge_failed_on(tmp_path, at_once):
    _, reports = run_loop(Careless(at_once), START, 2, tmp_path, failures="skip")
    assert [r["verifier_failures"] for r in reports] == [2.0, 2.0]
    assert [r["kept"] for r in reports] == [6.0, 6.0]
    judged = [json.loads(line) for line in (tmp_path / "round-002" / "judgements.jsonl").read_text().splitlines()]
    assert {r["id"]: r["failure"] for r in judged if "failure" in r} == {
        "c-q4": "ZeroDivisionError: by zero", "c-q6": "nan in the field 'score'",
    }  # fmt: skip
    assert run_loop(Careless(at_once), START, 2, tmp_path, failures="skip")[1] == reports
    with pytest.raises(BadInput, match="failures: found 'zero', expected stop or skip"):
        run_loop(Careless(), START, 1, tmp_path / "other", failures="zero")


def test_a_judge_that_raises_once_stops_the_loop_with_what_it_raised(tmp_path):
    class Once(Guessing):
        raised = False

        def judge(self, number, state, candidates):
            if not self.raised:
                self.raised = True
                raise OSError("no memory left")
            return super().judge(number, state, candidates)

    steps = Once()
    with pytest.raises(OSError, match="no memory left"):
        run_loop(steps, START, 1, tmp_path)
    assert run_loop(steps, START, 1, tmp_path) == run_loop(Guessing(), START, 1, tmp_path / "whole")


class Verifying(Guessing):
    """Judges with a task's verifier, in `judge` or while it proposes."""

    name = "odd"

    def __init__(self, early):
        super().__init__()
        self.early, self.ask = early, Judge(self)

    def verify(self, problem, response):
        return None

    def propose(self, number, state, wanted):
        for row in super().propose(number, state, wanted):
            if self.early:
                self.ask(Problem(row["id"], "?", "!", 1), row["text"])
            yield row

    def judge(self, number, state, candidates):
        for row in candidates:
            yield {"id": row["id"], "score": self.ask(Problem(row["id"], "?", "!", 1), row["text"]).score}


def test_a_verifier_that_fails_in_a_loop_is_named_with_its_problem_and_the_text_is_kept(tmp_path):
    for early in (False, True):
        with pytest.raises(VerifierFailed, match="verifier of odd, problem c-q0: found TypeError: returned None"):
            run_loop(Verifying(early), START, 1, tmp_path / str(early))
    (kept,) = [json.loads(line) for line in (tmp_path / "True" / "round-001" / "failed.jsonl").read_text().splitlines()]
    failure = Failure(**kept)
    assert failure.response.endswith(" é")
    assert failure.response in (tmp_path / "False" / "round-001" / "candidates.jsonl").read_text()


def test_another_loops_folder_is_refused_even_in_its_first_round(tmp_path):
    class Halted(Guessing):
        def judge(self, number, state, candidates):
            raise Stop

    with pytest.raises(Stop):
        run_loop(Halted(), START, 1, tmp_path, identity="a")
    with pytest.raises(BadInput, match="found a round of another loop"):
        run_loop(Guessing(), START, 1, tmp_path, identity="b")
    (tmp_path / "mark" / "round-001").mkdir(parents=True)
    (tmp_path / "mark" / "round-001" / "loop.json").write_text('{"identity": "a"}')  # of a loop that was refused at once
    run_loop(Guessing(), START, 1, tmp_path / "mark", identity="b")


def test_a_folder_that_a_loop_is_at_work_in_is_refused(tmp_path):
    class Nested(Guessing):
        def judge(self, number, state, candidates):
            with pytest.raises(BadInput, match="found another run at work in it, expected a folder that nobody is writing to"):
                run_loop(Guessing(), START, 1, tmp_path)
            return super().judge(number, state, candidates)

    run_loop(Nested(), START, 1, tmp_path)
    run_loop(Guessing(), START, 2, tmp_path)  # let go of


@pytest.mark.parametrize(
    ("metric", "row", "said"),
    [
        (float("nan"), {}, r"report.json, field 'metrics.kept': found nan, expected what JSON can hold"),
        (np.float32(1), {}, r"report.json, field 'metrics.kept': found 1.0, a float32"),
        (1.0, {"text": "\ud800"}, r"candidates.jsonl, id 'c-q0', field 'text': found '\\ud800', half of a character"),
        (1.0, {"value": np.float32(1)}, r"candidates.jsonl, id 'c-q0', field 'value': found 1.0, a float32"),
        (1.0, {"parts": [{"value": float("inf")}]}, r"id 'c-q0', field 'parts\[0\].value': found inf"),
    ],
)
def test_what_json_cannot_hold_is_named_by_file_id_and_field(tmp_path, metric, row, said):
    class Unwritable(Guessing):
        def propose(self, number, state, wanted):
            return ({**given, **row} for given in super().propose(number, state, wanted))

        def learn(self, number, state, data, folder):
            return state, {"kept": metric}

    with pytest.raises(BadInput, match=said):
        run_loop(Unwritable(), START, 1, tmp_path)


def test_what_was_learned_is_kept_where_it_cannot_be_reported(tmp_path):
    class Counted(Guessing):
        learned, metric, worst = 0, 1.0, {}

        def learn(self, number, state, data, folder):
            self.learned += 1
            after, report = super().learn(number, state, data, folder)
            return after, report | {"accuracy": self.metric}

        def samples(self, number, judged):
            return [{"text": judged[0]["text"], **self.worst}]

    whole, _ = run_loop(Counted(), START, 2, tmp_path / "whole")
    steps, folder = Counted(), tmp_path / "stopped"
    steps.worst = {"score": float("inf")}
    with pytest.raises(BadInput, match=r"'samples\[0\].score': found inf.*; what was learned is kept in .*round-001/learned: delete it"):
        run_loop(steps, START, 2, folder)
    steps.worst, steps.metric = {}, float("nan")  # of the next round: the first one's metrics are kept with what it learned
    for _ in range(2):
        with pytest.raises(BadInput, match=r"round-002/report.json, field 'metrics.accuracy': found nan"):
            run_loop(steps, START, 2, folder)
    assert steps.learned == 2  # once a round
    shutil.rmtree(folder / "round-002" / "learned")
    steps.metric = 1.0
    assert run_loop(steps, START, 2, folder)[0] == whole
    assert steps.learned == 3
    assert files(folder) == files(tmp_path / "whole")
    assert not list(folder.rglob("learned"))


def test_a_round_that_selects_nothing_is_a_round(tmp_path):
    state, reports = run_loop(Guessing(), {"bar": 2.0, "seen": []}, 2, tmp_path)
    assert [r["kept"] for r in reports] == [0.0, 0.0]
    assert (tmp_path / "round-002" / "data.jsonl").read_text() == ""
    assert run_loop(Guessing(), {"bar": 2.0, "seen": []}, 2, tmp_path)[0] == state
