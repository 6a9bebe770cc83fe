"""When a completion ends: stop tokens, and stop strings that may straddle tokens. And text from tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from etude.data.tokenizers import Tokenizer
from etude.errors import BadInput


def text_of(tokens: np.ndarray, tokenizer: Tokenizer | None) -> str:
    """The text of ids; those beyond the tokenizer's vocabulary (an end mark, say) have none. Without a tokenizer: ""."""
    if tokenizer is None:
        return ""
    return tokenizer.decode(tokens[tokens < tokenizer.vocab])


class StopStrings:
    """Tells which rows have just completed one of `strings`. Text is decoded only where a row's last token may have ended one."""

    def __init__(self, strings: Sequence[str], tokenizer: Tokenizer | None) -> None:
        self.strings, self.tokenizer = tuple(strings), tokenizer
        if not strings:
            return
        if tokenizer is None:
            raise BadInput("Sampling.stop_strings", repr(strings[0]), "none, or a generator that has a tokenizer")
        self.reach = max(len(s.encode()) for s in strings)
        ids = np.arange(tokenizer.vocab)
        # A character of several bytes may be completed by a token that alone has no text.
        whole = all(s.isascii() for s in strings)
        ends = {s[-1] for s in strings}
        self.may_end = np.array([not whole or not ends.isdisjoint(tokenizer.decode(ids[i : i + 1])) for i in ids])

    def ended(self, tokens: np.ndarray) -> bool:
        """Whether the last of `tokens` [n] completes a stop string; earlier ones have been asked about before."""
        if not self.strings or tokens[-1] >= len(self.may_end) or not self.may_end[tokens[-1]]:
            return False
        # Tokens without text (special ones) need a longer look back than one byte each.
        start = len(tokens) - self.reach
        while True:
            text = text_of(tokens[max(0, start) :], self.tokenizer)
            if start <= 0 or len(text.encode()) >= self.reach + 3:
                return any(s in text for s in self.strings)
            start -= self.reach
