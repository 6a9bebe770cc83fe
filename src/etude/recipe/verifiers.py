"""A user's verifier by import path: a Python function that gives a response its reward.

    def score(response, answer): ...           the response, then columns of its row by their names
    def score(response, row): ...              `row` is the whole row
    def score(completions, answer, **rest)     TRL's: lists of one, and a list of one number back

It runs in this process, as the user's own code, for so many seconds as its user allows; what a model wrote is run by `etude.sandbox`
alone.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from etude.data.jsonl import Row
from etude.engine.protocols import Problem, Task
from etude.engine.source_files import spec_of_file
from etude.errors import BadInput, one_of

EXPECTED = "'my_module:score' or './my_verifier.py:score'"
ALL = "row"
"""The parameter that is given the whole row."""
OF_TRL = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""What TRL's trainer hands a reward function beside the columns (`GRPOTrainer._calculate_rewards`); the last four are not given here."""


@dataclass(frozen=True)
class Verifier:
    """name: as the recipe has it. sha256: of its file. needs: the columns without which it cannot be called. seconds: most of one call."""

    name: str
    function: Callable[..., Any]
    sha256: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    everything: bool
    of_trl: bool
    seconds: float | None = None

    def __call__(self, response: str, row: Mapping[str, Any]) -> Any:
        """Whatever the function returns, or raises; TimeoutError where it takes longer than `seconds`."""
        with at_most(self.seconds):
            return self._called(response, row)

    def _called(self, response: str, row: Mapping[str, Any]) -> Any:
        columns = {k: v for k, v in row.items() if self.everything or k in self.takes}
        if not self.of_trl:
            return self.function(response, **columns, **({ALL: dict(row)} if ALL in self.takes and ALL not in columns else {}))
        prompt = row.get("prompt", "")
        said = [{"role": "assistant", "content": response}] if isinstance(prompt, list) else response
        given = {"prompts": [prompt], "completions": [said]}
        told = {k: v for k, v in given.items() if self.everything or k in self.takes}
        found = self.function(**told, **{k: [v] for k, v in columns.items() if k not in ("prompt", "completion")})
        if not isinstance(found, list | tuple) or len(found) != 1:
            raise TypeError(f"returned {str(found)[:100]}, expected a list of one number")
        return found[0]

    def check(self, row: Mapping[str, Any], where: str) -> None:
        """Raises BadInput for a row without a column that the function needs."""
        for column in self.needs:
            if column not in row:
                raise BadInput(f"{where}, field '{column}'", "nothing", f"it: {self.name} asks for it")

    @property
    def facts(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.sha256}


@contextmanager
def at_most(seconds: float | None) -> Iterator[None]:
    """Raises TimeoutError in the block once it has taken so long; None: it may take any time.

    By the alarm of the process: it reaches Python code and what asks for signals (`re`), not C code that never returns. Raises
    RuntimeError outside the main thread, which alone receives it.
    """
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a limit in seconds outside the main thread")

    def end(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds:g} seconds")

    handler = signal.signal(signal.SIGALRM, end)
    earlier = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *earlier)
        signal.signal(signal.SIGALRM, handler)


def verifier_of(name: str, where: str, seconds: float | None = None) -> Verifier:
    """Imports "my_module:score" (also from the working folder) or "./my_verifier.py:score". seconds: most of one call. Raises BadInput for
    a name of another form, a module that is not there or fails on import, and a function that is none or asks for what is not given."""
    function, sha256 = imported(name, where, EXPECTED)
    return replace(_described(name, function, sha256, where), seconds=seconds)


def imported(name: str, where: str, expected: str) -> tuple[Callable[..., Any], str]:
    """A user's function by its import path, and the SHA-256 of its file ("" where it has none). Raises BadInput at `where`."""
    path, colon, attribute = name.rpartition(":")
    if not colon or not path or not attribute.isidentifier():
        raise BadInput(where, f"'{name}'", expected)
    module = _module(path, where, expected)
    function = getattr(module, attribute, None)
    if function is None:
        functions = [k for k, v in vars(module).items() if inspect.isfunction(v) and not k.startswith("_")]
        raise one_of(where, attribute, functions)
    if not callable(function):
        raise BadInput(where, f"'{name}', a {type(function).__name__}", "a function")
    file = getattr(module, "__file__", None)
    return function, hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _described(name: str, function: Callable[..., Any], sha256: str, where: str) -> Verifier:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise BadInput(where, f"'{name}', whose parameters cannot be read ({error})", "a function written in Python") from None
    if inspect.iscoroutinefunction(function):
        raise BadInput(where, f"'{name}', which is asynchronous", "a plain function")
    of_trl = any(p.name == "completions" for p in parameters)
    everything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if of_trl:
        columns = [p for p in named if p.name not in OF_TRL]
        missing = next((p.name for p in named if p.name in OF_TRL[2:] and p.default is p.empty), None)
        if missing is not None:
            raise BadInput(where, f"'{name}', which asks for {missing}", "completions, prompts and columns of the rows")
        takes = tuple(p.name for p in named)
    else:
        first = parameters[0] if parameters else None
        if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
            raise BadInput(where, f"'{name}', which takes no response", "a function such as score(response, answer)")
        columns = [p for p in named if p is not first and p.name != ALL]
        takes = tuple(p.name for p in named if p is not first)
    needs = tuple(p.name for p in columns if p.default is p.empty)
    return Verifier(name, function, sha256, needs, takes, everything, of_trl)


def _module(path: str, where: str, expected: str) -> ModuleType:
    file = Path(path).expanduser() if path.endswith(".py") or "/" in path else None
    try:
        if file is not None:
            if not file.is_file():
                raise BadInput(where, f"{path}, which is not there", expected)
            return _from_file(file.resolve())
        with _beside(Path.cwd()):
            return importlib.import_module(path)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and (path == error.name or path.startswith(f"{error.name}.")):
            raise BadInput(where, f"module '{error.name}', which is neither installed nor here", expected) from None
        lines = [
            f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
        ]
        at = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else lines[-1]
        raise BadInput(where, f"an error on import ({type(error).__name__}: {error}, {at})", "a module that can be imported") from error


def _from_file(file: Path) -> ModuleType:
    # The name holds a digest of the whole path: two files of one name must not share one module.
    name = f"etude_verifier_{file.stem}_{hashlib.blake2b(str(file).encode(), digest_size=4).hexdigest()}"
    spec = spec_of_file(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _beside(file.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Modules of a folder can be imported meanwhile, as beside a script."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


class VerifiedBy:
    """A task's problems, or a file's, judged by a user's verifier. The row of a task's problem: prompt, answer, difficulty and its data."""

    difficulties: Sequence[int] = ()

    def __init__(self, name: str, verifier: Verifier, task: Task | None = None) -> None:
        self.name, self.verifier, self.task = name, verifier, task

    def problem(self, seed: int, index: int, difficulty: int) -> Problem:
        assert self.task is not None
        return self.task.problem(seed, index, difficulty)

    def verify(self, problem: Problem, response: str) -> Any:
        return self.verifier(response, row_of(problem) if self.task is not None else problem.data)


def row_of(problem: Problem) -> Row:
    """A task's problem as a row."""
    return {**problem.data, **{k: v for k, v in asdict(problem).items() if k != "data"}}
