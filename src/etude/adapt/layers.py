"""A transformers model as one whose layers are `blocks`, so that a method that grows depth can grow it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from etude.engine.protocols import Mapped, Mapping_
from etude.engine.streams import derive, global_streams
from etude.errors import BadInput

RESIDUAL_OUTPUTS = ("o_proj", "down_proj", "c_proj")
"""What the last linear maps of attention and feed-forward are called in Llama's descendants and in GPT-2."""


PER_LAYER = ("layer", "mlp_layer", "no_rope_layer")
"""How the names of a configuration's lists with an entry a layer begin."""


def layers_of(inner: Any) -> tuple[str, nn.ModuleList]:
    """The name and the list of a model's layers: its only ModuleList of `config.num_hidden_layers`. Raises BadInput without one."""
    if hasattr(inner, "peft_config"):
        raise BadInput("trainer.model", "a model with adapters", "the whole model, before adapters are added to it")
    text = getattr(getattr(inner, "config", None), "get_text_config", lambda: None)()
    depth = getattr(text, "num_hidden_layers", None)
    found = [(n, m) for n, m in inner.named_modules() if isinstance(m, nn.ModuleList) and len(m) == depth and n.count(".") <= 2]
    if len(found) != 1:
        raise BadInput("trainer.model", f"a {type(inner).__name__}", "a transformers model with one list of layers")
    return found[0]


class Layered(nn.Module):
    """inner: a transformers model. `blocks` are its layers; `deepened` is what `nn.surgery.grow_depth` asks for.

    where: the name of its list of layers, looked for by default. changes: to its configuration since it was grown.
    """

    def __init__(self, inner: Any, where: str = "") -> None:
        super().__init__()
        self.inner = inner
        self.where = where or layers_of(inner)[0]
        self.changes: dict[str, Any] = {}

    @property
    def blocks(self) -> nn.ModuleList:
        return self.inner.get_submodule(self.where)

    def deepened(self, sources: Sequence[int | None], how: str, seed: int) -> tuple[Layered, Mapping_]:
        """The model with layer i a copy of layer sources[i], or fresh where that is None; and where each parameter comes from.

        how: "zero" sets a fresh layer's residual outputs to zero. Fresh layers are drawn by the model's own rule from `seed`.
        What is outside the layers is shared with this model, which `install` is to change in place.
        """
        base = self.blocks
        shared = [p for n, p in self.inner.state_dict(keep_vars=True).items() if not n.startswith(f"{self.where}.")]
        # All of a large model twice would not fit: the copy begins without layers, and with the very tensors beside them.
        kept: dict[int, Any] = {id(base): nn.ModuleList()} | {id(p): p for p in shared}
        grown = Layered(copy.deepcopy(self.inner, kept), self.where)
        layers = []
        for place, source in enumerate(sources):
            layer = copy.deepcopy(base[place % len(base) if source is None else source])
            if source is None:
                self._draw(layer, place, how, seed)
            for module in layer.modules():
                if hasattr(module, "layer_idx"):  # where the layer's keys and values lie in a cache
                    module.layer_idx = place  # type: ignore[assignment]
            layers.append(layer)
        kinds = [place % len(base) if source is None else source for place, source in enumerate(sources)]
        grown.changes = deeper(grown.inner.config, kinds)
        install(grown.inner, self.where, nn.ModuleList(layers), grown.changes)
        return grown, self._mapping(grown, sources)

    def _draw(self, layer: nn.Module, place: int, how: str, seed: int) -> None:
        with global_streams(derive(seed, "init", f"layer-{place}")), torch.no_grad():
            for module in layer.modules():
                for flagged in (module, *module.parameters(recurse=False)):
                    if hasattr(flagged, "_is_hf_initialized"):  # transformers leaves alone what it has once loaded
                        delattr(flagged, "_is_hf_initialized")
                self.inner._init_weights(module)
            if how == "zero":
                outputs = [m for n, m in layer.named_modules() if n.rpartition(".")[2] in RESIDUAL_OUTPUTS]
                if not outputs:
                    raise BadInput("operator", f"'zero' for a {type(layer).__name__}", "'stack' or 'interpolate' for this model")
                for module in outputs:
                    for parameter in module.parameters():
                        parameter.zero_()

    def _mapping(self, grown: Layered, sources: Sequence[int | None]) -> Mapping_:
        prefix, mapping = f"inner.{self.where}.", {}
        for name, _ in grown.named_parameters():
            if not name.startswith(prefix):
                mapping[name] = Mapped("copy", (name,))
                continue
            number, _, rest = name.removeprefix(prefix).partition(".")
            source = sources[int(number)]
            mapping[name] = Mapped("new") if source is None else Mapped("copy", (f"{prefix}{source}.{rest}",))
        return mapping


def deeper(config: Any, kinds: Sequence[int]) -> dict[str, Any]:
    """What of a text model's configuration changes: its depth, and every list that has an entry a layer, layer i's from kinds[i]."""
    text = config.get_text_config()
    depth = text.num_hidden_layers
    # By their names: a list of two end tokens is no list of two layers.
    lists = {k: v for k, v in vars(text).items() if k.startswith(PER_LAYER) and isinstance(v, (list, tuple)) and len(v) == depth}
    return {k: type(v)(v[kind] for kind in kinds) for k, v in lists.items()} | {"num_hidden_layers": len(kinds)}


def install(inner: Any, where: str, layers: nn.ModuleList, changes: dict[str, Any]) -> None:
    """Gives a model other layers in place, so that whoever holds the model, or has wrapped its forward, holds the new one."""
    parent, _, name = where.rpartition(".")
    setattr(inner.get_submodule(parent), name, layers)
    text = inner.config.get_text_config()
    for key, value in changes.items():
        setattr(text, key, value)
