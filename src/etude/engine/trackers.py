"""What a run writes to `metrics.jsonl`, shown by trackers too: TensorBoard, Weights & Biases, trackio (extra `track`).

They only mirror: a run's own files stay what it is read back from. Nothing leaves this machine unless its user says so (W&B: the
environment's WANDB_MODE=online; trackio: its own settings). What they keep in the run's folder lies under `trackers/`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from etude.engine.checkpoint import write_atomic
from etude.engine.folder import TRACKERS as FOLDER
from etude.errors import BadInput, choice

PROJECT = "etude"


class Tracker(Protocol):
    """log: numbers by name at a step (updates done). Steps never fall, but for a run that is resumed."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files under `trackers/tensorboard`; of a resumed run, what came after its checkpoint is hidden."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], step: int) -> None:
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        self.writer = writer(log_dir=str(folder / FOLDER / "tensorboard"), purge_step=step)
        if config:
            self.writer.add_text("recipe", "\n".join(f"    {key} = {value!r}" for key, value in config.items()), step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """Offline under `trackers/wandb`, to be sent with `wandb sync`, unless WANDB_MODE says otherwise."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], step: int) -> None:
        wandb = import_module("wandb")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=name, id=name, resume="allow", config=dict(config),
            dir=str(folder / FOLDER), mode=os.environ.get("WANDB_MODE", "offline"), settings=wandb.Settings(silent=True),
        )  # fmt: skip

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """trackio's own data base (TRACKIO_DIR), shown by `trackio show --project etude`."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], step: int) -> None:
        self.trackio = import_module("trackio")
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        quiet = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        self.trackio.init(project=project, name=name, config=dict(config), resume="allow", **quiet)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.trackio.log(dict(values), step=step)

    def close(self) -> None:
        self.trackio.finish()


TRACKERS: dict[str, type[TensorBoard | WandB | Trackio]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


def check_trackers(names: Sequence[str], folder: Path | None) -> None:
    """Raises BadInput for a name that is none, one whose package is not installed, and trackers of a run without a folder."""
    for name in names:
        if name not in TRACKERS:
            raise choice("trackers", name, TRACKERS)
        if find_spec(name) is None:
            raise BadInput(
                "trackers", f"'{name}', which is not installed", f"pip install {name} (or all of them: pip install 'etude[track]')"
            )
    if names and folder is None:
        raise BadInput("trackers", f"'{names[0]}' for a run without a folder", "a folder")


class Mirror:
    """Gives every record of `metrics.jsonl` to the trackers. They are opened with the first update: before, a run may be refused.

    config: what the trackers show of the run. A tracker that fails is named on stderr and left out from then on: the run goes on.
    """

    def __init__(self, names: Sequence[str], folder: Path, config: Mapping[str, Any]) -> None:
        self.names, self.folder, self.config = names, folder, config
        self.open: dict[str, Tracker] | None = None
        self.waiting: list[tuple[int, dict[str, float]]] = []

    def write(self, record: Mapping[str, Any]) -> None:
        step = int(record.get("step", 0))
        self.waiting.append((step, numbers_of(record)))
        if self.open is None and not step:
            return
        if self.open is None:
            self.open = {}
            for name in self.names:
                with self._surviving(name):
                    run = f"{self.folder.resolve().name}-{_own_id(self.folder)}"
                    self.open[name] = TRACKERS[name](self.folder, run, self.config, self.waiting[0][0])
        for name, tracker in list(self.open.items()):
            with self._surviving(name):
                for at, values in self.waiting:
                    tracker.log(at, values)
        self.waiting.clear()

    def close(self) -> None:
        for name, tracker in list((self.open or {}).items()):
            with self._surviving(name):
                tracker.close()
        self.open = None

    @contextlib.contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        """What a tracker prints goes to stderr: stdout is the command's own result."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            assert self.open is not None
            self.open.pop(name, None)
            line = " ".join(str(error).split())[:160]
            print(f"{name} shows no more of this run ({type(error).__name__}: {line}); metrics.jsonl goes on", file=sys.stderr)


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record by the names that trackers group by: "held-out/loss" as it is, "loss" as "train/loss"."""
    numbers = {k: float(v) for k, v in record.items() if isinstance(v, int | float) and not isinstance(v, bool) and k != "step"}
    return {name if "/" in name else f"train/{name}": value for name, value in numbers.items()}


def _own_id(folder: Path) -> str:
    """By which a tracker knows the run again when it is resumed."""
    path = folder / FOLDER / "id"
    if not path.exists():
        write_atomic(path, secrets.token_hex(4))
    return path.read_text(encoding="utf-8").strip()
