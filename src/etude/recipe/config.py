"""The recipe file: a TOML document of schema 1, validated with place, found and expected. No torch here.

`parse` and `load` raise BadInput; `dump` writes a recipe back, so that what `etude train` ran is a file again.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from etude.engine.arguments import shown, unknown_key
from etude.errors import BadInput, nearest, reason
from etude.recipe.overrides import apply
from etude.recipe.places import Places
from etude.recipe.tables import (
    DATA,
    MODELS,
    OPTIMIZERS,
    PAIR_KEYS,
    POLICIES,
    POLICY_KEYS,
    READING,
    READING_KEYS,
    SAMPLERS,
    AdamWTable,
    BudgetTable,
    PaperModel,
    PretrainedTable,
    Recipe,
    RolloutsTable,
    RowsData,
    TaskData,
    TextData,
    TextSource,
    kind_of_data,
    kind_of_model,
)
from etude.recipe.writing import dump

__all__ = ["SCHEMA", "Recipe", "dump", "load", "parse", "read"]

SCHEMA = 1
_TAGGED = {"model": MODELS, "data": DATA, "sampler": SAMPLERS, "optimizer": OPTIMIZERS}
_WORDS = {"a valid integer": "a whole number", "a valid number": "a number", "a valid string": "a text", "a valid boolean": "true or false"}
_WORDS |= {"a valid dictionary": "a table", "an object": "a table", "a valid array": "a list", "a valid tuple": "a list"}
_WORDS |= {"String should have at least 1 character": "a text that is not empty"}


def parse(document: dict[str, Any], where: str | Places = "recipe") -> Recipe:
    """A validated recipe. `where` names the file in errors, or says more of where its keys come from."""
    places = Places(where) if isinstance(where, str) else where
    _schema(document, places)
    try:
        # As JSON: there a list is a tuple and 1 is a real number, but "1" is no number and true is no count.
        recipe = Recipe.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        raise _bad(error, document, places) from None
    recipe = _with_rollouts(recipe, places)
    _check_data(recipe, places)
    _check_reading(recipe, document, places)
    _check_budget(recipe.budget, places)
    recipe = _with_tokenizer(recipe, places)
    if recipe.optimizers is None:
        if recipe.optimizer.over is not None:
            raise BadInput(places.of("optimizer.over"), "it in the only optimizer", "it in one of several, as [optimizers.NAME]")
    elif "optimizer" in document:
        raise BadInput(places.of("optimizer"), "both [optimizer] and [optimizers]", "one of them")
    return recipe


def _schema(document: Mapping[str, Any], places: Places) -> None:
    found, where = document.get("schema"), places.of("schema")
    if "schema" not in document:
        raise BadInput(where, "nothing", f"schema = {SCHEMA} (`etude recipe migrate` adds it to an early recipe)")
    if isinstance(found, bool) or not isinstance(found, int) or found > SCHEMA:
        raise BadInput(where, repr(found), f"{SCHEMA}, the newest that this etude knows")
    if found != SCHEMA:
        raise BadInput(where, repr(found), f"{SCHEMA}: `etude recipe migrate` rewrites an older recipe")


def _check_data(recipe: Recipe, places: Places) -> None:
    data = recipe.data
    if isinstance(data, RowsData):
        if data.held_out_rows is not None and "held_out" in data.model_fields_set:
            raise BadInput(places.of("data.held_out"), "it beside held_out_rows", "one of them")
        return
    for key in ("kind", *PAIR_KEYS):
        told = getattr(recipe.objective, key)
        if told is not None and told not in READING and not isinstance(data, TaskData):
            raise BadInput(places.of(f"objective.{key}"), "it without data.rows", "it for rows with chosen and rejected")
    if not isinstance(data, TextData):
        return
    kinds = ("text", "corpus", "tokens", "domains")
    given = [k for k in kinds if getattr(data, k) is not None]
    if len(given) != 1:
        found = f"both {' and '.join(given)}" if given else f"neither {', '.join(kinds)}, rows, images nor table"
        raise BadInput(places.of("data"), found, "one of them")
    sources: dict[str, TextSource] = {f"data.domains.{n}": s for n, s in data.domains.items()} if data.domains else {"data": data}
    for place, source in sources.items():
        named = [k for k in kinds[:3] if getattr(source, k) is not None]
        if len(named) != 1:
            raise BadInput(places.of(place), " and ".join(named) or "nothing", "one of text, corpus and tokens")
    if data.tokenizer != "byte" and any(s.tokens is not None for s in sources.values()):
        raise BadInput(places.of("data.tokenizer"), f"'{data.tokenizer}' beside tokens", "none: tokens are encoded already")
    if data.separator is not None and not any(s.text is not None for s in sources.values()):
        raise BadInput(places.of("data.separator"), "it without a text file", "it beside text; corpora and tokens know their documents")


def _check_reading(recipe: Recipe, document: Mapping[str, Any], places: Places) -> None:
    """That objectives over texts have texts, and no keys of another kind."""
    tables: dict[str, Any] = (
        {f"objectives.{n}": t for n, t in recipe.objectives.items()} if recipe.objectives else {"objective": recipe.objective}
    )
    if recipe.objectives and "objective" in document:
        raise BadInput(places.of("objective"), "both [objective] and [objectives]", "one of them")
    for place, table in tables.items():
        known = READING_KEYS.get(table.kind or "causal", ())
        for key in dict.fromkeys(k for keys in READING_KEYS.values() for k in keys):
            if getattr(table, key) is not None and key not in known:
                found = f"it for the kind '{table.kind}'" if table.kind else "it alone"
                of = [kind for kind, keys in READING_KEYS.items() if key in keys]
                raise BadInput(places.of(f"{place}.{key}"), found, f"it for {' or '.join(of)}")
    if not isinstance(recipe.data, TextData | RowsData) and (recipe.objectives or recipe.objective.kind in READING):
        place = "objectives" if recipe.objectives else "objective.kind"
        raise BadInput(places.of(place), f"it for {kind_of_data(recipe.data)}", "data.text, corpus, tokens, domains or rows")


def _with_rollouts(recipe: Recipe, places: Places) -> Recipe:
    """Of an on-policy objective: its table of rollouts, by default; a task without a kind is for GRPO. Other objectives have none."""
    objective, data = recipe.objective, recipe.data
    if isinstance(data, TaskData) and objective.kind is None:
        objective = objective.model_copy(update={"kind": "grpo"})
    if objective.kind in POLICIES and isinstance(data, TaskData | RowsData):
        for key in PAIR_KEYS:
            if getattr(objective, key) is not None:
                raise BadInput(places.of(f"objective.{key}"), f"it for the kind '{objective.kind}'", f"one of {', '.join(POLICY_KEYS)}")
        if isinstance(data, RowsData) and objective.verifier is None:
            expected = "'my_module:score' or './my_verifier.py:score', which pays a response"
            raise BadInput(places.of("objective.verifier"), "nothing", expected)
        return recipe.model_copy(update={"objective": objective, "rollouts": recipe.rollouts or RolloutsTable()})
    if isinstance(data, TaskData):
        raise BadInput(places.of("objective.kind"), f"'{objective.kind}' for a task", f"one of {', '.join(POLICIES)}")
    of_rows = f"it for an objective that samples ({', '.join(POLICIES)})"
    if recipe.rollouts is not None:
        raise BadInput(places.of("rollouts"), "it without an objective that samples", f"objective.kind of {', '.join(POLICIES)}")
    for key in POLICY_KEYS:
        if getattr(objective, key) is not None:
            raise BadInput(places.of(f"objective.{key}"), f"it for the kind '{objective.kind}'" if objective.kind else "it alone", of_rows)
    return recipe


def _with_tokenizer(recipe: Recipe, places: Places) -> Recipe:
    """A pretrained model reads text by its own tokenizer, and nothing else does."""
    data = recipe.data
    if not isinstance(data, TextData):
        return recipe
    if not isinstance(recipe.model, PretrainedTable):
        if data.tokenizer == "model":
            raise BadInput(places.of("data.tokenizer"), "'model' for a model without one", "byte, character or bpe; or model.pretrained")
        return recipe
    if any(source.tokens is not None for source in (data.domains or {"": data}).values()):
        return recipe  # encoded already
    if "tokenizer" in data.model_fields_set and data.tokenizer != "model":
        raise BadInput(places.of("data.tokenizer"), f"'{data.tokenizer}' for a pretrained model", "model, its own")
    return recipe.model_copy(update={"data": data.model_copy(update={"tokenizer": "model"})})


def _check_budget(budget: BudgetTable, places: Places) -> None:
    given = [k for k, v in budget.model_dump().items() if v is not None]
    if set(given) == {"limit", "weights"} or (len(given) == 1 and given[0] not in ("limit", "weights")):
        return
    expected = "one of tokens, steps, samples, flops, seconds, or limit and weights"
    raise BadInput(places.of("budget"), " and ".join(given) or "nothing", expected)


def read(path: Path) -> dict[str, Any]:
    """A recipe file as it stands, not validated. Raises BadInput where it is missing or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(str(path), "no such file", "a recipe (TOML)") from error
    except (OSError, UnicodeDecodeError) as error:
        found = f"a byte at {error.start} that is no UTF-8" if isinstance(error, UnicodeDecodeError) else reason(error)
        raise BadInput(str(path), found, "a recipe (TOML, UTF-8)") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(str(path), f"TOML that does not parse ({error})", "a recipe") from error


