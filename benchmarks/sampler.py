"""etude's sampler against transformers.generate: the same weights, prompts and greedy tokens.

    python benchmarks/sampler.py [--json] [--new N] [--repeats N] [--threads N] [--only b64]

Prints transformers' time over etude's, the median over repeats of pairs run in turn (above 1, etude is faster). bB_SIZE: B prompts of
32 tokens, N new tokens each, on a model of SIZE parameters. Tokens must be the same up to the first place where the top two logits
lie within 1e-4; such places are counted, any other difference ends the benchmark with an error. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import Tensor

from etude.engine.protocols import Sampling
from etude.engine.streams import initialise
from etude.generate.local import LocalGenerator
from etude.nn.transformer import Transformer, TransformerConfig

SIZES = {
    "0.2M": TransformerConfig(width=64, depth=4, heads=4),
    "0.85M": TransformerConfig(width=96, depth=8, heads=4),
    "7M": TransformerConfig(width=256, depth=9, heads=8),
}
CASES = {"b1_0.2M": 1, "b64_0.2M": 64, "b1_0.85M": 1, "b64_0.85M": 64, "b64_7M": 64}
PROMPT = 32
NEAR = 1e-4


def halves(rows: Tensor, heads: int) -> Tensor:
    """Rows of a projection whose rotary pairs are (2i, 2i + 1), in transformers' order: pairs (i, i + E / 2)."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def llama(model: Transformer) -> Any:
    """The same model in transformers' classes."""
    import transformers

    transformers.logging.set_verbosity_error()
    c = model.config
    shape = transformers.LlamaConfig(
        vocab_size=c.vocab, hidden_size=c.width, num_hidden_layers=c.depth, num_attention_heads=c.heads,
        num_key_value_heads=c.num_kv_heads, intermediate_size=c.num_hidden, max_position_embeddings=c.context,
        tie_word_embeddings=c.tied, rms_norm_eps=c.norm_eps, attn_implementation="sdpa", bos_token_id=None, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    peer = transformers.LlamaForCausalLM(shape).eval()
    weights: dict[str, Tensor] = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.norm.weight}
    weights["lm_head.weight"] = model.head.weight
    sizes = [n * c.head_width for n in (c.heads, c.num_kv_heads, c.num_kv_heads)]
    for i, block in enumerate(model.blocks):
        at = f"model.layers.{i}."
        queries, keys, values = block.attention.query_key_value.weight.split(sizes)
        gate, up = block.feed_forward.gate_up.weight.chunk(2)
        weights |= {
            f"{at}self_attn.q_proj.weight": halves(queries, c.heads),
            f"{at}self_attn.k_proj.weight": halves(keys, c.num_kv_heads),
            f"{at}self_attn.v_proj.weight": values,
            f"{at}self_attn.o_proj.weight": block.attention.out.weight,
            f"{at}mlp.gate_proj.weight": gate,
            f"{at}mlp.up_proj.weight": up,
            f"{at}mlp.down_proj.weight": block.feed_forward.down.weight,
            f"{at}input_layernorm.weight": block.attention_norm.weight,
            f"{at}post_attention_layernorm.weight": block.feed_forward_norm.weight,
        }
    peer.load_state_dict(weights)
    return peer


@torch.no_grad()
def near_ties(model: Transformer, prompts: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> int:
    """Rows whose tokens part where the top two logits lie within `NEAR`. Raises SystemExit where they part for no such reason."""
    count = 0
    for prompt, a, b in zip(prompts, ours, theirs, strict=True):
        if (a == b).all():
            continue
        first = int(np.flatnonzero(a != b)[0])
        read = torch.from_numpy(np.concatenate((prompt, a[:first])))
        top = model.head(model(read[None])["hidden"][0, -1]).topk(2).values
        if float(top[0] - top[1]) > NEAR:
            raise SystemExit(f"tokens differ at {first}, where the top two logits are {float(top[0] - top[1]):.2g} apart")
        count += 1
    return count


def measure(config: TransformerConfig, batch: int, new: int, repeats: int) -> dict[str, Any]:
    model = initialise(Transformer(config), 0).eval()
    peer, generator = llama(model), LocalGenerator(model)
    prompts = np.random.default_rng(0).integers(1, config.vocab, (batch, PROMPT))
    tokens, mask = torch.from_numpy(prompts), torch.ones(batch, PROMPT, dtype=torch.int64)

    def ours(n: int) -> np.ndarray:
        return np.stack([g[0].tokens for g in generator.complete(list(prompts), Sampling(temperature=0, max_tokens=n))])

    def theirs(n: int) -> np.ndarray:
        return peer.generate(tokens, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, do_sample=False)[:, PROMPT:].numpy()

    def timed(run: Callable[[int], np.ndarray]) -> tuple[float, np.ndarray]:
        started = time.perf_counter()
        out = run(new)
        return time.perf_counter() - started, out

    for run in (ours, theirs):
        run(max(2, new // 8))
    pairs, ties = [], 0
    for _ in range(repeats):
        (peer_seconds, b), (seconds, a) = timed(theirs), timed(ours)
        pairs.append((peer_seconds, seconds))
        ties = near_ties(model, prompts, a, b)
    return {
        "ratio": round(statistics.median(p / s for p, s in pairs), 3),
        "tokens_per_second": round(batch * new / statistics.median(s for _, s in pairs)),
        "rows": batch,
        "near_ties": ties,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--new", type=int, default=64, help="new tokens a prompt")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="names that begin with this")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    results: dict[str, dict[str, Any]] = {}
    for name, batch in CASES.items():
        if not name.startswith(arguments.only):
            continue
        results[name] = row = measure(SIZES[name.partition("_")[2]], batch, arguments.new, arguments.repeats)
        if not arguments.json:
            print(
                f"{name:12} {row['ratio']:.2f}x  {row['tokens_per_second']} tokens/s, near-ties {row['near_ties']} of {batch}", flush=True
            )
    if arguments.json:
        print(json.dumps({"ratios": {n: r["ratio"] for n, r in results.items()}, "details": results}))


if __name__ == "__main__":
    main()
