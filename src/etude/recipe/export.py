"""A finished run as a transformers folder, or its LoRA layers as one of peft: weights in safetensors, tokenizer, model card; read back and
compared before it is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from etude.data.cards import cards
from etude.data.tokenizers import BytePairs, Bytes, Characters, Marked, byte_characters
from etude.engine.device import evaluating
from etude.errors import BadInput, choice, reason
from etude.generate.hub import locate
from etude.generate.pretrained import Pretrained
from etude.nn.llama import llama_config, llama_weights
from etude.nn.lora import merge_lora
from etude.nn.transformer import Transformer
from etude.recipe.adapter import read_adapter, write_adapter
from etude.recipe.build import Resolve, no_models
from etude.recipe.finished import Finished, finished
from etude.recipe.models import Models
from etude.recipe.tables import PretrainedTable, Recipe, RowsData, TaskData, TextData
from etude.recipe.writing import dump

FORMATS = ("hf", "peft")
TOLERANCE = 1e-4
"""Largest difference between a logit of the run's model and of the one read back."""
PROBE = "Read back: 12 + 30 = 42.\n\tEtwas Ähnliches, naïve 日本. "


def export_run(run: str | Path, folder: str | Path, *, to: str = "hf", resolve: Resolve, models: Models = no_models) -> dict[str, Any]:
    """Writes the folder and returns {"folder", "architecture", "parameters", "largest_difference", "tokenizer"}.

    to: "hf", a transformers folder (LoRA layers merged), or "peft", the LoRA layers alone.
    It appears under its name when transformers (peft) has read it back with the same logits and tokens, or not at all; without peft
    an adapter is not read back, and largest_difference is None. Raises BadInput where the folder holds something, the run is none, or
    transformers has no such architecture.
    """
    if to not in FORMATS:
        raise choice("etude export --to", to, FORMATS)
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise BadInput(str(folder), "something there already", "a new or empty folder")
    try:
        import transformers
    except ImportError:
        raise BadInput("etude export", "no transformers", "the package: pip install 'etude[hf]'") from None
    done = finished(run, resolve, models, device="cpu")
    if done.recipe is None:
        raise BadInput(str(run), "a transformers folder", "the folder of a run of `etude train`")
    if to == "peft" and done.recipe.lora is None:
        raise BadInput("etude export --to", "'peft' for a run without [lora]", "hf")
    transformers.utils.logging.disable_progress_bar()
    tokens, logits = _probed(done)
    with _appearing(place) as made:
        if to == "peft":
            inner = _as_transformers(done.model, transformers)
            read, parameters = _adapter(done, inner, made, place, transformers)
        else:
            inner = _as_transformers(merge_lora(done.model), transformers)
            inner.save_pretrained(made)
            read = transformers.AutoModelForCausalLM.from_pretrained(made, local_files_only=True, use_safetensors=True)
            parameters = sum(p.numel() for p in inner.parameters())
        named = _write_tokenizer(done, made, transformers)
        (made / "README.md").write_text(_card(done, inner, to, parameters), encoding="utf-8")
        difference = None if read is None else _difference(read, tokens, logits, folder)
        if named:
            _check_tokenizer(done, made, transformers, folder)
    return {
        "folder": str(place), "architecture": type(inner).__name__, "parameters": parameters, "largest_difference": difference,
        "tokenizer": named,
    }  # fmt: skip


@contextmanager
def _appearing(place: Path) -> Iterator[Path]:
    """A temporary folder beside `place` that gets its name at the end of the block."""
    made = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        yield made
        if place.exists():
            place.rmdir()
        os.replace(made, place)
    except OSError as error:
        raise BadInput(str(place), reason(error), "a folder that can be written") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _as_transformers(model: torch.nn.Module, transformers: Any) -> Any:
    """The model as one of transformers', below any LoRA layers. Raises BadInput where transformers has no such architecture."""
    if isinstance(model, Pretrained):
        return model.inner
    if type(model) is not Transformer:
        expected = "a `transformer` or a pretrained model: transformers has no other of etude's architectures"
        raise BadInput("etude export", f"a {type(model).__name__}", expected)
    if model.config.shifted:
        raise BadInput("etude export", "a model whose tokens come with the one before (shifted)", "one without: transformers has none")
    inner = transformers.LlamaForCausalLM(transformers.LlamaConfig(**llama_config(model)))
    missing, unknown = inner.load_state_dict(llama_weights(model), strict=False)
    assert not unknown
    assert set(missing) <= {"lm_head.weight"}
    return inner.eval()


