"""Which device a run is computed on, and models put into evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from etude.errors import BadInput, choice

KINDS = ("cpu", "cuda", "mps")


def pick_device(device: str) -> torch.device:
    """ "auto" is cuda, then mps, then cpu; "cuda:1" a certain one. Raises BadInput for a device that is not there, saying which are."""
    here = [kind for kind in ("cuda", "mps", "cpu") if _is_here(kind)]
    if device == "auto":
        return torch.device(here[0])
    kind = device.partition(":")[0]
    if kind not in KINDS:
        raise choice("device", device, ("auto", *KINDS))
    if kind not in here:
        raise BadInput("device", f"'{device}', which this machine does not have", " or ".join(["auto", *here]))
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        count = torch.cuda.device_count() if kind == "cuda" else 1
        numbers = f"{kind} or {kind}:0" + (f" to {kind}:{count - 1}" if count > 1 else "")
        raise BadInput("device", f"'{device}', which this machine does not have", numbers) from error
    return found


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter lies; the CPU for one without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Evaluation mode within a block, which is given the model's device; each submodule's own mode comes back, whatever happens."""
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield device_of(model)
    finally:
        for module in training:
            module.training = True


def _is_here(kind: str) -> bool:
    return {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}[kind]()
