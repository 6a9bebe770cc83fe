"""Examples as rows, pairs to test on, and what a model's answers are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from etude.data.sources import TensorSource, WindowSource
from etude.data.tasks.arithmetic import FORMATS, SCRATCHPADS, answer_width, balanced_additions, rendered, result_of
from etude.data.tokenizers import Characters
from etude.engine.protocols import Source
from etude.engine.streams import numpy_rng
from etude.errors import BadInput
from etude.papers.order.teaching_arithmetic.settings import Settings

TOKENIZER = Characters("".join(map(chr, range(32, 127))) + "\n")
END = int(TOKENIZER.encode("\n")[0])


@dataclass(frozen=True, kw_only=True)
class Examples:
    """How an arm writes: the format, between `$` or not, and how many examples. without: a digit that no operand has in the tens."""

    form: str = "plain"
    count: int = 0
    delimited: bool = False
    without: int | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMATS:
            raise BadInput("Examples.form", repr(self.form), f"one of {', '.join(FORMATS)}")


def unseen_pairs(settings: Settings, seed: int, digits: int | None = None) -> np.ndarray:
    """[num_test, 2] different pairs, each operand evenly from 0 to its largest; of `digits`, exactly so many each where given."""
    low, high = (0, 10**settings.digits) if digits is None else (10 ** (digits - 1), 10**digits)
    drawn = numpy_rng(seed, "test", digits or 0).integers(low, high, (3 * settings.num_test, 2))
    _, first = np.unique(drawn, axis=0, return_index=True)
    return drawn[np.sort(first)][: settings.num_test]


def has_digit(pairs: np.ndarray, digit: int, place: int = 1) -> np.ndarray:
    """[N] whether an operand has the digit in that place, counted from the right."""
    return (pairs // 10**place % 10 == digit).any(1)


@lru_cache(maxsize=8)
def train_pairs(settings: Settings, seed: int, count: int, without: int | None) -> np.ndarray:
    """[count, 2] balanced pairs, none of the test's. All arms of one count see the same; a smaller count's are drawn by themselves."""
    avoid = {(int(a), int(b)) for a, b in unseen_pairs(settings, seed)}
    if without is not None:
        every = np.stack(np.meshgrid(*[np.arange(10**settings.digits)] * 2, indexing="ij"), -1).reshape(-1, 2)
        avoid |= {(a, b) for a, b in every[has_digit(every, without)].tolist()}
    return balanced_additions(count, numpy_rng(seed, "pairs", count), settings.digits, avoid=frozenset(avoid))


def written(settings: Settings, how: Examples, pair: Sequence[int]) -> tuple[str, str]:
    """(prompt, completion with its end)."""
    padded = settings.rows == "row" and how.form not in SCRATCHPADS
    digits = max(settings.digits, len(str(max(pair)))) if padded else 0
    prompt, completion = rendered(int(pair[0]), int(pair[1]), form=how.form, delimited=how.delimited, digits=digits)
    return prompt, completion + "\n"


def read(settings: Settings, how: Examples, text: str, digits: int | None = None) -> int | None:
    """The number that a generated completion gives; None for none. What follows the line of a scratchpad's answer is not read."""
    if how.form in SCRATCHPADS:
        closing = ".\n" if how.form == "simplified" else "</scratch>\n"
        working, found, rest = text.partition(closing)
        return result_of(working + found + rest.split("\n")[0], how.form)
    width = answer_width(digits or settings.digits, "+") if settings.rows == "row" else 0
    return result_of(text.removesuffix("\n"), how.form, delimited=how.delimited, width=width)


def examples(settings: Settings, how: Examples, seed: int) -> Source:
    """The training examples. Raises BadInput for a scratchpad longer than the context."""
    pairs = train_pairs(settings, seed, how.count, how.without)
    texts = [written(settings, how, pair) for pair in pairs]
    if settings.rows == "stream":
        order = numpy_rng(seed, "stream").permutation(len(texts))
        return WindowSource(TOKENIZER.encode("".join("".join(texts[i]) for i in order)), settings.context, vocab=TOKENIZER.vocab)
    longest = max(len(p) + len(c) for p, c in texts)
    if longest > settings.context + 1:
        raise BadInput("settings.context", str(settings.context), f"at least {longest - 1}, one {how.form} example")
    tokens = np.full((len(texts), longest), END, dtype=np.int64)
    mask = np.zeros((len(texts), longest - 1), dtype=bool)
    for row, (prompt, completion) in enumerate(texts):
        tokens[row, : len(prompt) + len(completion)] = TOKENIZER.encode(prompt + completion)
        mask[row, len(prompt) - 1 : len(prompt) + len(completion) - 1] = True
    return TensorSource(tokens=torch.from_numpy(tokens), loss_mask=torch.from_numpy(mask))


def prompt_ids(text: str) -> np.ndarray:
    return TOKENIZER.encode(text).astype(np.int64)


def row_tokens(source: Source) -> int:
    """Predicted tokens of a row."""
    tokens: Tensor = source.get(np.zeros(1, dtype=np.int64))["tokens"]
    return tokens.shape[1] - 1
