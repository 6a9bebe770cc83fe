"""Lists and hints as rows of tokens, each number and word one token, and what a model's answers are held against."""

from __future__ import annotations

import json
import re
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from etude.data.sources import MixtureSource, TensorSource
from etude.data.tasks.hints import HINTS, SortingHints
from etude.engine.protocols import Metrics, Problem, Sampling
from etude.engine.streams import derive, numpy_rng
from etude.errors import BadInput
from etude.generate.local import LocalGenerator
from etude.papers.order.task_hinting.settings import Settings

WORDS = (*HINTS, ";", ":", "_", "\n")
SORT = HINTS[0]


class Numbers:
    """A token for each number from 0 to `largest` and each of `WORDS`. Encoding raises BadInput for anything else."""

    name = "numbers"

    def __init__(self, largest: int) -> None:
        self.pieces = (*map(str, range(largest + 1)), *WORDS)
        self.ids = {piece: k for k, piece in enumerate(self.pieces)}
        self.largest, self.vocab = largest, len(self.pieces)
        self.end = self.ids["\n"]

    def encode(self, text: str) -> np.ndarray:
        found = re.findall(r"\n|[:;]|[^\s:;]+", text)
        for piece in found:
            if piece not in self.ids:
                raise BadInput("text", repr(piece), f"a number from 0 to {self.largest}, or one of {', '.join(WORDS[:-1])}")
        return np.array([self.ids[piece] for piece in found], dtype=np.int64)

    def decode(self, ids: np.ndarray) -> str:
        return " ".join(self.pieces[int(i)] for i in ids)

    def to_json(self) -> str:
        return json.dumps({"kind": self.name, "largest": self.largest})


def unseen(settings: Settings, seed: int, repeats: bool, length: int) -> list[Problem]:
    """Different lists of `length` to sort."""
    family, found, stream = SortingHints(SORT, settings.largest, repeats), {}, derive(seed, "test")
    for index in range(50 * settings.num_test):
        problem = family.problem(stream, index, length)
        found.setdefault(problem.prompt, problem)
        if len(found) == settings.num_test:
            return list(found.values())
    raise BadInput("settings.num_test", str(settings.num_test), f"at most the lists there are, about {len(found)}")


@lru_cache(maxsize=8)
def rows(settings: Settings, seed: int, hint: str, repeats: bool) -> TensorSource:
    """`settings.rows` examples of one task, padded to one width; none has the list of a test.

    tokens [N, T + 1], loss_mask [N, T] on the answer and, of a sorted list, its end, lengths [N] without the padding.
    """
    words, family = Numbers(settings.largest), SortingHints(hint, settings.largest, repeats)
    kept = {listed(p.prompt) for p in unseen(settings, seed, repeats, settings.longest)}
    rng = numpy_rng(seed, "rows", hint, int(repeats))
    width = 2 * settings.longest + 3  # of `sort` with its end, and of `fill`
    tokens = np.full((settings.rows, width), words.end, dtype=np.int64)
    mask = np.zeros((settings.rows, width - 1), dtype=bool)
    lengths = np.zeros(settings.rows, dtype=np.int64)
    row = 0
    while row < settings.rows:
        prompt, answer, _ = family.draw(int(rng.integers(2, settings.longest + 1)), rng)
        if listed(prompt) in kept:
            continue
        # A hint's answer is one token and needs no end, and in a sorted list none follows the first number.
        asked, told = words.encode(laid_out(prompt)), words.encode(answer + ("\n" if hint == SORT else ""))
        end = len(asked) + len(told)
        tokens[row, :end] = np.concatenate([asked, told])
        mask[row, len(asked) - 1 : end - 1] = True
        lengths[row] = end
        row += 1
    return TensorSource(tokens=torch.from_numpy(tokens), loss_mask=torch.from_numpy(mask), lengths=torch.from_numpy(lengths))


def laid_out(prompt: str) -> str:
    """A hint's prompt with its question last: the answer follows the number asked about, as in a sorted list it follows that number."""
    shown, asks, question = prompt.partition(" ; ")
    return f"{shown}: {question.removesuffix(': ')} " if asks else prompt


def listed(prompt: str) -> str:
    """The list that a prompt of any of the tasks is about."""
    return prompt.partition(" ")[2].partition(" ; ")[0].removesuffix(": ")


def data(settings: Settings, seed: int, hint: str, repeats: bool) -> MixtureSource:
    """The task as first domain and, if named, a hint as second."""
    return MixtureSource({name: rows(settings, seed, name, repeats) for name in (SORT, *([hint] if hint else []))})


class Exact:
    """{"exact": the share of lists that the model's greedy answer sorts, "tokens": the share of their places that it fills rightly}."""

    def __init__(self, settings: Settings, seed: int, repeats: bool, length: int) -> None:
        self.words = Numbers(settings.largest)
        self.family = SortingHints(SORT, settings.largest, repeats)
        self.problems = unseen(settings, seed, repeats, length)
        self.answers = [self.words.encode(p.answer) for p in self.problems]
        self.prompts = [self.words.encode(p.prompt) for p in self.problems]
        self.sampling = Sampling(temperature=0, max_tokens=length + 1, stop_tokens=(self.words.end,))

    def __call__(self, model: nn.Module) -> Metrics:
        groups = LocalGenerator(model, self.words).complete(self.prompts, self.sampling)
        exact, filled = [], []
        for problem, answer, (said,) in zip(self.problems, self.answers, groups, strict=True):
            # Without its end a list may go on for ever, so that only one that stops is right.
            exact.append(self.family.verify(problem, said.text) if said.finish == "stop" else 0.0)
            own = said.tokens[: len(answer)]
            filled.append(float((own == answer[: len(own)]).sum() / len(answer)))
        return {"exact": float(np.mean(exact)), "tokens": float(np.mean(filled))}