def load(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file; `overrides` are "key.path=value" texts, the value in TOML's notation or a bare word."""
    path = Path(path)
    document = read(path)
    return parse(document, Places(path.name, apply(document, overrides)))


# --- errors -----------------------------------------------------------------------------------------------------------
def expected_of(error: Mapping[str, Any]) -> str:
    """What a validation error asks for, in a recipe's words; of several words, with the one that was most likely meant."""
    text: str = str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        text += _meant(error["input"], re.findall(r"'([^']*)'", text))
    return _WORDS.get(text, text)


def _meant(word: Any, known: Iterable[str]) -> str:
    near = nearest(word, known) if isinstance(word, str) else None
    return f"; did you mean '{near}'?" if near else ""


def _bad(error: ValidationError, document: Mapping[str, Any], places: Places) -> BadInput:
    first: Mapping[str, Any] = error.errors()[0]  # type: ignore[assignment]
    parts = _without_tags(list(first["loc"]))
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts if p != "[key]").lstrip(".")
    if first["type"] == "extra_forbidden":
        return unknown_key(places.of(place), str(parts[-1]), _known(parts[:-1], document))
    if first["type"].startswith("union_tag"):
        kinds = list(_TAGGED["optimizer" if parts[0] == "optimizers" else str(parts[0])])
        found = first["input"].get("kind") if isinstance(first["input"], Mapping) else first["input"]
        return BadInput(places.of(f"{place}.kind"), repr(found), f"{', '.join(kinds[:-1])} or {kinds[-1]}{_meant(found, kinds)}")
    found = "nothing" if first["type"] == "missing" else shown(first["input"])
    return BadInput(places.of(place), found, "a value" if first["type"] == "missing" else expected_of(first))


