"""The testbed: sums and short paths, taught by demonstrations of which many are wrong, so that the mode is right and mass is spread.

Prompts are split by their text: samples that train are never drawn for those of the test. The base may have been taught some of them
(there are few sums), with as many wrong answers as anywhere.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import numpy as np
from torch import nn

from etude.data.tasks import task
from etude.data.tokenizers import Characters
from etude.engine.protocols import Completion, Problem, Sampling, Task
from etude.engine.streams import derive, numpy_rng
from etude.errors import BadInput
from etude.generate.local import LocalGenerator
from etude.generate.mode import most_likely
from etude.learn.warmstart import Base, warm_start
from etude.nn.transformer import TransformerConfig
from etude.papers.improvement.sharpening.reward import coverage, sharpened
from etude.papers.improvement.sharpening.settings import Settings

TOKENIZER = Characters(string.digits + string.ascii_lowercase + "+-= ;\n")
END = int(TOKENIZER.encode("\n")[0])
KINDS = ("sums", "paths")
ONE_IN = 8
"""One in so many prompts belongs to the test."""


def model_config(settings: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=settings.vocab, width=settings.width, depth=settings.depth, heads=settings.heads, hidden=settings.hidden,
        context=settings.context, tied=settings.tied,
    )  # fmt: skip


def sampling(settings: Settings, temperature: float = 1.0) -> Sampling:
    return Sampling(temperature=temperature, max_tokens=settings.max_tokens, stop_tokens=(END,))


def is_test(prompt: str) -> bool:
    return derive(0, "split", prompt) % ONE_IN == 0


def problems(settings: Settings, seed: int, name: str, *, test: bool | None = False) -> Iterator[Problem]:
    """Without end, sums and paths by turns: of the test's prompts, of the others, or (None) of both. name: of the stream."""
    tasks = [_task(kind, settings) for kind in KINDS]
    stream = derive(seed, name)
    places = [0] * len(tasks)
    while True:
        for k, (family, difficulty) in enumerate(tasks):
            while True:
                problem = _short(family.problem(stream, places[k], difficulty))
                places[k] += 1
                if test is None or is_test(problem.prompt) == test:
                    break
            yield problem


def _task(kind: str, settings: Settings) -> tuple[Task, int]:
    return _tasks(settings.largest)[kind], 2 if kind == "sums" else settings.nodes


@lru_cache(maxsize=4)
def _tasks(largest: int) -> dict[str, Task]:
    return {"sums": task("sum-chains", largest=largest), "paths": task("paths")}


def _short(problem: Problem) -> Problem:
    """A path's prompt with nothing between the edges and the two nodes but `;` and `=`: a third fewer tokens."""
    if kind_of(problem) == "sums":
        return problem
    data = problem.data
    return replace(problem, prompt=f"{' '.join(data['edges'])};{data['start']}{data['end']}=")


def kind_of(problem: Problem) -> str:
    return "sums" if "result" in problem.data else "paths"


def wrong_answer(problem: Problem, rng: np.random.Generator) -> str:
    """An answer as a careless teacher would write it: near the sum, or through other nodes. Never the demonstrated right one."""
    if kind_of(problem) == "sums":
        while True:
            off = int(rng.integers(-3, 4)) if rng.random() < 0.7 else int(rng.integers(-12, 13))
            if off:
                return str(problem.data["result"] + off)
    start, end = problem.data["start"], problem.data["end"]
    inner = sorted({c for edge in problem.data["edges"] for c in edge} - {start, end})
    while True:
        count = problem.data["steps"] - 1 + int(rng.integers(0, 2))
        path = start + "".join(inner[i] for i in rng.permutation(len(inner))[:count]) + end
        if path != problem.answer:
            return path


def demonstrations(settings: Settings, seed: int) -> list[tuple[str, str]]:
    """(prompt, answer) rows, a share `corrupted` of them wrong."""
    rng = numpy_rng(seed, "corruption")
    rows = []
    for problem in islice(problems(settings, seed, "demonstrations", test=None), settings.demonstrations):
        rows.append((problem.prompt, wrong_answer(problem, rng) if rng.random() < settings.corrupted else problem.answer))
    return rows


