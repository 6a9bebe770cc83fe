"""Samples of a finished run, as rows of JSONL."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from etude.data.jsonl import Row, jsonl, read_jsonl
from etude.engine.checkpoint import write_atomic
from etude.engine.protocols import Sampling
from etude.errors import BadInput, reason
from etude.generate.local import LocalGenerator
from etude.nn.lora import merge_lora
from etude.recipe.build import Resolve, no_models
from etude.recipe.finished import finished
from etude.recipe.models import Models
from etude.recipe.progress import Progress
from etude.recipe.prompts import begun


def sampled(
    run: str | Path,
    prompts: Sequence[str],
    *,
    file: Path | None = None,
    resolve: Resolve,
    models: Models = no_models,
    samples: int = 1,
    max_tokens: int = 128,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    stop: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    out: Path | None = None,
    quiet: bool = False,
) -> list[Row]:
    """Completions of each prompt, `samples` of each, one below the other: {"prompt", "completion", "tokens" (how many), "logprob"
    (their sum, nats), "finish" ("stop" or "length")}; written to `out` where it is given.

    file: JSONL with a field `prompt`; these come after `prompts`. Raises BadInput, before anything is sampled, where there is no
    prompt, `out` exists or cannot be written, or the run is none.
    """
    texts = [*prompts, *((row["prompt"] for row in read_jsonl(file, {"prompt": str})) if file is not None else ())]
    if not texts:
        raise BadInput("prompts", "none", "texts to go on from, or a JSONL file with a field `prompt`")
    for number, text in enumerate(texts):
        if not text:
            raise BadInput(f"prompt {number}", "an empty text", "at least one character")
    if out is not None:
        if out.exists():
            raise BadInput(str(out), "a file that is there already", "a new name")
        _check_place(out)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=max_tokens, stop_strings=tuple(stop))
    done = finished(run, resolve, models, device=device)
    if done.tokenizer is None:
        raise BadInput(str(run), "no tokenizer", "a run on text, or tokens whose folder holds a tokenizer.json")
    sampling = replace(sampling, stop_tokens=done.stop_tokens)
    with Progress("generating", quiet) as shown:
        generator = LocalGenerator(merge_lora(done.model), done.tokenizer, context=done.context, progress=shown.update)
        groups = generator.complete([begun(text, done.begin) for text in texts], sampling, n=samples, seed=seed)
    rows: list[Row] = [
        {
            "prompt": text, "completion": completion.text, "tokens": len(completion.tokens),
            "logprob": None if completion.logprobs is None else float(completion.logprobs.sum()), "finish": completion.finish,
        }
        for text, group in zip(texts, groups, strict=True)
        for completion in group
    ]  # fmt: skip
    if out is not None:
        write_atomic(out, jsonl(rows))
    return rows


def _check_place(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
    except OSError as error:
        raise BadInput(str(out), reason(error), "a file in a folder that can be written") from error
    with contextlib.suppress(OSError):
        out.unlink()
