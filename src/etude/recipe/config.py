"""The recipe file: a TOML document of schema 1, validated with place, found and expected. No torch here.

Every table forbids unknown keys. `parse` and `load` raise BadInput; `dump` writes a recipe back, so that what `etude train`
ran is a file again.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from etude.errors import BadInput

SCHEMA = 1
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class TransformerTable(Table):
    kind: Literal["transformer"] = "transformer"
    width: Count = 96
    depth: Count = 4
    heads: Count = 4
    kv_heads: Count | None = None
    hidden: Count | None = None  # of the SwiGLU layer; 8/3 of the width, rounded up to 8, where it is not given
    tied: bool = True


class RecurrentTable(Table):
    kind: Literal["gru", "lstm", "elman"]
    width: Count = 128
    depth: Count = 1


class DataTable(Table):
    """A text file (`text`), or a corpus by name (`corpus`: see `etude data list`)."""

    text: str | None = None
    corpus: str | None = None
    tokenizer: Literal["byte", "character", "bpe"] = "byte"
    vocab: Annotated[int, Field(ge=257)] = 1024  # bpe only
    context: Annotated[int, Field(ge=2)] = 128
    batch: Count = 16
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of the text, from its end


class OptimizerTable(Table):
    kind: Literal["adamw", "sgd", "muon"] = "adamw"
    lr: Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None  # sgd, muon


class ScheduleTable(Table):
    kind: Literal["constant", "linear", "cosine", "wsd", "infinite"] = "cosine"
    warmup: Share = 0.02
    final: Share | None = None
    decay: Share | None = None  # wsd
    cooldown: Share | None = None  # infinite
    constant: Share | None = None  # infinite
    anneal: Share | None = None  # infinite


class BudgetTable(Table):
    """One of these."""

    tokens: Count | None = None
    steps: Count | None = None
    samples: Count | None = None
    flops: Positive | None = None
    seconds: Positive | None = None


class MethodTable(BaseModel):
    """`use` names a paper (its one method, or "slug:Class"); the other keys are the method's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True)
    use: str

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class RunTable(Table):
    seed: Annotated[int, Field(ge=0)] = 0
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    clip: Positive | None = 1.0
    accumulate: Count = 1
    evaluate_every: Annotated[float, Field(gt=0, le=1)] = 0.1
    checkpoint_every: Annotated[float, Field(gt=0, le=1)] = 0.1
    folder: str = "runs/train"


class Recipe(Table):
    schema_: Literal[1] = Field(alias="schema")
    model: Annotated[TransformerTable | RecurrentTable, Field(discriminator="kind")] = TransformerTable()
    data: DataTable = DataTable()
    optimizer: OptimizerTable = OptimizerTable()
    schedule: ScheduleTable = ScheduleTable()
    budget: BudgetTable = BudgetTable(tokens=500_000)
    methods: tuple[MethodTable, ...] = ()
    run: RunTable = RunTable()


def parse(document: dict[str, Any], where: str = "recipe") -> Recipe:
    """A validated recipe. `where` names the file in errors."""
    if "schema" not in document:
        raise BadInput(f"{where}, schema", "nothing", f"schema = {SCHEMA}")
    if document["schema"] != SCHEMA:
        raise BadInput(f"{where}, schema", repr(document["schema"]), f"{SCHEMA}, the only one there is so far")
    if isinstance(document.get("model"), dict):
        document = document | {"model": {"kind": "transformer"} | document["model"]}
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        raise _bad(error, document, where) from None
    if (recipe.data.text is None) == (recipe.data.corpus is None):
        found = "both text and corpus" if recipe.data.text else "neither text nor corpus"
        raise BadInput(f"{where}, data", found, "one of them")
    given = [k for k, v in recipe.budget.model_dump().items() if v is not None]
    if len(given) != 1:
        raise BadInput(f"{where}, budget", " and ".join(given) or "nothing", "one of tokens, steps, samples, flops, seconds")
    return recipe


def load(path: Path | str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Reads a recipe file; `overrides` are "key.path=value" texts, the value in TOML's notation or a bare word."""
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(str(path), "no such file", "a recipe (TOML)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(str(path), f"a file that cannot be read ({error})", "a recipe (TOML, UTF-8)") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(str(path), f"TOML that does not parse ({error})", "a recipe") from error
    for override in overrides:
        apply_override(document, override)
    return parse(document, path.name)


def apply_override(document: dict[str, Any], override: str) -> None:
    """Sets one key of the document: "run.seed=3", "methods.0.eta=0.1", "data.text=mine.txt"."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise BadInput(f"'{override}'", "no key=value", "an override such as budget.tokens=200000")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    place: Any = document
    *parents, last = key.split(".")
    for part in parents:
        if isinstance(place, list):
            if not part.isdigit() or int(part) >= len(place):
                raise BadInput(f"'{override}'", f"no entry {part}", f"a number from 0 to {len(place) - 1}")
            place = place[int(part)]
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        else:
            raise BadInput(f"'{override}'", f"{part} below a plain value", "a table")
    if not isinstance(place, dict):
        raise BadInput(f"'{override}'", f"{key}, which is no table", "a key of a table")
    place[last] = value


def dump(recipe: Recipe) -> str:
    """The recipe as a TOML file that `parse` reads back to an equal one."""
    document = recipe.model_dump(by_alias=True, exclude_none=True)
    lines = [f"schema = {document.pop('schema')}"]
    methods = document.pop("methods")
    if document["run"].get("clip") is None:
        document["run"].pop("clip", None)
    for name, table in document.items():
        lines += ["", f"[{name}]", *(f"{k} = {_toml(v)}" for k, v in table.items())]
    for method in methods:
        lines += ["", "[[methods]]", *(f"{k} = {_toml(v)}" for k, v in method.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _bad(error: ValidationError, document: dict[str, Any], where: str) -> BadInput:
    first = error.errors()[0]
    # pydantic puts the discriminator's value into the path; it is no key of the file.
    kinds = {"transformer", "gru", "lstm", "elman"}
    parts = [p for p in first["loc"] if p not in kinds]
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")
    found = "nothing" if first["type"] == "missing" else repr(first["input"])
    if first["type"] == "extra_forbidden":
        table: Any = Recipe
        for part in parts[:-1]:
            if isinstance(part, str) and part in getattr(table, "model_fields", {}):
                table = _table(table, part, document)
        known = [f.alias or n for n, f in table.model_fields.items()] if hasattr(table, "model_fields") else []
        near = difflib.get_close_matches(str(parts[-1]), known, n=1, cutoff=0.6)
        hint = f"did you mean '{near[0]}'?" if near else "known: " + ", ".join(known)
        return BadInput(f"{where}, {place}", "an unknown key", f"a known one; {hint}")
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if first["type"].startswith("union_tag"):
        place, found, expected = f"{place}.kind", repr((document.get("model") or {}).get("kind")), "transformer, gru, lstm or elman"
    return BadInput(f"{where}, {place}", found, expected)


def _table(table: Any, part: str, document: dict[str, Any]) -> Any:
    if part == "model":
        kind = (document.get("model") or {}).get("kind", "transformer")
        return TransformerTable if kind == "transformer" else RecurrentTable
    return table.model_fields[part].annotation
