"""Which device a run is computed on."""

from __future__ import annotations

import torch

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


def _is_here(kind: str) -> bool:
    return {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}[kind]()
