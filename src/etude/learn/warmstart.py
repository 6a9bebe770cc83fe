"""Warm starts: small base models taught on written solutions, so that studies of self-improvement have something to improve.

A base is trained once and kept in the cache folder under the hash of all that it depends on: rows, sizes, settings, seed, this code
and the libraries. Whoever asks for the same one gets the same bits. Its cost is the cost of its training, whether it was trained just now
or came from the cache: a study charges it once a run, as the ledger's category "base:NAME". What else several runs share (a value model
that all begin with) is `kept` in the same way.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from etude.data.cards import cache_folder
from etude.data.stream import DataStream
from etude.data.tokenizers import Tokenizer
from etude.engine import checkpoint
from etude.engine.identity import describe
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW, OptimizerSpec
from etude.engine.schedule import Cosine
from etude.engine.streams import derive, initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput, reason
from etude.learn.finetune import Finetune
from etude.learn.rows import CompletionSource, Text
from etude.nn.transformer import Transformer, TransformerConfig

COUNTED = ("engine", "nn", "data", "generate", "learn")
"""Folders of code that what is kept may depend on."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A taught model. key: the hash of what it was made of. ledger: what teaching it cost."""

    name: str
    key: str
    model: Transformer
    ledger: Ledger

    def charge(self, ledger: Ledger) -> None:
        """Adds the base's cost to a run's ledger, under its name."""
        ledger.merge(self.ledger, category=f"base:{self.name}")


def warm_start(
    rows: Sequence[tuple[Text, Text]],
    *,
    name: str,
    config: TransformerConfig,
    tokenizer: Tokenizer,
    end: int | None,
    steps: int,
    batch_size: int = 64,
    lr: float = 2e-3,
    optimizer: OptimizerSpec | None = None,
    seed: int = 0,
    cache: Path | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Base:
    """The base model of these settings: from the cache, or trained now and kept there.

    rows:  (prompt, written solution), texts or token ids; the loss is on solutions alone. end: token id closing each solution.
    name:  what the ledger calls it; no part of the hash, so that studies share a base whatever they call it.
    steps: updates on `batch_size` rows, warm-up over 2 % of them, then a cosine to a tenth of the rate.
    optimizer: by default AdamW at `lr` with weight decay 0.01, for which `lr` stands. Small models learn to copy sooner under `Muon`.
    cache: a folder for bases; by default "bases" in the cache folder.    progress: called with (share done, loss) while it trains.
    Two processes that want one base train it once: the second waits. Raises BadInput for rows that do not fit and a cache folder
    that cannot be written; NonFinite as the trainer does.
    """
    if steps < 1 or batch_size < 1 or not 0 < lr < float("inf"):
        raise BadInput(f"warm start {name}", f"{steps} steps of {batch_size} rows, lr {lr}", "all three above 0, lr finite")
    source = CompletionSource(rows, context=config.context, tokenizer=tokenizer, end=end, name=f"warm start {name}, row")
    size = min(batch_size, len(source))
    made_of = {
        "config": asdict(config), "tokenizer": tokenizer.to_json(), "rows": _rows_hash(source), "end": end, "steps": steps,
        "batch_size": size, "lr": lr, "seed": seed,
    }  # fmt: skip
    if optimizer is not None:
        made_of |= {"optimizer": describe(optimizer)}
    chosen = AdamW(lr=lr, weight_decay=0.01) if optimizer is None else optimizer
    key, state = kept(made_of, lambda: _teach(source, config, steps, size, chosen, seed, progress), cache=cache)
    model = Transformer(config)
    model.load_state_dict(state["model"])
    return Base(name=name, key=key, model=model, ledger=Ledger.from_dict(state["ledger"]))


def kept(made_of: Mapping[str, Any], make: Callable[[], dict[str, Any]], *, cache: Path | None = None) -> tuple[str, dict[str, Any]]:
    """What `make()` gives, from the cache where it was made before: (its key, the state).

    made_of: all that it depends on, as JSON; etude's code up to `learn`, the libraries and the instruction set are added here.
    make:    gives tensors, arrays, numbers, texts, lists and dicts of them. cache: a folder; by default "bases" in the cache folder.
    Two processes that want the same make it once: the second waits. Raises BadInput for a cache folder that cannot be written.
    """
    everything = {
        **made_of, "code": _code(), "torch": torch.__version__, "numpy": np.__version__, "kernels": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]
    folder = (cache or cache_folder() / "bases") / key
    with _alone(folder):
        try:
            return key, checkpoint.load(checkpoint.latest(folder)[0])
        except BadInput:  # none yet, or one that was damaged
            state = make()
            checkpoint.save(folder, 1, state, keep=1)
            return key, state


def _teach(
    source: CompletionSource, config: TransformerConfig, steps: int, batch_size: int, optimizer: OptimizerSpec, seed: int,
    progress: Callable[[float, float], None] | None,
) -> dict[str, Any]:  # fmt: skip
    result = Trainer(
        initialise(Transformer(config), derive(seed, "base")), DataStream(source, batch_size, derive(seed, "rows")), Finetune(),
        optimizer=optimizer, schedule=Cosine(warmup=0.02, final=0.1), budget=Budget(steps=steps), seed=seed,
        progress=progress,
    ).run()  # fmt: skip
    return {"model": result.model.state_dict(), "ledger": result.ledger.as_dict()}


def _rows_hash(source: CompletionSource) -> str:
    digest = hashlib.sha256()
    for row in source.rows:
        digest.update(len(row.tokens).to_bytes(8, "little") + row.tokens.astype("<i8").tobytes() + np.packbits(row.mask).tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(p for part in COUNTED for p in (root / part).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process makes or reads the base in `folder` meanwhile; a killed one lets go of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise BadInput(str(folder), reason(error), "a folder that can be written; $ETUDE_CACHE names another") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
