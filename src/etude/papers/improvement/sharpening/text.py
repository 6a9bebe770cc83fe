"""The testbed: sums and short paths, taught by demonstrations of which many are wrong, so that the mode is right and mass is spread.

No sample that trains is drawn for a prompt of the test, nor for one with the same two terms. Each seed has a test of its own, without
repeats, and seeds for tuning have one that no other seed draws from. The sums of the test are among the base's demonstrations (there are
288 sums, which it learns one by one), with as many wrong answers as anywhere; its paths are not.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations_with_replacement, islice

import numpy as np
from torch import nn

from etude.data.tasks import task
from etude.data.tokenizers import Characters
from etude.engine.protocols import Completion, Problem, Sampling, Task
from etude.engine.streams import derive, numpy_rng
from etude.errors import BadInput
from etude.evidence.registration import TUNING_FROM
from etude.generate.local import LocalGenerator
from etude.generate.mode import most_likely
from etude.learn.warmstart import Base, warm_start
from etude.nn.transformer import TransformerConfig
from etude.papers.improvement.sharpening.reward import coverage, likelihood, sharpened, tempered
from etude.papers.improvement.sharpening.settings import Settings

TOKENIZER = Characters(string.digits + string.ascii_lowercase + "+-= ;\n")
END = int(TOKENIZER.encode("\n")[0])
KINDS: tuple[str, ...] = ("sums", "paths")
ONE_IN = 3
"""A third of the sums is the test of seeds for tuning, a third of all the test of any other seed; of paths a third of what is drawn."""


def model_config(settings: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=settings.vocab, width=settings.width, depth=settings.depth, heads=settings.heads, hidden=settings.hidden,
        context=settings.context, tied=settings.tied,
    )  # fmt: skip


def sampling(settings: Settings, temperature: float = 1.0) -> Sampling:
    return Sampling(temperature=temperature, max_tokens=settings.max_tokens, stop_tokens=(END,))


def is_test(problem: Problem, largest: int, seed: int) -> bool:
    """Whether the prompt belongs to the seed's test. Sums go by their two terms, whatever their order and sign."""
    if kind_of(problem) == "sums":
        return terms(problem.prompt) in _test_terms(largest, seed)
    return derive(seed, "split", problem.prompt) % ONE_IN == 0


def group(problem: Problem) -> tuple[int, ...] | str:
    """What may lie on one side of the split only: a sum's terms, a path's prompt."""
    return terms(problem.prompt) if kind_of(problem) == "sums" else problem.prompt


def terms(prompt: str) -> tuple[int, ...]:
    """The terms of a sum, sorted."""
    return tuple(sorted(int(term) for term in prompt.rstrip("=").replace("-", "+").split("+")))


@lru_cache(maxsize=32)
def _test_terms(largest: int, seed: int) -> frozenset[tuple[int, ...]]:
    pairs = sorted(combinations_with_replacement(range(1, largest + 1), 2), key=lambda pair: derive(0, "tuning", *pair))
    each = len(pairs) // ONE_IN
    if seed >= TUNING_FROM:
        return frozenset(pairs[:each])
    return frozenset(sorted(pairs[each:], key=lambda pair: derive(seed, "test", *pair))[:each])


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
                if test is None or is_test(problem, settings.largest, seed) == test:
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


