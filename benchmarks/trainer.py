"""etude's trainer against a bare loop, and against HF Trainer with transformers' own Llama of the same architecture.

    python benchmarks/trainer.py [--json] [--steps N] [--repeats N] [--threads N]

Prints etude's speed over the peer's, the median over repeats of pairs run in turn. `bare_*`: the same etude model, data and
steps in a plain loop with fused AdamW and clipping, no per-step synchronisation. `hf_*`: needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch.nn import functional as F

from etude.data.sources import WindowSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.schedule import Constant
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.learn.language import CausalLM
from etude.nn.transformer import Transformer, TransformerConfig

SIZES = {
    "0.2M": TransformerConfig(width=64, depth=4, heads=4, context=128),
    "0.85M": TransformerConfig(width=96, depth=8, heads=4, context=128),
}
BATCH = 16
TOKENS = np.random.default_rng(0).integers(0, 256, 400_000).astype(np.uint8)


def stream() -> DataStream:
    return DataStream(WindowSource(TOKENS, 128), BATCH, 0, drop_last=True)


def with_etude(config: TransformerConfig, steps: int) -> float:
    model = initialise(Transformer(config), 0)
    trainer = Trainer(model, stream(), CausalLM(), optimizer=AdamW(lr=1e-3), schedule=Constant(), budget=Budget(steps=steps))
    started = time.perf_counter()
    trainer.run()
    return time.perf_counter() - started


def bare(config: TransformerConfig, steps: int) -> float:
    model = initialise(Transformer(config), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    data = stream()
    started = time.perf_counter()
    for _ in range(steps):
        tokens = data.next().data["tokens"]
        hidden = model(tokens[:, :-1])["hidden"]
        loss = F.cross_entropy(model.head(hidden).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return time.perf_counter() - started


def with_hf(config: TransformerConfig, steps: int) -> float:
    import transformers

    transformers.logging.set_verbosity_error()
    shape = transformers.LlamaConfig(
        vocab_size=config.vocab, hidden_size=config.width, num_hidden_layers=config.depth, num_attention_heads=config.heads,
        num_key_value_heads=config.num_kv_heads, intermediate_size=config.num_hidden, max_position_embeddings=config.context,
        tie_word_embeddings=config.tied, use_cache=False, attn_implementation="sdpa",
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(shape)
    source, order = WindowSource(TOKENS, 128), stream()
    ids = np.concatenate([order.next().ids for _ in range(steps)])
    rows = source.get(ids)["tokens"][:, :-1]

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            return {"input_ids": rows[i], "labels": rows[i]}

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-3, lr_scheduler_type="constant",
            weight_decay=0.1, adam_beta2=0.95, max_grad_norm=1.0, optim="adamw_torch_fused", logging_strategy="no", save_strategy="no",
            report_to=[], use_cpu=not torch.cuda.is_available(), disable_tqdm=True, dataloader_num_workers=0,
        )  # fmt: skip
        trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Rows())
        trainer.remove_callback(transformers.PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


def ratio(peer: Callable[[TransformerConfig, int], float], config: TransformerConfig, steps: int, repeats: int) -> float:
    """Peer's time over etude's, pair by pair: above 1, etude is faster."""
    for run in (with_etude, peer):
        run(config, max(2, steps // 10))
    return statistics.median(peer(config, steps) / with_etude(config, steps) for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="names that begin with this")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    ratios: dict[str, float] = {}
    for name, peer in (("bare", bare), ("hf", with_hf)):
        for size, config in SIZES.items():
            key = f"{name}_{size}"
            if not key.startswith(arguments.only):
                continue
            try:
                ratios[key] = round(ratio(peer, config, arguments.steps, arguments.repeats), 3)
            except ImportError:
                continue  # the extra `bench` is not installed
            if not arguments.json:
                print(f"{key:12} {ratios[key]:.3f}", flush=True)
    if arguments.json:
        print(json.dumps({"ratios": ratios}))


if __name__ == "__main__":
    main()
