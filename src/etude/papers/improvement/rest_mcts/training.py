"""The loop of ReST-MCTS*: search trees, judge their ends, infer values, train policy and value model, search again.

`SelfTraining` are steps for `run_loop`. With another search (`Samples`) and no value model to train the same steps are ReST-EM; with
`learning.preference` they train by DPO. What a round spends is kept beside its candidates, so that a resumed loop has the same ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from etude.data.jsonl import Row
from etude.data.stream import DataStream
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.protocols import Source
from etude.engine.schedule import Linear
from etude.engine.streams import derive
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.generate.search import Limit, Question, merged, run_searches
from etude.generate.search.asking import Evaluator, Expander, Search
from etude.learn.finetune import Finetune
from etude.learn.logprobs import frozen_copy
from etude.learn.pairs import PairSource
from etude.learn.preference import DPO, Preference
from etude.learn.rows import CompletionSource
from etude.learn.values import StepSource, StepValues
from etude.loop.loop import Batch
from etude.loop.rounds import Report, State
from etude.papers.improvement.rest_mcts import trees
from etude.papers.improvement.rest_mcts.rewards import inferred


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How a round is learned from. preference: by DPO on right and wrong ends, instead of SFT on right traces.

    at_least: the value filter of traces; most_traces: of a question, and pairs likewise. updates, lr: of the policy, in batches of
    `batch` rows (half as many pairs). value_updates: of the value model, 0 for none; value_batch: rows, one a way through a tree.
    """

    context: int
    at_least: float = 0.2  # filter_policy_examples_by_value.py, authors' code
    most_traces: int = 4
    updates: int = 100
    batch: int = 64
    lr: float = 1e-3
    value_updates: int = 100
    value_batch: int = 64
    value_lr: float = 1e-3
    weight_decay: float = 0.01
    preference: bool = False
    beta: float = 0.1  # of DPO; self_train_dpo.py, authors' code

    def __post_init__(self) -> None:
        if min(self.most_traces, self.updates, self.batch, self.value_batch) < 1 or self.value_updates < 0:
            raise BadInput("Learning", "a count below 1 (value_updates: below 0)", "whole numbers above")


