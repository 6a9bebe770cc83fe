import json
import os

import pytest

from etude.evidence.latest import Round, latest


def write(path, *rows, cut=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text[: len(text) - cut])


def rollout(number, sample, reward=0.0):
    return {"round": number, "sample": sample, "prompt": "3+4=", "completion": "7", "reward": reward, "ids": [1, 2]}


def test_a_loop_shows_the_metrics_and_a_sample_of_its_last_report(tmp_path):
    for number in (1, 2):
        report = {"round": number, "metrics": {"kept": 8.0 * number, "bar": 0.3}, "samples": [{"text": "7", "reward": 1.0}, {"text": "8"}]}
        write(tmp_path / "loop" / f"round-{number:03d}" / "report.json", report)
        os.utime(tmp_path / "loop" / f"round-{number:03d}" / "report.json", (number, number))
    write(tmp_path / "loop" / "rounds.jsonl", {"round": 1, "kept": 8.0})  # written after the report, without samples
    found = latest(tmp_path)
    assert found == Round(2, {"kept": 16.0, "bar": 0.3}, {"text": "7", "reward": 1.0})
    assert found.lines("rise, seed 0, ", "bar") == ["rise, seed 0, round 2: bar 0.3  kept 16", "  reward: 1  text: 7"]


def test_rounds_without_samples_show_their_metrics(tmp_path):
    write(tmp_path / "rounds.jsonl", {"round": 1, "modes": 4.0}, {"round": 2, "modes": 3.0})
    assert latest(tmp_path) == Round(2, {"modes": 3.0})
    assert latest(tmp_path).lines("", "modes") == ["round 2: modes 3"]


def test_rollouts_show_the_round_that_has_metrics_and_a_rollout_of_it(tmp_path):
    folder = tmp_path / "parts" / "train"
    rollouts = [rollout(n, s, reward=float(n)) for n in range(3) for s in range(4)]
    write(folder / "rollouts.jsonl", *rollouts, cut=5)  # the last line is on its way
    (folder / "metrics.jsonl").touch()
    assert latest(tmp_path) == Round(2, {}, {"prompt": "3+4=", "completion": "7", "reward": 2.0})
    first = {"step": 3, "loss": 0.5, "lr": 1e-3, "share": 0.2, "stage": "round-1", "reward": 0.75, "finished": 1.0}
    write(folder / "metrics.jsonl", first, {"step": 4, "stage": "round-1", "kl": 0.0}, {"event": "evaluate", "test/solved": 0.5})
    os.utime(folder / "rollouts.jsonl")
    assert latest(tmp_path) == Round(1, {"reward": 0.75, "finished": 1.0}, {"prompt": "3+4=", "completion": "7", "reward": 1.0})


@pytest.mark.parametrize("text", ["", "{", "[1]\n", '{"round": 1}\n', "\xff\n"])
def test_what_cannot_be_read_is_not_shown_and_stops_nothing(tmp_path, text):
    (tmp_path / "rollouts.jsonl").write_text(text, encoding="latin-1")
    (tmp_path / "metrics.jsonl").touch()
    assert latest(tmp_path) is None
    assert latest(tmp_path / "none") is None


def test_only_the_end_of_a_long_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("etude.evidence.latest.TAIL", 400)
    write(tmp_path / "rollouts.jsonl", *[rollout(n, 0) for n in range(100)])
    (tmp_path / "metrics.jsonl").touch()
    assert latest(tmp_path).number == 99
