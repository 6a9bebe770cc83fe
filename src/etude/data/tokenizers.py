"""Tokenizers: bytes, characters, and byte-pair encoding through the `tokenizers` library. Saved as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer as _Tokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput, one_of


class Tokenizer(Protocol):
    """encode(text) -> [N] integer ids below `vocab`; decode is its inverse; `to_json` is what `load` reads."""

    name: str
    vocab: int

    def encode(self, text: str) -> np.ndarray: ...
    def decode(self, ids: np.ndarray) -> str: ...
    def to_json(self) -> str: ...


class Bytes:
    """UTF-8 bytes; vocabulary 256."""

    name = "byte"
    vocab = 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8)

    def decode(self, ids: np.ndarray) -> str:
        return np.asarray(ids, dtype=np.uint8).tobytes().decode("utf-8", errors="replace")

    def to_json(self) -> str:
        return json.dumps({"kind": "byte"})


class Characters:
    """One id a character of `alphabet`, and one for each of `words`, set phrases that stand whole (the longest that fits comes first).

    Encoding raises BadInput for any other character.
    """

    name = "character"

    def __init__(self, alphabet: str, words: Sequence[str] = ()) -> None:
        self.alphabet = "".join(sorted(set(alphabet)))
        if not self.alphabet:
            raise BadInput("tokenizer", "an empty alphabet", "at least one character")
        if any(len(word) < 2 for word in words):
            raise BadInput("tokenizer.words", repr(min(words, key=len)), "two characters or more")
        self.words = tuple(sorted(set(words), key=lambda word: (-len(word), word)))
        self.vocab = len(self.alphabet) + len(self.words)
        self._points = np.array([ord(c) for c in self.alphabet], dtype=np.uint32)
        self._split = re.compile("(" + "|".join(map(re.escape, self.words)) + ")")
        self._pieces = (*self.alphabet, *self.words)

    def encode(self, text: str) -> np.ndarray:
        if not self.words:
            return self._encode(text, 0)
        ids, place = [], 0
        for number, part in enumerate(self._split.split(text)):  # plain, word, plain, ...
            word = np.array([len(self.alphabet) + self.words.index(part)], dtype=np.uint16) if number % 2 else self._encode(part, place)
            ids.append(word)
            place += len(part)
        return np.concatenate(ids).astype(np.uint16 if self.vocab > 256 else np.uint8)

    def _encode(self, text: str, place: int) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        ids = np.searchsorted(self._points, points).clip(0, len(self.alphabet) - 1)
        wrong = np.flatnonzero(self._points[ids] != points)
        if len(wrong):
            found = f"{text[wrong[0]]!r} at character {place + wrong[0]}"
            raise BadInput("text", found, f"one of the tokenizer's {len(self.alphabet)} characters")
        return ids.astype(np.uint16 if self.vocab > 256 else np.uint8)

    def decode(self, ids: np.ndarray) -> str:
        return "".join(self._pieces[int(i)] for i in ids)

    def to_json(self) -> str:
        return json.dumps({"kind": "character", "alphabet": self.alphabet} | ({"words": list(self.words)} if self.words else {}))


class BytePairs:
    """Byte-level BPE (Sennrich et al., arXiv 1508.07909, on bytes), so that any text can be encoded."""

    name = "bpe"

    def __init__(self, inner: _Tokenizer) -> None:
        self.inner = inner
        self.vocab = inner.get_vocab_size()

    @classmethod
    def train(cls, text: str | Iterable[str], vocab: int) -> BytePairs:
        """text: whole, or in pieces that end at line ends."""
        if vocab < 257:
            raise BadInput("tokenizer.vocab", repr(vocab), "at least 257: the bytes and one pair")
        inner = _Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
        # By lines: one long text would be one word list anyway, and lines keep the trainer's memory flat.
        pieces = [text] if isinstance(text, str) else text
        inner.train_from_iterator((line for piece in pieces for line in piece.splitlines(keepends=True)), trainer)
        return cls(inner)

    def encode(self, text: str) -> np.ndarray:
        try:
            ids = self.inner.encode(text, add_special_tokens=False).ids
        except TypeError:
            text.encode()  # half a character is what the library means: UnicodeEncodeError, as of the other kinds
            raise
        return np.array(ids, dtype=np.uint16 if self.vocab <= 65536 else np.uint32)

    def decode(self, ids: np.ndarray) -> str:
        return self.inner.decode([int(i) for i in ids])

    def to_json(self) -> str:
        return json.dumps({"kind": "bpe", "inner": json.loads(self.inner.to_str())})


class Marked:
    """A tokenizer with reserved ids after its own, one for each of `marks`: texts that stand for them. A text that holds one is
    read as holding the mark, so that a prompt may; training data is encoded by `inner`, which makes none.

    Raises BadInput for marks that are empty or come twice.
    """

    name = "marked"

    def __init__(self, inner: Tokenizer, marks: Sequence[str]) -> None:
        if not marks or not all(marks) or len(set(marks)) < len(marks):
            raise BadInput("tokenizer.marks", repr(tuple(marks)), "at least one text, all different")
        self.inner, self.marks = inner, tuple(marks)
        self.vocab = inner.vocab + len(self.marks)
        self._split = re.compile("(" + "|".join(map(re.escape, sorted(self.marks, key=len, reverse=True))) + ")")

    def encode(self, text: str) -> np.ndarray:
        parts = [
            np.array([self.inner.vocab + self.marks.index(part)]) if number % 2 else self.inner.encode(part)
            for number, part in enumerate(self._split.split(text))
            if part
        ]
        return np.concatenate(parts).astype(np.uint16 if self.vocab <= 65536 else np.uint32) if parts else np.zeros(0, dtype=np.uint16)

    def decode(self, ids: np.ndarray) -> str:
        ids = np.asarray(ids, dtype=np.int64)
        texts, place = [], 0
        for at in [*np.flatnonzero(ids >= self.inner.vocab), len(ids)]:
            texts.append(self.inner.decode(ids[place:at]))
            texts.append(self.marks[ids[at] - self.inner.vocab] if at < len(ids) else "")
            place = at + 1
        return "".join(texts)

    def to_json(self) -> str:
        return json.dumps({"kind": "marked", "marks": list(self.marks), "inner": json.loads(self.inner.to_json())})


def byte_characters() -> list[str]:
    """[256] the character that stands for each byte in byte-level vocabularies: itself where it can be printed, else one from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printed]
    return [chr(256 + others.index(b)) if b in others else chr(b) for b in range(256)]


