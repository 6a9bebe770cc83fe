"""Finds papers by words: BM25 over slug, title, claim and tags of the cards."""

from __future__ import annotations

import re
from collections.abc import Sequence

from etude.errors import BadInput
from etude.papers.catalogue import Card


def words(text: str) -> list[str]:
    """Lower-case words without a plural s, so that "curriculums" and "curriculum" meet."""
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in re.findall(r"[a-z0-9]+", text.lower())]


def search(query: str, cards: Sequence[Card], limit: int = 10) -> list[tuple[Card, float]]:
    """The best cards with their BM25 scores, best first; empty if no word occurs on any card.

    A query word of four letters or more also stands for the longer words that begin with it. Slug, title and tags count twice.
    Raises BadInput if the query has no word.
    """
    import bm25s  # numpy and scipy, 0.2 s: only for searching

    asked = words(query)
    if not asked:
        raise BadInput("search", f"'{query}'", "at least one word")
    if not cards:
        return []
    texts = [words(" ".join([c.slug, c.title, *c.tags] * 2 + [c.claim, c.family, *c.authors, *c.slots, *c.arenas, c.arxiv])) for c in cards]
    vocabulary = {w for text in texts for w in text}
    terms = sorted({v for a in asked for v in vocabulary if v == a or (len(a) > 3 and v.startswith(a))})
    if not terms:
        return []
    index = bm25s.BM25()
    index.index(texts, show_progress=False)
    scores = index.get_scores(terms)
    best = sorted(range(len(cards)), key=lambda i: (-float(scores[i]), i))[:limit]
    return [(cards[i], round(float(scores[i]), 4)) for i in best if scores[i] > 0]
