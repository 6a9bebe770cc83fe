"""Growing a transformer in depth. Pure functions: the old model is left alone, the new one shares no tensor with it.

Operators, for a base of k layers and a target of g k (names as in arXiv 2405.15319; layers count from 0):
stack        layer i copies base layer i mod k       0 1 0 1 0 1   (their G_stack)
interpolate  layer i copies base layer i // g        0 0 0 1 1 1
random       base layers first, freshly drawn layers above them
zero         as random, but the fresh layers' two residual outputs are zero, so that the model computes what it did
Everything else (embedding, final norm, head) is copied. A fresh layer's residual outputs are drawn at the target's scale,
1 / sqrt(2 * target depth), as in a new model of that depth; copied ones keep the scale they were trained to.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from etude.engine.protocols import Mapped, Mapping_
from etude.engine.streams import initialise
from etude.errors import BadInput, one_of
from etude.nn.transformer import Transformer, TransformerConfig

OPERATORS = ("stack", "interpolate", "random", "zero")
RESIDUAL_OUTPUTS = ("attention.out.weight", "feed_forward.down.weight")


def layer_sources(base: int, depth: int, how: str) -> list[int | None]:
    """For each layer of the grown model the base layer that it copies, None for a fresh one. Raises BadInput."""
    if how not in OPERATORS:
        raise one_of("grow_depth.how", how, OPERATORS)
    if base < 1 or depth % base or depth // base < 2:
        raise BadInput("grow_depth.depth", repr(depth), f"a multiple of the base's {base} layers, at least {2 * base}")
    if how == "stack":
        return [i % base for i in range(depth)]
    if how == "interpolate":
        return [i // (depth // base) for i in range(depth)]
    return [i if i < base else None for i in range(depth)]


class Deepening(Protocol):
    """Another model than a Transformer that knows how it is grown: layer i a copy of sources[i], or fresh where that is None."""

    @property
    def blocks(self) -> nn.ModuleList: ...
    def deepened(self, sources: Sequence[int | None], how: str, seed: int) -> tuple[Any, Mapping_]: ...


def grow_depth(
    model: Transformer | Deepening, target: int | TransformerConfig, how: str = "stack", *, seed: int = 0
) -> tuple[Any, Mapping_]:
    """The grown model and, for each of its parameters, where it comes from (for `run.replace`).

    target: the depth, or the whole config, which may differ from the model's in depth alone.
    seed:   fresh layers get the values that a new model of the target's depth has under this seed.
    Raises: BadInput for another width, vocabulary, ...; a depth that is not g >= 2 times the base's; an unknown operator.
    """
    if not isinstance(model, Transformer):
        if not isinstance(target, int):
            raise BadInput("grow_depth.target", "a whole configuration", f"the depth alone for a {type(model).__name__}")
        return model.deepened(layer_sources(len(model.blocks), target, how), how, seed)
    config = dataclasses.replace(model.config, depth=target) if isinstance(target, int) else target
    for field in dataclasses.fields(model.config):
        old, new = getattr(model.config, field.name), getattr(config, field.name)
        if field.name != "depth" and old != new:
            raise BadInput(f"grow_depth.target.{field.name}", repr(new), f"{old!r}, as in the model that grows")
    sources = layer_sources(len(model.blocks), config.depth, how)
    first = next(model.parameters())
    grown = initialise(type(model)(config), seed).to(first.device, first.dtype)
    old_values, old_parameters = model.state_dict(), dict(model.named_parameters())
    origins = {name: _origin(name, sources) for name in grown.state_dict()}
    with torch.no_grad():
        for name, value in grown.state_dict().items():
            if (origin := origins[name]) is not None:
                value.copy_(old_values[origin])
            elif how == "zero" and name.endswith(RESIDUAL_OUTPUTS):
                value.zero_()
    mapping: Mapping_ = {}
    for name, parameter in grown.named_parameters():
        origin = origins[name]
        mapping[name] = Mapped("new") if origin is None else Mapped("copy", (origin,))
        if origin is not None:
            parameter.requires_grad_(old_parameters[origin].requires_grad)
    used = {source for mapped in mapping.values() for source in mapped.sources}
    mapping |= {name: Mapped("drop") for name in old_parameters if name not in used}
    return grown.train(model.training), mapping


def _origin(name: str, sources: list[int | None]) -> str | None:
    """The old name of what the new tensor `name` copies; None if it is fresh."""
    found = re.match(r"blocks\.(\d+)\.", name)
    if found is None:
        return name
    source = sources[int(found[1])]
    return None if source is None else f"blocks.{source}.{name[found.end() :]}"