def held_out(settings: Settings, seed: int) -> list[Problem]:
    """The seed's test: sums and paths, each prompt once. Raises BadInput where there are not so many sums."""
    wanted = dict(zip(KINDS, (settings.test_sums, settings.test_paths), strict=True))
    found: dict[str, dict[str, Problem]] = {kind: {} for kind in KINDS}
    for problem in islice(problems(settings, seed, "test", test=True), 12 * settings.num_test):
        kind = kind_of(problem)
        if len(found[kind]) < wanted[kind]:
            found[kind][problem.prompt] = problem
        elif all(len(found[k]) == wanted[k] for k in KINDS):
            break
    if len(found["sums"]) < settings.test_sums:
        raise BadInput("settings.test_sums", f"{settings.test_sums}", f"at most the {len(found['sums'])} sums that are held out")
    return [problem for kind in KINDS for problem in found[kind].values()]


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
        items = held_out(settings, seed)
        found = most_likely(base, encoded(items), end=END, max_tokens=settings.max_tokens)
        return cls(items, [m.tokens for m in found], np.array([m.logprob for m in found]))

    def refuse(self, problem: Problem) -> None:
        """Raises BadInput where a prompt that samples are drawn for is one of the test's, or has the terms of one."""
        if group(problem) in self._groups:
            raise BadInput("prompts", f"'{problem.prompt}' of the test", "prompts that the test does not hold")

    @cached_property
    def _groups(self) -> set[tuple[int, ...] | str]:
        return {group(problem) for problem in self.problems}

    def mass_at_optimum(self, groups: list[list[Completion]], beta: float) -> float:
        """Mass on y* where KL-regularised sharpening is solved exactly (eq. 3), over y* and the answers among the base's samples:
        a bound from above, near where what they leave out is unlikely.
        """
        masses = []
        for mode, logprob, samples in zip(self.modes, self.logprobs, groups, strict=True):
            finished = [c for c in samples if c.finish == "stop"]
            found = {tuple(c.tokens): own for c, own in zip(finished, likelihood(finished), strict=True)}
            others = [own for tokens, own in found.items() if tokens != tuple(mode)]
            masses.append(np.exp(tempered(np.array([logprob, *others]), beta)[0]))
        return float(np.mean(masses))

    def about_base(self) -> dict[str, float]:
        """coverage: C of eq. 6. mode accuracy: how often y* is right. mode tokens: its length. The first two also of each kind."""
        texts = [TOKENIZER.decode(m[:-1]) for m in self.modes]
        truth = [right(p, t) for p, t in zip(self.problems, texts, strict=True)]
        tokens = float(np.mean([len(m) for m in self.modes]))
        told = {"coverage": coverage(self.logprobs), "mode tokens": tokens} | self._by_kind("mode accuracy", truth)
        return told | {f"coverage, {kind}": coverage(self.logprobs[where]) for kind, where in self._kinds().items()}

    def _kinds(self) -> dict[str, np.ndarray]:
        kinds = np.array([kind_of(problem) for problem in self.problems])
        return {kind: kinds == kind for kind in KINDS if (kinds == kind).any()}

    def _by_kind(self, name: str, values: Sequence[float] | np.ndarray) -> dict[str, float]:
        """The mean of one value a problem, over all and over each kind."""
        each = {f"{name}, {kind}": float(np.asarray(values)[where].mean()) for kind, where in self._kinds().items()}
        return {name: float(np.mean(values)), **each}

    def answered(self, groups: list[list[Completion]]) -> dict[str, float]:
        """Of answers, equally many for each problem: how often they are right, how often y*, and their length."""
        truth = [float(np.mean([right(p, c.text) for c in group])) for p, group in zip(self.problems, groups, strict=True)]
        given = [float(np.mean([np.array_equal(y, c.tokens) for c in group])) for y, group in zip(self.modes, groups, strict=True)]
        tokens = float(np.mean([len(c.tokens) for group in groups for c in group]))
        return {"answer tokens": tokens} | self._by_kind("accuracy", truth) | self._by_kind("mode given", given)

    def measured(self, model: nn.Module, settings: Settings, seed: int) -> dict[str, float]:
        """A model's mass on y*, exact, and its answers at temperature 1 and greedy. Draws are the same for every model."""
        generator, prompts = LocalGenerator(model, TOKENIZER), encoded(self.problems)
        mass = np.exp([float(s.astype(np.float64).sum()) for s in generator.score(prompts, self.modes)])
        drawn = generator.complete(prompts, sampling(settings), n=settings.test_samples, seed=derive(seed, "test answers"))
        greedy = generator.complete(prompts, sampling(settings, 0.0))
        more = {"sharpened": sharpened(mass), "greedy accuracy": self.answered(greedy)["accuracy"]}
        return self.answered(drawn) | self._by_kind("mass on the mode", mass) | more
