"""Byte-pair encoding with every word's ids kept: the same ids as the tokenizer's own, several times as fast a core.

A tokenizer of `tokenizers` splits a text into words by a pattern, then encodes each word. Most words come again and again. For texts of
ASCII, Latin letters with accents and common punctuation, Python's own `re` splits as the tokenizer's pattern does: there, classes such
as \\p{L} are plain ranges. Any other text, one that spells a special token, and every tokenizer of another build go to the tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from etude.data.tokenizers import byte_characters

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel` splits by where it is not told otherwise (tokenizers, pre_tokenizers/byte_level.rs)."""
MOST = 1 << 17
"""Words kept, in about 30 MB; then it begins anew."""
_OTHER = "\x1c\x1d\x1e\x1f"  # white space to some engines only
_LETTERS = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e"
# U+2010 to U+205E without its spaces and line ends is neither letters, digits nor marks.
_FOREIGN = re.compile("[^\\x00-\\x1b\\x20-\\x7f\u00c0-\u017e\u2010-\u2027\u2030-\u205e]")
_CLASSES = {r"\p{L}": _LETTERS, r"\p{N}": "0-9", r"\p{M}": ""}
_PROBE = "It's  I'LL 12345 x_y (a+b)=c;\r\n\n\t déjà-vu “x”…  \n end'S...!? 7th\n\n  A1b2  "


class WordCache:
    """cache(text) -> its ids, or None for a text that the tokenizer must encode itself."""

    def __init__(self, inner: FastTokenizer, pattern: re.Pattern[str], special: re.Pattern[str] | None) -> None:
        self._words, self._pattern, self._special = _Words(inner), pattern, special

    def __call__(self, text: str) -> np.ndarray | None:
        if any(c in text for c in _OTHER) if text.isascii() else _FOREIGN.search(text):
            return None
        if self._special is not None and self._special.search(text):
            return None
        if len(self._words) > MOST:
            self._words.clear()
        return np.fromiter(chain.from_iterable(map(self._words.__getitem__, self._pattern.findall(text))), dtype=np.uint32)


class _Words(dict[str, tuple[int, ...]]):
    def __init__(self, inner: FastTokenizer) -> None:
        super().__init__()
        self.model = inner.model
        self.characters = dict(enumerate(byte_characters()))

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(token.id for token in self.model.tokenize(word.encode().decode("latin-1").translate(self.characters)))
        self[word] = ids
        return ids


def word_cache(inner: FastTokenizer) -> WordCache | None:
    """For a byte-level BPE without normalisation (or NFC, which leaves such texts alone) whose pattern is understood, else None."""
    built: dict[str, Any] = json.loads(inner.to_str())
    model = built["model"]
    if model.get("type") != "BPE" or model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return None
    if (built.get("normalizer") or {}).get("type", "NFC") != "NFC":
        return None
    pattern = _pattern(built.get("pre_tokenizer") or {})
    if pattern is None:
        return None
    added = built.get("added_tokens") or []
    if any(token.get("normalized") or token.get("lstrip") or token.get("rstrip") or token.get("single_word") for token in added):
        return None
    special = re.compile("|".join(re.escape(token["content"]) for token in added)) if added else None
    made = WordCache(inner, pattern, special)
    ours = made(_PROBE)
    same = ours is not None and ours.tolist() == inner.encode(_PROBE, add_special_tokens=False).ids
    return made if same else None


def _pattern(table: dict[str, Any]) -> re.Pattern[str] | None:
    parts: Sequence[dict[str, Any]] = table["pretokenizers"] if table.get("type") == "Sequence" else [table]
    if not parts or parts[-1].get("type") != "ByteLevel" or parts[-1].get("add_prefix_space"):
        return None
    if len(parts) == 1 and parts[0].get("use_regex", True):
        text = GPT2
    elif len(parts) == 2 and parts[0].get("type") == "Split" and not parts[1].get("use_regex", True):
        text = str(parts[0].get("pattern", {}).get("Regex", ""))
        if parts[0].get("behavior") != "Isolated" or parts[0].get("invert"):
            return None
    else:
        return None
    try:
        return re.compile(_plain(text), re.ASCII) if text else None
    except re.error:
        return None


def _plain(pattern: str) -> str:
    """A pattern with Unicode classes as one with ranges. Groups do not capture, so that `findall` gives whole words."""
    made, inside, place = "", False, 0
    while place < len(pattern):
        found = re.compile(r"\\p\{\w+\}").match(pattern, place)
        if found:
            ranges = _CLASSES.get(found[0])
            if ranges is None or not (ranges or inside):
                raise re.error(f"the class {found[0]}")
            made, place = made + (ranges if inside else f"[{ranges}]"), found.end()
            continue
        step = 2 if pattern[place] == "\\" else 1
        piece = pattern[place : place + step]
        if piece == "(" and not inside and pattern[place + 1 : place + 2] != "?":
            piece = "(?:"
        inside = piece == "[" or (inside and piece != "]")
        made, place = made + piece, place + step
    return made
