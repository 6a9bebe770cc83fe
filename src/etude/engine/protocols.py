"""The roles that etude's parts play for each other.

Whoever composes injects the implementation: nothing here imports a model, a data set or a method.
Shapes: B samples in a micro-batch, T positions.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from etude.engine.arguments import typed

if TYPE_CHECKING:
    from etude.engine.run import Run

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Stage:
    """A named part of a run (a task, an epoch, a phase). The stream names it; `index` counts from 0."""

    name: str
    index: int


@dataclass(slots=True)
class Batch:
    """One micro-batch.

    data:      named tensors, first dimension B. Language data uses `tokens` [B, T + 1] int64 (inputs are `[:, :-1]`, targets
               `[:, 1:]`), optionally `document_ids` [B, T + 1], `loss_mask` [B, T] and, where rows are filled up at their ends,
               `lengths` [B], their own tokens; several rows a sample (a pair of completions) are a second dimension, as in
               `tokens` [B, 2, T + 1]. Supervised data uses `x` and `y`.
    ids:       [B] int64, the samples' numbers in their source: logged, and given back to samplers with their losses.
    objective: which of the trainer's objectives; `optimizer`: which of its optimizers. The empty string is the only or first one.
    key:       set by the trainer from (seed, "forward", step): `streams.sample_uniforms(key, ids, ...)` gives an objective draws
               that belong to a sample, however the update is cut into micro-batches.
    """

    data: dict[str, Tensor]
    ids: np.ndarray
    objective: str = ""
    optimizer: str = ""
    key: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_tokens(self) -> int:
        """Trained tokens: predicted positions for language data (without filling where `lengths` are given), samples otherwise."""
        tokens, lengths = self.data.get("tokens"), self.data.get("lengths")
        if tokens is None:
            return len(self)
        rows = tokens.shape[:-1].numel()
        return rows * (tokens.shape[-1] - 1) if lengths is None else int(lengths.sum()) - rows

    def part(self, start: int, end: int) -> Batch:
        """The samples from `start` to before `end`, of every tensor the same rows."""
        return replace(self, data={name: tensor[start:end] for name, tensor in self.data.items()}, ids=self.ids[start:end])

    def to(self, device: torch.device) -> Batch:
        return self if device.type == "cpu" else replace(self, data={k: v.to(device, non_blocking=True) for k, v in self.data.items()})


@dataclass(slots=True)
class Output:
    """What an objective returns.

    loss:       scalar with gradient; the mean over `weight` items, so that micro-batches accumulate exactly.
    per_sample: [B] detached mean loss of each sample, or None where the objective has none.
    weight:     how many items (tokens, samples) the mean is over.
    signals:    named detached scalars for the log and for samplers.
    carried:    state handed to the objective with the next batch (recurrent memory); None if there is none.
    """

    loss: Tensor
    per_sample: Tensor | None
    weight: float
    signals: dict[str, Tensor] = field(default_factory=dict)
    carried: Any = None


class Objective(Protocol):
    """A loss. It calls the model itself, so that logits are computed only where the loss looks."""

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output: ...


@runtime_checkable
class Varying(Protocol):
    """An objective whose operations depend on more of a batch than its shapes: `work_of` says on what (the number of targets, say)."""

    def work_of(self, batch: Batch) -> Hashable: ...


@dataclass(slots=True)
class Feedback:
    """What the trainer tells a sampler at fixed steps.

    step: updates done. ids, losses: [n] of the samples just trained on (none in a report of evaluations). signals: the
    objective's. evaluations: "evaluator/name" -> value of the trainer's `steer` evaluators. values: more numbers of these
    samples by name, each [n] (a stream of rollouts gives "reward" and "advantage").
    """

    step: int
    ids: np.ndarray
    losses: np.ndarray
    signals: Mapping[str, float] = field(default_factory=dict)
    evaluations: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """A sampler's request at a stage's boundary: the present model's per-sample loss on `ids` (None: on the whole source).

    what: "loss", the only thing that the trainer scores today; another word is refused.
    """

    ids: np.ndarray | None = None
    what: str = "loss"


class Source(Protocol):
    """Samples by number. Never holds a cursor. `get` takes [B] int64 and returns named tensors with first dimension B."""

    def __len__(self) -> int: ...
    def get(self, ids: np.ndarray) -> dict[str, Tensor]: ...


@runtime_checkable
class Labelled(Protocol):
    """A source that knows each sample's domain: `domains` [N] int64 indices into `domain_names`."""

    domains: np.ndarray
    domain_names: Sequence[str]


