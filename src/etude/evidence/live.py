"""The live view on stderr: each run with its state, progress, time left and current metric, and the last round of those that have
rounds, with a sample of it; plain lines where it is no terminal.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from etude.evidence.jobs import Task
from etude.evidence.latest import Round, latest
from etude.loop.wording import cut

WIDE = 160
"""Characters of a round's metrics, and of its sample, that plain lines show."""
STYLES = {"waiting": "dim", "running": "bold cyan", "done": "green", "kept": "green dim", "diverged": "yellow"}


@dataclass
class Row:
    """What is known of one run. started: monotonic seconds; seconds: what it took, or had taken when it was kept."""

    task: Task
    state: str = "waiting"
    fraction: float = 0.0
    metric: float | None = None
    started: float = 0.0
    seconds: float = 0.0

    def left(self, typical: float | None) -> float | None:
        """Seconds it still needs, as far as one can tell; `typical`: what a whole run of this arm takes."""
        if self.state not in ("waiting", "running"):
            return 0.0
        if self.state == "waiting":
            return typical
        spent = time.monotonic() - self.started
        if self.fraction > 0.02:
            return spent * (1 - self.fraction) / self.fraction
        return None if typical is None else max(typical - spent, 0.0)


class View(Protocol):
    """Told of each change; `rows` are in the order of the tasks."""

    rows: Sequence[Row]

    def __enter__(self) -> View: ...
    def __exit__(self, *error: object) -> None: ...
    def changed(self, row: Row) -> None: ...
    def tick(self) -> None: ...


def view(tasks: Sequence[Task], title: str, metric: str, workers: int, quiet: bool = False) -> View:
    """The live table on a terminal, plain lines elsewhere, nothing where quiet."""
    rows = [Row(task) for task in tasks]
    console = Console(stderr=True)
    if quiet:
        return Quiet(rows)
    return LiveTable(rows, title, metric, workers, console) if console.is_terminal else Lines(rows, title, metric, workers, console)


def time_left(rows: Sequence[Row], workers: int) -> float | None:
    """Seconds until all rows are done, None while nothing is known. Runs are taken to share the workers evenly."""
    known: dict[str, list[float]] = {}
    for row in rows:
        if row.seconds > 0:
            known.setdefault(row.task.arm, []).append(row.seconds)
        elif row.state == "running" and row.fraction > 0.02:
            known.setdefault(row.task.arm, []).append((time.monotonic() - row.started) / row.fraction)
    if not known:
        return None
    overall = statistics.fmean(statistics.fmean(v) for v in known.values())
    each = [row.left(statistics.fmean(known.get(row.task.arm, [overall]))) or 0.0 for row in rows]
    return max(sum(each) / workers, max(each, default=0.0))


def clock(seconds: float | None) -> str:
    """ "4.2 s", "1:05", "2:03:09", or a dash where unknown."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class Quiet:
    """Keeps the rows and shows nothing."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __enter__(self) -> View:
        return self

    def __exit__(self, *error: object) -> None: ...
    def changed(self, row: Row) -> None: ...
    def tick(self) -> None: ...