def base_model(settings: Settings, seed: int, progress: Callable[[float, float], None] | None = None) -> Base:
    return warm_start(
        demonstrations(settings, seed), name="noisy sums and paths", config=model_config(settings), tokenizer=TOKENIZER, end=END,
        steps=settings.base_updates, batch_size=settings.base_batch, lr=settings.base_lr, seed=seed,
        progress=progress,
    )  # fmt: skip


def encoded(items: list[Problem]) -> list[np.ndarray]:
    return [TOKENIZER.encode(p.prompt).astype(np.int64) for p in items]


def right(problem: Problem, text: str) -> float:
    return _tasks(9)[kind_of(problem)].verify(problem, text)  # verifying does not depend on the size of the terms


@dataclass(frozen=True)
class Test:
    """Test problems with y* of each under the base: `modes` are its tokens, `logprobs` [P] its log pi_base."""

    problems: list[Problem]
    modes: list[np.ndarray]
    logprobs: np.ndarray

    @classmethod
    def of(cls, base: nn.Module, settings: Settings, seed: int) -> Test:
        items = list(islice(problems(settings, seed, "test", test=True), settings.num_test))
        found = most_likely(base, encoded(items), end=END, max_tokens=settings.max_tokens)
        return cls(items, [m.tokens for m in found], np.array([m.logprob for m in found]))

    def about_base(self) -> dict[str, float]:
        """coverage: C of eq. 6. mode accuracy: how often y* is right. mode tokens: its length."""
        texts = [TOKENIZER.decode(m[:-1]) for m in self.modes]
        return {
            "coverage": coverage(self.logprobs),
            "mode accuracy": float(np.mean([right(p, t) for p, t in zip(self.problems, texts, strict=True)])),
            "mode tokens": float(np.mean([len(m) for m in self.modes])),
        }

    def answered(self, groups: list[list[Completion]]) -> dict[str, float]:
        """Of answers, some for each problem: how often they are right, how often y*, and their length."""
        pairs = [(p, mode, c) for p, mode, group in zip(self.problems, self.modes, groups, strict=True) for c in group]
        told: dict[str, list[float]] = {}
        for problem, _, c in pairs:
            told.setdefault(kind_of(problem), []).append(right(problem, c.text))
        each = {f"accuracy, {kind}": float(np.mean(values)) for kind, values in told.items()}
        return {
            "accuracy": float(np.mean([value for values in told.values() for value in values])),
            "mode given": float(np.mean([np.array_equal(mode, c.tokens) for _, mode, c in pairs])),
            "answer tokens": float(np.mean([len(c.tokens) for _, _, c in pairs])),
        } | each

    def measured(self, model: nn.Module, settings: Settings, seed: int) -> dict[str, float]:
        """A model's mass on y*, exact, and its answers at temperature 1 and greedy. Draws are the same for every model."""
        generator, prompts = LocalGenerator(model, TOKENIZER), encoded(self.problems)
        mass = np.exp([float(s.astype(np.float64).sum()) for s in generator.score(prompts, self.modes)])
        drawn = generator.complete(prompts, sampling(settings), n=settings.test_samples, seed=derive(seed, "test answers"))
        greedy = generator.complete(prompts, sampling(settings, 0.0))
        return self.answered(drawn) | {
            "mass on the mode": float(mass.mean()),
            "sharpened": sharpened(mass),
            "greedy accuracy": self.answered(greedy)["accuracy"],
        }


def check_disjoint(prompts: list[Problem], test: list[Problem]) -> None:
    """Raises BadInput where a prompt that samples are drawn for is one of the test's."""
    shared = {p.prompt for p in prompts} & {p.prompt for p in test}
    if shared:
        raise BadInput("prompts", f"'{min(shared)}' of the test", "prompts that the test does not hold")