@runtime_checkable
class Graded(Protocol):
    """A source that knows how difficult each sample is: `difficulty` [N] float64, higher is harder."""

    difficulty: np.ndarray


class Sampler(Protocol):
    """Decides which samples a stage shows, in which order. Owns the trainer's `sampler` slot.

    plan(stage, source, rng) -> [n] int64 ids for stage number `stage` (n > 0); `rng` is derived by name, so that a plan
    depends on (seed, stage) and on the state, not on what was drawn before. A score that it wants and that the budget has no room for
    is not received: it plans by what it knows. A sampler may have `report() -> {name: number}`, which is
    logged with the first update of each stage (the shares of a mixture, how far a curriculum has come).
    """

    def plan(self, stage: int, source: Source, rng: np.random.Generator) -> np.ndarray: ...
    def observe(self, feedback: Feedback) -> None: ...
    def wants(self, stage: int) -> Score | None: ...
    def receive(self, score: Score, values: np.ndarray) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Stream(Protocol):
    """Holds cursor and state of the data; the trainer alone draws from it.

    stage(): the stage of the next batch, without drawing; None when the data has ended.
    next():  the next micro-batch. Raises StopIteration when the data has ended.
    """

    def stage(self) -> Stage | None: ...
    def next(self) -> Batch: ...
    def set_sampler(self, sampler: Sampler) -> None: ...
    def sampler_wants(self) -> Score | None: ...
    def give_score(self, score: Score, values: np.ndarray) -> None: ...
    def observe(self, feedback: Feedback) -> None: ...
    def batches_of(self, ids: np.ndarray | None, batch_size: int) -> Any: ...  # iterator of Batch, for Score
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Bound(Protocol):
    """A stream that needs the run: its present model to sample from, its ledger to charge, its log.

    bind(run): called once, before the first batch and before a checkpoint is restored. The run's fields may be replaced later
               (`run.model`, `run.ledger`), so a stream keeps the run, never what it holds.
    """

    def bind(self, run: Run) -> None: ...


class Evaluator(Protocol):
    """Measures a model; called under `no_grad` with the model in evaluation mode. Returns named floats."""

    def __call__(self, model: nn.Module) -> Metrics: ...


@runtime_checkable
class Halved(Protocol):
    """An evaluator that can measure on half of its held-out samples.

    half(0), half(1): two that share no sample, always the same ones (`streams.halves`), each of as many samples as the whole one is
    limited to where there are enough. None where there are too few to cut.
    """

    def half(self, which: int) -> Evaluator | None: ...


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to draw tokens. temperature 0 is greedy. top_k 0 and top_p 1 cut nothing.

    max_tokens: of a completion, its stop token included. stop_tokens: ids that end it (kept as its last token).
    stop_strings: texts that end it (kept, up to the token that completes them).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_tokens: int = 64
    stop_tokens: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample. tokens: [n] int64, a stop token included. text: without it.

    logprobs: [n] of the temperature-scaled full softmax (temperature 0: of the softmax at 1); None where the generator has none.
    finish: "stop" (a stop token or string) or "length". kept: [n] how many tokens top-k or top-p left to choose from, or None
    where nothing was cut; kept_sets: their ids, one array a position, in ascending order.
    """

    tokens: np.ndarray
    text: str
    logprobs: np.ndarray | None
    finish: str
    kept: np.ndarray | None = None
    kept_sets: tuple[np.ndarray, ...] | None = None


class Generator(Protocol):
    """Completes prompts. Prompts are token ids [n], or text as a convenience.

    capabilities: of "tokens", "logprobs", "score", "kept": what a method may ask for; the others are refused by name.
    complete: `n` completions for each prompt. A sample's random numbers depend on (seed, its prompt's id, sample index) alone;
              `ids` are the prompts' ids, by default 0, 1, ....
    score:    per-token log-probabilities of given completions, each [n], at `temperature`.
    """

    capabilities: frozenset[str]

    def complete(
        self, prompts: Sequence[np.ndarray | str], sampling: Sampling, *, n: int = 1, seed: int = 0, ids: Sequence[int] | None = None
    ) -> list[list[Completion]]: ...
    def score(
        self, prompts: Sequence[np.ndarray | str], completions: Sequence[np.ndarray | str], *, temperature: float = 1.0
    ) -> list[np.ndarray]: ...


@dataclass(frozen=True, slots=True)
class Problem:
    """One item of a task. id: unique within (task, seed, difficulty). prompt: what the model reads. answer: one right answer.

    data: what the verifier needs, plain JSON. difficulty: the level asked for.
    """

    id: str
    prompt: str
    answer: str
    difficulty: int
    data: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """A seeded generator of problems and a verifier that formatting cannot fool.

    problem: item `index` of stream (`seed`, `difficulty`); the same arguments give the same problem, other ones another stream.
    verify:  the score of a response, 0 to 1, 1 only where it is right; never raises for any text.
    """

    name: str
    difficulties: Sequence[int]

    def problem(self, seed: int, index: int, difficulty: int) -> Problem: ...
    def verify(self, problem: Problem, response: str) -> float: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """What an environment says after a response. text: what the model reads next ("" at the end). reward: of this step."""

    text: str
    reward: float
    terminated: bool
    truncated: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


class Environment(Protocol):
    """A task of several turns, by Gymnasium's conventions: `reset(problem)` gives the first observation, `step(response)` a `Turn`."""

    def reset(self, problem: Problem) -> str: ...
    def step(self, response: str) -> Turn: ...


