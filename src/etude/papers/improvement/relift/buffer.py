"""The buffer of questions that every rollout failed, with demonstrations, as an interlude between rounds of rollouts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from etude.data.tokenizers import Tokenizer
from etude.engine.streams import numpy_rng
from etude.errors import BadInput, one_of
from etude.learn.interlude import Rows
from etude.learn.problems import ProblemPool
from etude.learn.round import Group
from etude.learn.rows import completion_row, filled

PICKS = ("failed", "random")


def all_failed(rewards: np.ndarray) -> bool:
    """Whether no rollout of a group was paid. rewards: [G], right x well-formed, so that a right answer in bad form is a fail."""
    return bool((rewards <= 0).all())


class HardestBuffer:
    """An `Interlude`: fills up with the questions of groups that failed whole, and is due at `size` of them, oldest first.

    demonstrations: by the problem's number in the pool. One that its verifier does not pay in full is never trained on (`full`),
    nor is a question without any; both are counted (`unverified`, `missing`). A demonstration is a label, charged once.
    size:   M, how many pairs an interlude takes; what is more stays for the next.
    pick:   "failed"; or "random", the control: for each failed group some question of the pool that has a demonstration.
    A question that failed again before its turn stands there twice, as in the authors' code.
    Raises BadInput for a size < 1, a demonstration of a problem that is not in the pool, or one that does not fit the context.
    """

    def __init__(
        self,
        pool: ProblemPool,
        demonstrations: Mapping[int, str],
        tokenizer: Tokenizer,
        *,
        size: int,
        context: int,
        end: int | None = None,
        pick: str = "failed",
        full: float = 1.0,
        seed: int = 0,
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise BadInput("HardestBuffer.size", repr(size), "a whole number >= 1")
        if pick not in PICKS:
            raise one_of("HardestBuffer.pick", pick, PICKS)
        for number in demonstrations:
            if not 0 <= number < len(pool):
                raise BadInput("HardestBuffer.demonstrations", f"problem {number}", f"numbers from 0 to {len(pool) - 1}")
        self.pool, self.demonstrations, self.tokenizer = pool, dict(demonstrations), tokenizer
        self.size, self.context, self.end, self.pick, self.full, self.seed = size, context, end, pick, full, seed
        self.numbers = sorted(self.demonstrations)
        self.kept: list[int] = []
        self.used: list[int] = []  # numbers in the order in which they were first trained on
        self.groups = self.failed = self.missing = self.unverified = self.trained = 0

    def watch(self, groups: Sequence[Group]) -> None:
        """What `RolloutStream(watch=...)` calls each round."""
        for group in groups:
            self.groups += 1
            if not all_failed(group.rewards):
                continue
            self.failed += 1
            number = group.rollouts[0].problem
            if self.pick == "random" and self.numbers:
                number = self.numbers[int(numpy_rng(self.seed, "instead", self.failed).integers(len(self.numbers)))]
            if number not in self.demonstrations:
                self.missing += 1
            elif not self.verified(number):
                self.unverified += 1
            else:
                self.kept.append(number)

    def verified(self, number: int) -> bool:
        environment = self.pool.environment(number)
        environment.reset(self.pool[number])
        return environment.step(self.demonstrations[number]).reward >= self.full

    def due(self) -> bool:
        return len(self.kept) >= self.size

    def take(self) -> Rows:
        taken, self.kept = self.kept[: self.size], self.kept[self.size :]
        rows = [
            completion_row(
                self.pool[number].prompt, self.demonstrations[number], context=self.context, tokenizer=self.tokenizer, end=self.end,
                where=f"demonstration of problem {self.pool[number].id}",
            )
            for number in taken
        ]  # fmt: skip
        new = [number for number in dict.fromkeys(taken) if number not in set(self.used)]
        self.used += new
        self.trained += len(taken)
        return Rows(filled(rows), np.array(taken, dtype=np.int64), labels=len(new))

    def identity(self) -> Any:
        told = hashlib.sha256(json.dumps(sorted(self.demonstrations.items())).encode()).hexdigest()[:16]
        return {"size": self.size, "pick": self.pick, "full": self.full, "seed": self.seed, "demonstrations": told}

    def state_dict(self) -> dict[str, Any]:
        counts = [self.groups, self.failed, self.missing, self.unverified, self.trained]
        return {"kept": list(self.kept), "used": list(self.used), "counts": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept, self.used = list(state["kept"]), list(state["used"])
        self.groups, self.failed, self.missing, self.unverified, self.trained = state["counts"]
