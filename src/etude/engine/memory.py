"""How much memory is free, how much a model needs, and torch's own refusals of it in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from etude.errors import BadInput

TO_TRAIN = {"adamw": 16, "muon": 12, "sgd": 8}
"""Bytes a parameter in float32, at least: the weight, its gradient, and what the optimizer keeps of it."""
WEIGHT_BYTES = 4
"""The same of a frozen one."""
TOO_LARGE = (RuntimeError, TypeError, MemoryError)
"""What torch and numpy raise for a tensor that cannot be had; `refusal` tells these from others."""


def sized(make: Callable[[], nn.Module], where: str, device: torch.device, bytes_each: int = 8) -> nn.Module:
    """`make()`, unless the model's parameters cannot be had. Raises BadInput at `where`, before anything large is allocated.

    bytes_each: needed for each parameter in training. A model that cannot be built on paper (torch's "meta" device) is built
    without a look ahead.
    """
    try:
        with torch.device("meta"):
            count = sum(p.numel() for p in make().parameters())
    except Exception:
        count = 0
    room = free(device)
    if room is not None and count * bytes_each > room:
        needs = f"{count:,} parameters, which take at least {size(count * bytes_each)} to train"
        raise BadInput(where, needs, f"a smaller model: {size(room)} of memory are free")
    try:
        return make()
    except TOO_LARGE as error:
        bad = at_allocation(error, where, device, "a smaller model")
        if bad is None:
            raise
        raise bad from error


def at_allocation(error: BaseException, where: str, device: torch.device, smaller: str) -> BadInput | None:
    """A refused allocation as bad input at `where`; None for any other error. smaller: what would be right."""
    asked = refusal(error)
    if asked is None:
        return None
    room = free(device)
    return BadInput(where, f"a tensor of {asked}", smaller if room is None else f"{smaller}: {size(room)} of memory are free")


def refusal(error: BaseException) -> str | None:
    """How much an allocation asked for that was refused, in words; None for an error of another kind."""
    said = str(error)
    if found := re.search(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", said, re.IGNORECASE):
        return size(int(found[1])) if found[2] == "bytes" else f"{found[1]} {found[2]}"
    if found := re.search(r"Unable to allocate ([\d.]+ \w+) for an array", said):
        return found[1]
    beyond = ("Storage size calculation overflowed", "Overflow when unpacking long", "integer multiplication overflow")
    if isinstance(error, MemoryError) or any(word in said for word in beyond):
        return "more memory than there is" if isinstance(error, MemoryError) else "more bytes than a computer can count"
    return None


def free(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        room = sum(int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        return None
    return min(room, _group(Path("/sys/fs/cgroup")) or room)


def _group(root: Path) -> int | None:
    """What a container's limit leaves, cached files not counted; None where there is no limit."""
    try:
        cached = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())["file"]
        return int((root / "memory.max").read_text()) - int((root / "memory.current").read_text()) + int(cached)
    except (OSError, KeyError, ValueError):  # no such files, or "max"
        return None


def size(count: float) -> str:
    """ "1.5 GiB" of a number of bytes."""
    units = iter(("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    unit = next(units)
    while count >= 1024 and unit != "EiB":
        count, unit = count / 1024, next(units)
    return f"{count:,.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
