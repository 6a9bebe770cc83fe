"""Generated code, isolated by the kernel: `run(code)` in namespaces of its own, or refused where the kernel offers none.

Never a list of allowed builtins: whatever the program does, it does to a read-only file system of nothing but the interpreter, a
private /tmp, no network and no process but its own, under limits, and all that it started is gone when `run` returns.
"""

from etude.sandbox.enclosure import Limits, Result
from etude.sandbox.running import run, run_many
from etude.sandbox.selftest import check

__all__ = ["Limits", "Result", "check", "run", "run_many"]
