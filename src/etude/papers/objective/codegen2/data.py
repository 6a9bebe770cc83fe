"""Code as files and text as one, in tokens that leave room for marks."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

import numpy as np

from etude.data.cards import card
from etude.data.corpora import Corpus, corpus, corpus_tokenizer, encoded_corpus, text_bytes
from etude.data.sources import WindowSource
from etude.data.tokenizers import BytePairs, Tokenizer, byte_characters
from etude.learn.corruption import SPARE_BYTES, Marks
from etude.papers.objective.codegen2.holes import parses
from etude.papers.objective.codegen2.settings import NUM_MARKS, Settings

DEFINITION = re.compile(rb"(?m)^(?=(?:def|class) )")


def marks_of(settings: Settings) -> Marks:
    """The bytes that no text has, or the highest ids of a vocabulary that is larger than its tokenizer's."""
    return Marks.of(SPARE_BYTES if settings.tokenizer == "byte" else range(settings.vocab - NUM_MARKS, settings.vocab))


@lru_cache(maxsize=4)
def tokenizer_of(settings: Settings) -> Tokenizer:
    """Made of the code's training split."""
    return corpus_tokenizer(settings.code, settings.tokenizer)


@lru_cache(maxsize=4)
def pieces_of(settings: Settings) -> tuple[bytes, ...]:
    """The bytes of each id; none of a mark."""
    tokenizer = tokenizer_of(settings)
    if not isinstance(tokenizer, BytePairs):
        known = [bytes([i]) for i in range(tokenizer.vocab)]
    else:
        values = {character: byte for byte, character in enumerate(byte_characters())}
        known = [bytes(values[c] for c in tokenizer.inner.id_to_token(i) or "") for i in range(tokenizer.vocab)]
    marks = set(marks_of(settings).every.tolist())
    return tuple(b"" if i in marks else known[i] for i in range(settings.vocab))


def definitions(name: str, split: str) -> list[bytes]:
    """Of running code without borders, the definitions that parse alone, each as if it were a file; every fourth is for testing, and the
    one before it for validation.
    """
    whole = [piece for piece in DEFINITION.split(text_bytes(name)) if parses(piece)]
    return [piece for i, piece in enumerate(whole) if {2: "validation", 3: "test"}.get(i % 4, "train") == split]


@lru_cache(maxsize=4)
def code(settings: Settings, split: str) -> Corpus:
    """Tokens with the files' borders."""
    name, tokenizer = settings.code, tokenizer_of(settings)
    if card(name).domains:
        return encoded(name, split, tokenizer, settings)
    parts = [tokenizer.encode(piece.decode()) for piece in definitions(name, split)]
    return Corpus(name, split, np.concatenate(parts), settings.vocab, offsets=np.cumsum([0, *map(len, parts)]))


def encoded(name: str, split: str, tokenizer: Tokenizer, settings: Settings) -> Corpus:
    return corpus(name, split) if settings.tokenizer == "byte" else encoded_corpus(name, split, tokenizer, settings.tokenizer)


def files(settings: Settings, split: str) -> list[np.ndarray]:
    """Token ids of each file of at most `longest_file` tokens."""
    whole = code(settings, split)
    assert whole.offsets is not None
    return [whole.tokens[a:b] for a, b in pairwise(whole.offsets) if b - a <= settings.longest_file]


def windows(settings: Settings, kind: str, split: str) -> WindowSource:
    """Windows of "code", with the borders of files, or of "text", one file."""
    if kind == "code":
        return WindowSource(code(settings, split), settings.context, documents=True, vocab=settings.vocab)
    text = encoded(settings.text, split, tokenizer_of(settings), settings).tokens
    return WindowSource(text, settings.context, document_ids=np.zeros(len(text), dtype=np.int64), vocab=settings.vocab)
