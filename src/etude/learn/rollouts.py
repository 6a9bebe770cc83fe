"""Rollouts: a generator's responses to problems, turn by turn, with the reward of each.

A rollout's row is the prompt, the model's tokens, what the environment said, the model's tokens, and so on. The mask marks
exactly the tokens that the model itself produced; their log-probabilities are those it sampled them with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from etude.data.tasks.judging import Failure, VerifierFailed, check_failures, reward_of
from etude.data.tokenizers import Tokenizer
from etude.engine.protocols import Environment, Generator, Problem, Sampling
from etude.engine.streams import derive
from etude.errors import BadInput
from etude.learn.problems import ProblemPool
from etude.learn.rows import Row

Shaping = Callable[[int, str, float], float]  # (tokens of all responses, how the last finished, the reward so far) -> added to it


@dataclass(slots=True)
class Rollout:
    """One episode.

    prompt_id: of its group, unique within a round. sample: number within the group. problem: number in the pool. prompt: as read.
    tokens, mask, logprobs, rewards grow with each turn: mask and logprobs at the model's own tokens, rewards [n] at the last
    token of each response. reward: their sum. finish: "stop", "length" (of the response) or "context" (no room for a turn).
    starts: where in `tokens` each response begins. window: of the collector that made it.
    """

    prompt_id: int
    sample: int
    problem: int
    prompt: str
    tokens: list[int]
    mask: list[bool]
    logprobs: list[float]
    rewards: list[float]
    texts: list[str] = field(default_factory=list)  # responses and what the environment said, by turns
    reward: float = 0.0
    finish: str = ""
    error: str = ""
    num_generated: int = 0
    starts: list[int] = field(default_factory=list)
    window: int | None = None

    @property
    def row(self) -> Row:
        """The whole episode. Under a window that is more than the model had read before its later responses."""
        return Row(np.array(self.tokens), np.array(self.mask[1:]))

    def read(self, turn: int) -> list[int]:
        """The tokens that response number `turn` (from 0; the next one too) is given after: all before it, or, under a window of w
        interactions, the prompt and then the last w - 1 responses, each with what the environment said to it."""
        end = self.starts[turn] if turn < len(self.starts) else len(self.tokens)
        if self.window is None or turn < self.window:
            return self.tokens[:end]
        # A window of one has nothing but the prompt: not even what was said last.
        begin = self.starts[turn - self.window + 1] if self.window > 1 else end
        return self.tokens[: self.starts[0]] + self.tokens[begin:end]


@dataclass(slots=True)
class Spent:
    """What collecting cost. seconds_generating: inside the generator; seconds_judging: inside environments."""

    samples: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    environment_steps: int = 0
    seconds_generating: float = 0.0
    seconds_judging: float = 0.0


class Collector:
    """Makes rollouts with any generator.

    context:   of the model, in tokens. max_turns: after so many responses an episode ends where it stands.
    window:    how many interactions the model reads of, the present one among them (`Rollout.read`); None: all. Rollouts under a
               window that has slid are no rows to train on as they are: use what was read.
    shaping:   in order, added to the reward of the last response (`Unfinished`, `Overlong`).
    failures:  what a verifier that raises or gives no finite number does: "stop" (VerifierFailed) or "zero" (reward 0, and on).
    Raises BadInput for a generator without log-probabilities, a prompt without tokens or longer than the context with room
    for a response, or an empty response, naming the problem.
    """

    def __init__(
        self,
        pool: ProblemPool,
        tokenizer: Tokenizer,
        sampling: Sampling,
        *,
        context: int,
        max_turns: int = 1,
        window: int | None = None,
        shaping: Sequence[Shaping] = (),
        failures: str = "stop",
    ) -> None:
        check_failures(failures)
        if not sampling.temperature > 0:
            raise BadInput("sampling.temperature", repr(sampling.temperature), "a number > 0: greedy responses do not differ")
        if max_turns < 1:
            raise BadInput("max_turns", repr(max_turns), "a whole number >= 1")
        if window is not None and window < 1:
            raise BadInput("window", repr(window), "a whole number >= 1, or none")
        self.pool, self.tokenizer, self.sampling, self.context = pool, tokenizer, sampling, context
        self.max_turns, self.window, self.shaping, self.failures = max_turns, window, tuple(shaping), failures

    def collect(
        self, generator: Generator, problems: np.ndarray, samples: int, *, seed: int, prompt_ids: Sequence[int]
    ) -> tuple[list[Rollout], Spent]:
        """`samples` rollouts of each problem, in order, groups together. prompt_ids: one for each of `problems`, all different."""
        if "logprobs" not in generator.capabilities:
            raise BadInput("generator", "one without log-probabilities", "one whose capabilities include logprobs")
        spent = Spent()
        rollouts, environments = self._begin(problems, samples, prompt_ids, spent)
        active = list(range(len(rollouts)))
        for turn in range(self.max_turns):
            started = time.perf_counter()
            responses = self._complete(generator, [rollouts[i] for i in active], samples, turn, seed)
            spent.seconds_generating += time.perf_counter() - started
            # A group's prompt is read once; later turns are prompts of their own.
            spent.prompt_tokens += sum(len(rollouts[i].read(turn)) for i in (active if turn else active[::samples]))
            started = time.perf_counter()
            going_on = []
            for i, response in zip(active, responses, strict=True):
                self._said(rollouts[i], response)
                spent.generated_tokens += len(response.tokens)
                if self._step(rollouts[i], environments[i], last=turn + 1 == self.max_turns):
                    going_on.append(i)
            spent.environment_steps += len(active)
            spent.seconds_judging += time.perf_counter() - started
            active = going_on
            if not active:
                break
        for rollout in rollouts:
            for shape in self.shaping:
                added = shape(rollout.num_generated, rollout.finish, rollout.reward)
                rollout.rewards[-1] += added
                rollout.reward += added
        spent.samples = len(rollouts)
        return rollouts, spent

    def problem_of(self, rollout: Rollout) -> Problem:
        return self.pool[rollout.problem]

    def _begin(
        self, problems: np.ndarray, samples: int, prompt_ids: Sequence[int], spent: Spent
    ) -> tuple[list[Rollout], list[Environment]]:
        rollouts, environments = [], []
        for prompt_id, number in zip(prompt_ids, problems, strict=True):
            for sample in range(samples):
                environment = self.pool.environment(int(number))
                prompt = environment.reset(self.pool[int(number)])
                tokens = self.tokenizer.encode(prompt).tolist()
                if not tokens or len(tokens) + self.sampling.max_tokens > self.context + 1:
                    # One token more than the context: the last one is only a target.
                    expected = f"1 to {self.context + 1 - self.sampling.max_tokens}: responses of {self.sampling.max_tokens} must fit"
                    raise BadInput(f"problem {self.pool[int(number)].id}: prompt", f"{len(tokens)} tokens", expected)
                blank = len(tokens)
                none = [0.0] * blank
                rollout = Rollout(int(prompt_id), sample, int(number), prompt, tokens, [False] * blank, none, [*none], window=self.window)
                rollouts.append(rollout)
                environments.append(environment)
        return rollouts, environments

    def _complete(self, generator: Generator, rollouts: list[Rollout], samples: int, turn: int, seed: int) -> list[Any]:
        if not turn:
            firsts = rollouts[::samples]
            prompts = [np.array(r.tokens) for r in firsts]
            groups = generator.complete(prompts, self.sampling, n=samples, seed=seed, ids=[r.prompt_id for r in firsts])
            return [response for group in groups for response in group]
        prompts = [np.array(r.read(turn)) for r in rollouts]
        # Later turns differ within a group: each episode is a prompt of its own, under a stream of its own.
        ids = [r.prompt_id * samples + r.sample for r in rollouts]
        return [group[0] for group in generator.complete(prompts, self.sampling, n=1, seed=derive(seed, "turn", turn), ids=ids)]

    def _said(self, rollout: Rollout, response: Any) -> None:
        tokens = np.asarray(response.tokens).tolist()
        if not tokens:
            raise BadInput(f"problem {self.problem_of(rollout).id}, sample {rollout.sample}", "an empty completion", "at least one token")
        if response.logprobs is None or len(response.logprobs) != len(tokens):
            raise BadInput("generator", "a completion without log-probabilities", "one for each token")
        rollout.starts.append(len(rollout.tokens))
        rollout.tokens += tokens
        rollout.mask += [True] * len(tokens)
        rollout.logprobs += np.asarray(response.logprobs, dtype=np.float64).tolist()
        rollout.rewards += [0.0] * len(tokens)
        rollout.texts.append(response.text)
        rollout.finish, rollout.num_generated = response.finish, rollout.num_generated + len(tokens)

    def _step(self, rollout: Rollout, environment: Environment, last: bool) -> bool:
        """Whether the episode goes on."""
        try:
            turn = environment.step(rollout.texts[-1])
            reward = reward_of(turn.reward)
        except Exception as error:
            rollout.error = f"{type(error).__name__}: {error}"
            return False
        rollout.rewards[-1] = reward
        rollout.reward += reward
        if turn.terminated or turn.truncated or last:
            return False
        said = self.tokenizer.encode(turn.text).tolist()
        whole = len(rollout.tokens)
        rollout.tokens += said
        if len(rollout.read(len(rollout.starts))) + self.sampling.max_tokens > self.context + 1:
            del rollout.tokens[whole:]
            rollout.finish = "context"
            return False
        rollout.mask += [False] * len(said)
        rollout.logprobs += [0.0] * len(said)
        rollout.rewards += [0.0] * len(said)
        rollout.texts.append(turn.text)
        return True

    def check(self, rollouts: Sequence[Rollout]) -> None:
        """Raises VerifierFailed for the first failed rollout unless failures count as 0; called once they are logged."""
        for rollout in rollouts:
            if rollout.error and self.failures == "stop":
                where = f"verifier of problem {self.problem_of(rollout).id}, sample {rollout.sample}"
                raise VerifierFailed(Failure(where, rollout.texts[-1], rollout.error))
