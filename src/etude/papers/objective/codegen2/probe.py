"""What a linear probe reads off a network's hidden states: does a token stand in a string, or is it code?

In a window that begins anywhere in its file, what comes later helps to tell, so that reading both ways could show.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from etude.engine.device import evaluating
from etude.engine.protocols import Metrics
from etude.engine.streams import numpy_rng
from etude.papers.objective.codegen2.data import files, pieces_of
from etude.papers.objective.codegen2.holes import parsed, text_of
from etude.papers.objective.codegen2.settings import Settings

RIDGE = 1.0
"""Added to the diagonal of the features' covariance, summed over tokens."""


def in_string(tokens: np.ndarray, pieces: Sequence[bytes]) -> np.ndarray:
    """[n] bool for a file [n]: which tokens begin inside a string (with several side by side as one)."""
    source = text_of(tokens, pieces)
    starts = np.cumsum([0, *map(len, source.splitlines(keepends=True))])
    inside = np.zeros(len(source) + 1, dtype=bool)
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)):
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            inside[starts[node.lineno - 1] + node.col_offset : starts[node.end_lineno - 1] + node.end_col_offset] = True
    return inside[np.cumsum([0, *(len(pieces[t]) for t in tokens.tolist())])[:-1]]


class Probe:
    """{"probe"}: balanced accuracy on held-out files of least squares from the last hidden states, fitted on training files.

    both_ways: each window is read with attention both ways; else from left to right.
    """

    def __init__(self, settings: Settings, seed: int, split: str, *, both_ways: bool = False) -> None:
        self.both_ways = both_ways
        self.parts = [self._windows(settings, part, numpy_rng(seed, "probe", part)) for part in ("train", split)]

    @staticmethod
    def _windows(settings: Settings, split: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and labels [W, T] of windows that begin anywhere in files drawn evenly."""
        pieces, size = pieces_of(settings), settings.context
        sources = [tokens for tokens in files(settings, split) if len(tokens) > size]
        windows, labels = [], []
        for number in rng.integers(len(sources), size=settings.probe_windows):
            start = int(rng.integers(len(sources[number]) - size))
            windows.append(sources[number][start : start + size])
            labels.append(in_string(sources[number], pieces)[start : start + size])
        return np.stack(windows).astype(np.int64), np.stack(labels)

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Metrics:
        with evaluating(model) as device:
            read = [self._read(model, torch.from_numpy(tokens).to(device)) for tokens, _ in self.parts]
        (known, new), (labels, expected) = read, [labels.flatten() for _, labels in self.parts]
        target = np.where(labels, 1 / labels.sum(), -1 / (~labels).sum())  # each class weighs as much, so 0 is the border
        shift = (known[labels].mean(0) + known[~labels].mean(0)) / 2
        covariance = np.cov(known.T) * len(known) + RIDGE * np.eye(known.shape[1])
        said = (new - shift) @ np.linalg.solve(covariance, (known - shift).T @ target) > 0
        return {"probe": float((said[expected].mean() + (~said[~expected]).mean()) / 2)}

    def _read(self, model: nn.Module, tokens: torch.Tensor) -> np.ndarray:
        more = {"prefix": torch.ones_like(tokens, dtype=torch.bool)} if self.both_ways else {}
        return model(tokens, **more)["hidden"].flatten(0, 1).double().cpu().numpy()
