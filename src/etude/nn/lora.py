"""LoRA: a frozen linear layer plus a product of two thin matrices that are trained in its stead (Hu et al., arXiv 2106.09685).

    y = W x + (alpha / r) B A dropout(x)        A [r, I] drawn, B [O, r] zero, so that training begins at the frozen layer

Names, initial values and what a target means are those of `peft`, whose files `etude export --to peft` writes.
Shapes: I inputs, O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.engine.arguments import typed
from etude.engine.streams import derive, global_streams
from etude.errors import BadInput, nearest

M = TypeVar("M", bound=nn.Module)
ALL = "all-linear"


class LoRALinear(nn.Module):
    """`base_layer` frozen, `lora_A` and `lora_B` trained."""

    def __init__(self, base: nn.Linear, r: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base_layer, self.r, self.alpha, self.dropout = base, r, alpha, dropout
        # As torch draws any linear layer, and so peft: uniform in +-1 / sqrt(I).
        self.lora_A = nn.Linear(base.in_features, r, bias=False)
        self.lora_B = nn.Linear(r, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.to(base.weight.device, base.weight.dtype)

    @property
    def update(self) -> Tensor:
        """[O, I] what is added to the frozen weight."""
        return self.alpha / self.r * (self.lora_B.weight @ self.lora_A.weight)

    @property
    def weight(self) -> Tensor:
        """[O, I] what inputs are multiplied by where nothing is dropped: for code that slices a layer's weight."""
        return self.base_layer.weight + self.update

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    @property
    def in_features(self) -> int:
        return self.base_layer.in_features

    @property
    def out_features(self) -> int:
        return self.base_layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        dropped = F.dropout(x, self.dropout, self.training) if self.dropout else x
        return self.base_layer(x) + self.lora_B(self.lora_A(dropped)) * (self.alpha / self.r)


@typed("lora.")
def lora(model: M, *, r: int = 16, alpha: float = 32.0, dropout: float = 0.0, targets: str | Sequence[str] = ALL, seed: int = 0) -> M:
    """Freezes a model and puts LoRA layers in the place of linear ones, in the model itself. Returns it.

    r, alpha: 16 and 32 are TRL's (`ModelConfig`, commit bc13ae6), whose dropout is 0.05; without dropout a run depends less on how it is
    cut into micro-batches. targets: "all-linear", every linear layer but the output's, or layers by the end of their names as peft
    takes them: "q_proj", "mlp.down_proj". seed: of the initial values, drawn by layer name.
    Raises BadInput for a target that is no linear layer or whose weight is another's too, an r above the rank that any of the layers can
    have, and for a model that has LoRA already.
    """
    if r < 1:
        raise BadInput("lora.r", repr(r), "a whole number >= 1")
    if not alpha > 0:
        raise BadInput("lora.alpha", repr(alpha), "a number > 0")
    if not 0 <= dropout < 1:
        raise BadInput("lora.dropout", repr(dropout), "a number from 0 to below 1")
    if any(True for _ in lora_layers(model)):
        raise BadInput("lora", "a model that has LoRA layers already", "one without, or with them merged (`merge_lora`)")
    chosen = _targeted(model, targets)
    most = max(min(layer.in_features, layer.out_features) for layer in chosen.values())
    if r > most:
        raise BadInput("lora.r", repr(r), f"at most {most}, the rank of the widest of the layers")
    model.requires_grad_(False)
    for name, base in chosen.items():
        with global_streams(derive(seed, "init", name, "lora")):
            layer = LoRALinear(base, r, alpha, dropout)
        _put(model, name, layer.train(base.training))
    return model


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Every LoRA layer with its name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


@torch.no_grad()
def merge_lora(model: M) -> M:
    """Adds every LoRA layer to the layer that it stands for, in the model itself, which is then a plain one, trainable whole."""
    for name, layer in list(lora_layers(model)):
        layer.base_layer.weight += layer.update
        _put(model, name, layer.base_layer)
    return model.requires_grad_(True)


def base_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of the model below its LoRA layers, by the names that it has without them."""
    own = model.state_dict()
    parts = {f"{name}.lora_{which}.weight" for name, _ in lora_layers(model) for which in "AB"}
    layers = {f"{name}.base_layer." for name, _ in lora_layers(model)}

    def plain(name: str) -> str:
        head, found, tail = name.rpartition("base_layer.")
        return head + tail if f"{head}{found}" in layers else name

    return {plain(name): value for name, value in own.items() if name not in parts}


def frozen(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that LoRA has frozen, by name; none for a model without LoRA layers."""
    return {n: p for n, p in model.named_parameters() if not p.requires_grad} if any(True for _ in lora_layers(model)) else {}


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


# --- targets ----------------------------------------------------------------------------------------------------------
def _targeted(model: nn.Module, targets: str | Sequence[str]) -> dict[str, nn.Linear]:
    modules = {name: module for name, module in model.named_modules() if name}
    output = getattr(model, "output_layer", None)
    linear = {n: m for n, m in modules.items() if isinstance(m, nn.Linear) and m is not output}
    if isinstance(targets, str):
        if targets != ALL:
            raise BadInput("lora.targets", f"'{targets}'", f"'{ALL}' or a list of names of layers")
        if not linear:
            raise BadInput("lora.targets", f"'{ALL}' for a {type(model).__name__}, which has no linear layer", "a model with linear layers")
        return linear
    if not targets:
        raise BadInput("lora.targets", "an empty list", f"'{ALL}' or names of layers")
    chosen: dict[str, nn.Linear] = {}
    for target in targets:
        found = {n: m for n, m in modules.items() if n == target or n.endswith(f".{target}")}
        other = next((m for m in found.values() if not isinstance(m, nn.Linear)), None)
        if not found or other is not None:
            known = sorted({n.rpartition(".")[2] for n in linear if not n.rpartition(".")[2].isdigit()} or linear)
            near = nearest(target, known)
            said = f"'{target}', " + ("which is at the end of no layer's name" if other is None else f"a {type(other).__name__}")
            raise BadInput("lora.targets", said, (f"'{near}'? Linear layers are " if near else "linear layers: ") + ", ".join(known[:12]))
        chosen |= found  # type: ignore[arg-type]
    for name, layer in chosen.items():
        others = [n for n, m in modules.items() if m is not layer and getattr(m, "_parameters", {}).get("weight") is layer.weight]
        if others:
            raise BadInput("lora.targets", f"'{name}', whose weight is that of '{others[0]}' too", "layers with weights of their own")
    return chosen
