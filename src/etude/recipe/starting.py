"""`etude init`: a first recipe for a model and a file of rows, and what the model will see of them.

Where the values come from: learning rate of fine-tuning, TRL's SFTConfig at commit 016013e; that of preferences, and both schedules
(linear warmup, then linearly to 0) without weight decay, the model card of OLMo-7B-SFT (allenai, commit 103ff2e); those of GRPO, TRL's
GRPOConfig (1.16.0) and the method's own paper (`learn.policy`). What is marked `assumed` was not measured.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.encoding import encoded
from etude.data.row_files import RowFile, row_file
from etude.data.row_kinds import COLUMNS
from etude.data.row_store import RowStore
from etude.data.text import TextFile
from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput, reason
from etude.generate.hub import locate
from etude.recipe.build import Resolve, no_models
from etude.recipe.config import parse
from etude.recipe.continued import begun_from
from etude.recipe.models import Models
from etude.recipe.prompts import levels_of, row_problems, task_of, task_problems
from etude.recipe.rows import Reader, parted_samples, read_rows, reader_of
from etude.recipe.verifiers import verifier_of

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
PLAIN = ".txt"
PLAIN_CONTEXT = 512
"""Most tokens of a text's windows that are proposed; assumed."""
CARD = "OLMo-7B-SFT's card"
WORDS = {
    "text": "documents, every token is learnt",
    "completion": "prompts with completions, the completions are learnt",
    "messages": "conversations, the assistant's turns are learnt",
    "preference": "preferences, the chosen rather than the rejected completion is learnt (DPO)",
    "plain": "a text, every token is learnt",
    "prompt": "prompts, the model answers them and learns from what a verifier pays (GRPO)",
}
SECONDS = "verifier_seconds = 30.0  # most that one call may take; assumed"
RESPONSE = 256
"""Most tokens of a response that is proposed; assumed."""


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


def started(
    model: str, data: str | None = None, out: Path | None = None, *, revision: str | None = None, verifier: str | None = None,
    task: str | None = None, resolve: Resolve = no_models, models: Models = no_models,
) -> Started:  # fmt: skip
    """Reads all rows, writes the recipe to `out` where it is given.

    verifier: a Python function by its import path: the rows' prompts are answered and paid (GRPO). task: a named task's problems instead
    of rows. resolve, models: as `train_recipe` takes them, for a model that is a run's folder. Raises BadInput where `out` exists, and as
    `etude train` would.
    """
    if out is not None and out.exists():
        raise BadInput(str(out), "a file that is there already", "a new name")
    if (data is None) == (task is None):
        raise BadInput("etude init", "both --data and --task" if data else "neither --data nor --task", "one of them")
    model = begun_from(model, "--model", resolve, models)
    found = locate(model, revision, "--model")
    from etude.generate.pretrained import check_folder  # late: it needs torch

    check_folder(found.path, found.name)
    reader = reader_of(found.path, found.name)
    most = _positions(found.path)
    head = _head(model, revision)
    if task is not None or verifier is not None:
        done = _asked(head, reader, most, data, verifier, task)
    else:
        assert data is not None
        if Path(data).suffix == PLAIN and Path(data).is_file():
            return _written(_read_on(head, reader, most, data), out)
        file = row_file(data, "--data")
        if _prompts_alone(file):
            expected = "'./my_verifier.py:score' or 'my_module:score': rows with nothing but prompts are answered and paid (GRPO)"
            raise BadInput("--verifier", "none", expected)
        done = _learnt(head, reader, most, data, file)
    return _written(done, out)


def _written(done: Started, out: Path | None) -> Started:
    """Raises BadInput where `out` cannot be written."""
    parse(tomllib.loads(done.recipe), str(out or "recipe"))
    if out is not None:
        try:
            write_atomic(out, done.recipe)
        except OSError as error:
            raise BadInput(str(out), reason(error), "a file in a folder that can be written") from error
    return done


