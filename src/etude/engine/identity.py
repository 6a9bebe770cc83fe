"""What makes a run this run and no other: compared before anything is resumed.

Everything that is given at the start is described in plain words, never by an address in memory, so that another process
comes to the same description. Lists, dicts, tensors and arrays that a method holds are its state, not its settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from etude.engine.protocols import Method, Objective, Source, Stream

PLAIN = (bool, int, float, str, type(None))
LOOKED_AT = 64
"""Samples of a source, evenly spread, whose content is part of its identity: all of it would take as long as an epoch."""


def describe(value: Any, *, containers: bool = True) -> Any:
    """Plain data that is equal for equal settings, in any process. containers: False leaves out lists, dicts and arrays."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (tuple, list, set, frozenset)):
        if not containers and not isinstance(value, tuple):
            return None
        parts = [describe(v, containers=containers) for v in value]
        return parts if isinstance(value, (tuple, list)) else sorted(parts, key=str)
    if isinstance(value, Mapping):
        return {str(k): describe(v, containers=containers) for k, v in value.items()} if containers else None
    if hasattr(value, "shape"):
        return f"array {list(value.shape)}" if containers else None
    if is_dataclass(value) and not isinstance(value, type):
        told = {f.name: describe(getattr(value, f.name), containers=True) for f in fields(value)}
        return {"kind": _name(type(value)), **told}
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _name(value)
    told = {k: describe(v, containers=False) for k, v in sorted(vars(value).items())} if hasattr(value, "__dict__") else {}
    return {"kind": _name(type(value)), **{k: v for k, v in told.items() if v is not None}}


def settings_of(method: Method) -> dict[str, Any]:
    """A method's settings as it was made: resuming with others is another run."""
    kept = {k: v for k, v in vars(method).items() if not isinstance(v, (list, set, Mapping)) and not hasattr(v, "shape")}
    return {k: describe(v, containers=False) for k, v in sorted(kept.items())}


def describe_source(source: Source) -> dict[str, Any]:
    """Length and a digest of samples spread over a source."""
    count = len(source)
    ids = np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).round().astype(np.int64))
    digest = hashlib.sha256()
    for name, tensor in sorted(source.get(ids).items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return {"kind": _name(type(source)), "samples": count, "content": digest.hexdigest()[:16]}


def describe_stream(stream: Stream) -> Any:
    """What the stream says of itself (`identity()`), or its class alone for a stranger's."""
    told = getattr(stream, "identity", None)
    return told() if callable(told) else _name(type(stream))


def describe_objectives(objectives: Mapping[str, Objective]) -> dict[str, Any]:
    return {name: describe(objective) for name, objective in sorted(objectives.items())}


def digests(parts: Mapping[str, Any]) -> dict[str, str]:
    """A short hash a part, so that what differs can be named."""
    return {k: hashlib.sha256(json.dumps(v, sort_keys=True, default=str).encode()).hexdigest()[:16] for k, v in parts.items()}


def fingerprint(model: nn.Module | None) -> str:
    """Of a model's values; the empty string for none."""
    if model is None:
        return ""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def difference(there: Any, here: Any) -> str:
    """In brackets, the first values that differ between two descriptions and where they stand; empty where nothing is known."""
    ours, theirs = flat(here), flat(there)
    differing = [k for k in dict.fromkeys((*theirs, *ours)) if theirs.get(k, "nothing") != ours.get(k, "nothing")]
    if there is None or not differing:
        return ""
    told = [f"{k + ': ' if k else ''}{_short(theirs.get(k, 'nothing'))}, here {_short(ours.get(k, 'nothing'))}" for k in differing[:3]]
    more = [f"{len(differing) - 3} more"] * (len(differing) > 3)
    return f" ({'; '.join(told + more)})"


def flat(told: Any, at: str = "") -> dict[str, Any]:
    """Every plain value of a description by its dotted key; entries of lists of tables or lists by number."""
    if isinstance(told, Mapping):
        pairs = [(str(k), v) for k, v in told.items()]
    elif isinstance(told, list) and any(isinstance(v, (Mapping, list)) for v in told):
        pairs = [(str(i), v) for i, v in enumerate(told)]
    else:
        return {at: told}
    return {k: v for name, value in pairs for k, v in flat(value, f"{at}.{name}" if at else name).items()}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else f"{text[:36]}..."


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
