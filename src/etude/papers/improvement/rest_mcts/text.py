"""The testbed: chains of operations modulo 10 from a scrambled list, one step a line; a base whose teacher was unsure of some operations.

A guess is right one time in ten, so that lucky right answers can be told from sound ones (`Chains.sound`). Questions are split by
their chains: none that is demonstrated, or searched in training, is one of the test's, in whatever order its rows are told.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from etude.data.stream import DataStream
from etude.data.tasks.answers import with_working
from etude.data.tasks.chains import Chains, apply
from etude.data.tokenizers import Characters
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.protocols import Problem, Sampling
from etude.engine.schedule import Cosine
from etude.engine.streams import derive, numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.generate.local import LocalGenerator
from etude.generate.search import GeneratedSteps, Limit, Question, Samples, Step, merged, run_searches
from etude.generate.search.asking import Expander, Path
from etude.learn.logprobs import frozen_copy
from etude.learn.state_values import StateValues
from etude.learn.values import StepSource, StepValues, ValueModel
from etude.learn.warmstart import Base, kept, warm_start
from etude.nn.surgery import grow_depth
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.improvement.rest_mcts import trees
from etude.papers.improvement.rest_mcts.rewards import inferred
from etude.papers.improvement.rest_mcts.settings import Settings

NAMES = string.ascii_lowercase[: max(Chains.difficulties) + 1]
OPERATIONS = [f"{sign}{operand}" for sign in "+-*" for operand in range(2, 10)]
TOKENIZER = Characters(
    string.digits + NAMES + "+-*=;:> \n~",
    [f"{b}={a}{operation} " for a, b in pairwise(NAMES[:6]) for operation in OPERATIONS]
    + [f"a={digit} " for digit in range(10)] + [f"{name}=" for name in NAMES]
    + [f"{digit}{operation}=" for digit in range(10) for operation in OPERATIONS] + ["; ", ": ", "> "],
)  # fmt: skip
"""A row of the prompt is one token, for chains of up to five operations; a line of working `b=`, `3+7=`, 0 and its end."""
END = int(TOKENIZER.encode("~")[0])
LINE = int(TOKENIZER.encode("\n")[0])
TASK = Chains()
ONE_IN = 8
"""One in so many chains belongs to the test."""


def model_config(s: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=s.vocab, width=s.width, depth=s.depth, heads=s.heads, kv_heads=s.kv_heads, hidden=s.hidden, context=s.context, tied=s.tied
    )


def chain_of(problem: Problem) -> str:
    """What a question asks, however its rows are scrambled."""
    return json.dumps([problem.data["start"], problem.data["steps"]])


def is_test(problem: Problem) -> bool:
    return derive(0, "split", chain_of(problem)) % ONE_IN == 0


def problems(s: Settings, seed: int, name: str, count: int, *, test: bool = False) -> dict[str, Problem]:
    """id -> problem, all numbers of operations by turns, of the test's chains or of the others. name: of the stream."""
    stream, found, place = derive(seed, name), {}, 0
    while len(found) < count:
        problem = renamed(TASK.problem(stream, place // len(s.operations), s.operations[place % len(s.operations)]))
        place += 1
        if is_test(problem) == test:
            found[problem.id] = problem
    return found


def renamed(problem: Problem) -> Problem:
    """The chain with its variables named a, b, c ... in the order of their use; the rows of the prompt stay scrambled.

    With names at random a base of this size spends its training on finding them in the list, and reaches no tenth of right answers.
    """
    names = NAMES
    steps = [[names[k + 1], names[k], sign, operand] for k, (_, _, sign, operand) in enumerate(problem.data["steps"])]
    lines = [f"{names[k + 1]}{line[1:]}" for k, line in enumerate(problem.data["lines"])]
    rows = [f"a={problem.data['start'][1]}", *(f"{name}={before}{sign}{operand}" for name, before, sign, operand in steps)]
    order = numpy_rng(0, "order", problem.id).permutation(len(rows))
    data = {**problem.data, "start": ["a", problem.data["start"][1]], "steps": steps, "lines": lines}
    return replace(problem, prompt=f"{' '.join(rows[i] for i in order)} ; {names[len(steps)]}: ", data=data)


def check_disjoint(searched: dict[str, Problem], test: dict[str, Problem]) -> None:
    """Raises BadInput where a question that training searches is one of the test's."""
    shared = {chain_of(p) for p in searched.values()} & {chain_of(p) for p in test.values()}
    if shared:
        raise BadInput("questions", f"'{min(shared)}' of the test", "questions that the test does not hold")


def encoded(problem: Problem) -> np.ndarray:
    return TOKENIZER.encode(problem.prompt).astype(np.int64)


def asked(items: dict[str, Problem]) -> list[Question]:
    return [Question(name, encoded(problem)) for name, problem in items.items()]


def results(seed: int, value: int, sign: str, operand: int, s: Settings) -> list[int]:
    """What the base's teacher says an operation comes to: the result alone where he is sure, else one of `choices`, the right one among."""
    right = apply(value, sign, operand)
    rng = numpy_rng(seed, "teacher", value, sign, operand)
    if rng.random() >= s.unsure:
        return [right]
    return [right, *(int(d) for d in rng.permutation([d for d in range(10) if d != right])[: s.choices - 1])]


def taught_solution(problem: Problem, s: Settings, seed: int) -> str:
    """A solution as that teacher writes it: where he is unsure, any of his results, and then on with what he wrote."""
    rng, value, lines = numpy_rng(seed, "written", problem.id), problem.data["start"][1], []
    for name, _, sign, operand in problem.data["steps"]:
        said = results(seed, value, sign, operand, s)
        result = said[int(rng.integers(len(said)))]
        lines.append(f"{name}={value}{sign}{operand}={result}")
        value = result
    return with_working(lines, str(value))


def base_model(s: Settings, seed: int, progress: Callable[[float, float], None] | None = None) -> Base:
    """The policy that all arms begin with, taught by somebody who is unsure of some operations."""
    items = problems(s, seed, "demonstrations", s.demonstrations).values()
    return warm_start(
        [(p.prompt, taught_solution(p, s, seed)) for p in items], name="chains", config=model_config(s), tokenizer=TOKENIZER, end=END,
        steps=s.base_updates, batch_size=s.base_batch, lr=s.base_lr, seed=seed, progress=progress,
    )  # fmt: skip


def steps_of(model: nn.Module, s: Settings, seed: int, ledger: Ledger | None) -> Expander:
    generator = LocalGenerator(model, TOKENIZER, ledger=ledger)
    sampling = Sampling(temperature=s.temperature, max_tokens=s.max_step)
    return GeneratedSteps(generator, sampling, separator=LINE, ends=(END,), context=s.context, seed=seed, tokenizer=TOKENIZER)


def values_of(model: nn.Module, s: Settings, ledger: Ledger | None) -> StateValues:
    return StateValues(model, prompt_of, context=s.context, ledger=ledger)


def prompt_of(question: Question) -> np.ndarray:
    """What the value model sees of a question: its prompt, never its answer."""
    return np.asarray(question.prompt)


def answer_in(question: Question, path: Path) -> str | None:
    """What a path's last line answers, for votes."""
    last = path[-1].text.strip() if path else ""
    return last if last.startswith(">") else None


@dataclass(frozen=True, kw_only=True)
class FirstValue:
    """The value model that all searches begin with. ledger: what it cost, samples and training."""

    model: ValueModel
    ledger: Ledger


def first_value(base: Base, s: Settings, seed: int) -> FirstValue:
    """The base with as many fresh layers on top and a head, taught values inferred from trees; kept in the cache.

    A tree holds a question's written solution, and from each state on it a way on of the base's own, as the paper's first value model
    learns from written solutions with false steps put to them. Written solutions are right here, while the base's teacher was unsure.
    """
    made_of = {
        "base": base.key, "what": "rest-mcts value", "seed": seed, "questions": s.value_questions,
        "temperature": s.temperature, "updates": s.first_value_updates, "batch": s.value_batch, "lr": s.value_lr,
        "operations": list(s.operations), "max_step": s.max_step, "max_depth": s.max_depth,
    }  # fmt: skip
    _, state = kept(made_of, lambda: _teach(base, s, seed))
    model = ValueModel.from_policy(Transformer(model_config(replace(s, depth=2 * s.depth))))
    model.load_state_dict(state["model"])
    return FirstValue(model=model, ledger=Ledger.from_dict(state["ledger"]))


def value_problems(s: Settings, seed: int) -> dict[str, Problem]:
    """The questions whose written solutions the first value model is shown."""
    return problems(s, seed, "first value", s.value_questions)


def _teach(base: Base, s: Settings, seed: int) -> dict[str, Any]:
    ledger = Ledger()
    items = value_problems(s, seed)
    written = {name: written_path(problem) for name, problem in items.items()}
    samples = Samples(
        limit=Limit(rounds=max(s.operations) + 2), vote=answer_in, max_depth=s.max_depth,
        begin=lambda question, number: written[question.id][:number],
    )  # fmt: skip
    policy = frozen_copy(base.model)
    found = run_searches(samples, asked(items), steps_of(policy, s, derive(seed, "first value"), ledger), _none)
    rows = []
    for one in found:
        root, problem = merged(one.roots), items[one.question.id]
        labels = inferred(root, lambda node, problem=problem: TASK.verify(problem, trees.text_of(node)) == 1.0)
        rows += [(encoded(problem), way) for way in trees.value_rows(root, labels)]
    model = ValueModel.from_policy(grow_depth(base.model, 2 * s.depth, "zero", seed=derive(seed, "value model"))[0])
    if rows:
        source, name = StepSource(rows, context=s.context), derive(seed, "first value, training")
        result = Trainer(
            model, DataStream(source, min(s.value_batch, len(source)), name, drop_last=True), StepValues(),
            optimizer=AdamW(lr=s.value_lr, weight_decay=0.01), schedule=Cosine(warmup=0.05, final=0.1),
            budget=Budget(steps=s.first_value_updates), seed=name,
        ).run()  # fmt: skip
        ledger.merge(result.ledger)
        model = result.model
    return {"model": model.state_dict(), "ledger": ledger.as_dict()}


def written_path(problem: Problem) -> Path:
    """The written solution as steps, the last one with its end."""
    *lines, last = TASK.solution(problem).split("\n")
    tokens = [tuple(int(t) for t in TOKENIZER.encode(line + "\n")) for line in lines]
    steps = [Step(line + "\n", ids) for line, ids in zip(lines, tokens, strict=True)]
    return (*steps, Step(last, (*(int(t) for t in TOKENIZER.encode(last)), END), True))


def _none(requests: Sequence[Any]) -> list[list[float]]:
    raise AssertionError("a vote asks for no values")


@dataclass(frozen=True)
class Test:
    problems: dict[str, Problem]

    @classmethod
    def of(cls, s: Settings, seed: int) -> Test:
        return cls(problems(s, seed, "test", s.num_test, test=True))

    def answered(self, texts: Sequence[str]) -> dict[str, float]:
        """Of one solution for each problem: share right, share sound, and among the right ones the share with a wrong step."""
        right = [TASK.verify(p, text) == 1.0 for p, text in zip(self.problems.values(), texts, strict=True)]
        sound = [TASK.sound(p, text) for p, text in zip(self.problems.values(), texts, strict=True)]
        return {
            "solve rate": float(np.mean(right)), "sound": float(np.mean(sound)),
            "wrong-step answers": 1 - sum(sound) / sum(right) if any(right) else 0.0,
        }  # fmt: skip

    def greedy(self, model: nn.Module, s: Settings) -> dict[str, float]:
        """The model's greedy solutions; measuring is not charged."""
        return _named("greedy accuracy", self._told(model, s, 0.0, 0))

    def sampled(self, model: nn.Module, s: Settings, seed: int) -> dict[str, float]:
        return _named("accuracy", self._told(model, s, s.temperature, derive(seed, "test answers")))

    def _told(self, model: nn.Module, s: Settings, temperature: float, seed: int) -> dict[str, float]:
        sampling = Sampling(temperature=temperature, max_tokens=s.max_step * s.max_depth, stop_tokens=(END,))
        with torch.inference_mode():
            groups = LocalGenerator(model, TOKENIZER).complete([encoded(p) for p in self.problems.values()], sampling, seed=seed)
        return self.answered([group[0].text for group in groups])


def _named(name: str, told: dict[str, float]) -> dict[str, float]:
    return {name: told["solve rate"], f"{name}, sound": told["sound"]}
