"""Checkpoints that survive kills: a temporary folder, fsync, one rename, checksums. No pickle.

A checkpoint is a folder `step-000000042` of `tensors.safetensors`, `state.json` and `COMMIT.json` (SHA-256 of the other two).
A folder without a matching COMMIT does not count; `latest` falls back to the one before and says which it left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from etude.errors import BadInput

FORMAT = 1


def pack(tree: Any, tensors: dict[str, Tensor], at: str = "") -> Any:
    """The JSON part of a nested state; tensors and arrays go to `tensors` under their path. Raises TypeError for anything else."""
    if isinstance(tree, Tensor):
        tensors[at] = tree.detach()
        return {"$tensor": at}
    if isinstance(tree, np.ndarray):
        tensors[at] = torch.from_numpy(np.ascontiguousarray(tree))
        return {"$array": at}
    if isinstance(tree, dict):
        return {"$dict": [[pack(k, tensors, f"{at}.key"), pack(v, tensors, f"{at}/{k}")] for k, v in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {"$tuple" if isinstance(tree, tuple) else "$list": [pack(v, tensors, f"{at}/{i}") for i, v in enumerate(tree)]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    if isinstance(tree, np.generic):
        return tree.item()
    raise TypeError(f"checkpoint: state at '{at}' is a {type(tree).__name__}; expected tensors, arrays, numbers, strings, lists or dicts")


def unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The nested state again."""
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    match kind:
        case "$tensor":
            return tensors[value]
        case "$array":
            return tensors[value].numpy()
        case "$dict":
            return {unpack(k, tensors): unpack(v, tensors) for k, v in value}
        case "$list":
            return [unpack(v, tensors) for v in value]
        case "$tuple":
            return tuple(unpack(v, tensors) for v in value)
    raise ValueError(f"unknown kind {kind}")


def save(folder: Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Writes the checkpoint of `step` under `folder` atomically and removes all but the last `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:09d}"
    if _problem(final) is None:
        return final
    temporary = folder / f".writing-{step:09d}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    tensors: dict[str, Tensor] = {}
    tree = pack(state, tensors)
    # Tied weights share memory, which the format refuses: each distinct storage is written once and named by its aliases.
    first: dict[tuple[object, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() and first.setdefault(key, name) != name:
            aliases[name] = first[key]
    written = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if name not in aliases}
    written = {name: t.clone() if t.untyped_storage().nbytes() != t.numel() * t.element_size() else t for name, t in written.items()}
    save_file(written, temporary / "tensors.safetensors")
    (temporary / "state.json").write_text(json.dumps({"format": FORMAT, "step": step, "aliases": aliases, "state": tree}))
    sums = {name: _sum(temporary / name) for name in ("tensors.safetensors", "state.json")}
    (temporary / "COMMIT.json").write_text(json.dumps({"format": FORMAT, "sha256": sums}))
    for file in temporary.iterdir():
        _sync(file)
    _sync(temporary)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    _sync(folder)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for dead in folder.glob(".writing-*"):
        shutil.rmtree(dead, ignore_errors=True)
    return final


def load(path: Path) -> dict[str, Any]:
    """The state saved at `path`. Raises BadInput where it is missing, truncated, altered or of another format."""
    problem = _problem(path)
    if problem is not None:
        raise BadInput(str(path), problem, "a complete checkpoint whose checksums match")
    try:
        tree = json.loads((path / "state.json").read_text())
        tensors = load_file(path / "tensors.safetensors")
    except (ValueError, SafetensorError) as error:
        raise BadInput(str(path), f"unreadable content ({error})", "a checkpoint written by etude") from error
    if tree.get("format") != FORMAT:
        raise BadInput(str(path), f"format {tree.get('format')}", f"format {FORMAT}")
    for alias, name in tree["aliases"].items():
        tensors[alias] = tensors[name]
    return unpack(tree["state"], tensors)


def latest(folder: Path) -> tuple[Path, list[str]]:
    """The newest good checkpoint under `folder`, and a line for each newer one that was passed over.

    Raises BadInput where there is none.
    """
    passed: list[str] = []
    found = sorted(folder.glob("step-*"), reverse=True)
    for path in found:
        problem = _problem(path)
        if problem is None:
            return path, passed
        passed.append(f"{path.name}: {problem}")
    raise BadInput(str(folder), "; ".join(passed) or "no checkpoint", "at least one complete checkpoint")


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        sums = json.loads((path / "COMMIT.json").read_text())["sha256"]
        for name in ("tensors.safetensors", "state.json"):
            if _sum(path / name) != sums[name]:
                return f"{name} does not match its checksum"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing" if path.exists() else "nothing there"
    except (OSError, ValueError, KeyError, TypeError):
        return "COMMIT.json is unreadable"
    return None


def write_atomic(path: Path, data: bytes | str) -> None:
    """Writes a whole file or nothing: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
