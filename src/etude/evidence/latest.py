"""The last round of a run under way, as its folder shows it: what the live view tells beside the share done.

Read from what the floors below write as they go: a loop's reports (`etude.loop.loop.history`), the lines of `rounds.jsonl` and, of
a trainer that learns from rollouts, `rollouts.jsonl` and `metrics.jsonl`. A run without rounds has none of these and shows none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.loop.wording import metrics_in_words, row_in_words

TAIL = 1 << 18
"""So many bytes from the end of a file that grows are read: an update's metrics and a rollout are a line each, of a few thousand."""
OF_UPDATES = ("step", "loss", "lr", "gradient_norm", "share", "stage")
OF_ROLLOUTS = ("prompt", "completion", "reward")


@dataclass(frozen=True)
class Round:
    """number: from 1 in loops, from 0 in rollouts, as their files count. sample: one row of it, if its rows are kept."""

    number: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    sample: Mapping[str, Any] = field(default_factory=dict)

    def lines(self, head: str, first: str) -> list[str]:
        """One of metrics, with the one named `first` before the others, and one of the sample, as far as there are any."""
        ordered = dict(sorted(self.metrics.items(), key=lambda item: item[0] != first))
        told = f"{head}round {self.number}" + (f": {metrics_in_words(ordered)}" if ordered else "")
        return [told, "  " + row_in_words(self.sample)] if self.sample else [told]


def latest(folder: Path) -> Round | None:
    """The newest round below the folder, or None. Never raises for what it finds there: it is only shown."""
    try:
        found = sorted(_files(folder), key=lambda path: path.stat().st_mtime_ns)
        return _read(found[-1]) if found else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None


def _files(folder: Path) -> Iterator[Path]:
    """The files that tell of rounds; a loop's reports go before the lines that repeat their metrics."""
    yield from folder.rglob("round-*/report.json")
    yield from folder.rglob("rollouts.jsonl")
    for path in folder.rglob("rounds.jsonl"):
        if not any(path.parent.glob("round-*/report.json")):
            yield path


def _read(path: Path) -> Round | None:
    if path.name == "report.json":
        report = json.loads(path.read_text(encoding="utf-8"))
        return Round(report["round"], _numbers(report["metrics"]), next(iter(report["samples"]), {}))
    if path.name == "rounds.jsonl":
        return Round((row := next(_backwards(path))).pop("round"), _numbers(row))
    # An update's line carries its round's metrics; the round's rollouts are there before it.
    update = next((u for u in _backwards(path.with_name("metrics.jsonl")) if "reward" in u and "stage" in u), None)
    rollouts = _backwards(path)
    if update is None:
        sample = next(rollouts)
        return Round(sample["round"], {}, {name: sample[name] for name in OF_ROLLOUTS})
    number = int(update["stage"].removeprefix("round-"))
    sample = next((r for r in rollouts if r["round"] == number), {})
    metrics = {name: value for name, value in update.items() if name not in OF_UPDATES}
    return Round(number, _numbers(metrics), {name: sample[name] for name in OF_ROLLOUTS if name in sample})


def _backwards(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines at the end of a file that grows, the last one first."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - TAIL, 0))
        text = file.read()
    lines = text[: text.rfind(b"\n") + 1].splitlines()[1 if size > TAIL else 0 :]
    return (json.loads(line) for line in reversed(lines))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}
