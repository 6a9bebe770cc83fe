"""Ctrl-C in a run with a folder: the first ends it after the present update, with a checkpoint; a second one ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from etude.engine.folder import MARK
from etude.engine.result import Interrupted
from etude.engine.trainer import Trainer


@contextmanager
def stoppable(trainer: Trainer[Any], go_on: str, say: Callable[[str], None]) -> Iterator[None]:
    """Wraps `trainer.run()`. An interrupted run raises KeyboardInterrupt, with a line that says how to go on.

    go_on: how the run is resumed, as its user would type it. say: told at the first Ctrl-C. Without a folder, outside the main
    thread, or where the program has a handler of its own, nothing changes.
    """
    folder = trainer.folder
    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if folder is None or not free:
        yield
        return
    asked = False

    def stop(*_: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        trainer.request_stop()
        with suppress(RuntimeError):  # the signal came while a line was being written
            say("stopping after this update, with a checkpoint; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    except Interrupted as error:
        if not asked:
            raise
        raise KeyboardInterrupt(f"{error}, with a checkpoint in {folder}: {go_on} goes on from there") from None
    except KeyboardInterrupt:
        if not (folder / MARK).exists():
            raise
        raise KeyboardInterrupt(f"interrupted: {go_on} goes on from {_newest(folder)}") from None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _newest(folder: Path) -> str:
    kept = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    return f"checkpoint {kept[-1]}" if kept else "the beginning, as there is no checkpoint yet"