@dataclass(kw_only=True)
class SelfTraining:
    """Steps of `run_loop`, whose state is `begin(policy, value)`.

    policy, value: modules that a round's weights are put into. questions(number): those of a round, as (id, token ids of the prompt).
    right(id, text): whether a finished solution has the known answer; asked about ended states alone. search, limit: of each question.
    expand(policy, number, ledger), evaluate(value, ledger): of `run_searches`. measure(policy): reported after each round.
    audit(id, text): what is measured of kept traces and never learned from. written: (prompt, solution) rows that every round's
    policy learns beside its traces, for a baseline that is told what a value model was taught; not with preferences.
    """

    policy: nn.Module
    value: nn.Module
    questions: Callable[[int], Sequence[tuple[str, np.ndarray]]]
    right: Callable[[str, str], bool]
    search: Search
    limit: Limit
    expand: Callable[[nn.Module, int, Ledger], Expander]
    evaluate: Callable[[nn.Module, Ledger], Evaluator]
    learning: Learning
    seed: int
    size: int = 256  # questions searched together
    measure: Callable[[nn.Module], Mapping[str, float]] | None = None
    audit: Callable[[str, str], bool] | None = None
    written: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    progress: Callable[[float, float | None], None] = lambda share, loss: None

    independent = False

    @staticmethod
    def begin(policy: nn.Module, value: nn.Module) -> State:
        return {"policy": _copied(policy), "value": _copied(value), "ledger": {}}

    def plan(self, number: int, state: State) -> Sequence[Batch]:
        rows = [{"id": name, "prompt": [int(t) for t in prompt]} for name, prompt in self.questions(number)]
        return [rows[at : at + self.size] for at in range(0, len(rows), self.size)]

    def propose(self, number: int, state: State, wanted: Batch) -> Iterable[Row]:
        self._load(state)
        ledger = Ledger()
        asked = [Question(row["id"], np.array(row["prompt"], dtype=np.int64)) for row in wanted]
        found = run_searches(self.search, asked, self.expand(self.policy, number, ledger), self.evaluate(self.value, ledger))
        ledger.charge("search", cost=sum(self.limit.of(f.spent) for f in found), calls=sum(f.spent.calls for f in found))
        for place, (row, one) in enumerate(zip(wanted, found, strict=True)):
            spent = {} if place else ledger.as_dict()  # a batch's, beside its first answer
            yield {
                "id": f"{row['id']}/tree", "request": row["id"], "prompt": row["prompt"], "reason": one.reason, "rounds": one.rounds,
                "spent": spent, "tree": trees.rows_of(merged(one.roots)),
            }  # fmt: skip

    def judge(self, number: int, state: State, candidates: Sequence[Row]) -> Iterable[Row]:
        for row in candidates:
            _, nodes = trees.tree_of(row["tree"])
            ended = [place for place, node in enumerate(nodes) if node.ended]
            right = [place for place in ended if self.right(row["request"], trees.text_of(nodes[place]))]
            yield {"id": row["id"], "ended": len(ended), "right": right}

    def select(self, number: int, state: State, judged: Sequence[Row]) -> Sequence[Row]:
        data: list[Row] = []
        for row in judged:
            root, nodes = trees.tree_of(row["tree"])
            right = {nodes[place] for place in row["judgement"]["right"]}
            labels = inferred(root, right.__contains__)
            kept = trees.traces(root, right, at_least=self.learning.at_least, most=self.learning.most_traces)
            data.append({
                "question": row["request"], "prompt": row["prompt"], "spent": row["spent"], "solved": bool(right),
                "traces": [trees.tokens_of(node) for node in kept], "texts": [trees.text_of(node) for node in kept],
                "pairs": trees.preferences(root, right, most=self.learning.most_traces) if self.learning.preference else [],
                "values": trees.value_rows(root, labels) if self.learning.value_updates else [],
            })  # fmt: skip
        return data

    def learn(self, number: int, state: State, data: Sequence[Row], folder: Path) -> tuple[State, Report]:
        self._load(state)
        ledger = Ledger.from_dict(state["ledger"])
        for row in data:
            ledger.merge(Ledger.from_dict(row["spent"]))
        say, how = self.learning, f"round {number}"
        traces = [(np.array(row["prompt"]), np.array(trace)) for row in data for trace in row["traces"]]
        pairs = [(np.array(row["prompt"]), *map(np.array, pair)) for row in data for pair in row["pairs"]]
        values = [(np.array(row["prompt"]), way) for row in data for way in row["values"]]
        if pairs if say.preference else traces or self.written:
            if say.preference:
                source: Source = PairSource(pairs, context=say.context)
                objective: Any = Preference(DPO(beta=say.beta), frozen_copy(self.policy))
            else:
                source, objective = CompletionSource([*traces, *self.written], context=say.context), Finetune()
            rows = say.batch // 2 if say.preference else say.batch
            ledger.merge(self._train(self.policy, source, objective, rows, say.lr, say.updates, f"{how}, policy"))
        if values and say.value_updates:
            source = StepSource(values, context=say.context)
            spent = self._train(self.value, source, StepValues(), say.value_batch, say.value_lr, say.value_updates, f"{how}, value")
            ledger.merge(spent, category="value")
        report = {
            "traces": float(len(traces)), "pairs": float(len(pairs)), "ways": float(len(values)),
            "questions solved": float(np.mean([row["solved"] for row in data])),
        }  # fmt: skip
        if self.audit is not None:
            sound = [self.audit(row["question"], text) for row in data for text in row["texts"]]
            report["wrong-step traces"] = 1 - float(np.mean(sound)) if sound else 0.0
        report |= {name: float(value) for name, value in (self.measure(self.policy) if self.measure else {}).items()}
        return self.begin(self.policy, self.value) | {"ledger": ledger.as_dict()}, report

    def samples(self, number: int, judged: Sequence[Row]) -> Sequence[Row]:
        """Three trees, cut to their ended states."""
        shown = []
        for row in judged[:3]:
            _, nodes = trees.tree_of(row["tree"])
            ends = [{"text": trees.text_of(n), "right": i in row["judgement"]["right"]} for i, n in enumerate(nodes) if n.ended]
            shown.append({"id": row["id"], "ends": ends[:4]})
        return shown

    def _load(self, state: State) -> None:
        self.policy.load_state_dict(state["policy"])
        self.value.load_state_dict(state["value"])

    def _train(self, model: nn.Module, source: Source, objective: Any, rows: int, lr: float, updates: int, name: str) -> Ledger:
        """Trains in place; what it cost."""
        seed = derive(self.seed, name)
        model.requires_grad_(True).train()
        result = Trainer(
            model, DataStream(source, min(rows, len(source)), seed, drop_last=True), objective,
            optimizer=AdamW(lr=lr, weight_decay=self.learning.weight_decay), schedule=Linear(warmup=0.05), budget=Budget(steps=updates),
            seed=seed, progress=self.progress,
        ).run()  # fmt: skip
        if result.model is not model:
            model.load_state_dict(result.model.state_dict())
        model.eval()
        return result.ledger


def _copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def identity(**parts: Any) -> str:
    """What `run_loop` knows a folder by: settings and seed as text."""
    return json.dumps(parts, sort_keys=True, default=str)
