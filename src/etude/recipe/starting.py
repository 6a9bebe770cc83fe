"""`etude init`: a first recipe for a model and a file of rows, and what the model will see of them.

Where the values come from: learning rate of fine-tuning, TRL's SFTConfig at commit 016013e; that of preferences, and both schedules
(linear warmup, then linearly to 0) without weight decay, the model card of OLMo-7B-SFT (allenai, commit 103ff2e). What is marked
`assumed` was not measured.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.row_files import row_file
from etude.data.row_store import RowStore
from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput
from etude.generate.hub import locate
from etude.recipe.config import parse
from etude.recipe.rows import parted, read_rows, reader_of

SETTINGS = (
    '# precision = "bfloat16"            # "auto" is that on CUDA, and float32 elsewhere',
    '# micro_batch = "auto"              # samples computed at once: the most that fit; the batch and its loss stay what they are',
    "# activation_checkpointing = true   # less memory for about a third more work; the same numbers",
    '# trackers = ["tensorboard"]        # or "wandb", "trackio"',
    "",
    "# [lora]                            # only thin matrices beside the model's own are trained: etude export RUN DIR --to peft",
    "# r = 16                            # TRL's, as alpha; LoRA takes a larger optimizer.lr, ten times and more (assumed)",
    "# alpha = 32.0",
    '# targets = "all-linear"            # or the ends of layers\' names, such as ["q_proj", "v_proj"]',
)
"""What many want to change, in a comment each: a line without its "# " is a key."""
MULTIPLE = 64
LONGEST = 2048
"""Most tokens of a context that is proposed; assumed."""
SHOWN = 3
WORDS = {
    "text": "documents, every token is learnt",
    "completion": "prompts with completions, the completions are learnt",
    "messages": "conversations, the assistant's turns are learnt",
    "preference": "preferences, the chosen rather than the rejected completion is learnt (DPO)",
}


@dataclass(frozen=True)
class Example:
    """title: where it stands. parts: (text, whether the loss is on it), one after another."""

    title: str
    parts: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Started:
    """recipe: the file's text. kind, samples: of the rows. context: proposed. too_long: how many samples it would refuse."""

    recipe: str
    kind: str
    samples: int
    context: int
    too_long: int
    examples: tuple[Example, ...]


