"""Running generated code: one program, or many side by side."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from etude.errors import BadInput
from etude.sandbox.enclosure import Limits, NotIsolated, Result, execute
from etude.sandbox.selftest import REMEDY, check

LONGEST = 8 << 20  # characters of code or of input


def run(code: str, stdin: str = "", limits: Limits | None = None) -> Result:
    """Runs Python `code` with `stdin` as its standard input, isolated, and returns when nothing of it is left.

    The program has the standard library, /tmp, and nothing else: no network, no other file, no other process. The first call
    tests the isolation (`check`). Raises BadInput where the kernel offers none, and for code that holds a null character or is too long.
    """
    for name, text in (("code", code), ("stdin", stdin)):
        if len(text) > LONGEST:
            raise BadInput(f"sandbox.run: {name}", f"{len(text)} characters", f"at most {LONGEST}")
    prefix = check().prefix
    for attempt in range(3):  # what was proved once may fail for a moment: no process, no memory left
        try:
            return execute(code, stdin, limits or Limits(), prefix)
        except NotIsolated as error:
            if attempt == 2:
                raise BadInput("sandbox", f"no isolation any more ({error})", REMEDY) from None
            time.sleep(0.2)
    raise AssertionError("not reached")


def run_many(programs: Sequence[tuple[str, str]], limits: Limits | None = None, workers: int | None = None) -> list[Result]:
    """Runs (code, stdin) pairs side by side, by default as many as there are processors; results in the order given."""
    if not programs:
        return []
    check()
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda pair: run(pair[0], pair[1], limits), programs))
