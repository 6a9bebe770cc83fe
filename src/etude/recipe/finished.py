"""A run's folder read back: the model that it came to, with its tokenizer, without any of its data."""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from etude.data.chat import begin_of, transformers_tokenizer
from etude.data.tokenizers import Tokenizer, load
from etude.engine import checkpoint
from etude.engine.device import pick_device
from etude.engine.ledger import Ledger
from etude.engine.saving import load_weights
from etude.errors import BadInput
from etude.generate.hub import locate
from etude.generate.pretrained import pretrained
from etude.learn.language import CausalLM
from etude.recipe.build import Resolve, method_of, no_models
from etude.recipe.config import parse
from etude.recipe.folder import DATA_FILE, RECIPE_FILE, TOKENIZER_FILE
from etude.recipe.material import Material
from etude.recipe.models import Models, adapted, model_of
from etude.recipe.tables import PretrainedTable, Recipe, RowsData, TaskData, TextData


@dataclass(frozen=True)
class Finished:
    """A language model read back. context: most tokens it was trained to read. stop_tokens: ids that its completions end with. begin: the
    token that stands before its texts, as it is written.

    recipe, facts, ledger, step: of the run; None, nothing and 0 for a transformers folder that no run has made.
    passed_over: a line for each newer checkpoint that is damaged.
    """

    path: Path
    model: nn.Module
    tokenizer: Tokenizer | None
    context: int | None
    stop_tokens: tuple[int, ...] = ()
    recipe: Recipe | None = None
    facts: dict[str, Any] | None = None
    ledger: Ledger | None = None
    step: int = 0
    passed_over: tuple[str, ...] = ()
    begin: str = ""


def finished(folder: str | Path, resolve: Resolve, models: Models = no_models, *, device: str = "auto") -> Finished:
    """The newest good checkpoint of a run's folder, or a transformers folder, as a language model to generate with.

    Newer checkpoints that are damaged are passed over, and named on stderr and in `passed_over`.
    Raises BadInput for a folder that is neither, holds no good checkpoint, or a model of something else than language.
    """
    path, where = Path(folder), str(folder)
    if not path.is_dir():
        raise BadInput(where, "a file" if path.exists() else "nothing there", "the folder of a run")
    if not (path / RECIPE_FILE).exists():
        if (path / "config.json").exists():
            model = pretrained(path, device=pick_device(device))
            return Finished(path, model, model.tokenizer, model.config.context, model.end_tokens, begin=_begin(path))
        raise BadInput(where, f"no {RECIPE_FILE}", "the folder of a run of `etude train`, or a transformers folder")
    try:
        recipe = parse(tomllib.loads((path / RECIPE_FILE).read_text(encoding="utf-8")), str(path / RECIPE_FILE))
        facts = json.loads((path / DATA_FILE).read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or not isinstance(facts.get("vocab"), int):
            raise ValueError(f"{DATA_FILE} says no vocabulary")
    except (OSError, ValueError) as error:
        raise BadInput(where, f"files that cannot be read ({error})", "the folder of a run") from error
    if not isinstance(recipe.data, TextData | RowsData | TaskData):
        raise BadInput(where, "a model of images or a table", "a language model")
    newest, passed_over = checkpoint.latest(path / "checkpoints")
    for line in passed_over:  # said wherever a run is read back: the model is an older one than its user thinks
        print(f"passed over {line}; read {newest.name}", file=sys.stderr)
    state = checkpoint.load(newest)
    material = Material(
        source=None, objective=CausalLM(), evaluators={}, facts=facts, vocab=facts["vocab"], context=recipe.data.context,  # type: ignore[arg-type]
    )  # fmt: skip
    model = model_of(recipe, material, models)
    methods = {m.name: m for m in (method_of(entry, i, resolve) for i, entry in enumerate(recipe.methods))}
    run: Any = SimpleNamespace(seed=recipe.run.seed)  # all that making an architecture again asks of a run
    for entry in state["replacements"]:
        model = methods[entry["method"]].rebuild(run, model, entry["note"])
    model = adapted(recipe, model)
    load_weights(model, state, where, "a checkpoint of its own recipe's model")
    tokenizer = load(path / TOKENIZER_FILE) if (path / TOKENIZER_FILE).exists() else None
    context = getattr(getattr(model, "config", None), "context", None)
    return Finished(
        path=path, model=model.to(pick_device(device)), tokenizer=tokenizer, context=context, stop_tokens=getattr(model, "end_tokens", ()),
        recipe=recipe, facts=facts, ledger=Ledger.from_dict(state["ledger"]), step=state["step"],
        passed_over=tuple(passed_over), begin=_begin(_folder_of(recipe)),
    )  # fmt: skip


def _folder_of(recipe: Recipe) -> Path | None:
    table = recipe.model
    return locate(table.pretrained, table.revision, "model.pretrained").path if isinstance(table, PretrainedTable) else None


def _begin(folder: Path | None) -> str:
    """What stands before a text for the model of a transformers folder."""
    if folder is None or not (folder / "tokenizer.json").exists():
        return ""
    found = begin_of(transformers_tokenizer(folder))
    return "" if found is None else found[1]