def started(model: str, data: str, out: Path | None = None, *, revision: str | None = None) -> Started:
    """Reads all rows, writes the recipe to `out` where it is given. Raises BadInput where `out` exists, and as `etude train` would."""
    if out is not None and out.exists():
        raise BadInput(str(out), "a file that is there already", "a new name")
    found = locate(model, revision, "--model")
    reader = reader_of(found.path, found.name)
    store = read_rows(row_file(data, "--data"), reader)
    lengths = np.diff(store.offsets)
    most = _positions(found.path)
    context = min(-(-(int(lengths.max()) - 1) // MULTIPLE) * MULTIPLE, LONGEST, most or LONGEST)
    too_long = 0 if store.kind == "text" else int((lengths > context + 1).reshape(len(store), -1).any(1).sum())
    text = _recipe(model, revision, data, store, context, too_long)
    parse(tomllib.loads(text), str(out or "recipe"))
    if out is not None:
        try:
            write_atomic(out, text)
        except OSError as error:
            raise BadInput(str(out), error.strerror or str(error), "a file in a folder that can be written") from error
    return Started(text, store.kind, len(store), context, too_long, examples(store, reader.tokenizer))


def _positions(folder: Path) -> int | None:
    """The model's own context, as its configuration says."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(str(folder / "config.json"), f"no JSON ({error})", "a transformers configuration") from None
    return (config.get("text_config") or config).get("max_position_embeddings")


def _recipe(model: str, revision: str | None, data: str, store: RowStore, context: int, too_long: int) -> str:
    pairs = store.kind == "preference"
    share = 0.05 if len(store) >= 40 else 0.2
    training = len(parted(len(store), share)[0])
    if store.kind == "text":
        training = max(1, -(-int(len(store.tokens) * (1 - share)) // (context + 1)))
    batch = max(1, min(8, training // 2))
    lengths = np.diff(store.offsets)
    told = f"half of the rows have at most {int(np.median(lengths))} tokens, the longest has {int(lengths.max())}"
    quoted = json.dumps(model, ensure_ascii=False)
    lines = [
        f"# {len(store):,} rows of {Path(data).name}: {WORDS[store.kind]}.",
        "#   etude train THIS_FILE                    change a value: etude train THIS_FILE optimizer.lr=1e-5",
        "#   etude export RUN DIR --to hf             the trained model, for transformers",
        "schema = 1",
        "",
        "[model]",
        f"pretrained = {quoted}",
        *([f"revision = {json.dumps(revision)}"] if revision else []),
        "",
        "[data]",
        f"rows = {json.dumps(data, ensure_ascii=False)}",
        f"context = {context:<14} # tokens of a row; {told}",
        f"batch = {batch:<16} # rows an update; assumed (more: run.accumulate)",
        f"held_out = {share:<13} # share of the rows, spread evenly, that is measured on; assumed",
    ]
    if store.kind != "text":
        policy, others = ('"cut"', '"drop", "error"') if too_long else ('"error"', '"drop", "cut"')
        said = f"{too_long} of {len(store)} rows are longer than the context" if too_long else "none is now"
        lines.append(f"too_long = {policy:<13} # or {others}; {said}")
    if pairs:
        lines += [
            "",
            "[objective]",
            'kind = "dpo"             # or ipo, orpo, simpo',
            "beta = 0.1               # OLMo-7B-SFT's card, for its DPO",
        ]
    source = "OLMo-7B-SFT's card, for its DPO" if pairs else "TRL's SFTConfig; small models bear 10 times that (assumed)"
    lines += [
        "",
        "[optimizer]",
        'kind = "adamw"',
        f"lr = {'5e-7' if pairs else '2e-5':<20}# {source}",
        "weight_decay = 0.0       # OLMo-7B-SFT's card",
        "betas = [0.9, 0.999]     # torch's default",
        "",
        "[schedule]",
        'kind = "linear"          # OLMo-7B-SFT\'s card: up for a share of the run, then down to 0',
        f"warmup = {0.1 if pairs else 0.03:<16} # the same",
        "final = 0.0",
        "",
        "[budget]",
        f"samples = {3 * training:<14} # three times all rows for training: OLMo-7B-SFT's card",
        "",
        "[run]",
        "clip = 1.0               # assumed",
        'folder = "runs/' + Path(data).stem + '"',
        *SETTINGS,
    ]
    return "\n".join(lines) + "\n"


# --- examples ---------------------------------------------------------------------------------------------------------
def examples(store: RowStore, tokenizer: Any, count: int = SHOWN) -> tuple[Example, ...]:
    """The first samples of a store as the model will see them."""
    made = []
    for row in range(min(count * store.rows_each, len(store.lines))):
        span = slice(int(store.offsets[row]), int(store.offsets[row + 1]))
        ids = store.tokens[span]
        own = np.ones(len(ids), dtype=bool) if store.said is None else store.said[span]
        borders = [0, *(np.flatnonzero(np.diff(own)) + 1).tolist(), len(ids)]
        inner = getattr(tokenizer, "inner", None)
        parts = []
        for start, end in pairwise(borders):
            # With its special tokens: they are what shows where a turn ends.
            some = ids[start:end].tolist()
            parts.append(
                (inner.decode(some, skip_special_tokens=False) if inner is not None else tokenizer.decode(ids[start:end]), bool(own[start]))
            )
        half = "" if store.rows_each == 1 else ", chosen" if row % 2 == 0 else ", rejected"
        made.append(Example(store.file.where(int(store.lines[row])) + half, tuple(parts)))
    return tuple(made)