@dataclass(frozen=True)
class Mapped:
    """How one new tensor came about: `copy` of `source`, `interpolate`d or `learn`ed from several, `new`, or `drop`ped."""

    how: str  # one of HOW
    sources: tuple[str, ...] = ()


HOW = ("copy", "interpolate", "learn", "new", "drop")
Mapping_ = dict[str, Mapped]  # new parameter name -> origin (a dropped one under its old name)


class Method:
    """A training method: overrides any event and may change what passes. Only overridden hooks are called.

    slots:   the exclusive slots it owns (see `SLOTS`); two owners of one are refused by name before anything runs.
    phases:  event name -> phase; on one event, hooks run by phase and then by class name, never in list order.
    sharded: whether it may run on a model whose parameters are sharded.
    per_parameter_state: keeps something per parameter, and so must implement `replaced` to run beside a growing method.
    variable_flops: its hooks do work that differs from step to step, so that every step is counted anew.
    All state that outlives a step goes through `state_dict`: tensors, numbers, strings, lists and dicts of them.
    A constructor's arguments are held against its signature and hints before it runs (`arguments.typed`): it checks ranges alone.
    """

    slots: tuple[str, ...] = ()
    phases: Mapping[str, int] = {}
    sharded: bool = True
    per_parameter_state: bool = False
    variable_flops: bool = False

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__init__" in vars(cls):
            cls.__init__ = typed(inside=True)(cls.__init__)  # type: ignore[method-assign]

    @property
    def name(self) -> str:
        return type(self).__name__

    # per run
    def start(self, run: Run) -> None: ...
    def stop(self, run: Run) -> None: ...
    # per stage
    def stage_start(self, run: Run, stage: Stage) -> None: ...
    def stage_end(self, run: Run, stage: Stage) -> None: ...
    # per micro-batch; what is returned replaces what passed, None leaves it
    def batch(self, run: Run, batch: Batch) -> Batch | None: ...
    def forward(self, run: Run, model: nn.Module, batch: Batch) -> nn.Module | None: ...
    def loss(self, run: Run, batch: Batch, output: Output) -> Output | None: ...
    def backward(self, run: Run, batch: Batch, output: Output) -> None: ...
    # per update
    def gradients(self, run: Run) -> None: ...
    def clipped(self, run: Run) -> None: ...
    def update(self, run: Run, optimizer: torch.optim.Optimizer) -> bool | None: ...  # True: the step was taken here
    def updated(self, run: Run) -> None: ...
    # at intervals, under no_grad
    def evaluate(self, run: Run, metrics: Metrics) -> Metrics | None: ...
    # surgery
    def replaced(self, run: Run, mapping: Mapping_) -> None: ...
    def rebuild(self, run: Run, model: nn.Module, note: dict[str, Any]) -> nn.Module:
        """On resume: the architecture that `run.replace(..., note=note)` had made of `model` (values are loaded afterwards)."""
        raise NotImplementedError(f"{self.name} replaces the model and must implement rebuild")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@runtime_checkable
class Reading(Protocol):
    """A method that looks at text. tokenizer: of the run's tokens, None where nobody has given it; a recipe gives its own."""

    tokenizer: Any


FIRST, CHANGE, NOISE, OBSERVE = 0, 10, 20, 30
"""Phases of one event: prepare, change what passes, add noise to it, look at it. The default is CHANGE."""

SLOTS: dict[str, str] = {
    "sampler": "which samples, in which order",
    "objective": "the loss",
    "schedule": "the learning rate over the run",
    "optimizer_step": "how the optimizer takes its step",
    "surgery": "replacing the model during the run",
    "model": "the architecture",
}
"""The exclusive slots: one owner each. Everything else composes."""
