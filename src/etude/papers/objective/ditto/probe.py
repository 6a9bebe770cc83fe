"""What is measured: how much continuations repeat themselves, and how a sentence's probability grows with its repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import nn

from etude.engine.protocols import Metrics, Sampling
from etude.errors import BadInput
from etude.generate.degeneration import distinct, repetition, sentence_repetition
from etude.generate.local import LocalGenerator
from etude.papers.objective.ditto.repetition import sentences


def split_sentences(tokens: np.ndarray, ends: Sequence[int]) -> list[tuple[int, ...]]:
    """The whole sentences of a text that begins in the midst of one: those between two of its ends."""
    places = np.flatnonzero(np.isin(tokens, ends)) + 1
    return [tuple(tokens[a:b].tolist()) for a, b in pairwise(places)]


def repetitions(texts: Sequence[np.ndarray], ends: Sequence[int]) -> Metrics:
    """Means over texts: "repetition" (of 4-grams), "sentence repetition" (whole sentences said before); "distinct" 2-grams of all."""
    return {
        "repetition": float(np.mean([repetition(t.tolist(), 4) for t in texts])),
        "sentence repetition": float(np.mean([sentence_repetition(split_sentences(t, ends)) for t in texts])),
        "distinct": distinct([t.tolist() for t in texts], 2),
    }


class Continuations:
    """`repetitions` of what a model says after each prompt. prompts: token ids. Greedy, or drawn with `seed` at a temperature above 0."""

    def __init__(
        self, prompts: Sequence[np.ndarray], length: int, ends: Sequence[int], *, temperature: float = 0, top_p: float = 1, seed: int = 0
    ) -> None:
        self.prompts, self.ends, self.seed = list(prompts), tuple(ends), seed
        self.sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=length)

    def __call__(self, model: nn.Module) -> Metrics:
        groups = LocalGenerator(model).complete(self.prompts, self.sampling, seed=self.seed)
        return repetitions([group[0].tokens for group in groups], self.ends)


class SelfReinforcement:
    """How likely a model finds a sentence the 1st to the `num_copies`-th time in a row, after the sentence that came before it.

    pairs: (sentence before, sentence) as token ids. Metrics: "probability, copy k", the mean over sentences of their tokens' mean;
    "risen, copy k", the share of sentences that are likelier than the first time; both for the "last copy" too; "growth", of
    probability from the first to the last copy; "growth, likely" and "growth, unlikely", that of the half of the sentences that
    the model found likelier the first time, and of the other half; "growth, difference" between these two.
    """

    def __init__(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]], num_copies: int) -> None:
        if len(pairs) < 2 or num_copies < 2:
            raise BadInput("SelfReinforcement", f"{len(pairs)} sentences, {num_copies} copies", "at least two of both")
        self.pairs, self.num_copies = list(pairs), num_copies

    def probabilities(self, model: nn.Module) -> np.ndarray:
        """[num sentences, num_copies] the mean probability of a copy's tokens."""
        prefixes = [before for before, _ in self.pairs]
        rows = LocalGenerator(model).score(prefixes, [np.tile(sentence, self.num_copies) for _, sentence in self.pairs])
        return np.stack([np.exp(row).reshape(self.num_copies, -1).mean(1) for row in rows])

    def __call__(self, model: nn.Module) -> Metrics:
        found = self.probabilities(model)
        growth, likely = found[:, -1] - found[:, 0], np.argsort(found[:, 0], kind="stable")[len(found) // 2 :]
        others = np.setdiff1d(np.arange(len(found)), likely)
        told = {f"probability, copy {k + 1}": float(found[:, k].mean()) for k in range(self.num_copies)}
        told |= {f"risen, copy {k + 1}": float((found[:, k] > found[:, 0]).mean()) for k in range(1, self.num_copies)}
        told |= {f"{what}, last copy": told[f"{what}, copy {self.num_copies}"] for what in ("probability", "risen")}
        high, low = float(growth[likely].mean()), float(growth[others].mean())
        return told | {"growth": float(growth.mean()), "growth, likely": high, "growth, unlikely": low, "growth, difference": high - low}


def probe_pairs(
    tokens: np.ndarray, ends: Sequence[int], *, num_copies: int, context: int, count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`count` (sentence before, sentence) of a text, spread evenly, that fill at most `context` tokens with all their copies.

    Sentences of fewer than three tokens are left out. Raises BadInput where the text has too few.
    """
    before, start, end = sentences(tokens, np.array(ends)).T
    fit = ((start - before) + num_copies * (end - start) <= context) & (end - start >= 3)
    whole = np.flatnonzero(fit)
    if len(whole) < count:
        raise BadInput("sentences", f"{len(whole)} that fit {num_copies} times into {context} tokens", f"at least {count}")
    chosen = whole[np.linspace(0, len(whole) - 1, count).round().astype(np.int64)]
    return [(tokens[before[i] : start[i]].astype(np.int64), tokens[start[i] : end[i]].astype(np.int64)) for i in chosen]
