"""LoRA layers as a folder of `peft`: adapter_config.json and adapter_model.safetensors, by the names of transformers' layers.

What `peft` (0.21) reads there: tensors as "base_model.model.LAYER.lora_A.weight" [r, I] and "...lora_B.weight" [O, r], and a
configuration whose `target_modules` are ends of layers' names.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from etude.generate.pretrained import Pretrained
from etude.nn.llama import llama_adapters
from etude.nn.lora import lora_layers
from etude.nn.transformer import Transformer

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def write_adapter(model: Pretrained | Transformer, folder: Path, *, base: str, revision: str | None) -> int:
    """Writes both files and returns how many parameters they hold. base, revision: what the model is named by in the configuration."""
    if isinstance(model, Pretrained):
        made = {n.removeprefix("inner."): (m.lora_A.weight.detach(), m.lora_B.weight.detach()) for n, m in lora_layers(model)}
        linear = [n.removeprefix("inner.") for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith("inner.")]
    else:
        made = llama_adapters(model)
        linear = list(made)
    layer = next(layer for _, layer in lora_layers(model))
    tensors: dict[str, Tensor] = {}
    for name, pair in made.items():
        for which, matrix in zip("AB", pair, strict=True):
            tensors[f"base_model.model.{name}.lora_{which}.weight"] = matrix.cpu().contiguous().clone()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "revision": revision, "r": layer.r,
        "lora_alpha": int(layer.alpha) if float(layer.alpha).is_integer() else layer.alpha, "lora_dropout": layer.dropout,
        "target_modules": _ends(made, linear), "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return sum(t.numel() for t in tensors.values())


def _ends(chosen: Iterable[str], linear: Iterable[str]) -> list[str]:
    """The last parts of the chosen layers' names where they mean these layers and no others, else the whole names."""
    chosen = set(chosen)
    ends = {name.rpartition(".")[2] for name in chosen}
    same = {name for name in linear if name.rpartition(".")[2] in ends and not name.endswith((".lora_A", ".lora_B"))} <= chosen
    return sorted(ends if same else chosen)


def read_adapter(base: Path, folder: Path, transformers: Any) -> Any | None:
    """The base with the adapter in it, as `peft` loads them; None where there is no peft."""
    if find_spec("peft") is None:
        return None
    peft = import_module("peft")
    inner = transformers.AutoModelForCausalLM.from_pretrained(base, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in words that are to be renamed
        return peft.PeftModel.from_pretrained(inner, str(folder))
