"""On-policy reinforcement learning under the trainer: a stream whose batches come from rollouts of the present model.

A round draws problems, lets the model answer each several times, keeps groups, turns rewards into advantages, and then gives its
rollouts out in shuffled mini-batches, over one or more epochs. A round is a stage, so that no update spans two policies.
All that was generated is charged, whether it is kept, rejected or teaches nothing; each rollout is a line of `rollouts.jsonl`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.data.samplers import Shuffle
from etude.engine.identity import fingerprint
from etude.engine.ledger import Ledger
from etude.engine.protocols import Batch, Feedback, Generator, Sampler, Score, Stage
from etude.engine.run import Run, shapes_of
from etude.engine.streams import derive, numpy_rng
from etude.errors import BadInput
from etude.learn.estimators import Estimator, GroupAdvantages
from etude.learn.logprobs import frozen_logprobs, rounded
from etude.learn.rollouts import Collector, Rollout
from etude.learn.round import Group, RoundConfig, choose, log_record, round_metrics, round_tensors, rows_of, told

LOG = "rollouts.jsonl"


class RolloutStream:
    """A `Stream` of rollouts of the model in training; needs the run, which the trainer gives it (`bind`).

    generator:  makes a `Generator` of the model (once for each model that the run has). One with a `ledger` is lent one, and
                its own count of operations is charged; the operations of any other are counted as they run, which is slow.
    collector:  the pool of problems, the sampling and the rules of an episode.
    advantages: `GroupAdvantages` or `GeneralisedAdvantages`.
    reference:  a frozen model for the KL, scored once a round; charged as "judge".
    keep:       of a group's rewards, whether it is kept (`informative`); None keeps all.
    sampler:    which problems a round shows; its plans are cut into rounds. It is told once of each rollout, rejected ones
                too: ids of the problems, losses = -reward, and the values "reward" and "advantage" (mean over the tokens).
    num_rounds: None goes on for ever.
    watch:      told of each round's groups as soon as it is made, rejected ones too; what it keeps is not part of this stream's state.

    A batch holds `tokens` [B, T + 1], `loss_mask`, `logprobs` and `advantages` [B, T], `rewards`, `temperature` and `lengths`
    [B], and what the estimator and the reference add. Its ids are the problems'. The state is the round itself, so that a
    resumed run goes on with the same rollouts. Raises BadInput where parts do not go together.
    """

    def __init__(
        self,
        generator: Callable[[nn.Module], Generator],
        collector: Collector,
        config: RoundConfig,
        *,
        seed: int,
        advantages: Estimator | None = None,
        reference: nn.Module | None = None,
        keep: Callable[[np.ndarray], bool] | None = None,
        sampler: Sampler | None = None,
        num_rounds: int | None = None,
        watch: Callable[[Sequence[Group]], None] | None = None,
    ) -> None:
        self.make_generator, self.collector, self.config, self.seed = generator, collector, config, seed
        self.advantages: Estimator = GroupAdvantages() if advantages is None else advantages
        self.advantages.check(config.samples)
        if self.advantages.needs_reference and reference is None:
            raise BadInput("reference", "none", "a frozen model, which the KL in the reward is measured to")
        if collector.window is not None and collector.window < collector.max_turns:
            raise BadInput("collector.window", repr(collector.window), "none, or all turns: a row must be what the model had read")
        if config.max_draws > 1 and keep is None:
            raise BadInput("RoundConfig.max_draws", repr(config.max_draws), "1, or a rule `keep` that rejects groups")
        self.reference, self.keep, self.num_rounds, self.watch = reference, keep, num_rounds, watch
        if reference is not None:
            reference.eval().requires_grad_(False)
        self.sampler: Sampler = sampler or Shuffle()
        self.round, self.epoch, self.position = 0, 0, 0
        self.plan_number, self.plan_position = 0, 0
        self._plan: np.ndarray | None = None
        self._data: dict[str, Tensor] | None = None
        self._problems = np.empty(0, dtype=np.int64)
        self._told: list[dict[str, np.ndarray]] = []
        self._run: Run | None = None
        self._generator: tuple[nn.Module, Generator] | None = None

    # --- the stream -----------------------------------------------------------------------------------------------
    def bind(self, run: Run) -> None:
        self._run = run
        # What LoRA froze may be shared: it stays as it is.
        if self.reference is not None and {id(p) for p in self.reference.parameters()} & {id(p) for p in run.named_parameters().values()}:
            raise BadInput("reference", "a model that shares parameters with the one in training", "a frozen copy")
        if self.advantages.needs_values and not hasattr(run.model, "value"):
            raise BadInput("model", type(run.model).__name__, "an ActorCritic, whose `value` the advantages need")
        run.metrics_log.open(LOG)

    @property
    def run(self) -> Run:
        if self._run is None:
            raise BadInput("RolloutStream", "no run", "a trainer, which binds the stream to its run")
        return self._run

    @property
    def batch_size(self) -> int:
        """How many problems of a sampler's plan are shown at a time."""
        return self.config.prompts

    def stage(self) -> Stage | None:
        return None if self.round == self.num_rounds else Stage(f"round-{self.round}", self.round)

    def next(self) -> Batch:
        if self.round == self.num_rounds:
            raise StopIteration
        if self._data is None:
            self._data = self._make_round()
        count = len(self._problems)
        order = numpy_rng(self.seed, "minibatches", self.round, self.epoch).permutation(count)
        rows = order[self.position : self.position + self.config.minibatch]
        batch = Batch(rows_of(self._data, torch.from_numpy(rows)), self._problems[rows])
        self.position += len(rows)
        if self.position >= count:
            self.epoch, self.position = self.epoch + 1, 0
        if self.epoch == self.config.epochs:
            self.round, self.epoch, self._data = self.round + 1, 0, None
        return batch

    def set_sampler(self, sampler: Sampler) -> None:
        self.sampler = sampler
        if not self.plan_position:
            self._plan = None

    def sampler_wants(self) -> Score | None:
        return self.sampler.wants(self.plan_number) if self._plan is None else None

    def give_score(self, score: Score, values: np.ndarray) -> None:
        self.sampler.receive(score, values)

    def observe(self, feedback: Feedback) -> None:
        """Hands on what rounds have come to since the last time; the losses of mini-batches say little about problems."""
        for rollouts in self._told:
            values = {"reward": rollouts["reward"], "advantage": rollouts["advantage"]}
            self.sampler.observe(Feedback(feedback.step, rollouts["ids"], -rollouts["reward"], feedback.signals, values=values))
        self._told = []

    def batches_of(self, ids: np.ndarray | None, batch_size: int) -> Iterator[Batch]:
        raise BadInput("sampler", "a request for losses before training", "a sampler that learns from rewards (`observe`)")

    # --- a round --------------------------------------------------------------------------------------------------
    def _make_round(self) -> dict[str, Tensor]:
        config, groups = self.config, []
        for draw in range(config.max_draws):
            missing = config.prompts - sum(g.accepted for g in groups)
            if not missing:
                break
            for rollouts in self._draw(draw, missing, first_id=len(groups)):
                accepted = self.keep is None or self.keep(np.array([r.reward for r in rollouts]))
                groups.append(Group(rollouts, draw, accepted))
        chosen = choose(groups, config.prompts)
        data = self._assemble([r for group in chosen for r in group.rollouts])
        means = (data["advantages"].sum(1) / data["loss_mask"].sum(1)).view(len(chosen), -1).tolist()
        for group in groups:
            group.advantages = [0.0] * config.samples
        for group, mean in zip(chosen, means, strict=True):
            group.advantages = mean
        for group in groups:
            self._log(group)
        self._told.append(told(groups))
        if self.watch is not None:
            self.watch(groups)
        for name, value in round_metrics(groups, data).items():
            self.run.log(name, value)
        return data

    def _draw(self, draw: int, count: int, first_id: int) -> list[list[Rollout]]:
        """Groups of rollouts of the next problems of the plan, charged."""
        run, config = self.run, self.config
        problems = self._next_problems(count)
        seed = derive(self.seed, "rollouts", self.round, draw)
        ids = range(first_id, first_id + len(problems))
        with run.measuring():
            generator = self._present_generator()
            with self._counted(generator):
                rollouts, spent = self.collector.collect(generator, problems, config.samples, seed=seed, prompt_ids=ids)
        run.ledger.charge(
            "generate", generated_tokens=spent.generated_tokens, prompt_tokens=spent.prompt_tokens, samples=spent.samples,
            environment_steps=spent.environment_steps, seconds=spent.seconds_generating,
        )  # fmt: skip
        run.ledger.charge("judge", evaluations=spent.environment_steps, seconds=spent.seconds_judging)
        if any(r.error for r in rollouts) and self.collector.failures == "stop":
            self._log(Group(rollouts, draw, accepted=False))
            run.metrics_log.flush()
            self.collector.check(rollouts)
        return [rollouts[i : i + config.samples] for i in range(0, len(rollouts), config.samples)]

    @contextmanager
    def _counted(self, generator: Generator) -> Iterator[None]:
        """Charges the generator's operations: as it counts them itself where it takes a `ledger`, else each as it is dispatched."""
        run = self.run
        if not run.count_flops or not hasattr(generator, "ledger"):
            with run.counted(None, "generate"):
                yield
            return
        held, own = generator.ledger, Ledger()  # type: ignore[attr-defined]
        generator.ledger = own  # type: ignore[attr-defined]
        try:
            yield
        finally:
            generator.ledger = held  # type: ignore[attr-defined]
        run.ledger.charge("generate", flops=own.total("flops"))

    def _next_problems(self, count: int) -> np.ndarray:
        """The next numbers of the plan; a plan's last round is smaller where the plan ends in it."""
        if self._plan is None:
            rng = numpy_rng(self.seed, "problems", self.plan_number)
            self._plan = np.asarray(self.sampler.plan(self.plan_number, self.collector.pool, rng), dtype=np.int64)
            if not len(self._plan) or self._plan.min() < 0 or self._plan.max() >= len(self.collector.pool):
                raise BadInput("sampler", "an empty plan or unknown numbers", f"numbers from 0 to {len(self.collector.pool) - 1}")
        numbers = self._plan[self.plan_position : self.plan_position + count]
        self.plan_position += len(numbers)
        if self.plan_position >= len(self._plan):
            self.plan_number, self.plan_position, self._plan = self.plan_number + 1, 0, None
        return numbers

    def _present_generator(self) -> Generator:
        model = self.run.model
        if self._generator is None or self._generator[0] is not model:
            self._generator = (model, self.make_generator(model))
        return self._generator[1]

    def _assemble(self, rollouts: Sequence[Rollout]) -> dict[str, Tensor]:
        """The round's tensors, advantages included."""
        run, samples = self.run, self.config.samples
        data = round_tensors(rollouts, self.collector.sampling.temperature)
        rows = {name: data[name].to(run.device) for name in ("tokens", "loss_mask", "temperature")}
        size = self.config.minibatch
        work = [rounded(int(part.sum()), part.numel()) for part in data["loss_mask"].split(size)]
        with run.measuring(), run.counted(("judge", *shapes_of(rows), *work), "judge"):
            if self.reference is not None:
                reference = self.reference.to(run.device)
                data["reference"] = frozen_logprobs(reference, rows, rows["temperature"], size).cpu()
            if self.advantages.needs_values:
                parts = rows["tokens"][:, :-1].split(size)
                values = torch.cat([run.model.value(part) for part in parts]).cpu()  # type: ignore[operator]
                data["values"] = torch.where(data["loss_mask"], values, 0.0)
        prompts = np.array([r.prompt_id for r in rollouts])
        data["uninformative"] = self.advantages(data, prompts, samples)
        self._problems = np.array([r.problem for r in rollouts], dtype=np.int64)
        return data

    def _log(self, group: Group) -> None:
        for rollout in group.rollouts:
            self.run.metrics_log.append(LOG, log_record(rollout, self.collector.problem_of(rollout), group, self.round))

    # --- its state ------------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        return {
            "at": [self.round, self.epoch, self.position, self.plan_number, self.plan_position],
            "plan": self._plan, "data": self._data, "problems": self._problems, "told": self._told,
            "sampler": self.sampler.state_dict(), "reference": fingerprint(self.reference),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["reference"] != fingerprint(self.reference):
            raise BadInput("reference", "another model than the run began with", "the same frozen reference")
        self.round, self.epoch, self.position, self.plan_number, self.plan_position = state["at"]
        self._plan, self._data, self._problems, self._told = state["plan"], state["data"], state["problems"], state["told"]
        self.sampler.load_state_dict(state["sampler"])