def _adapter(done: Finished, inner: Any, made: Path, place: Path, transformers: Any) -> tuple[Any, int]:
    """Writes the adapter, and etude's own model that it belongs to as "base" beside it. Returns it read back, and its parameters."""
    assert done.recipe is not None
    table, model = done.recipe.model, done.model
    assert isinstance(model, Pretrained | Transformer)
    if isinstance(table, PretrainedTable):
        base, name, revision = locate(table.pretrained, table.revision, "model.pretrained").path, table.pretrained, table.revision
    else:
        base, name, revision = made / "base", str(place / "base"), None
        inner.save_pretrained(base)
    parameters = write_adapter(model, made, base=name, revision=revision)
    return read_adapter(base, made, transformers), parameters


# --- tokenizer --------------------------------------------------------------------------------------------------------
def _write_tokenizer(done: Finished, folder: Path, transformers: Any) -> bool:
    """Whether there is one: the pretrained model's own files, or etude's tokenizer in the format of `tokenizers`."""
    assert done.recipe is not None
    table = done.recipe.model
    if isinstance(table, PretrainedTable):
        source = locate(table.pretrained, table.revision, "model.pretrained").path
        for path in (p for pattern in ("tokenizer*", "special_tokens_map.json", "chat_template*") for p in source.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
        return (folder / "tokenizer.json").exists()
    if done.tokenizer is None:
        return False
    transformers.PreTrainedTokenizerFast(tokenizer_object=_fast(done.tokenizer)).save_pretrained(folder)
    return True


def _fast(tokenizer: Any) -> Tokenizer:
    match tokenizer:
        case Marked():
            inner = _fast(tokenizer.inner)
            inner.add_tokens([AddedToken(mark, normalized=False) for mark in tokenizer.marks])
            return inner
        case BytePairs():
            return tokenizer.inner
        case Bytes():
            inner = Tokenizer(models.BPE(vocab={character: byte for byte, character in enumerate(byte_characters())}, merges=[]))
            inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
            return inner
        case Characters():
            pieces = [tokenizer.decode(np.array([i])) for i in range(tokenizer.vocab)]
            inner = Tokenizer(models.WordLevel(vocab={piece: i for i, piece in enumerate(pieces)}, unk_token=pieces[0]))
            longest_first = sorted(pieces, key=lambda piece: -len(piece))
            pattern = "|".join("".join(f"\\x{{{ord(c):x}}}" for c in piece) for piece in longest_first)
            inner.pre_tokenizer, inner.decoder = pre_tokenizers.Split(Regex(pattern), "isolated"), decoders.Fuse()
            return inner
    raise BadInput("etude export", f"a tokenizer of kind {type(tokenizer).__name__}", "bytes, characters or byte pairs")


# --- reading back -----------------------------------------------------------------------------------------------------
@torch.inference_mode()
def _probed(done: Finished) -> tuple[Tensor, Tensor]:
    """Tokens and the logits [2, T, V] of the run's model."""
    vocab = done.facts["vocab"] if done.facts else 1
    length = min(32, done.context or 32)
    tokens = torch.randint(0, vocab, (2, length), generator=torch.Generator().manual_seed(0))
    with evaluating(done.model):
        return tokens, done.model.head(done.model(tokens)["hidden"])  # type: ignore[operator]


@torch.inference_mode()
def _difference(read: Any, tokens: Tensor, logits: Tensor, folder: str | Path) -> float:
    """The largest difference of a logit. Raises BadInput where it is over `TOLERANCE`."""
    difference = float((logits - read.eval()(input_ids=tokens).logits).abs().max())
    if not difference <= TOLERANCE:
        raise BadInput(str(folder), f"logits that differ by {difference:.2g} when read back", f"the run's, within {TOLERANCE:g}")
    return difference


def _check_tokenizer(done: Finished, made: Path, transformers: Any, folder: str | Path) -> None:
    """Raises BadInput where tokens differ."""
    if done.tokenizer is None:
        return
    plain = done.tokenizer.inner if isinstance(done.tokenizer, Marked) else done.tokenizer
    text = PROBE if not isinstance(plain, Characters) else "".join(plain.alphabet) + "".join(plain.words)
    text += "".join(getattr(done.tokenizer, "marks", ()))
    read = transformers.AutoTokenizer.from_pretrained(made, local_files_only=True)
    ids = read.encode(text, add_special_tokens=False)
    if ids != done.tokenizer.encode(text).tolist() or read.decode(ids) != done.tokenizer.decode(np.array(ids)):
        raise BadInput(str(folder), "a tokenizer that gives other tokens when read back", "the run's")


# --- model card -------------------------------------------------------------------------------------------------------
def _card(done: Finished, inner: Any, to: str, parameters: int) -> str:
    """Markdown: what it was made from, under which licences, by which recipe, and what that cost."""
    recipe, facts, ledger = done.recipe, done.facts or {}, done.ledger
    assert recipe is not None
    assert ledger is not None
    lines = ["---", f"library_name: {'peft' if to == 'peft' else 'transformers'}", "tags: [etude]", "---", "", "# Model card", ""]
    kind = type(inner).__name__
    what = f"A LoRA adapter of {parameters:,} parameters for a {kind}" if to == "peft" else f"A {kind} of {parameters:,} parameters"
    lines += [f"{what}, trained with etude for {done.step} steps."]
    if base := facts.get("model"):
        commit = f" at commit `{base['commit']}`" if base["commit"] else ""
        lines += ["", f"It starts from `{base['name']}`{commit}, whose licence holds on."]
    lines += ["", "## Data", "", "| source | licence | tokens for training | SHA-256 |", "|---|---|---|---|"]
    for called, licence, told in _sources(recipe, facts):
        lines.append(f"| {called} | {licence} | {told['tokens']:,} | `{told['sha256'][:16]}` |")
    lines += ["", "## What it cost", "", "| category | " + " | ".join(COSTS) + " |", "|---|" + "---|" * len(COSTS)]
    spent = ledger.as_dict()
    for category, amounts in spent.items():
        lines.append(f"| {category} | " + " | ".join(f"{amounts[c]:,.0f}" if amounts.get(c) else "–" for c in COSTS) + " |")
    return "\n".join([*lines, "", "## Recipe", "", "```toml", dump(recipe).strip(), "```", ""])


def _sources(recipe: Recipe, facts: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, licence, facts) of each source of the data."""
    if isinstance(recipe.data, RowsData):
        told = facts["rows"]
        return [(f"{told['name']} ({told['rows']:,} rows, {told['kind']})", NOT_STATED, told)]
    if isinstance(recipe.data, TaskData):
        told = facts["task"]
        return [(f"problems of the task {told['name']}", "made from the run's seed", told)]
    assert isinstance(recipe.data, TextData)
    sources = recipe.data.domains or {"": recipe.data}
    found = []
    for name, told in facts["sources"].items():
        source = sources.get(name, recipe.data)
        known = cards().get(source.corpus or "")
        called = source.corpus or Path(source.text or source.tokens or "").name
        if name not in sources:  # a folder inside a folder of texts
            called = f"{called}/{name}"
        found.append((called, known.licence if known else NOT_STATED, told))
    return found


NOT_STATED = "not stated: a file of the user's"
COSTS = ("tokens", "samples", "flops", "seconds")
