"""How ReST-MCTS* does an arena's work."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from etude.data.jsonl import Row
from etude.data.stream import DataStream
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.protocols import Completion, Sampling, Source
from etude.engine.schedule import Cosine, Linear, Schedule
from etude.engine.streams import derive, numpy_rng
from etude.engine.trainer import Trainer
from etude.generate.search import GeneratedSteps, Limit, Question, Samples, Step, merged, run_searches
from etude.generate.search.asking import Expander
from etude.generate.search.asking import Path as Steps
from etude.learn.logprobs import frozen_copy
from etude.learn.state_values import StateValues
from etude.learn.values import StepSource, StepValues, ValueModel
from etude.loop.loop import run_loop
from etude.loop.rounds import Report, State
from etude.nn.surgery import grow_depth
from etude.papers.entering import Improved, Work
from etude.papers.improvement.rest_mcts import trees
from etude.papers.improvement.rest_mcts.arms import training_search
from etude.papers.improvement.rest_mcts.rewards import inferred
from etude.papers.improvement.rest_mcts.settings import Settings
from etude.papers.improvement.rest_mcts.training import Learning, SelfTraining, identity

FACTOR = 1 / 3
"""Of the study's learning rates: the best of 1/3, 1 and 3 here, on seed 100; 1 where another is no better by 0.005."""
FIRST = 0.25
"""Share of the FLOPs for the first value model: assumed. The study charges it to the base, with 2.7 times what all rounds cost."""
FIRST_FLOPS = 3.42e12
"""Of the study's first value model (its record)."""
SEARCH, POLICY = 0.49, 0.18 / 0.51
"""Of a round's FLOPs the share for searches, and of what is left that for the policy, as in the study's record."""
STEPS = 4
"""An answer of one line is cut into so many steps at most, about as many as the study's chains have lines."""
ROUNDS_FLOPS = 1.26e12
"""Of the study's rounds (its record)."""
PROBE, PROBE_LIMIT = 8, 100.0
"""Problems whose short searches tell what a unit of their limit costs in FLOPs."""


class Pieces(GeneratedSteps):
    """Steps that end at a line's end or after so many tokens, and then go on."""

    def _step(self, before: int, completion: Completion) -> Step:
        step = super()._step(before, completion)
        going_on = completion.finish == "length" and step.tokens[-1] not in self.ends and before + len(step.tokens) <= self.context
        return Step(step.text, step.tokens, step.ended and not going_on, step.num_tokens)


@dataclass(kw_only=True)
class Budgeted(SelfTraining):
    """The same rounds with a limit in FLOPs on each. until: all that may have been spent by the end of a round."""

    until: Sequence[float]
    left: float = field(default=0.0, init=False)
    last: bool = field(default=False, init=False)

    def select(self, number: int, state: State, judged: Sequence[Row]) -> Sequence[Row]:
        """Where the value model likes fewer of a round's right traces than an update takes, it is no guide yet: then all are taken."""
        data = super().select(number, state, judged)
        if sum(len(row["traces"]) for row in data) >= self.learning.batch:
            return data
        strict, self.learning = self.learning, replace(self.learning, at_least=-math.inf)
        data = super().select(number, state, judged)
        self.learning = strict
        return data

    def learn(self, number: int, state: State, data: Sequence[Row], folder: Path) -> tuple[State, Report]:
        spent = Ledger.from_dict(state["ledger"])
        for row in data:
            spent.merge(Ledger.from_dict(row["spent"]))
        self.left, self.last = self.until[number - 1] - spent.total("flops"), number == len(self.until)
        return super().learn(number, state, data, folder)

    def _train(self, model: nn.Module, source: Source, objective: Any, rows: int, lr: float, updates: int, name: str) -> Ledger:
        """As there, until the part's share is spent. After the last round a value model would serve nobody."""
        value = model is self.value
        if self.left <= 0 or (value and self.last):
            return Ledger()
        share = 1.0 if value or self.last else POLICY
        how = {"rows": rows, "lr": lr, "decay": self.learning.weight_decay, "flops": share * self.left, "schedule": Linear(warmup=0.05)}
        spent = fitted(model, source, objective, seed=derive(self.seed, name), progress=self.progress, **how)
        self.left -= spent.total("flops")
        return spent


