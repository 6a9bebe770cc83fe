"""The folder of a recipe's run: what the run is made of is there from before the first update on, and resuming holds to it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from etude.data.tokenizers import load as load_tokenizer
from etude.engine.identity import flat
from etude.errors import BadInput
from etude.recipe.config import parse
from etude.recipe.places import Places
from etude.recipe.tables import Recipe, TextData, TextSource
from etude.recipe.writing import plain

M = TypeVar("M", bound=nn.Module)
RECIPE_FILE, TOKENIZER_FILE, DATA_FILE = "recipe.toml", "tokenizer.json", "data.json"
FREE = (
    "run.folder", "run.device", "run.checkpoint_every", "run.keep_checkpoints", "run.trackers", "objective.verifier_seconds",
    "evaluate.verifier.seconds",
)  # fmt: skip
"""What may differ on resume: where a run is computed and kept, and how long is waited there, not what is computed."""


def check_recipe(recipe: Recipe, places: Places) -> None:
    """That a run to be resumed was begun with this recipe, before any of its data is read. places: where its keys come from.

    Raises BadInput with the differing keys, here and there. A folder without a run is left to the trainer to refuse.
    """
    path = Path(recipe.run.folder) / RECIPE_FILE
    if not path.exists():
        if any((path.parent / "checkpoints").glob("step-*")):
            raise BadInput(str(path), "no such file", "the recipe that the run was begun with")
        return
    try:
        begun = parse(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise BadInput(str(path), f"a file that cannot be read ({error})", "the recipe that the run was begun with") from error
    ours, theirs = flat(plain(recipe)), flat(plain(begun))
    differing = [k for k in (*theirs, *(k for k in ours if k not in theirs)) if k not in FREE and ours.get(k) != theirs.get(k)]
    if differing:
        found, expected = (", ".join(f"{k} = {values.get(k, 'nothing')!r}" for k in differing[:6]) for values in (ours, theirs))
        more = f" and {len(differing) - 6} more keys" if len(differing) > 6 else ""
        raise BadInput(places.of_all(differing), f"{found}{more}", f"{expected}, as in {path}")


def check_data(beside: Mapping[str, str], folder: Path, recipe: Recipe) -> None:
    """That the data of a run to be resumed is what it was begun with: files of the same name may have changed. And that the tokenizer
    that the run has kept, and that is not written again, can be read."""
    path, tokenizer = folder / DATA_FILE, folder / TOKENIZER_FILE
    if TOKENIZER_FILE in beside and tokenizer.exists():
        load_tokenizer(tokenizer)
    if not path.exists():
        return
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(str(path), "a file that cannot be read", "what the run's data was") from error
    ours, theirs = flat(json.loads(beside[DATA_FILE])), flat(begun)
    for key in theirs:
        if ours.get(key) != theirs[key]:
            where, what = _whose(key, recipe)
            found, expected = f"{what}{_short(ours.get(key))}", f"{what}{_short(theirs[key])}"
            raise BadInput(f"data, {where}", found, f"{expected}, as in {path}: the data of the run being resumed")


def _whose(key: str, recipe: Recipe) -> tuple[str, str]:
    """What a fact is about, the file where it is of one, and which of several facts about it."""
    data = recipe.data
    files: dict[str, str | None] = {f"{name}.": getattr(data, name, None) for name in ("rows", "held_out_rows")}
    if isinstance(data, TextData):
        sources: Mapping[str, TextSource] = data.domains or {"": data}
        files = {f"sources.{name}.": source.text or source.tokens or source.corpus for name, source in sources.items()}
    for start, file in files.items():
        if file is not None and key.startswith(start):
            return file, f"{key.removeprefix(start)} "
    return key, ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:24]}...{text[-1]}"
