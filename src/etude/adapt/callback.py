"""A trainer's callback and class with methods in them. Imported once a trainer is there, as it needs transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from etude.adapt.adapter import Adapter
from etude.adapt.data import Nothing
from etude.engine.protocols import Stage


class Events(TrainerCallback):
    """The events that transformers tells of itself."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.adapter.started(state, more.get("train_dataloader"))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        stage = Stage(f"epoch-{int(state.epoch or 0)}", int(state.epoch or 0))
        if not self.adapter.drives and stage != self.adapter.run.stage:
            self.adapter.epoch(stage)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        adapter = self.adapter
        if not adapter.drives and adapter.run.stage is not None:
            adapter.hooks.call("stage_end", adapter.run, adapter.run.stage)
            adapter.run.stage = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.adapter.clipped()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.adapter.updated()

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.adapter.ended()


class _Adapted:
    """Comes before a trainer's own class: what no callback can do. `Any` below, as the class beside it is the user's."""

    _etude: Adapter

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        resume = self._etude.begin(resume_from_checkpoint)
        return super().train(resume, *args, **kwargs)  # type: ignore[misc]

    def get_train_dataloader(self) -> Any:
        return self._etude.loader()

    def num_examples(self, dataloader: Any) -> int:
        rows = self._etude.rows
        return len(rows) if self._etude.drives and rows is not None else super().num_examples(dataloader)  # type: ignore[misc]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, *args: Any, **kwargs: Any) -> Any:
        adapter = self._etude
        if adapter.objective.rewrites:
            epoch_iterator = adapter.rewritten(epoch_iterator)
        if not adapter.drives:
            return super().get_batch_samples(epoch_iterator, num_batches, *args, **kwargs)  # type: ignore[misc]
        adapter.begin_update()
        drawn = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        real = [batch for batch in drawn if not isinstance(batch, Nothing)]
        adapter.real = len(real)
        _, num_items = super().get_batch_samples(iter(real), len(real), *args, **kwargs)  # type: ignore[misc]
        return drawn, num_items

    def floating_point_ops(self, inputs: Any) -> int:
        return 0 if isinstance(inputs, Nothing) else super().floating_point_ops(inputs)  # type: ignore[misc]

    def training_step(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        adapter: Adapter = self._etude
        if isinstance(inputs, Nothing):
            loss = torch.zeros((), device=self.args.device)
        else:
            if adapter.drives and not adapter.grpo:
                self.current_gradient_accumulation_steps = adapter.real
            loss = adapter.train_on(lambda: super(_Adapted, self).training_step(model, inputs, *args, **kwargs))  # type: ignore[misc]
        if self.accelerator.sync_gradients:
            adapter.hooks.call("gradients", adapter.run)
        return loss

    def compute_loss(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        own = super().compute_loss  # type: ignore[misc]
        if not self._etude.within:
            return own(model, inputs, *args, **kwargs)
        items = kwargs.get("num_items_in_batch", args[1] if len(args) > 1 else None)
        return self._etude.loss(lambda given: own(model, given, *args, **kwargs), inputs, items)

    def create_scheduler(self: Any, num_training_steps: int, optimizer: Any = None) -> Any:
        adapter: Adapter = self._etude
        if not adapter.schedules:
            return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]

        def factor(step: int) -> float:
            return adapter.rate(step, num_training_steps)

        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def log(self: Any, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        pending = self._etude.run.metrics_log.pending
        if "loss" in logs:
            logs.update(pending)
            pending.clear()
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _save_checkpoint(self: Any, model: Any, trial: Any = None) -> None:
        # Before the trainer's own files: whatever is killed in between, a checkpoint that counts as finished has the methods' state.
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        self._etude.save(folder)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    # TRL's GRPOTrainer alone calls these two.
    def _calculate_rewards(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        each = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
        self._etude.rewards = (each * self.reward_weights.to(each)).nansum(1)
        return each

    def _generate_and_score_completions(self: Any, inputs: Any) -> dict[str, Any]:
        tensors = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        if self.model.training:
            self._etude.generated(tensors)
        return tensors


def adapt(trainer: Any, adapter: Adapter) -> None:
    """Puts the methods into a trainer, in place."""
    kind = type(trainer)
    trainer._etude = adapter
    trainer.__class__ = type(kind.__name__, (_Adapted, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
    trainer.add_callback(Events(adapter))
