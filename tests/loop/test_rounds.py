import json
import shutil

import pytest
import torch

from etude.engine import checkpoint
from etude.engine.streams import generator
from etude.errors import BadInput
from etude.loop.rounds import run_rounds


def walk(number, state):
    x = state["x"] + torch.randn(3, generator=generator(7, "round", number))
    return {"x": x, "trail": [*state["trail"], number]}, {"sum": float(x.sum())}


START = {"x": torch.zeros(3), "trail": []}


def test_rounds_pass_the_state_on_and_collect_reports(tmp_path):
    state, reports = run_rounds(walk, START, 3, folder=tmp_path)
    expected = sum(torch.randn(3, generator=generator(7, "round", k)) for k in (1, 2, 3))
    assert torch.equal(state["x"], expected)
    assert state["trail"] == [1, 2, 3]
    lines = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert lines == [{"round": i, **r} for i, r in enumerate(reports, start=1)]
    assert START["trail"] == []


def test_without_a_folder_nothing_differs(tmp_path):
    assert torch.equal(run_rounds(walk, START, 3)[0]["x"], run_rounds(walk, START, 3, folder=tmp_path)[0]["x"])


def test_a_killed_loop_goes_on_with_its_round_and_ends_the_same(tmp_path):
    done = []

    def killed(number, state):
        if number == 3 and not done.count(3):
            done.append(3)
            raise KeyboardInterrupt
        done.append(number)
        return walk(number, state)

    with pytest.raises(KeyboardInterrupt):
        run_rounds(killed, START, 4, folder=tmp_path, identity="a")
    state, reports = run_rounds(killed, START, 4, folder=tmp_path, identity="a")
    assert done == [1, 2, 3, 3, 4]
    whole, wanted = run_rounds(walk, START, 4)
    assert torch.equal(state["x"], whole["x"])
    assert reports == wanted
    assert state["trail"] == whole["trail"]


def test_stopped_between_a_rounds_checkpoint_and_its_line_no_line_is_missing(tmp_path, monkeypatch):
    run_rounds(walk, START, 3, folder=tmp_path / "whole")
    real = checkpoint.write_atomic

    def stopped(path, data):
        if path.name == "rounds.jsonl" and data.count("\n") == 3:
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(checkpoint, "write_atomic", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_rounds(walk, START, 3, folder=tmp_path / "cut")
    monkeypatch.undo()
    run_rounds(walk, START, 3, folder=tmp_path / "cut")
    assert (tmp_path / "cut" / "rounds.jsonl").read_text() == (tmp_path / "whole" / "rounds.jsonl").read_text()


def test_a_damaged_round_is_done_again(tmp_path):
    run_rounds(walk, START, 3, folder=tmp_path)
    file = sorted((tmp_path / "rounds").glob("step-*"))[-1] / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    state, reports = run_rounds(walk, START, 3, folder=tmp_path)
    assert torch.equal(state["x"], run_rounds(walk, START, 3)[0]["x"])
    assert len(reports) == 3


def test_bad_input(tmp_path):
    with pytest.raises(BadInput, match="num_rounds: found 0, expected a whole number >= 1"):
        run_rounds(walk, START, 0)
    run_rounds(walk, START, 2, folder=tmp_path, identity="a")
    with pytest.raises(BadInput, match="found the rounds of another loop, expected an empty folder, or the loop being resumed"):
        run_rounds(walk, START, 2, folder=tmp_path, identity="b")
    with pytest.raises(BadInput, match="found 2 rounds, expected at most the 1 asked for"):
        run_rounds(walk, START, 1, folder=tmp_path, identity="a")
    shutil.rmtree(tmp_path / "rounds")
