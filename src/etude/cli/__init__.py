"""The command line: thin doors to the floors below.

`main` is the console entry. Bad input is one line on stderr (`error: where: found X, expected Y`) and exit code 2, anything else
that goes wrong one line and exit code 1, an interruption 130; `--debug` adds the traceback. Results go to stdout, progress to
stderr; `--json` prints exactly one JSON document.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    from etude.cli.failures import exit_code, refuse_empty

    given = list(sys.argv[1:] if arguments is None else arguments)
    # --debug may stand anywhere before a "--", so that it can be added at the end of a line that failed.
    stop = given.index("--") if "--" in given else len(given)
    debug = "--debug" in given[:stop]
    given = [a for i, a in enumerate(given) if i >= stop or a != "--debug"]
    try:
        from etude.cli.doors import command

        refuse_empty(given)
        # Not `main()` of the parser: it would turn interruptions and closed pipes into exits of its own.
        parser = command()
        with parser.make_context("etude", given or ["--help"]) as context:
            parser.invoke(context)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        # The reader has gone (`etude list | head`): point stdout at nothing, or the interpreter complains when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:
        return exit_code(error, given=given, debug=debug)
