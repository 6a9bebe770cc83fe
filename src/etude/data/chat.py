"""Rows as the text that a model reads, and which characters of it the model is to say.

Conversations are rendered by the model's own chat template, through transformers' renderer (jinja2's immutable sandbox; no
code of the model's). What a turn of the assistant adds is found by rendering the conversation up to it and up to its end.
A template that rewrites earlier turns (Qwen3's leaves out their thoughts) makes several samples of a conversation: none of them holds a
text that the model would not read when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from etude.data.row_kinds import Messages, Said
from etude.errors import BadInput


class Template(Protocol):
    """name: of the model, for errors. text: what it is made of. render(messages, ask) -> text, `ask` for the assistant's next turn."""

    name: str
    text: str

    def render(self, messages: Messages, *, ask: bool = False, tools: list[Any] | None = None) -> str: ...


@dataclass(frozen=True, slots=True)
class Rendered:
    """text: all of it. spans: (start, end) of the characters that the model says, rising. closed: whether the text ends as it should,
    so that no end token is to follow."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    closed: bool = True


@dataclass
class ChatTemplate:
    """inner: a transformers tokenizer that has a chat template."""

    inner: Any
    name: str
    text: str = field(init=False)

    def __post_init__(self) -> None:
        try:
            self.text = str(self.inner.get_chat_template())
        except ValueError:
            expected = "chat_template.jinja beside it, or rows of prompt and completion as texts"
            raise BadInput(f"the tokenizer of {self.name}", "no chat template", expected) from None

    def render(self, messages: Messages, *, ask: bool = False, tools: list[Any] | None = None) -> str:
        return self.inner.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask, tools=tools)


def transformers_tokenizer(folder: str | Path) -> Any:
    """The tokenizer of a model folder as transformers loads it: never with code of its own. Raises BadInput."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise BadInput(str(folder), "no transformers", "the package: pip install 'etude[hf]'") from None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of many kinds: each says in its own way that there is no tokenizer here
        line = " ".join(str(error).split())
        raise BadInput(str(folder), f"{type(error).__name__}: {line[:160]}", "a tokenizer that transformers can load") from error


def begin_of(inner: Any) -> tuple[int, str] | None:
    """(id, text) of the token that a tokenizer of transformers' puts before a text (Llama's and Gemma's do); None where it puts none.
    Chat templates write it themselves."""
    token, text = inner.bos_token_id, inner.bos_token
    return (token, text) if token is not None and inner("a")["input_ids"][:1] == [token] else None


def rendered(said: Said, template: Template | None, where: str) -> list[Rendered]:
    """A row as one text, or as several where the template writes a turn differently once more follows (thoughts of earlier turns are left
    out, say): then each of the assistant's turns is learnt after just the text that the model reads before it says it.

    Turns that one text holds unchanged stay together, so that most templates give one text; every turn is learnt once.
    Raises BadInput, naming the row, for messages without a template, messages that the template refuses, and a template whose text with
    an answer does not begin with the text that asks for it.
    """
    if isinstance(said.prompt, str) and isinstance(said.answer, str):
        text = said.prompt + said.answer
        return [Rendered(text, ((len(said.prompt), len(text)),), closed=False)]
    if template is None:
        raise BadInput(where, "messages", "a tokenizer with a chat template, or texts")
    assert not isinstance(said.prompt, str)
    assert not isinstance(said.answer, str)
    messages = said.prompt + said.answer
    made: list[Rendered] = []
    try:
        whole = template.render(messages, tools=said.tools)
        for number in range(len(said.prompt), len(messages)):
            if messages[number]["role"] != "assistant":
                continue
            before = template.render(messages[:number], ask=True, tools=said.tools)
            after = whole if number + 1 == len(messages) else template.render(messages[: number + 1], tools=said.tools)
            if not after.startswith(before):
                found = f"a chat template of {template.name} whose turn {number + 1} does not begin as it is asked for"
                raise BadInput(where, found, "one that does; or the turns as rows of prompt and completion")
            # White space after the token that ends a turn is the template's, not the model's.
            span = (len(before), len(after.rstrip()))
            if made and after.startswith(made[-1].text):
                made[-1] = Rendered(after, (*made[-1].spans, span))
            else:
                made.append(Rendered(after, (span,)))
    except BadInput:
        raise
    except Exception as error:  # jinja's own, and whatever a template calls
        line = " ".join(str(error).split())
        found = f"messages that the chat template of {template.name} refuses ({line[:120]})"
        raise BadInput(where, found, "roles and contents that it takes") from error
    if whole.startswith(made[-1].text):
        made[-1] = Rendered(whole, made[-1].spans)
    return made