def _without_tags(parts: list[Any]) -> list[Any]:
    """pydantic puts the class that it chose into the path; it is no key of the file."""
    at = 1 if parts[0] in _TAGGED else 2 if parts[0] == "optimizers" else len(parts)
    return parts[:at] + parts[at + 1 :]


def _known(parts: list[Any], document: Mapping[str, Any]) -> list[str]:
    """The keys of the table at `parts`."""
    table: Any = Recipe
    given: Any = document
    for number, part in enumerate(parts):
        given = given.get(part, {}) if isinstance(given, Mapping) else {}
        kind = given.get("kind") if isinstance(given, Mapping) else None
        if number == 0 and part == "model":
            table = PretrainedTable if kind_of_model(given) == "pretrained" else MODELS.get(kind_of_model(given), PaperModel)
        elif number == 0 and part == "data":
            table = DATA[kind_of_data(given)]
        elif number == 0 and part == "sampler":
            table = SAMPLERS.get(str(kind or "shuffle"), SAMPLERS["shuffle"])
        elif (number, part) == (0, "optimizer") or (number == 1 and parts[0] == "optimizers"):
            table = OPTIMIZERS.get(str(kind or "adamw"), OPTIMIZERS["adamw"])
        elif part == "rest":
            table = AdamWTable
        elif number == 2 and parts[1] == "domains":
            table = TextSource
        elif isinstance(table, type) and issubclass(table, BaseModel) and str(part) in table.model_fields:
            table = _table_in(table.model_fields[str(part)].annotation)
    fields = table.model_fields if isinstance(table, type) and issubclass(table, BaseModel) else {}
    return [field.alias or name for name, field in fields.items()]


def _table_in(hint: Any) -> Any:
    """The table that a key holds, or may hold beside nothing."""
    return next((h for h in get_args(hint) if isinstance(h, type) and issubclass(h, BaseModel)), hint)