def fitted(
    model: nn.Module, source: Source, objective: Any, *, rows: int, lr: float, decay: float, flops: float, seed: int, schedule: Schedule,
    progress: Any,
) -> Ledger:  # fmt: skip
    """Trains in place; what it cost."""
    model.requires_grad_(True).train()
    result = Trainer(
        model, DataStream(source, min(rows, len(source)), seed, drop_last=True), objective, optimizer=AdamW(lr=lr, weight_decay=decay),
        schedule=schedule, budget=Budget(flops=flops), seed=seed, progress=progress,
    ).run()  # fmt: skip
    model.eval()
    return result.ledger


def improvement(work: Work) -> Improved:
    """Trees under a value model, right traces that it likes for the policy, inferred step rewards for the value model; two rounds.

    The study's settings of search and learning; a step is a line, and at most a quarter of the longest answer. The first value model is
    taught on demonstrations and the base's own ways on from them. The FLOPs are shared out as in the study: problems of a round as many as
    there, scaled by the FLOPs, each searched as long as the share of searches allows; what they leave of a round goes to training. The
    value model is not trained after the last round.
    """
    s, first = Settings(), Ledger()
    size = max(1, -(-work.max_tokens // STEPS))
    if all("\n" not in answer for answer in work.demonstrations.values()):
        s = replace(s, max_depth=STEPS)
    value = first_value(work, s, size, first)
    order = [str(number) for number in numpy_rng(work.seed, "questions").permutation(len(work.pool))]
    each = min(len(order), max(PROBE, round(s.questions * work.flops / ROUNDS_FLOPS)))
    unit = unit_cost(work, s, size, value, order[:PROBE], first)
    left = work.left(first)
    limit = limit_of(s, max(1.0, SEARCH * left / s.rounds / each / unit))
    steps = Budgeted(
        policy=work.trainable(), value=value, search=training_search(s, limit), limit=limit, seed=work.seed,
        learning=Learning(
            context=work.context, at_least=s.at_least, most_traces=s.most_traces, updates=1, batch=s.batch, lr=FACTOR * s.lr,
            value_updates=1, value_batch=s.value_batch, value_lr=FACTOR * s.value_lr,
        ),
        questions=lambda number: [(name, prompt_of(work, name)) for name in some(order, (number - 1) * each, each)],
        right=lambda name, text: work.right(int(name), text),
        expand=lambda model, number, ledger: steps_of(work, s, size, model, work.seed_of("search", number), ledger),
        evaluate=lambda model, ledger: values_of(work, model, ledger),
        until=[left * (number + 1) / s.rounds for number in range(s.rounds)],
        progress=lambda share, loss: None,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as elsewhere:
        place = work.part("loop").folder
        named = identity(settings=asdict(s), seed=work.seed, flops=work.flops)
        state, reports = run_loop(
            steps, steps.begin(steps.policy, steps.value), s.rounds, Path(elsewhere) if place is None else place, identity=named,
            progress=lambda event: work.progress((event.number - 1 + (event.phase == "done")) / event.num_rounds, None),
        )  # fmt: skip
    model = work.trainable()
    model.load_state_dict(state["policy"])
    ledger = Ledger.from_dict(state["ledger"])
    ledger.merge(first)
    told = {"questions solved": reports[-1]["questions solved"], "traces": reports[-1]["traces"], "limit": limit.cost}
    return Improved(model=model.eval(), ledger=ledger, told=told)


def some(order: Sequence[str], start: int, count: int) -> list[str]:
    """`count` in turn from `start`, none twice, beginning again at the end."""
    return [order[(start + i) % len(order)] for i in range(min(count, len(order)))]


def limit_of(s: Settings, cost: float) -> Limit:
    return Limit(cost=cost, per_token=1.0, per_call=s.per_call)


def unit_cost(work: Work, s: Settings, size: int, value: ValueModel, names: Sequence[str], ledger: Ledger) -> float:
    """FLOPs of a unit of a search's limit, by short searches of a few problems; charged as "prepare"."""
    spent, limit = Ledger(), limit_of(s, PROBE_LIMIT)
    expand = steps_of(work, s, size, work.frozen(), work.seed_of("probe"), spent)
    asked = [Question(name, prompt_of(work, name)) for name in names]
    found = run_searches(training_search(s, limit), asked, expand, values_of(work, value, spent))
    ledger.merge(spent, category="prepare")
    return spent.total("flops") / sum(limit.of(one.spent) for one in found)


def prompt_of(work: Work, name: str) -> np.ndarray:
    return work.encode(work.pool[int(name)].prompt)


def steps_of(work: Work, s: Settings, size: int, model: nn.Module, seed: int, ledger: Ledger) -> Expander:
    sampling = Sampling(temperature=s.temperature, max_tokens=size)
    generator = work.generator(model, ledger)
    return Pieces(generator, sampling, separator=work.line, ends=(work.end,), context=room(work), seed=seed, tokenizer=work.tokenizer)


def room(work: Work) -> int:
    """Tokens of a state: with the one that fills the context it is still no longer than that."""
    return work.context - 1


def values_of(work: Work, model: nn.Module, ledger: Ledger) -> StateValues:
    return StateValues(model, lambda question: np.asarray(question.prompt), context=work.context, ledger=ledger)


def written_path(work: Work, answer: str, size: int) -> Steps:
    """A demonstration as steps, the last one with its end."""
    steps: list[Step] = []
    tokens = [*(int(t) for t in work.encode(answer)), work.end]
    piece: list[int] = []
    for token in tokens:
        piece.append(token)
        if token in (work.line, work.end) or len(piece) == size:
            text = work.tokenizer.decode(np.array([t for t in piece if t != work.end]))
            steps.append(Step(text, tuple(piece), token == work.end))
            piece = []
    return tuple(steps)


def first_value(work: Work, s: Settings, size: int, ledger: Ledger) -> ValueModel:
    """The base with as many fresh layers on top and a head, taught values inferred from trees of demonstrations; charged as "prepare"."""
    spent = Ledger()
    count = max(PROBE, round(s.value_questions * FIRST * work.flops / FIRST_FLOPS))
    numbers = numpy_rng(work.seed, "first value").permutation(list(work.demonstrations))[:count].tolist()
    written = {str(number): written_path(work, work.demonstrations[number], size) for number in numbers}
    samples = Samples(
        limit=Limit(rounds=1 + max(map(len, written.values()))), vote=lambda question, path: None, max_depth=s.max_depth,
        begin=lambda question, number: written[question.id][:number],
    )  # fmt: skip
    expand = steps_of(work, s, size, work.frozen(), work.seed_of("first value"), spent)
    found = run_searches(samples, [Question(name, prompt_of(work, name)) for name in written], expand, nothing)
    rows = []
    for one in found:
        root, number = merged(one.roots), int(one.question.id)
        labels = inferred(root, lambda node, number=number: work.right(number, trees.text_of(node)))
        rows += [(np.asarray(one.question.prompt), way) for way in trees.value_rows(root, labels)]
    deep = grow_depth(work.base, 2 * len(work.base.blocks), "zero", seed=work.seed_of("value model"))[0]
    model = ValueModel.from_policy(deep)
    source = StepSource(rows, context=work.context)
    flops = FIRST * work.flops - spent.total("flops")
    how = {"rows": s.value_batch, "lr": FACTOR * s.value_lr, "decay": 0.01, "flops": flops, "schedule": Cosine(warmup=0.05, final=0.1)}
    spent.merge(fitted(model, source, StepValues(), seed=work.seed_of("first value, training"), progress=work.progress, **how))
    ledger.merge(spent, category="prepare")
    return frozen_copy(model)


def nothing(requests: Sequence[Any]) -> list[list[float]]:
    raise AssertionError("a vote asks for no values")
