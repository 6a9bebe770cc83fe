"""Optimizers as small specs that build torch's own, and rebuild them when a model is replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from etude.engine.arguments import check_fields
from etude.errors import BadInput

Named = dict[str, nn.Parameter]


class OptimizerSpec(Protocol):
    """Builds one or more torch optimizers over named parameters. The learning rate given is the schedule's factor 1."""

    def build(self, parameters: Named) -> dict[str, Optimizer]: ...


def _check(spec: Any) -> None:
    """Types from the hints (finite numbers among them), then the ranges that torch's own optimizers take."""
    check_fields(spec, "optimizer.")
    if not spec.lr > 0:
        raise BadInput("optimizer.lr", repr(spec.lr), "a number > 0")
    if spec.weight_decay < 0:
        raise BadInput("optimizer.weight_decay", repr(spec.weight_decay), "a number >= 0")
    shares = {f"betas[{i}]": beta for i, beta in enumerate(getattr(spec, "betas", ()))} | {"momentum": getattr(spec, "momentum", 0.0)}
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise BadInput(f"optimizer.{name}", repr(share), "a number from 0 to below 1")
    if getattr(spec, "eps", 1.0) <= 0:
        raise BadInput("optimizer.eps", repr(spec.eps), "a number > 0")
    if getattr(spec, "nesterov", False) and not spec.momentum:
        raise BadInput("optimizer.nesterov", "True without momentum", "a momentum above 0 with it")


def _groups(parameters: Named, weight_decay: float) -> list[dict[str, object]]:
    """Decay for matrices only: norms, biases and scalars are left alone (the practice of GPT-2/3 code)."""
    if not weight_decay:
        return [{"params": list(parameters.values()), "weight_decay": 0.0}]
    decayed = [p for p in parameters.values() if p.ndim >= 2]
    rest = [p for p in parameters.values() if p.ndim < 2]
    return [{"params": ps, "weight_decay": wd} for ps, wd in ((decayed, weight_decay), (rest, 0.0)) if ps]


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """torch's fused AdamW. Weight decay on matrices only."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        _check(self)

    def build(self, parameters: Named) -> dict[str, Optimizer]:
        groups = _groups(parameters, self.weight_decay)
        return {"adamw": torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)}


@dataclass(frozen=True, kw_only=True)
class SGD:
    """torch's SGD; plain gradient descent by default."""

    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self)

    def build(self, parameters: Named) -> dict[str, Optimizer]:
        groups = _groups(parameters, self.weight_decay)
        return {"sgd": torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)}


@dataclass(frozen=True, kw_only=True)
class Muon:
    """torch's Muon for the hidden matrices, AdamW for embeddings, heads, vectors and everything else.

    Embedding and head are matrices by shape but not by role: their names contain "embed" or "head" (Jordan 2024 keeps
    them on AdamW too); `is_hidden(name, parameter)` decides where that rule does not fit.
    """

    lr: float = 0.02
    momentum: float = 0.95
    weight_decay: float = 0.1
    rest: AdamW = AdamW()
    is_hidden: Callable[[str, nn.Parameter], bool] | None = None

    def __post_init__(self) -> None:
        _check(self)

    def build(self, parameters: Named) -> dict[str, Optimizer]:
        hidden = self.is_hidden or (lambda name, p: p.ndim == 2 and "embed" not in name and "head" not in name)
        matrices = {n: p for n, p in parameters.items() if hidden(n, p)}
        others = {n: p for n, p in parameters.items() if n not in matrices}
        if not matrices:
            raise BadInput("optimizer", "Muon on a model without hidden matrices", "at least one two-dimensional hidden parameter")
        muon = torch.optim.Muon(list(matrices.values()), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return {"muon": muon} | (self.rest.build(others) if others else {})


@dataclass(frozen=True)
class Several:
    """Several named optimizers, each over the parameters whose names begin with its prefixes; a batch names the one it uses.

    Several({"policy": (AdamW(), ("policy.",)), "value": (AdamW(lr=1e-4), ("value.",))}). A batch that names none steps all.
    """

    parts: Mapping[str, tuple[OptimizerSpec, tuple[str, ...]]]

    def build(self, parameters: Named) -> dict[str, Optimizer]:
        built: dict[str, Optimizer] = {}
        owned: dict[str, str] = {}
        for part, (spec, prefixes) in self.parts.items():
            mine = {n: p for n, p in parameters.items() if n.startswith(prefixes)}
            if not mine:
                raise BadInput(f"optimizer.{part}", f"no parameter beginning with {' or '.join(prefixes)}", "at least one")
            for name in mine:
                if name in owned:
                    raise BadInput(f"optimizer.{part}", f"{name}, which {owned[name]} owns already", "disjoint sets of parameters")
                owned[name] = part
            for kind, optimizer in spec.build(mine).items():
                built[f"{part}.{kind}"] = optimizer
        return built


@dataclass(frozen=True)
class Alternating:
    """Several named optimizers over all the same parameters, each with its own state; a batch names the one that steps.

    Alternating({"rl": AdamW(lr=1e-4), "sft": AdamW(lr=1e-3)}): for phases that must not mix their moments. A batch that names none
    is stepped by the first.
    """

    parts: Mapping[str, OptimizerSpec]

    def __post_init__(self) -> None:
        if not self.parts:
            raise BadInput("optimizer", "no parts", "at least one named optimizer")

    def build(self, parameters: Named) -> dict[str, Optimizer]:
        return {f"{part}.{kind}": o for part, spec in self.parts.items() for kind, o in spec.build(parameters).items()}


def selected(name: str, optimizers: Mapping[str, Optimizer]) -> list[str]:
    """The optimizers that a batch naming `name` steps: those of that part; for the empty name all, but of those that share parameters
    only the first."""
    if not name:
        found, owned = [], set()
        for key, optimizer in optimizers.items():
            own = {id(p) for group in optimizer.param_groups for p in group["params"]}
            if not own & owned:
                found.append(key)
                owned |= own
        return found
    found = [k for k in optimizers if k == name or k.startswith(f"{name}.")]
    if not found:
        raise BadInput("batch.optimizer", f"'{name}'", f"one of {', '.join(sorted({k.split('.')[0] for k in optimizers}))}")
    return found