class Lines(Quiet):
    """A line for each run that ends (of quick ones, for one a second); and one now and then while none does.

    Now and then: every quarter minute in the first minute, then every minute, so that a log of an hour can be read.
    The title comes with the first sign that a run is under way: what is refused at once is an error that stands alone.
    """

    def __init__(self, rows: Sequence[Row], title: str, metric: str, workers: int, console: Console) -> None:
        super().__init__(rows)
        self.title, self.metric, self.workers, self.console = title, metric, workers, console
        self.spoke, self.titled = time.monotonic(), False
        self.began, self.listed = self.spoke, float("-inf")
        self.told: dict[str, int] = {}  # run -> the last of its rounds that was told

    def __exit__(self, *error: object) -> None:
        if not any(error):
            self._title()

    def _title(self) -> None:
        if not self.titled:
            self.titled = True
            kept = sum(row.state == "kept" for row in self.rows)
            self._say(f"{self.title}: {len(self.rows)} runs" + (f", {kept} kept from before" if kept else ""))

    def changed(self, row: Row) -> None:
        if row.state in ("done", "diverged"):
            self._title()
            ended, now = sum(r.state not in ("waiting", "running") for r in self.rows), time.monotonic()
            if row.state == "done" and row.seconds < 2 and now - self.listed < 1 and ended < len(self.rows):
                return
            self.listed = now
            left = time_left(self.rows, self.workers)
            more = f", about {clock(left)} left" if left else ""
            self._say(f"[{ended}/{len(self.rows)}] {row.task.name}: {row.state} in {clock(row.seconds)}{more}")
            self._round(row, "")

    def tick(self) -> None:
        if any(row.fraction for row in self.rows):
            self._title()
        now = time.monotonic()
        pause = 15 if now - self.began < 60 else 60
        if now - self.spoke > pause and any(r.state == "running" and now - r.started > 15 for r in self.rows):
            self._title()
            doing = [f"{r.task.name} {r.fraction:.0%}" for r in self.rows if r.state == "running"]
            self._say(f"  running {'; '.join(doing)}; about {clock(time_left(self.rows, self.workers))} left")
            for row in self.rows:
                if row.state == "running":
                    self._round(row, f"{row.task.name}, ")

    def _round(self, row: Row, head: str) -> None:
        """The run's last round, unless it was told before."""
        found = latest(row.task.folder)
        if found is not None and self.told.get(row.task.name) != found.number:
            self.told[row.task.name] = found.number
            for line in found.lines(head, self.metric):
                self._say("    " + cut(line, WIDE))

    def _say(self, text: str) -> None:
        self.spoke = time.monotonic()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class LiveTable(Quiet):
    """A table that redraws itself four times a second; where the runs outnumber the lines, those running come first."""

    def __init__(self, rows: Sequence[Row], title: str, metric: str, workers: int, console: Console) -> None:
        super().__init__(rows)
        self.title, self.metric, self.workers, self.console = title, metric, workers, console
        self.looked = float("-inf")
        self.found: dict[Task, Round | None] = {}
        self.live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=True)

    def __enter__(self) -> View:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def _draw(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("arm", "seed", "", "progress", "time", "now", self.metric):
            table.add_column(name, justify="left" if name in ("arm", "", "progress") else "right", no_wrap=name == "arm")
        # Arms are never cut: what is short of room is the bar.
        names = max((len(row.task.arm) for row in self.rows), default=0)
        bar = max(4, min(24, self.console.width - names - len(self.metric) - 38))
        order = sorted(self.rows, key=lambda r: ("running", "waiting").index(r.state) if r.state in ("running", "waiting") else 2)
        rounds = self._rounds(max(self.console.height - 4, 4) // 2)
        room = max(self.console.height - 4 - len(rounds), 4)
        shown = self.rows if len(self.rows) <= room else order[:room]
        for row in shown:
            style, running = STYLES[row.state], row.state == "running"
            fraction = 1.0 if row.state in ("done", "kept", "diverged") else row.fraction
            state = f"{row.fraction:.0%}" if running and row.fraction else row.state
            spent = f"{clock(row.left(None))} left" if running else clock(row.seconds) if row.seconds else ""
            # While it runs it says what it likes, such as its training loss; only what it ends with is the study's metric.
            value = "" if row.metric is None else f"{row.metric:.4g}"
            table.add_row(
                Text(row.task.arm, style), str(row.task.seed), Text(state, style), ProgressBar(1.0, fraction, width=bar), spent,
                *((value, "") if running else ("", value)),
            )  # fmt: skip
        ended = sum(row.state not in ("waiting", "running") for row in self.rows)
        hidden = len(self.rows) - len(shown)
        foot = f"{ended} of {len(self.rows)} runs, about {clock(time_left(self.rows, self.workers))} left"
        foot += f" ({hidden} more not shown)" if hidden else ""
        told = (Text(line, no_wrap=True, overflow="ellipsis") for line in rounds)
        return Group(Text(self.title, "bold"), table, *told, Text(foot, "dim"))

    def _rounds(self, room: int) -> list[str]:
        """What is known of the last rounds of runs under way, in at most so many lines; read anew every two seconds."""
        running = [row for row in self.rows if row.state == "running"]
        if time.monotonic() - self.looked > 2:
            self.looked, self.found = time.monotonic(), {row.task: latest(row.task.folder) for row in running}
        return [line for row in running if (found := self.found.get(row.task))
                for line in found.lines(f"{row.task.name}, ", self.metric)][:room]  # fmt: skip
