"""How much a text repeats itself.

Shapes: a text is a sequence of tokens (ids, or words) of any length.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from etude.errors import BadInput


def ngrams(tokens: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """All runs of n tokens. Raises BadInput for n < 1."""
    if n < 1:
        raise BadInput("n", repr(n), "a whole number >= 1")
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def repetition(tokens: Sequence[Hashable], n: int = 4) -> float:
    """1 - different n-grams / n-grams (rep-n, arXiv 1908.04319, section 6); 0 for a text of fewer than n tokens."""
    found = ngrams(list(tokens), n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct(texts: Sequence[Sequence[Hashable]], n: int = 2) -> float:
    """Different n-grams / n-grams over all texts together (distinct-n, arXiv 1510.03055, section 5.2); 0 where there are none."""
    found = [gram for text in texts for gram in ngrams(list(text), n)]
    return len(set(found)) / len(found) if found else 0.0


def sentence_repetition(sentences: Sequence[Hashable]) -> float:
    """Share of a text's sentences that stood in it before (whole, in the same words); 0 for no sentence."""
    return 1 - len(set(sentences)) / len(sentences) if sentences else 0.0
