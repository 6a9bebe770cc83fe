"""Where a corpus is cut into its four parts: contiguous ranges of documents or of tokens, in the order of `SPLITS`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from etude.errors import BadInput, one_of

SPLITS = ("train", "steer", "validation", "test")
SHARES: Mapping[str, float] = {"train": 0.85, "steer": 0.05, "validation": 0.05, "test": 0.05}


def token_ranges(num_tokens: int, shares: Mapping[str, float] = SHARES) -> dict[str, tuple[int, int]]:
    """split -> (first, end) of the tokens, in proportion to `shares`; together they are 0 .. num_tokens.

    Raises BadInput for an unknown split, shares that do not add up to 1, or a corpus too short to give each split a token.
    """
    names, cuts = _cuts(shares)
    edges = np.round(cuts * num_tokens).astype(np.int64)
    return _checked(names, edges, f"{num_tokens} tokens")


def document_ranges(offsets: np.ndarray, shares: Mapping[str, float] = SHARES) -> dict[str, tuple[int, int]]:
    """split -> (first, end) of the documents, cut where the tokens come nearest to `shares`. offsets: [D + 1], from 0.

    No document is in two splits. Raises BadInput as `token_ranges`, also where a split would get no document.
    """
    names, cuts = _cuts(shares)
    edges = np.abs(offsets[None, :] - (cuts * offsets[-1])[:, None]).argmin(axis=1)
    edges[0], edges[-1] = 0, len(offsets) - 1
    return _checked(names, edges, f"{len(offsets) - 1} documents")


def _cuts(shares: Mapping[str, float]) -> tuple[list[str], np.ndarray]:
    for name, share in shares.items():
        if name not in SPLITS:
            raise one_of("splits", name, SPLITS)
        if not 0 < share <= 1:
            raise BadInput(f"splits.{name}", repr(share), "a share above 0 and at most 1")
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise BadInput("splits", f"shares that add up to {sum(shares.values()):g}", "shares that add up to 1")
    names = [name for name in SPLITS if name in shares]
    return names, np.concatenate([[0.0], np.cumsum([shares[name] for name in names])])


def _checked(names: list[str], edges: np.ndarray, what: str) -> dict[str, tuple[int, int]]:
    ranges = {name: (int(a), int(b)) for name, a, b in zip(names, edges[:-1], edges[1:], strict=True)}
    for name, (first, end) in ranges.items():
        if first >= end:
            raise BadInput("data", f"{what}, which leave none for '{name}'", f"enough for the splits {', '.join(names)}")
    return ranges
