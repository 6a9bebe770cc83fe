"""A worker: a process of one thread that runs tasks until its input ends. Started by `pool`, speaks JSON lines.

In:  {"word", "locate"} once, then one {"arm", "scale", "seed", "config", "file", "folder"} a task.
Out: {"event": "ready" | "progress" | "done" | "failed", ...}.
When its input ends, for whatever reason the other side is gone, it ends at once: a killed parent leaves no orphans.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

REPORT_EVERY = 0.1  # seconds between progress lines


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what an arm prints must not end up between the lines
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()

    def tell(event: str, **more: Any) -> None:
        try:
            out.write(json.dumps({"event": event, **more}) + "\n")
        except OSError:
            os._exit(1)

    from etude.errors import BadInput
    from etude.evidence import jobs
    from etude.evidence.reference import Reference

    try:
        with jobs.one_thread():
            setup = json.loads(lines.get())
            study = Reference(setup["word"], setup["locate"]).study()
            tell("ready")
            while True:
                asked = json.loads(lines.get())
                task = jobs.Task(**asked | {"file": Path(asked["file"]), "folder": Path(asked["folder"])})
                jobs.execute(study, task, _reporter(tell, jobs.peak_bytes))
                tell("done", peak=jobs.peak_bytes())
    except BadInput as error:
        tell("failed", kind="BadInput", bad_input=[error.where, error.found, error.expected], trace="")
    except BaseException as error:
        tell("failed", kind=type(error).__name__, message=str(error), trace=traceback.format_exc())


def _listen(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _reporter(tell: Any, peak: Any) -> Any:
    last = 0.0

    def progress(fraction: float, metric: float | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_EVERY or fraction >= 1.0:
            last = now
            tell("progress", fraction=float(fraction), metric=None if metric is None else float(metric), peak=peak())

    return progress


if __name__ == "__main__":
    main()