def _learnt(head: list[str], reader: Reader, most: int | None, data: str, file: RowFile) -> Started:
    """Of rows that say what is to be learnt."""
    store = read_rows(file, reader)
    lengths = np.diff(store.offsets)
    context = min(-(-(int(lengths.max()) - 1) // MULTIPLE) * MULTIPLE, LONGEST, most or LONGEST)
    too_long = 0 if store.kind == "text" else int((lengths > context + 1).reshape(len(store), -1).any(1).sum())
    text = _recipe(head, data, store, context, too_long)
    return Started(text, store.kind, len(store), context, too_long, examples(store, reader.tokenizer))


def _read_on(head: list[str], reader: Reader, most: int | None, data: str) -> Started:
    """Of a plain text, which is learnt on from its beginning to its end."""
    share = 0.05
    training, held = encoded(TextFile.scan(data), reader.tokenizer, held_out=share, separator="")
    assert held is not None
    context = min(PLAIN_CONTEXT, most or PLAIN_CONTEXT, len(held.tokens) - 1)
    if context < 2:
        raise BadInput(data, f"{len(training.tokens) + len(held.tokens)} tokens", f"some {round(3 / share)} or more")
    windows = len(training.tokens) // (context + 1)
    lines = [
        f"# {Path(data).name}: {WORDS['plain']}.",
        *head,
        "",
        "[data]",
        f"text = {json.dumps(data, ensure_ascii=False)}",
        'tokenizer = "model"      # the model\'s own',
        f"context = {context:<14} # tokens of a window; assumed",
        f"batch = {max(1, min(8, windows // 2)):<16} # windows an update; assumed (more: run.accumulate)",
        f"held_out = {share:<13} # share of the text, its end, that is measured on; assumed",
        '# separator = "\\n\\n"     # between documents, where it has several',
        *_learning(data, pairs=False, budget=f"tokens = {3 * len(training.tokens):<15} # three times all tokens for training: {CARD}"),
    ]
    shown = [training.tokens[start : start + context] for start in range(0, SHOWN * context, context)]
    parts = [(reader.tokenizer.decode(ids), True) for ids in shown if len(ids) == context]
    examples = tuple(Example(f"{data}, window {number}", (part,)) for number, part in enumerate(parts, start=1))
    return Started("\n".join(lines) + "\n", "plain", windows, context, 0, examples)


def _prompts_alone(file: RowFile) -> bool:
    """Whether the first row has a prompt and nothing that answers it."""
    row = next((row for _, row in file.rows()), {})
    return "prompt" in row and not any(column in row for columns in COLUMNS.values() for column in columns if column != "prompt")


def _asked(head: list[str], reader: Reader, most: int | None, data: str | None, verifier: str | None, task: str | None) -> Started:
    """Of prompts that are answered: a file's or a task's."""
    function = None if verifier is None else verifier_of(verifier, "--verifier")
    asker = reader.asker
    chat = False
    if data is not None:
        file = row_file(data, "--data")
        problems = list(row_problems(file, asker, function))
        if not problems:
            raise BadInput(file.name, "no rows", "at least one")
        what = f"{len(problems):,} rows of {Path(data).name}"
    else:
        try:
            made = task_of(task or "", None, "")
        except BadInput as error:
            raise (error.at("--task") if error.where == ".task" else error) from error
        levels = levels_of(made, None, "--task")
        chat = _has_template(reader)
        problems = task_problems(made, asker, seed=0, difficulties=levels, count=64, chat=chat)[levels[0]]
        what = f"Problems of {made.name}"
    lengths = np.array([len(reader.tokenizer.encode(problem.prompt)) for problem in problems])
    longest = min(LONGEST, most or LONGEST)
    # Room beside the longest prompt, where that leaves enough; else beside half of them.
    room = longest - int(lengths.max())
    response = min(RESPONSE, room if room >= longest // 4 else max(1, longest - int(np.median(lengths))))
    context = min(-(-(int(lengths.max()) + response) // MULTIPLE) * MULTIPLE, longest)
    too_long = int((lengths > context + 1 - response).sum())
    shown = tuple(Example(p.id, ((p.prompt, False), ("...", True))) for p in problems[:SHOWN])
    text = _asking_recipe(head, what, data, task, verifier, chat, context, response, too_long, lengths)
    return Started(text, "prompt", len(problems), context, too_long, shown)


def _has_template(reader: Reader) -> bool:
    try:
        return reader.template is not None and reader.template() is not None
    except BadInput:
        return False


def _head(model: str, revision: str | None) -> list[str]:
    quoted = json.dumps(model, ensure_ascii=False)
    return [
        "#   etude train THIS_FILE                    change a value: etude train THIS_FILE optimizer.lr=1e-5",
        "#   etude export RUN DIR --to hf             the trained model, for transformers",
        "schema = 1",
        "",
        "[model]",
        f"pretrained = {quoted}",
        *([f"revision = {json.dumps(revision)}"] if revision else []),
    ]


def _positions(folder: Path) -> int | None:
    """The model's own context, as its configuration says."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(str(folder / "config.json"), f"no JSON ({error})", "a transformers configuration") from None
    return (config.get("text_config") or config).get("max_position_embeddings")


def _recipe(head: list[str], data: str, store: RowStore, context: int, too_long: int) -> str:
    pairs = store.kind == "preference"
    share = 0.05 if len(store) >= 40 else 0.2
    training = len(parted_samples(store, share)[0])
    if store.kind == "text":
        training = max(1, -(-int(len(store.tokens) * (1 - share)) // (context + 1)))
    if not training:
        raise BadInput(data, f"{len(store)} row", "at least 2: one to learn from and one to measure on")
    batch = max(1, min(8, training // 2))
    lengths = np.diff(store.offsets)
    told = f"half of the rows have at most {int(np.median(lengths))} tokens, the longest has {int(lengths.max())}"
    several = f", {len(store):,} samples of them, as the chat template rewrites earlier turns" if store.num_lines < len(store) else ""
    lines = [
        f"# {store.num_lines:,} rows of {Path(data).name}: {WORDS[store.kind]}{several}.",
        *head,
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
    lines += _learning(data, pairs=pairs, budget=f"samples = {3 * training:<14} # three times all rows for training: {CARD}")
    return "\n".join(lines) + "\n"


def _learning(data: str, *, pairs: bool, budget: str) -> list[str]:
    """Everything after the data and the objective: optimizer, schedule, budget, measures, run."""
    source = "OLMo-7B-SFT's card, for its DPO" if pairs else "TRL's SFTConfig; small models bear 10 times that (assumed)"
    return [
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
        budget,
        "",
        "[evaluate]",
        *MEASURES,
        "",
        "[run]",
        "clip = 1.0               # assumed",
        'folder = "runs/' + Path(data).stem + '"',
        *SETTINGS,
    ]


MEASURES = [
    'measures = ["loss"]      # also "verifier", and "lm_eval:TASK" (pip install \'etude[lm-eval]\')',
    "# [evaluate.verifier]    # the share of the held-out prompts that a Python function accepts the answer to",
    '# use = "./my_verifier.py:score"',
]


def _asking_recipe(
    head: list[str], what: str, data: str | None, task: str | None, verifier: str | None, chat: bool, context: int, response: int,
    too_long: int, lengths: np.ndarray,
) -> str:  # fmt: skip
    told = f"half of the prompts have at most {int(np.median(lengths))} tokens, the longest has {int(lengths.max())}"
    if data is not None:
        policy, other = ('"drop"', '"error"') if too_long else ('"error"', '"drop"')
        source = [
            f"rows = {json.dumps(data, ensure_ascii=False)}",
            "held_out = 0.05          # share of the prompts, spread evenly, that is measured on; assumed",
            f"too_long = {policy:<13} # or {other}; {too_long or 'no'} prompts leave no room for a response",
        ]
    else:
        source = [
            f"task = {json.dumps(task)}",
            f"chat = {'true ' if chat else 'false'}             # the problem as a user's turn under the model's chat template",
            "problems = 512           # of each difficulty (difficulties = [...]); assumed",
        ]
    folder = Path(data).stem if data is not None else str(task).replace("/", "-")
    lines = [
        f"# {what}: {WORDS['prompt']}.",
        *head,
        "",
        "[data]",
        *source,
        f"context = {context:<14} # tokens of prompt and response; {told}",
        "batch = 8                # rollouts at a time; with run.accumulate, 64 an update: the whole round",
        "",
        "[objective]",
        'kind = "grpo"            # or dr-grpo, dapo, reinforce, rloo',
        *([f"verifier = {json.dumps(verifier, ensure_ascii=False)}", SECONDS] if verifier is not None else []),
        "kl = 0.0                 # TRL's GRPOConfig; the paper's 0.04 keeps a frozen copy of the model",
        'failures = "stop"        # or "zero": what a verifier that raises or gives no number does',
        "",
        "[rollouts]",
        "prompts = 8              # a round; assumed",
        "samples = 8              # responses to each: TRL's GRPOConfig",
        f"max_tokens = {response:<11} # of a response; assumed",
        "temperature = 1.0        # TRL's GRPOConfig",
        "",
        "[optimizer]",
        'kind = "adamw"',
        "lr = 1e-6                # TRL's GRPOConfig; small models bear 100 times that (assumed)",
        "weight_decay = 0.0       # transformers' TrainingArguments",
        "betas = [0.9, 0.999]     # torch's default",
        "",
        "[schedule]",
        'kind = "linear"          # transformers\' TrainingArguments: down to 0',
        "warmup = 0.0",
        "final = 0.0",
        "",
        "[budget]",
        "steps = 200              # updates; assumed",
        "",
        "[evaluate]",
        'measures = ["verifier"]  # also "lm_eval:TASK" (pip install \'etude[lm-eval]\')',
        "",
        "[evaluate.verifier]      # greedy answers to the held-out prompts; samples, temperature and max_tokens change that",
        "limit = 64               # prompts; assumed",
        "",
        "[run]",
        "accumulate = 8",
        "clip = 1.0               # assumed",
        f'folder = "runs/{folder}-grpo"',
        *(line for line in SETTINGS if "micro_batch" not in line),  # data.batch says how many rollouts are computed at once
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
