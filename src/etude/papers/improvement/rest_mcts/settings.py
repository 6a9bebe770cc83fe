"""Sizes and hyper-parameters of the study, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The defaults are those of the cpu scale."""

    # the base
    operations: tuple[int, ...] = (3, 4)  # of a chain
    demonstrations: int = 12_000
    unsure: float = 0.4  # share of all operations (value, sign, operand) that the base's teacher is unsure of
    choices: int = 4  # results that he gives for such an operation, each as often
    vocab: int = 415
    width: int = 64
    depth: int = 2  # of the policy; the value model has twice as many layers
    heads: int = 2
    kv_heads: int | None = None
    hidden: int | None = None
    tied: bool = True
    context: int = 64  # tokens
    base_updates: int = 2_000
    base_batch: int = 16
    base_lr: float = 4e-3
    # the first value model
    value_questions: int = 2_000  # with written solutions
    first_value_updates: int = 1_600
    # search
    branches: int = 3
    exploration: float = 0.7  # c
    unvisited: float = 1.0  # what a child never visited gets on top of its value
    rollout_steps: int = 3
    mix: float = 0.5  # a
    end_at: float = 0.9
    temperature: float = 0.7
    max_step: int = 8  # tokens of a step
    max_depth: int = 8  # steps of a path
    beam_width: int = 2
    per_call: float = 4.0  # generated tokens that one value costs as much as: those of a step
    limits: tuple[float, ...] = (100.0, 200.0, 400.0, 800.0)  # of a test question, tokens and value calls
    # self-training
    rounds: int = 2
    questions: int = 300  # of a round
    training_limit: float = 900.0  # of a question
    at_least: float = 0.2  # value filter of traces
    most_traces: int = 4  # of a question
    updates: int = 100  # of the policy, a round
    batch: int = 48
    lr: float = 1e-3
    dpo_lr: float = 1e-4
    beta: float = 0.1
    value_updates: int = 100  # a round
    value_batch: int = 48
    value_lr: float = 2e-3
    # measuring
    num_test: int = 300

    def __post_init__(self) -> None:
        if not self.operations or min(self.rounds, self.questions, self.num_test, self.value_questions) < 1:
            raise BadInput("settings", "no operations, or a count below 1", "at least one of each")
        if list(self.limits) != sorted(set(self.limits)) or not self.limits or self.limits[0] <= 0:
            raise BadInput("settings.limits", repr(self.limits), "costs above 0 in rising order")
