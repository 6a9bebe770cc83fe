"""A finished run as a transformers folder: weights in safetensors, tokenizer, model card; read back and compared before it is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from etude.data.cards import cards
from etude.data.tokenizers import BytePairs, Bytes, Characters, byte_characters
from etude.engine.device import evaluating
from etude.errors import BadInput
from etude.generate.hub import locate
from etude.generate.pretrained import Pretrained
from etude.nn.llama import llama_config, llama_weights
from etude.nn.transformer import Transformer
from etude.recipe.build import Resolve, no_models
from etude.recipe.finished import Finished, finished
from etude.recipe.models import Models
from etude.recipe.tables import PretrainedTable, Recipe, RowsData, TaskData, TextData
from etude.recipe.writing import dump

TOLERANCE = 1e-4
"""Largest difference between a logit of the run's model and of the one read back."""
PROBE = "Read back: 12 + 30 = 42.\n\tEtwas Ähnliches, naïve 日本. "


def export_run(run: str | Path, folder: str | Path, *, resolve: Resolve, models: Models = no_models) -> dict[str, Any]:
    """Writes the folder and returns {"folder", "architecture", "parameters", "largest_difference", "tokenizer"}.

    It appears under its name when transformers has read it back with the same logits and tokens, or not at all. Raises BadInput
    where the folder holds something, the run is none, or transformers has no such architecture.
    """
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
    transformers.utils.logging.disable_progress_bar()
    inner = _as_transformers(done.model, transformers)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        shutil.rmtree(made, ignore_errors=True)
        inner.save_pretrained(made)
        named = _write_tokenizer(done, made, transformers)
        (made / "README.md").write_text(_card(done, inner), encoding="utf-8")
        difference = _compared(done, made, transformers, named)
        if place.exists():
            place.rmdir()
        os.replace(made, place)
    except OSError as error:
        raise BadInput(str(folder), error.strerror or str(error), "a folder that can be written") from error
    finally:
        shutil.rmtree(place.with_name(f".{place.name}.{os.getpid()}.tmp"), ignore_errors=True)
    parameters = sum(p.numel() for p in inner.parameters())
    return {
        "folder": str(place), "architecture": type(inner).__name__, "parameters": parameters, "largest_difference": difference,
        "tokenizer": named,
    }  # fmt: skip


def _as_transformers(model: torch.nn.Module, transformers: Any) -> Any:
    if isinstance(model, Pretrained):
        return model.inner
    if type(model) is not Transformer:
        expected = "a `transformer` or a pretrained model: transformers has no other of etude's architectures"
        raise BadInput("etude export", f"a {type(model).__name__}", expected)
    inner = transformers.LlamaForCausalLM(transformers.LlamaConfig(**llama_config(model)))
    missing, unknown = inner.load_state_dict(llama_weights(model), strict=False)
    assert not unknown
    assert set(missing) <= {"lm_head.weight"}
    return inner.eval()


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
def _compared(done: Finished, folder: Path, transformers: Any, named: bool) -> float:
    """The largest difference of a logit. Raises BadInput where it is over `TOLERANCE`, or tokens differ."""
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    vocab = done.facts["vocab"] if done.facts else 1
    length = min(32, done.context or 32)
    tokens = torch.randint(0, vocab, (2, length), generator=torch.Generator().manual_seed(0))
    with evaluating(done.model):
        ours = done.model.head(done.model(tokens)["hidden"])  # type: ignore[operator]
    theirs = again(input_ids=tokens).logits
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE:
        raise BadInput(str(folder), f"logits that differ by {difference:.2g} when read back", f"the run's, within {TOLERANCE:g}")
    if named and done.tokenizer is not None:
        text = PROBE if not isinstance(done.tokenizer, Characters) else "".join(done.tokenizer.alphabet) + "".join(done.tokenizer.words)
        read = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        ids = read.encode(text, add_special_tokens=False)
        if ids != done.tokenizer.encode(text).tolist() or read.decode(ids) != done.tokenizer.decode(np.array(ids)):
            raise BadInput(str(folder), "a tokenizer that gives other tokens when read back", "the run's")
    return difference


# --- model card -------------------------------------------------------------------------------------------------------
def _card(done: Finished, inner: Any) -> str:
    """Markdown: what it was made from, under which licences, by which recipe, and what that cost."""
    recipe, facts, ledger = done.recipe, done.facts or {}, done.ledger
    assert recipe is not None
    assert ledger is not None
    size = sum(p.numel() for p in inner.parameters())
    lines = ["---", "library_name: transformers", "tags: [etude]", "---", "", "# Model card", ""]
    lines += [f"A {type(inner).__name__} of {size:,} parameters, trained with etude for {done.step} steps."]
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
        return []  # problems are made from the recipe's seed; nothing is read
    assert isinstance(recipe.data, TextData)
    sources = recipe.data.domains or {"": recipe.data}
    found = []
    for name, told in facts["sources"].items():
        source = sources[name]
        known = cards().get(source.corpus or "")
        called = source.corpus or Path(source.text or source.tokens or "").name
        found.append((called, known.licence if known else NOT_STATED, told))
    return found


NOT_STATED = "not stated: a file of the user's"
COSTS = ("tokens", "samples", "flops", "seconds")
