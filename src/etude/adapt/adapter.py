"""What stands between a trainer and methods: the run, the order, each micro-batch, each update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.adapt import saving
from etude.adapt.checks import HERE, check_rows
from etude.adapt.data import ROWS, Batches, Labels, Nothing, Numbers, Rows, RowStream, loader_of, named, plain, recorded
from etude.adapt.layers import Layered, install
from etude.adapt.losses import IGNORED, outputs_of, predicts_next, row_losses, weighted_part
from etude.adapt.objective import Given
from etude.adapt.run import TheirOwn, TrainerRun
from etude.data.samplers import SamplerBase
from etude.engine import identity
from etude.engine.hooks import Hooks
from etude.engine.ledger import Budget
from etude.engine.protocols import Batch, Feedback, Method, Objective, Output, Stage
from etude.engine.streams import derive
from etude.errors import BadInput, one_of

IDS = "etude_ids"
"""Under which the tensors of a GRPO batch carry their prompts' numbers."""


class Adapter:
    """Calls the methods' events at the moments that etude's own trainer has for them.

    drives: whether a method owns the order; then rows come from etude's stream, and an update ends where its stage does.
    looks:  whether methods see micro-batches, or an objective rewrites them. tells: whether the sampler listens to losses (or rewards).
    grpo:   whether rows are prompts, each shown in a group and again for every step that its completions last.
    """

    def __init__(
        self, trainer: Any, hooks: Hooks, domains: Labels = None, difficulty: Numbers = None, objective: Objective | None = None
    ) -> None:
        args = trainer.args
        self.objective = Given(objective, trainer)
        self.trainer, self.hooks, self.base = trainer, hooks, type(trainer)
        self.grpo = any(kind.__name__ == "GRPOTrainer" for kind in type(trainer).__mro__)
        self.drives, self.tells = "sampler" in hooks.owner, False
        self.looks = bool(hooks.lists["batch"] or hooks.lists["backward"]) or self.objective.rewrites
        if self.drives or self.looks:
            check_rows(trainer.train_dataset, hooks.owner.get("sampler") or (hooks.methods[0].name if hooks.methods else "the objective"))
        self.seed = args.seed if args.data_seed is None else args.data_seed
        self.rows, stream = None, None
        if hasattr(trainer.train_dataset, "__len__"):
            self.rows = Rows(
                trainer.train_dataset,
                lambda: self.base.get_train_dataloader(trainer),
                repeat=trainer.num_generations if self.grpo else 1,
                domains=domains,
                difficulty=difficulty,
            )
            size = args.generation_batch_size // trainer.num_generations if self.grpo else args.train_batch_size
            drop = self.drives and (self.grpo or args.dataloader_drop_last)
            stream = RowStream(self.rows, size, self.seed, drop_last=drop)
        self.run = TrainerRun(trainer, trainer.model, stream, hooks, args.seed, self.objective)
        self.parts = identity.digests(self._identity(stream))
        self.given: list[np.ndarray] = []  # rows of the micro-batches that the trainer has drawn and not yet trained on
        self.current = np.empty(0, dtype=np.int64)
        self.taken: list[tuple[Batch, Output]] = []
        self.rollouts: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        self.rewards: Tensor | None = None
        self.begun, self.real, self.within = False, 1, False
        self.repeated: np.ndarray | None = None
        self.repeats_left, self._held = 0, {}
        self.to_skip, self.resumed, self.has_run = 0, False, False
        self._prepare()

    def _identity(self, stream: RowStream | None) -> dict[str, Any]:
        args = self.trainer.args
        return {
            "set of methods": sorted(([m.name, identity.settings_of(m)] for m in self.hooks.methods), key=str),
            "data": None if stream is None else stream.identity(),
            "seed": args.seed,
            "accumulation": args.gradient_accumulation_steps,
            **({"objective": identity.describe(self.objective.objective)} if self.objective.rewrites or self.objective.adds else {}),
        }

    def _prepare(self) -> None:
        """The methods' start, and surgery while there is no optimizer yet."""
        run, owner = self.run, self.hooks.owner.get("surgery")
        if owner is not None:
            run.model = Layered(run.model)
            run._refresh()
        self.hooks.call("start", run)
        if owner is not None:
            method = next(m for m in self.hooks.methods if m.name == owner)
            run.preparing = True
            method.updated(run)
            run.preparing = False
            if not run.was_replaced or not isinstance(run.model, Layered):
                raise BadInput(f"{HERE}, methods", f"{owner}, which does not grow layers before the first update", "surgery that does")
            install(self.trainer.model, run.model.where, run.model.blocks, run.model.changes)
            run.model = self.trainer.model
            run._refresh()
        if self.drives:
            sampler = self.run.stream.sampler  # type: ignore[attr-defined]
            self.tells = getattr(type(sampler), "observe", None) is not SamplerBase.observe

    # --- a run ----------------------------------------------------------------------------------------------------
    def begin(self, resume: Any) -> Any:
        """Before `train`: what to resume from, with the methods put back where that checkpoint has them."""
        self.resumed = bool(resume)
        if not resume:
            if self.has_run:
                raise BadInput("trainer.train", "a second run of methods that keep their state", "a new trainer, or a checkpoint to resume")
            return resume
        path = saving.newest(Path(self.trainer.args.output_dir)) if resume is True else Path(resume)
        saving.restore(path, self)
        for left in (self.given, self.taken, self.rollouts, self.run.metrics_log.pending):  # by a run that was interrupted here
            left.clear()
        self._held = {}
        return str(path)

    def started(self, state: Any, loader: Any) -> None:
        """When the trainer has made its optimizer and knows how long it runs."""
        self.has_run = True
        run, args = self.run, self.trainer.args
        run.budget, run.optimizers = Budget(steps=state.max_steps), {"": self.trainer.optimizer}
        if self.resumed and not args.ignore_data_skip and (self.drives or self.looks):
            updates = max(1, math.ceil(len(loader) / args.gradient_accumulation_steps))
            self.to_skip = state.global_step % updates * args.gradient_accumulation_steps
        if self.resumed and self.grpo and self.drives:
            # TRL counts from 0 again, and would then draw completions in the middle of a round's repetitions.
            self.trainer._step = state.global_step * args.gradient_accumulation_steps

    def save(self, folder: Path) -> None:
        saving.save(folder, self)

    # --- the order ------------------------------------------------------------------------------------------------
    def loader(self) -> Any:
        """What the trainer iterates over: its own, or micro-batches in the sampler's order."""
        if self.drives:
            assert self.rows is not None
            # A whole number of updates: a shorter last one would be cut by the trainer's count and not by a stage.
            whole = self.trainer.args.gradient_accumulation_steps
            return loader_of(Batches(math.ceil(len(self.rows.loader) / whole) * whole, self.following, self.take_skip))
        own = self.base.get_train_dataloader(self.trainer)
        if self.looks:
            recorded(own, self.given, self.take_skip)
        return own

    def take_skip(self) -> int:
        skipped, self.to_skip = self.to_skip, 0
        return skipped

    def begin_update(self) -> None:
        self.begun = False

    def following(self) -> Any:
        """The next micro-batch as the trainer's collator gives it; `Nothing` where the update ends with its stage."""
        stream, rows = self.run.stream, self.rows
        assert rows is not None
        if self.repeats_left:
            self.repeats_left -= 1
            assert self.repeated is not None
            self._held = self._held or rows.get(self.repeated)
            ids, data = self.repeated, self._held
        else:
            if self.begun and not self.grpo and stream.stage() != self.run.stage:
                return Nothing()
            entered = self._enter_stage()
            batch = stream.next()
            if entered:
                self.run.log_order()
            ids, data = batch.ids, batch.data
            if self.grpo:
                self.repeated, self._held = ids, data
                self.repeats_left = self.trainer.args.steps_per_generation * self.trainer.num_iterations - 1
        self.begun = True
        self.given.append(np.repeat(ids, rows.repeat))
        return data[ROWS] if ROWS in data else plain(data)

    def _enter_stage(self) -> bool:
        """As etude's trainer does: the old stage ends, the sampler is given what it asks for, the new one begins. Whether one does."""
        run = self.run
        stage = run.stream.stage()
        if stage is None or stage == run.stage:
            return False
        if run.stage is not None:
            self.hooks.call("stage_end", run, run.stage)
        wanted = run.stream.sampler_wants()
        if wanted is not None and wanted.what != "loss":
            raise one_of("Score.what", wanted.what, ("loss",))
        if wanted is not None:
            run.stream.give_score(wanted, run.score(wanted.ids, batch_size=256))
        self.epoch(stage)
        return True

    def epoch(self, stage: Stage) -> None:
        self.run.stage = stage
        self.hooks.call("stage_start", self.run, stage)

    def rewritten(self, batches: Iterator[Any]) -> Iterator[Any]:
        """An update's micro-batches as the objective writes them: before the trainer counts their labels."""
        place = 0
        for inputs in batches:
            if isinstance(inputs, Nothing):
                yield inputs
                continue
            yield self.objective.rewritten(inputs, self.given[place], derive(self.run.seed, "forward", self.run.step))
            place += 1

    # --- a micro-batch --------------------------------------------------------------------------------------------
    def train_on(self, step: Callable[[], Tensor]) -> Tensor:
        """A forward and backward pass of the trainer, with the events of its micro-batch."""
        if self.given:
            self.current = self.given.pop(0)
        before = len(self.taken)
        self.within = self.looks or self.tells or self.objective.adds
        try:
            loss = step()
        finally:
            self.within = False
        for batch, output in self.taken[before:]:
            self.hooks.call("backward", self.run, batch, output)
        return loss

    def loss(self, compute: Callable[[Any], Tensor], inputs: dict[str, Any], num_items: Any) -> Tensor:
        """The trainer's loss of a micro-batch, as methods weigh it. compute: the trainer's own, of inputs."""
        run, ids = self.run, self.current
        if self.grpo:
            inputs = dict(inputs)
            ids = inputs.pop(IDS).cpu().numpy()
        else:
            inputs = dict(inputs)
        given = dict(inputs) if self.grpo else named(inputs)
        batch = Batch(dict(given), ids, key=derive(run.seed, "forward", run.step))
        batch = self.hooks.change("batch", run, batch)
        self._check_unchanged(given, batch)
        weights = batch.data.get("weights")
        if self.grpo:
            if weights is not None:
                self._check_weighed()
                # The loss of a completion is linear in its advantage, but for the divergence from a reference.
                inputs["advantages"] = inputs["advantages"] * weights.to(inputs["advantages"])
            loss = compute(inputs)
            self.taken.append((batch, Output(loss.detach(), None, float(len(ids)))))
            return loss
        listened = weights is not None or self.tells or bool(self.hooks.lists["backward"])
        if not listened and not self.objective.adds:
            return compute(inputs)
        if weights is not None:
            self._check_weighed()
        labels = inputs.get("labels")
        with outputs_of(self.trainer.model) as seen, self.objective.logits(self.trainer, batch):
            loss = compute(inputs)
        extra = self.objective.extra(batch, seen[0])
        if extra is not None:
            whole = (given["labels"][:, 1:] != IGNORED).sum() if num_items is None else num_items
            loss = loss + (extra if weights is None else extra * weights.to(extra)).sum() / whole
        if not listened:
            return loss
        with torch.set_grad_enabled(weights is not None):
            sums, counts = row_losses(seen[0], labels, predicts_next(self.trainer.model))
        if len(sums) != len(ids):
            raise BadInput("each sample's loss", f"{len(ids)} rows laid end to end", "rows of their own: padding_free and packing off")
        if weights is not None:
            loss = loss + weighted_part(weights, sums, counts.sum() if num_items is None else num_items)
        per_sample = sums.detach() / counts.clamp(min=1)
        self.taken.append((batch, Output(loss.detach(), per_sample, float(counts.sum()))))
        return loss

    def _check_unchanged(self, given: Mapping[str, Any], batch: Batch) -> None:
        changed = [k for k, v in batch.data.items() if k != "weights" and given.get(k) is not v]
        if changed or len(batch.data) < len(given):
            names = " or ".join(m.name for m in self.hooks.methods if type(m).batch is not Method.batch)
            raise BadInput(
                f"{names}.batch", f"another {changed[0] if changed else 'batch'}", "nothing but `weights` [B] beside what is there"
            )
        weights = batch.data.get("weights")
        if weights is not None and weights.shape != (len(batch),):
            raise BadInput("batch.weights", f"shape {tuple(weights.shape)}", f"one weight a row, ({len(batch)},)")

    def _check_weighed(self) -> None:
        """That the trainer's loss is one that weights of rows have a place in: a mean of the rows' own, and nothing beside it."""
        trainer, args = self.trainer, self.trainer.args
        found = ""
        if self.grpo and trainer.beta:
            found = f"beta = {trainer.beta:g}, a divergence that no row's weight multiplies"
        elif args.label_smoothing_factor:
            found = f"label_smoothing_factor = {args.label_smoothing_factor:g}"
        elif trainer.compute_loss_func is not None:
            found = "a compute_loss_func of your own"
        elif not self.grpo and getattr(args, "loss_type", "nll") not in ("nll", "chunked_nll"):
            found = f"loss_type = '{args.loss_type}'"
        if found:
            raise BadInput("trainer", found, "the plain loss of the labels (GRPO: beta = 0), where rows have weights")

    def generated(self, tensors: dict[str, Any]) -> None:
        """GRPO has drawn and judged completions of the present prompts: kept for the sampler, and which prompt is whose."""
        if not self.looks and not self.tells:
            return
        tensors[IDS] = torch.from_numpy(self.current).to(tensors["advantages"].device)
        values = {"advantage": tensors["advantages"].float().cpu().numpy()}
        if self.rewards is not None:
            values["reward"] = self.rewards.float().cpu().numpy()
        self.rollouts.append((self.current, values))

    # --- an update ------------------------------------------------------------------------------------------------
    def clipped(self) -> None:
        self.hooks.call("clipped", self.run)

    def updated(self) -> None:
        """The optimizer has taken its step; then the sampler hears of what was learnt."""
        run = self.run
        run.ledger.charge("train", steps=1)
        run.step += 1
        run.learning_rate = self.trainer.optimizer.param_groups[0]["lr"]
        self.hooks.call("updated", run)
        for ids, values in self.rollouts:
            run.stream.observe(Feedback(run.step, ids, -values.get("reward", values["advantage"]), values=values))
        if self.tells:
            for batch, output in self.taken:
                if output.per_sample is not None:
                    run.stream.observe(Feedback(run.step, batch.ids, output.per_sample.float().cpu().numpy()))
        self.taken.clear()
        self.rollouts.clear()

    def rate(self, step: int, total: int) -> float:
        """The schedule's factor for update `step` of `total`, in its middle, as etude's trainer takes it."""
        return self.run.factor((step + 0.5) / total)

    @property
    def schedules(self) -> bool:
        return "schedule" in self.hooks.owner and not isinstance(self.run.schedule, TheirOwn)

    def ended(self) -> None:
        if self.run.stage is not None:
            self.hooks.call("stage_end", self.run, self.run.stage)
        self.hooks.call("stop", self.run)
