"""One GRPO step of etude against TRL's GRPOTrainer: rollouts, rewards, advantages, one update.

    python benchmarks/grpo.py [--json] [--steps N] [--repeats N] [--threads N]

Both: a 0.2M-parameter Llama of one architecture, 8 prompts x 8 samples x 64 new tokens at temperature 1, no stop token (so that
every completion has its full length), no KL, AdamW, the same reward function, learning rate 1e-4. Prints TRL's time over etude's a
step, the median over repeats of runs in turn (above 1, etude is faster), twice: `trl` with TRL's own defaults, which recompute activations
and compute in bfloat16, and `trl_fast` with both switched off, which is what suits a small model on a CPU. TRL: extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from etude.data.tokenizers import Characters
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.protocols import Problem, Sampling
from etude.engine.schedule import Constant
from etude.engine.streams import initialise, numpy_rng
from etude.engine.trainer import Trainer
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import PolicyConfig, PolicyGradient
from etude.learn.problems import ProblemPool
from etude.learn.rollouts import Collector
from etude.learn.round import RoundConfig
from etude.nn.transformer import Transformer, TransformerConfig

PROMPTS, SAMPLES, NEW_TOKENS, PROMPT_TOKENS = 8, 8, 64, 16
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789+-*/=?!. ,:;()<>[]{}@#$%&_"
CONFIG = TransformerConfig(vocab=len(ALPHABET), width=64, depth=4, heads=4, context=PROMPT_TOKENS + NEW_TOKENS)


def reward(text: str) -> float:
    """Something to tell completions apart: the share of vowels."""
    return sum(c in "aeiou" for c in text) / max(1, len(text))


class Vowels:
    """The benchmark's task: random prompts, rewarded by `reward`."""

    name, difficulties = "vowels", (1,)

    def problem(self, seed: int, index: int, difficulty: int) -> Problem:
        letters = numpy_rng(seed, "vowels", index).choice(list(ALPHABET[:26]), PROMPT_TOKENS)
        return Problem(f"vowels/{index}", "".join(letters), "", difficulty)

    def verify(self, problem: Problem, response: str) -> float:
        return reward(response)


def with_etude(steps: int) -> float:
    """Seconds a step."""
    from etude.generate.local import LocalGenerator

    tokenizer, model = Characters(ALPHABET), initialise(Transformer(CONFIG), 0)
    pool = ProblemPool.of(Vowels(), 0, {1: PROMPTS * steps})
    collector = Collector(pool, tokenizer, Sampling(max_tokens=NEW_TOKENS), context=CONFIG.context)
    config = RoundConfig(prompts=PROMPTS, samples=SAMPLES, minibatch=PROMPTS * SAMPLES)
    stream = RolloutStream(lambda m: LocalGenerator(m, tokenizer), collector, config, seed=0)
    trainer = Trainer(
        model, stream, PolicyGradient(PolicyConfig(kl=0.0)), optimizer=AdamW(lr=1e-4), schedule=Constant(), budget=Budget(steps=steps)
    )
    started = time.perf_counter()
    trainer.run()
    return (time.perf_counter() - started) / steps


def with_trl(steps: int, fast: bool) -> float:
    """Seconds a step. fast: single precision and no activation checkpointing, else TRL's defaults."""
    import datasets
    import tokenizers
    import transformers
    import trl

    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    vocabulary = {c: i for i, c in enumerate(ALPHABET)} | {"<pad>": len(ALPHABET), "<eos>": len(ALPHABET) + 1}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    inner.decoder = tokenizers.decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", padding_side="left")
    shape = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=CONFIG.width, num_hidden_layers=CONFIG.depth, num_attention_heads=CONFIG.heads,
        num_key_value_heads=CONFIG.num_kv_heads, intermediate_size=CONFIG.num_hidden, max_position_embeddings=CONFIG.context,
        tie_word_embeddings=True, attn_implementation="sdpa", pad_token_id=len(ALPHABET), eos_token_id=len(ALPHABET) + 1,
    )  # fmt: skip
    task = Vowels()
    rows = datasets.Dataset.from_list([{"prompt": task.problem(0, i, 1).prompt} for i in range(PROMPTS * steps)])
    with tempfile.TemporaryDirectory() as folder:
        arguments = trl.GRPOConfig(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=PROMPTS * SAMPLES, num_generations=SAMPLES,
            max_completion_length=NEW_TOKENS, beta=0.0, learning_rate=1e-4, lr_scheduler_type="constant", temperature=1.0,
            optim="adamw_torch_fused", logging_strategy="no", save_strategy="no",
            report_to=[], use_cpu=not torch.cuda.is_available(), disable_tqdm=True,
            generation_kwargs={"min_new_tokens": NEW_TOKENS}, **({"bf16": False, "gradient_checkpointing": False} if fast else {}),
        )  # fmt: skip

        def rewards(completions: list[str], **_: object) -> list[float]:
            return [reward(c) for c in completions]

        trainer = trl.GRPOTrainer(
            model=transformers.LlamaForCausalLM(shape), reward_funcs=rewards, args=arguments, train_dataset=rows, processing_class=tokenizer
        )
        trainer.remove_callback(transformers.PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        return (time.perf_counter() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    with_etude(2), with_trl(2, fast=True), with_trl(2, fast=False)
    runs = [
        (with_trl(arguments.steps, False), with_trl(arguments.steps, True), with_etude(arguments.steps)) for _ in range(arguments.repeats)
    ]
    ratios = {
        "trl": round(statistics.median(plain / etude for plain, _, etude in runs), 3),
        "trl_fast": round(statistics.median(fast / etude for _, fast, etude in runs), 3),
    }
    if arguments.json:
        print(json.dumps({"ratios": ratios}))
    else:
        plain, fast, ours = np.median(np.array(runs), axis=0)
        print(f"a step: TRL {plain:.3f} s with its defaults, {fast:.3f} s with fast settings; etude {ours:.3f} s: {ratios}")


if __name__ == "__main__":
    main()