def save(tokenizer: Tokenizer, path: Path) -> None:
    write_atomic(path, tokenizer.to_json())


def load(path: Path) -> Tokenizer:
    """Reads what `save` wrote. Raises BadInput for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if (found := _from_json(document)) is not None:
            return found
    except FileNotFoundError as error:
        raise BadInput(str(path), "no such file", "a tokenizer") from error
    except Exception as error:  # tokenizers raises nothing more precise
        raise BadInput(str(path), "content that is no tokenizer of etude", "a file that `tokenizers.save` wrote") from error
    raise BadInput(str(path), f"kind '{document['kind']}'", "byte, character or bpe")


def _from_json(document: dict[str, Any]) -> Tokenizer | None:
    match document["kind"]:
        case "byte":
            return Bytes()
        case "character":
            return Characters(document["alphabet"], document.get("words", ()))
        case "bpe":
            return BytePairs(_Tokenizer.from_str(json.dumps(document["inner"])))
        case "marked":
            inner = _from_json(document["inner"])
            return None if inner is None else Marked(inner, document["marks"])
    return None


def make(kind: str, text: str, vocab: int = 1024) -> Tokenizer:
    """A tokenizer by kind: byte, character (those of `text`) or bpe (trained on `text`). Raises BadInput for another kind."""
    if kind not in ("byte", "character", "bpe"):
        raise one_of("tokenizer", kind, ("byte", "character", "bpe"))
    if kind == "byte":
        return Bytes()
    return Characters(text) if kind == "character" else BytePairs.train(text, vocab)
