"""What went wrong, as one line on stderr and an exit code."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from etude.errors import BadInput, one_of

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


_WORDS = {"a valid integer": "a whole number", "a valid float": "a number"}
"""The parser's words in etude's."""


def exit_code(error: BaseException, *, given: Sequence[str] = (), debug: bool = False) -> int:
    """Prints the error and returns the exit code: 2 bad input, 130 interrupted, 1 anything else.

    given: the command line's words, to quote from. debug: with the error's traceback.
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else DONE if error.code is None else FAILED
    if type(error).__name__ == "Exit":  # the parser's own, after --help and --version
        return int(getattr(error, "exit_code", DONE))
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, KeyboardInterrupt):
        _say(str(error) or "interrupted")
        return INTERRUPTED
    bad = error if isinstance(error, BadInput) else _usage(error, given)
    if bad is not None:
        _say(f"error: {bad}")
        return BAD_INPUT
    # etude's own errors say what happened in a sentence; those of others need their name.
    said = str(error) if type(error).__module__.startswith("etude.") else f"{type(error).__name__}: {error}"
    _say(f"error: {said}" + ("" if debug else " (--debug shows where)"))
    return FAILED


def refuse_empty(given: Sequence[str]) -> None:
    """Raises BadInput for an argument or an option's value that is an empty text: a variable of the shell that was not set, most likely.

    To the parser an empty text is a value like any other, and an empty path is the working directory.
    """
    commands = list(takewhile(lambda word: word and not word.startswith("-"), given))
    for before, word in zip(["", *given], given, strict=False):
        option, equals, value = word.partition("=")
        if word.startswith("--") and equals and not value.strip():
            raise BadInput(f"{_door(commands)} {option}", "an empty value", "a value, or none of the option")
        if not word.strip():
            after = f" after {before}" if before.startswith("-") else ""
            raise BadInput(_door(commands), f"an empty argument{after}", f"what `{_door(commands)} --help` says")


def _door(commands: Sequence[str]) -> str:
    """ "etude data get" of "data get NAME": the words that name a command."""
    nested = len(commands) > 1 and commands[0] in ("data", "recipe")
    return " ".join(["etude", *commands[: 2 if nested else 1]])


def _say(text: str) -> None:
    print(" ".join(text.split()), file=sys.stderr)


def _usage(error: BaseException, given: Sequence[str]) -> BadInput | None:
    """A mistake on the command line, in etude's words; None for any other error.

    The parser's exceptions are told by their attributes, not their classes, which typer has moved between packages.
    """
    describe = getattr(error, "format_message", None)
    if describe is None or getattr(error, "exit_code", None) != BAD_INPUT:
        return None
    context: Any = getattr(error, "ctx", None)
    where = context.command_path if context else " ".join(["etude", *given[:1]])
    command = getattr(context, "command", None)
    help_says = f"what `{where} --help` says"
    message = " ".join(str(describe()).split())
    option = getattr(error, "option_name", None)
    if option and message.startswith("No such option"):
        known = [name for p in getattr(command, "params", []) for name in p.opts if name.startswith("--")]
        return one_of(f"{where}, option", option, {*known, "--help"})
    if option:  # an option without its value, or a flag with one
        needs = "requires" in message
        return BadInput(f"{where} {option}", "no value" if needs else "a value", "one" if needs else "none")
    if unknown := re.match(r"No such command '([^']*)'", message):
        return one_of(f"{where}, command", unknown[1], getattr(command, "commands", {}), show=20)
    if extra := re.search(r"unexpected extra arguments?(?:\(s\))? \((.*?)\)", message):
        return BadInput(where, f"'{extra[1]}', which is too much", help_says)
    named = _named(getattr(error, "param", None))
    if type(error).__name__ == "MissingParameter":
        return BadInput(where, f"no {named}", help_says)
    if wrong := re.match(r"Invalid value(?: for [^:]*)?: (.*?)\.?$", message):
        found, _, expected = wrong[1].partition(" is not ")
        if should := re.match(r"Input should be ([^,]*)", wrong[1]):
            found, expected = next((f"'{v}'" for v in _after(named, given)), "something else"), should[1]
            expected = expected.replace("greater than or equal to", "a whole number >=")
        return BadInput(f"{where} {named}", found, _WORDS.get(expected, expected) or help_says)
    return BadInput(where, message.rstrip("."), help_says)


def _named(parameter: Any) -> str:
    if parameter is None:
        return "argument"
    longest = max(parameter.opts, key=len)
    return longest if longest.startswith("-") else str(parameter.metavar or longest.upper())


def _after(option: str, given: Sequence[str]) -> Iterator[str]:
    """The values that an option was given, as `--seeds 3` or `--seeds=3`."""
    for word, following in zip(given, [*given[1:], ""], strict=True):
        if word == option:
            yield following
        elif word.startswith(f"{option}="):
            yield word.partition("=")[2]
