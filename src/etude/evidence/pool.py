"""Spreads tasks over one-thread processes. Nothing is pickled, and a script without a main guard is not run again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from etude.errors import BadInput
from etude.evidence.jobs import Task, peak_of
from etude.evidence.reference import Reference

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS")


class RunFailed(RuntimeError):
    """A run raised something. `run`: which one; the runs finished before it are kept."""

    def __init__(self, run: str, problem: str, trace: str = "") -> None:
        self.run, self.problem, self.trace = run, problem, trace
        super().__init__(f"the run {run} failed: {problem}; finished runs are kept")


@dataclass(frozen=True)
class Event:
    """kind: started, progress, done or tick (nothing new within a moment). index: which task. peak: bytes of its process."""

    kind: str
    index: int = -1
    fraction: float = 0.0
    metric: float | None = None
    peak: int = 0


class Pool:
    """A context manager: `with Pool(reference, 2, log_folder) as pool: for event in pool.run(tasks): ...`.

    Leaving it, however, ends all its processes. Each has its own session, so that Ctrl-C reaches the parent alone.
    """

    def __init__(self, reference: Reference, workers: int, logs: Path) -> None:
        self.reference, self.size, self.logs = reference, workers, logs
        self.processes: list[subprocess.Popen[str]] = []
        self.listeners: list[threading.Thread] = []
        self.doing: dict[int, int] = {}  # worker -> index of its task
        self.messages: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()

    def __enter__(self) -> Pool:
        self.logs.mkdir(parents=True, exist_ok=True)
        environment = os.environ | dict.fromkeys(ONE_THREAD, "1") | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        try:
            for number in range(self.size):
                with (self.logs / f"worker-{number}.txt").open("w") as log:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "etude.evidence.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                        text=True, encoding="utf-8", env=environment, start_new_session=True,
                    )  # fmt: skip
                self.processes.append(process)
                assert process.stdout is not None
                self.listeners.append(threading.Thread(target=self._listen, args=(number, process.stdout), daemon=True))
                self.listeners[-1].start()
                self._tell(number, {"word": self.reference.word, "locate": self.reference.locate})
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def run(self, tasks: Sequence[Task], tick: float = 0.2) -> Iterator[Event]:
        """Yields events until every task is done. Raises RunFailed, or the BadInput that a run raised."""
        waiting = list(enumerate(tasks))[::-1]
        doing = self.doing = {}
        ready: set[int] = set()
        left = len(tasks)
        while left:
            while waiting and (idle := sorted(ready - doing.keys())):
                index, task = waiting.pop()
                doing[idle[0]] = index
                asked = dataclasses.asdict(task) | {"file": str(task.file), "folder": str(task.folder)}
                self._tell(idle[0], asked)
                yield Event("started", index)
            try:
                worker, message = self.messages.get(timeout=tick)
            except queue.Empty:
                yield Event("tick")
                continue
            run = tasks[doing[worker]].name if worker in doing else f"(worker {worker} was starting)"
            if message is None:
                code = self.processes[worker].wait()
                raise RunFailed(run, f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}", self._log(worker))
            match message["event"]:
                case "ready":
                    ready.add(worker)
                case "progress":
                    yield Event("progress", doing[worker], message["fraction"], message["metric"], message["peak"])
                case "done":
                    left -= 1
                    yield Event("done", doing.pop(worker), 1.0, None, message["peak"])
                case _ if message["kind"] == "BadInput":
                    raise BadInput(*message["bad_input"])
                case _:
                    raise RunFailed(run, f"{message['kind']}: {message['message']}", message["trace"])

    def peaks(self) -> dict[int, int]:
        """index of each task under way -> the most bytes that its process has held; empty where the system does not tell."""
        found = {index: peak_of(self.processes[worker].pid) for worker, index in self.doing.items()}
        return {index: peak for index, peak in found.items() if peak}

    def _listen(self, number: int, lines: IO[str]) -> None:
        try:
            for line in lines:
                self.messages.put((number, json.loads(line)))
        except ValueError:
            pass  # a line cut short by a kill
        self.messages.put((number, None))

    def _tell(self, number: int, message: dict[str, Any]) -> None:
        pipe = self.processes[number].stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()
        except OSError:
            pass  # it has ended: the end of its output says so

    def _log(self, number: int) -> str:
        try:
            return (self.logs / f"worker-{number}.txt").read_text(errors="replace")[-4000:]
        except OSError:
            return ""

    def _end(self) -> None:
        for process in self.processes:
            with contextlib.suppress(OSError):  # with whatever it started itself; all that a worker keeps is written atomically
                os.killpg(process.pid, signal.SIGKILL)
        for process, listener in zip(self.processes, self.listeners, strict=False):
            process.wait()
            listener.join(2.0)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None and not (pipe is process.stdout and listener.is_alive()):
                    with contextlib.suppress(OSError):
                        pipe.close()
