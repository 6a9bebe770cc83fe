"""A `Transformer` as the Llama of transformers: its configuration and its weights by their names there.

The two differ in how rotary positions pair a head's dimensions: 2i with 2i + 1 here, as in the paper (2104.09864), i with i + E / 2
there. Rows of queries and keys are put in the other order, which changes no product of the two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etude.nn.lora import base_state, lora_layers
from etude.nn.transformer import Transformer


def llama_config(model: Transformer) -> dict[str, Any]:
    """What `transformers.LlamaConfig` takes."""
    c = model.config
    return {
        "vocab_size": c.vocab, "hidden_size": c.width, "num_hidden_layers": c.depth, "num_attention_heads": c.heads,
        "num_key_value_heads": c.num_kv_heads, "head_dim": c.head_width, "intermediate_size": c.num_hidden,
        "max_position_embeddings": c.context, "rms_norm_eps": c.norm_eps, "tie_word_embeddings": c.tied, "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_base}, "initializer_range": c.init_std,
        "attention_bias": False, "mlp_bias": False, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip


def llama_weights(model: Transformer) -> dict[str, Tensor]:
    """Weights by their names in `LlamaForCausalLM`; `lm_head.weight` where the head is not the embedding's. LoRA layers are left out."""
    c, own = model.config, {name: value.detach() for name, value in base_state(model).items()}
    queries, keys = c.heads * c.head_width, c.num_kv_heads * c.head_width
    weights = {"model.embed_tokens.weight": own["embedding.weight"], "model.norm.weight": own["norm.weight"]}
    for i in range(c.depth):
        here, there = f"blocks.{i}.", f"model.layers.{i}."
        q, k, v = own[f"{here}attention.query_key_value.weight"].split((queries, keys, keys))
        gate, up = own[f"{here}feed_forward.gate_up.weight"].chunk(2)
        weights |= {
            f"{there}self_attn.q_proj.weight": _halves(q, c.head_width),
            f"{there}self_attn.k_proj.weight": _halves(k, c.head_width),
            f"{there}self_attn.v_proj.weight": v,
            f"{there}self_attn.o_proj.weight": own[f"{here}attention.out.weight"],
            f"{there}mlp.gate_proj.weight": gate,
            f"{there}mlp.up_proj.weight": up,
            f"{there}mlp.down_proj.weight": own[f"{here}feed_forward.down.weight"],
            f"{there}input_layernorm.weight": own[f"{here}attention_norm.weight"],
            f"{there}post_attention_layernorm.weight": own[f"{here}feed_forward_norm.weight"],
        }
    if not c.tied:
        weights["lm_head.weight"] = own["head.weight"]
    return {name: value.clone().contiguous() for name, value in weights.items()}


def llama_adapters(model: Transformer) -> dict[str, tuple[Tensor, Tensor]]:
    """LoRA matrices A [r, I] and B [O, r] by the names of the layers of `LlamaForCausalLM` that they stand beside.

    Layers that are one matrix here and several there share A; B's rows are divided as the weight's are.
    """
    c, made = model.config, {}
    queries, keys = c.heads * c.head_width, c.num_kv_heads * c.head_width
    for name, layer in lora_layers(model):
        _, block, part = name.split(".", 2)
        a, b, there = layer.lora_A.weight.detach(), layer.lora_B.weight.detach(), f"model.layers.{block}."
        match part:
            case "attention.query_key_value":
                q, k, v = b.split((queries, keys, keys))
                rows = {"self_attn.q_proj": _halves(q, c.head_width), "self_attn.k_proj": _halves(k, c.head_width), "self_attn.v_proj": v}
            case "feed_forward.gate_up":
                rows = dict(zip(("mlp.gate_proj", "mlp.up_proj"), b.chunk(2), strict=True))
            case _:
                rows = {{"attention.out": "self_attn.o_proj", "feed_forward.down": "mlp.down_proj"}[part]: b}
        made |= {f"{there}{other}": (a, own) for other, own in rows.items()}
    return made


def _halves(rows: Tensor, width: int) -> Tensor:
    """[H E, D] with a head's even dimensions before its odd ones."""
    order = torch.cat((torch.arange(0, width, 2), torch.arange(1, width, 2)))
    return rows.unflatten(0, (-1, width))[:, order].flatten(0, 1)
