"""What a row asks for, by its columns, in TRL's names: text, completions, conversations, preferences.

    text                             a document
    prompt + completion              the completion is to be said
    messages                         the assistant's turns are to be said
    [prompt +] chosen + rejected     chosen rather than rejected; without a prompt, what both begin with is it

Each is a text, or a list of {"role", "content"} messages. Other columns are left alone.
Source of the columns: TRL's documentation, "Dataset formats and types".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from etude.data.jsonl import Row
from etude.errors import BadInput

COLUMNS: dict[str, tuple[str, ...]] = {
    "preference": ("chosen", "rejected"), "messages": ("messages",), "completion": ("prompt", "completion"), "text": ("text",),
}  # fmt: skip
"""Kind -> the columns that a row of it must have; the first kind that fits is taken."""
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
EXPECTED = "text; prompt and completion; messages; or chosen and rejected with a prompt"

Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Said:
    """One row to be tokenised. prompt: what is only read, a text or messages. answer: what follows it, of the same type.

    A text is a prompt "" with the whole as its answer; a conversation is one with all messages as its answer.
    """

    prompt: str | Messages
    answer: str | Messages
    tools: list[Any] | None = None


def kind_of(row: Row, where: str) -> str:
    """Raises BadInput where no kind's columns are there."""
    for kind, columns in COLUMNS.items():
        if all(column in row for column in columns):
            return kind
    half = next((c for columns in COLUMNS.values() for c in columns if len(columns) > 1 and c in row), None)
    if half is None:
        raise BadInput(where, f"the columns {', '.join(row) or 'none'}", EXPECTED)
    other = {"prompt": "completion", "completion": "prompt", "chosen": "rejected", "rejected": "chosen"}[half]
    raise BadInput(f"{where}, field '{other}'", "nothing", f"it beside {half}")


def said(row: Row, kind: str, where: str) -> list[Said]:
    """What a row of that kind holds: one, or chosen and rejected.

    Raises BadInput naming the field: a column that is missing or of another type, an empty completion, an unknown role, chosen =
    rejected, a row of another kind.
    """
    missing = next((column for column in COLUMNS[kind] if column not in row), None)
    if missing is not None or kind_of(row, where) != kind:
        other = next((k for k, columns in COLUMNS.items() if k != kind and all(column in row for column in columns)), None)
        if other is None:
            raise BadInput(f"{where}, field '{missing}'", "nothing", f"{' and '.join(COLUMNS[kind])}, as in the rows before")
        raise BadInput(where, f"a row of {' and '.join(COLUMNS[other])}", f"{' and '.join(COLUMNS[kind])}, as in the rows before")
    tools = row.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise _wrong(f"{where}, field 'tools'", tools, "a list")
    if kind == "text":
        return [Said("", _filled(_text(row, "text", where), f"{where}, field 'text'"))]
    if kind == "messages":
        return [Said([], messages_of(row, "messages", where), tools)]
    if kind == "completion":
        return [_both(row["prompt"], row["completion"], "completion", where, tools)]
    prompt, chosen, rejected = _preference(row, where)
    if chosen == rejected:
        raise BadInput(f"{where}, field 'chosen'", "chosen = rejected", "two different completions")
    return [_both(prompt, answer, name, where, tools) for name, answer in (("chosen", chosen), ("rejected", rejected))]


def _both(prompt: Any, answer: Any, name: str, where: str, tools: list[Any] | None) -> Said:
    """A prompt with its answer, both texts or both messages."""
    row = {"prompt": prompt, name: answer}
    if isinstance(answer, str):
        _text(row, "prompt", where)
        if not prompt:
            raise BadInput(f"{where}, field 'prompt'", "an empty text", "at least one character")
        return Said(prompt, _filled(answer, f"{where}, field '{name}'"))
    if not isinstance(answer, list):
        said_as = (
            "messages, as prompt" if isinstance(prompt, list) else "a text" if isinstance(prompt, str) else "a text or a list of messages"
        )
        raise _wrong(f"{where}, field '{name}'", answer, said_as)
    turns = messages_of(row, name, where)
    before = messages_of(row, "prompt", where, empty=True)
    if not any(turn["role"] == "assistant" for turn in turns):
        raise BadInput(f"{where}, field '{name}'", "no turn of the assistant", "at least one, which is to be said")
    return Said(before, turns, tools)


def _preference(row: Row, where: str) -> tuple[Any, Any, Any]:
    """Prompt, chosen, rejected. A prompt of another type than the answers is only told beside them (as in UltraFeedback), not used."""
    chosen, rejected = row["chosen"], row["rejected"]
    if not isinstance(chosen, str | list):
        raise _wrong(f"{where}, field 'chosen'", chosen, "a text or a list of messages")
    if type(chosen) is not type(rejected):
        raise _wrong(f"{where}, field 'rejected'", rejected, "a text, as chosen" if isinstance(chosen, str) else "messages, as chosen")
    if type(row.get("prompt")) is type(chosen) or ("prompt" in row and isinstance(chosen, str)):
        return row["prompt"], chosen, rejected
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    if isinstance(chosen, str) and chosen[:same].endswith(" "):  # a word's token begins with the space before it
        same -= 1
    if not same:
        raise BadInput(f"{where}, field 'prompt'", "nothing", "a prompt, or chosen and rejected that begin with the same one")
    return chosen[:same], chosen[same:], rejected[same:]


def _text(row: Row, field: str, where: str) -> str:
    if not isinstance(row[field], str):
        raise _wrong(f"{where}, field '{field}'", row[field], "a text")
    return row[field]


def _filled(text: str, where: str) -> str:
    if not text.strip():
        raise BadInput(where, "an empty text", "at least one character that is no space")
    return text


def messages_of(row: Row, field: str, where: str, *, empty: bool = False) -> Messages:
    place, turns = f"{where}, field '{field}'", row[field]
    if not isinstance(turns, list):
        raise _wrong(place, turns, "a list of messages")
    if not turns and not empty:
        raise BadInput(place, "no messages", "at least one")
    for number, turn in enumerate(turns):
        at = f"{place}, message {number + 1}"
        if not isinstance(turn, dict):
            raise _wrong(at, turn, "an object with role and content")
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES:
            raise BadInput(f"{at}, role", "nothing" if role is None else repr(role), f"{', '.join(ROLES[:-1])} or {ROLES[-1]}")
        if not isinstance(content, str) and not (role == "assistant" and turn.get("tool_calls")):
            raise _wrong(f"{at}, content", content, "a text")
        if role == "assistant" and not turn.get("tool_calls"):
            _filled(turn["content"], f"{at}, content")
    turns = [{key: value for key, value in turn.items() if value is not None} for turn in turns]  # as Parquet fills up columns
    if field == "messages" and not any(turn["role"] == "assistant" for turn in turns):
        raise BadInput(place, "no turn of the assistant", "at least one, which is to be said")
    return turns


def _wrong(where: str, value: Any, expected: str) -> BadInput:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return BadInput(where, text if len(text) <= 60 else f"{text[:57]}...", expected)
