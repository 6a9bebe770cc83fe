"""Peak memory of training with LoRA and with activation checkpointing, against without.

    python benchmarks/memory.py [--json] [--repeats N]

Prints the memory without over that with (above 1, less memory is needed), the median over repeats. Each training is a process of its own
of three updates on a CPU; its memory is the peak of its resident set less what it held before the model was made. own: etude's
transformer; pretrained: a Qwen3 of random weights, where transformers is installed. LoRA is measured where weights outweigh activations
(25 M parameters, 128 tokens an update), checkpointing where it is the other way round (9 M, 2,048 tokens, 12 blocks).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

WITH = ("lora", "checkpointing")
SIZES = {"lora": {"width": 512, "depth": 8, "heads": 8}, "checkpointing": {"width": 256, "depth": 12, "heads": 4}}
BATCHES = {"lora": (2, 64), "checkpointing": (16, 128)}
"""Rows and tokens of an update."""


def kib(field: str) -> int:
    """A field of this process's status: VmRSS, what is resident now; VmHWM, its peak."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0])


def measured(model: str, what: str, used: bool) -> int:
    """KiB that a training takes at its peak. what: whose case it is; used: whether with it or without."""
    import numpy as np

    from etude.data.sources import WindowSource
    from etude.data.stream import DataStream
    from etude.engine.ledger import Budget
    from etude.engine.streams import initialise
    from etude.engine.trainer import Trainer
    from etude.learn.language import CausalLM
    from etude.nn.activations import checkpoint_activations
    from etude.nn.lora import lora
    from etude.nn.transformer import Transformer, TransformerConfig

    def train(shape: dict[str, int], rows: int, context: int) -> None:
        if model == "own":
            made = initialise(Transformer(TransformerConfig(vocab=256, context=context, **shape)), 0)
        else:
            config = transformers.Qwen3Config(
                vocab_size=256, hidden_size=shape["width"], num_hidden_layers=shape["depth"], num_attention_heads=shape["heads"],
                num_key_value_heads=shape["heads"], head_dim=shape["width"] // shape["heads"], intermediate_size=shape["width"] * 8 // 3,
                max_position_embeddings=context, tie_word_embeddings=True,
            )  # fmt: skip
            made = Pretrained(transformers.Qwen3ForCausalLM(config))
        if used:
            made = lora(made) if what == "lora" else checkpoint_activations(made)
        tokens = np.random.default_rng(0).integers(256, size=50 * rows * context)
        Trainer(made, DataStream(WindowSource(tokens, context), rows, 0), CausalLM(), budget=Budget(steps=3)).run()

    if model == "pretrained":
        import transformers

        from etude.generate.pretrained import Pretrained

    train({"width": 16, "depth": 1, "heads": 2}, 2, 8)  # what torch loads with the first update is not counted
    before = kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # and the peak so far is forgotten
    train(SIZES[what], *BATCHES[what])
    return kib("VmHWM") - before


def ratios(repeats: int) -> dict[str, float]:
    """Each case's memory without over that with."""
    found = {}
    for model in ("own", "pretrained") if find_spec("transformers") else ("own",):
        for what in WITH:
            without, used = (statistics.median(_apart(model, what, u) for _ in range(repeats)) for u in (False, True))
            found[f"{what}_{model}"] = without / used
            print(f"{what} {model}: {without / 1024:,.0f} MiB without, {used / 1024:,.0f} MiB with", file=sys.stderr)
    return found


def _apart(model: str, what: str, used: bool) -> int:
    command = [sys.executable, __file__, "--measure", model, what, str(int(used))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.measure:
        model, what, used = told.measure
        print(measured(model, what, used == "1"))
        return
    found = ratios(told.repeats)
    print(json.dumps({"ratios": found}) if told.json else "\n".join(f"{name:<26} {value:.2f}x" for name, value in found.items()))


if __name__ == "__main__":
    main()
