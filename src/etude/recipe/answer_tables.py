"""The tables of a recipe whose model answers: a task's problems, rounds of rollouts, what a verifier and the harness measure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from etude.errors import nearest
from etude.recipe.fields import Count, Ending, NotNegative, Positive, Table, Text, Whole

Levels = Annotated[tuple[Annotated[Whole, Field(ge=0)], ...], Field(min_length=1)]


class TaskData(Table):
    """Problems of a named task, etude's own or reasoning-gym's, for on-policy objectives. Models of etude's own kinds read bytes."""

    task: Text
    settings: dict[str, Any] | None = None  # of the task's own
    difficulties: Levels | None = None  # the first where not given
    problems: Count = 512  # of each difficulty, to train on; assumed
    held_out_problems: Count = 32  # of each difficulty, to measure on: of a stream of their own, none of them trained on; assumed
    chat: bool = False  # the prompt as a user's turn under the model's chat template
    context: Annotated[Whole, Field(ge=2)] = 512  # tokens of prompt and response; assumed
    batch: Count = 8  # rollouts an update


class RolloutsTable(Table):
    """How an on-policy objective's rounds are made: `samples` responses to each of `prompts` problems, then updates on them."""

    prompts: Count = 8
    samples: Count = 8
    epochs: Count = 1  # passes over a round's rollouts
    max_draws: Count | None = None  # dapo: how often a round may draw again for groups paid unalike; 4 where not given, assumed
    overlong: Count | None = None  # dapo's soft punishment over the last so many tokens of max_tokens
    max_tokens: Count = 128  # of a response; assumed
    temperature: Positive = 1.0
    stop: tuple[Ending, ...] = ()  # texts that end a response, beside the model's end token
    batch: Count = 256  # responses generated together


def measure(word: str) -> str:
    known = ("loss", "domains", "accuracy", "verifier")
    if word in known or word.startswith("lm_eval:"):
        return word
    near = nearest(word, known)
    raise ValueError(f"{', '.join(known)} or lm_eval:TASK" + (f"; did you mean '{near}'?" if near else ""))


class VerifierTable(Table):
    """Of `measures = ["verifier"]`: how many responses a verifier accepts. Prompts: a task's, a file's, or the held-out rows'."""

    use: Text | None = None  # "my_module:score" or "./my_verifier.py:score"; the objective's, or the task's own, where not given
    seconds: Positive | None = None  # most that one call of it may take; as in [objective] where not given
    rows: Text | None = None  # another file of prompts
    task: Text | None = None  # a named task
    settings: dict[str, Any] | None = None  # of the task's own
    difficulties: Levels | None = None
    problems: Count = 32  # of each difficulty of the task; assumed
    chat: bool = False  # the task's prompts as a user's turn under the model's chat template
    limit: Count = 64  # prompts of rows, spread evenly; assumed
    samples: Count = 1  # responses to each prompt
    temperature: NotNegative = 0.0
    max_tokens: Count | None = None  # as in [rollouts]; 128 where neither is given
    stop: tuple[Ending, ...] | None = None  # as in [rollouts] where not given
    failures: Literal["stop", "zero"] | None = None  # as in [objective] where not given


class HarnessTable(Table):
    """Of `measures = ["lm_eval:TASK"]`: EleutherAI's lm-evaluation-harness."""

    include: Text | None = None  # a folder of YAML tasks of one's own
    shots: Annotated[Whole, Field(ge=0)] | None = None  # as the task says where not given
    limit: Count | None = None  # documents of each task
    chat: bool = False  # under the model's chat template
