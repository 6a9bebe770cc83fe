"""`Run`: what one training run is at a moment, as its methods see it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etude.engine.arguments import check, shown
from etude.engine.device import evaluating
from etude.engine.flops import FlopCounter
from etude.engine.hooks import Hooks
from etude.engine.ledger import Budget, Ledger
from etude.engine.mismatch import MISMATCHES, explained
from etude.engine.optim import OptimizerSpec, selected
from etude.engine.protocols import HOW, Batch, Mapping_, Method, Metrics, Objective, Output, Sampler, Stage, Stream, Varying
from etude.engine.schedule import Schedule, to_state
from etude.engine.streams import derive, generator, global_streams, numpy_rng
from etude.errors import BadInput, one_of

if TYPE_CHECKING:
    from etude.engine.metrics import MetricsLog


class Run:
    """The state of one run. Hooks read and change it; see `Trainer` for what each field means."""

    def __init__(
        self,
        *,
        model: nn.Module,
        stream: Stream,
        objectives: Mapping[str, Objective],
        optimizer: OptimizerSpec,
        schedule: Schedule,
        hooks: Hooks,
        budget: Budget,
        seed: int,
        device: torch.device,
        log: MetricsLog,
        count_flops: bool,
        autocast: bool,
        micro_batch: int | None = None,
    ) -> None:
        self.model, self.stream, self.objectives = model, stream, dict(objectives)
        self.optimizer_spec, self.schedule, self.schedule_start = optimizer, schedule, 0.0
        self.hooks, self.budget, self.seed, self.device = hooks, budget, seed, device
        self.ledger = Ledger()
        self.metrics_log = log
        self.count_flops, self.autocast, self.micro_batch = count_flops, autocast, micro_batch
        self.step = 0
        self.stage: Stage | None = None
        self.carried: dict[str, Any] = {}
        self.replacements: list[dict[str, Any]] = []
        self.history: list[dict[str, float]] = []
        self.gradient_norm = float("nan")
        self.learning_rate = float("nan")
        self.stop_requested = False
        self._extra = 0  # extra gradients taken in this update, so that each has its own random stream
        self._nested_flops = 0
        self._flops: dict[Any, int] = {}
        self._variable: set[Any] = set()
        self._refresh()

    # --- what hooks use -------------------------------------------------------------------------------------------
    @property
    def share(self) -> float:
        """Of the budget, 0 to 1 (a little over at the very end)."""
        return self.budget.share(self.ledger)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name, tied ones once."""
        return self._named

    def rng(self, *names: str | int) -> torch.Generator:
        """A fresh CPU generator for the stream of these names under the run's seed."""
        return generator(self.seed, *names)

    def numpy_rng(self, *names: str | int) -> np.random.Generator:
        return numpy_rng(self.seed, *names)

    def log(self, name: str, value: float) -> None:
        """Adds a number to this step's line of `metrics.jsonl`."""
        self.metrics_log.add(name, value)

    def log_order(self) -> None:
        """Logs what the stream's sampler has made its last plan by, where it tells (`report`)."""
        report = getattr(getattr(self.stream, "sampler", None), "report", None)
        for name, value in (report() if report is not None else {}).items():
            self.log(name, value)

    def set_sampler(self, sampler: Sampler) -> None:
        """Gives the stream its sampler; only the owner of the slot `sampler` does this, at `start`. Raises BadInput without one."""
        if "sampler" not in self.hooks.owner:
            raise BadInput("set_sampler", "no method that owns the slot 'sampler'", "slots = ('sampler',) on the method that calls it")
        self.stream.set_sampler(sampler)

    def gradient(self, batch: Batch, objective: str = "") -> dict[str, Tensor]:
        """The gradient of one more batch at the present weights, by parameter name; charged; `.grad` is left alone.

        A parameter that the loss does not reach has zeros.
        """
        self._extra += 1
        batch = batch.to(self.device)
        parameters = list(self._named.values())
        with self.counted(("gradient", *self._work(batch, objective), objective), "train"):
            with global_streams(derive(self.seed, "extra", self.step, self._extra)), self.precision():
                output = self.objectives[objective](self.model, batch, None)
            grads = torch.autograd.grad(output.loss, parameters, allow_unused=True)
        self.ledger.charge("train", tokens=batch.num_tokens, samples=len(batch))
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(self._named.items(), grads, strict=True)}

    def replace(
        self,
        model: nn.Module,
        mapping: Mapping_,
        *,
        method: Method,
        moments: str = "reset",
        schedule: Schedule | None = None,
        note: dict[str, Any] | None = None,
    ) -> None:
        """Replaces the model in mid-run: the only way it may change.

        mapping:  says for every parameter of the new model where it comes from, and names each old one that is dropped.
        moments:  "reset" builds fresh optimizer state; "carry" keeps that of parameters copied from one of equal shape.
        schedule: a new one, which runs over what is left of the budget; None keeps the present one.
        note:     what `method.rebuild` needs on resume to make the same architecture; goes into the checkpoint.
        Raises BadInput for a method that does not own the slot `surgery`, and for a mapping that leaves something out, names
        what is not there, or says "copy" of a tensor that differs from its source.
        """
        if self.hooks.owner.get("surgery") != method.name:
            raise BadInput(f"{method.name}.slots", "no 'surgery', though it replaces the model", "the slot of what it does")
        old = self._named
        self._check_mapping(f"{method.name}: mapping", old, model, mapping)
        if moments not in ("reset", "carry"):
            raise BadInput(f"{method.name}: moments", f"'{moments}'", "'reset' or 'carry'")
        # Each optimizer's own: several may hold a state of one parameter.
        kept = {key: {n: o.state[p] for n, p in old.items() if p in o.state} for key, o in self.optimizers.items() if moments == "carry"}
        self.model = model.to(self.device).train()
        self._refresh()
        for key, optimizer in self.optimizers.items():
            states = kept.get(key, {})
            for name, parameter in self._named.items():
                origin = mapping[name]
                owned = any(parameter is p for g in optimizer.param_groups for p in g["params"])
                source = origin.sources[0] if owned and origin.how == "copy" else ""
                if source in states and old[source].shape == parameter.shape:
                    optimizer.state[parameter] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in states[source].items()}
        if schedule is not None:
            self.schedule, self.schedule_start = schedule, min(self.share, 1.0)
        restart = None if schedule is None else {"schedule": to_state(schedule), "start": self.schedule_start}
        self.replacements.append({"method": method.name, "note": note or {}, "restart": restart})
        self.hooks.call("replaced", self, mapping)

    @staticmethod
    def _check_mapping(where: str, old: Mapping[str, nn.Parameter], model: nn.Module, mapping: Mapping_) -> None:
        new = {n: p for n, p in model.named_parameters() if p.requires_grad}
        used = {source for origin in mapping.values() for source in origin.sources}
        used |= {n for n, origin in mapping.items() if origin.how == "drop"}
        left_out = [n for n in new if n not in mapping or mapping[n].how == "drop"] + [n for n in old if n not in used]
        if left_out:
            raise BadInput(where, f"nothing said of {left_out[0]}", "every new and every dropped parameter")
        for name, origin in mapping.items():
            if origin.how not in HOW:
                raise one_of(f"{where}[{name}].how", origin.how, HOW)
            for source in origin.sources:
                if source not in old:
                    raise one_of(f"{where}[{name}].sources", source, old)
            if name not in new and origin.how != "drop":
                raise one_of(where, name, new)
            if origin.how == "copy" and name in new:
                source = old.get(origin.sources[0]) if len(origin.sources) == 1 else None
                if source is None or not torch.equal(source.detach(), new[name].detach().to(source.device, source.dtype)):
                    raise BadInput(f"{where}[{name}]", "a copy that differs from its source", "'copy' of one equal tensor, or what it is")

    def stepped_by(self, name: str) -> dict[str, nn.Parameter]:
        """The parameters that an update of the batch's optimizer `name` steps: all for the empty name."""
        if not name:
            return self._named
        chosen = {id(p) for key in selected(name, self.optimizers) for g in self.optimizers[key].param_groups for p in g["params"]}
        return {n: p for n, p in self._named.items() if id(p) in chosen}

    def request_stop(self) -> None:
        """Ends the run after this update, with a checkpoint; `Trainer.run` then raises `Interrupted`."""
        self.stop_requested = True

    # --- what the trainer uses ------------------------------------------------------------------------------------
    def precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def _refresh(self) -> None:
        """Everything that is derived from the model's parameters."""
        self._named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if not self._named:
            raise BadInput("model", "no trainable parameter", "at least one")
        self.optimizers: dict[str, Optimizer] = self.optimizer_spec.build(self._named)
        owned = {id(p) for optimizer in self.optimizers.values() for g in optimizer.param_groups for p in g["params"]}
        for name, parameter in self._named.items():
            if id(parameter) not in owned:
                raise BadInput(
                    "optimizer", f"{name}, which no optimizer owns", "an owner for each trainable parameter; freeze what should stay"
                )
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["base_lr"] = group["lr"]
        self._flops.clear()
        self._variable.clear()
        self._always = getattr(self.model, "data_dependent_flops", False) or any(m.variable_flops for m in self.hooks.methods)

    def set_learning_rate(self, share: float) -> None:
        left = 1 - self.schedule_start
        factor = self.schedule(min(1.0, (share - self.schedule_start) / left) if left > 0 else 1.0)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
        self.learning_rate = next(iter(self.optimizers.values())).param_groups[0]["lr"]

    @contextmanager
    def counted(self, key: Any, category: str) -> Iterator[None]:
        """Charges the block's FLOPs: counted on the first time of each key and, to catch data-dependent work, again at
        steps 1, 8, 64, 512, ...; a key whose count has moved is counted each time from then on, and so is the key None."""
        if not self.count_flops:
            yield
            return
        known = None if key is None else self._flops.get(key)
        step = self.step + 1
        audited = step & (step - 1) == 0 and step.bit_length() % 3 == 1
        if known is not None and not self._always and key not in self._variable and not audited:
            yield
            self.ledger.charge(category, flops=known)
            self._nested_flops += known
            return
        before, self._nested_flops = self._nested_flops, 0
        with FlopCounter() as counter:
            yield
        # What a block inside this one has charged already is not charged twice.
        own = counter.total - self._nested_flops
        self._nested_flops = before + counter.total
        if known is not None and known != own:
            self._variable.add(key)
        if key is not None:
            self._flops[key] = own
        self.ledger.charge(category, flops=own)

    def _work(self, batch: Batch, objective: str) -> tuple[Any, ...]:
        """What the operations of a forward and backward pass depend on: the batch's shapes, and what the objective adds."""
        only = next(iter(self.objectives.values())) if not objective and len(self.objectives) == 1 else None
        shapes, loss = shapes_of(batch.data), only or self.objectives.get(objective)
        return (*shapes, loss.work_of(batch)) if isinstance(loss, Varying) else shapes

    def train_on(self, batch: Batch, micro_batch: int, scale_by_weight: bool) -> tuple[Batch, Output]:
        """Forward and backward of one micro-batch, with its events. Gradients add up in `.grad`."""
        hooks = self.hooks
        if self.micro_batch is not None and len(batch) > self.micro_batch:
            return self._train_in_pieces(batch, micro_batch)
        batch.key = derive(self.seed, "forward", self.step)  # before its work is asked for, which may depend on what the update draws
        with self.counted((*self._work(batch, batch.objective), batch.objective), "train"):
            batch = hooks.change("batch", self, batch)
            batch.key = derive(self.seed, "forward", self.step)
            model: nn.Module = self.model
            if hooks.lists["forward"]:
                for hook in hooks.lists["forward"]:
                    model = hook(self, model, batch) or model
            output = self._forward(model, batch, derive(self.seed, "forward", self.step, micro_batch, 0))
            if output.carried is not None:
                self.carried[batch.objective] = output.carried
            output = hooks.change("loss", self, output, batch)
            (output.loss * output.weight if scale_by_weight else output.loss).backward()
            hooks.call("backward", self, batch, output)
        self.ledger.charge("train", tokens=batch.num_tokens, samples=len(batch))
        return batch, output

    def _forward(self, model: nn.Module, batch: Batch, seed: int) -> Output:
        with global_streams(seed), self.precision(), self._explaining(batch):
            return self.objective_of(batch)(model, batch, self.carried.get(batch.objective))

    def _train_in_pieces(self, batch: Batch, micro_batch: int) -> tuple[Batch, Output]:
        """`train_on` of a batch of more than `self.micro_batch` samples: its mean, from even pieces, one at a time in memory."""
        assert self.micro_batch is not None
        with self.counted(("batch", *shapes_of(batch.data)), "train"):
            batch = self.hooks.change("batch", self, batch)
        batch.key = derive(self.seed, "forward", self.step)
        size, outputs = even(self.micro_batch, len(batch)), []
        for number, start in enumerate(range(0, len(batch), size)):
            piece = batch.part(start, start + size)
            with self.counted((*self._work(piece, piece.objective), piece.objective), "train"):
                # The first piece draws what a whole batch would.
                names = (self.step, micro_batch, 0, number) if number else (self.step, micro_batch, 0)
                output = self._forward(self.model, piece, derive(self.seed, "forward", *names))
                if output.carried is not None:
                    raise BadInput("micro_batch", "an objective that carries a state from batch to batch", "none")
                (output.loss * output.weight).backward()
            outputs.append(replace(output, loss=output.loss.detach()))
        self.ledger.charge("train", tokens=batch.num_tokens, samples=len(batch))
        return batch, mean_of(outputs)

    def objective_of(self, batch: Batch) -> Objective:
        """The objective that a batch names; the only one there is for a batch that names none."""
        if not batch.objective and len(self.objectives) == 1:
            return next(iter(self.objectives.values()))
        if batch.objective not in self.objectives:
            raise one_of("batch.objective", batch.objective, self.objectives)
        return self.objectives[batch.objective]

    @contextmanager
    def _explaining(self, what: Batch | str) -> Iterator[None]:
        """Turns a layer's refusal of its input into bad input. what: the batch, or the evaluator that called the model."""
        try:
            yield
        except MISMATCHES as error:
            bad = explained(error, self.model, tuple(what.data) if isinstance(what, Batch) else ())
            if bad is None:
                raise
            raise (bad if isinstance(what, Batch) else bad.at(what + bad.where)) from error

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Evaluation mode, no gradients, random streams of its own; everything as before afterwards."""
        with evaluating(self.model), torch.no_grad(), global_streams(derive(self.seed, "evaluate", self.step)), self.precision():
            yield

    def score(self, ids: np.ndarray | None, batch_size: int) -> np.ndarray:
        """The present model's per-sample loss on `ids` of the stream's source; charged as "prepare", its seconds too."""
        losses: list[np.ndarray] = []
        begun = time.perf_counter()
        with self.measuring():
            for batch in self.stream.batches_of(ids, batch_size):
                batch = batch.to(self.device)
                objective = self.objective_of(batch)
                with self.counted(("score", *self._work(batch, batch.objective)), "prepare"), self._explaining(batch):
                    output = objective(self.model, batch, None)
                if output.per_sample is None:
                    raise BadInput("objective", "no loss per sample", "an objective with `per_sample`, which the sampler asks for")
                losses.append(output.per_sample.float().cpu().numpy())
                self.ledger.charge("prepare", tokens=batch.num_tokens, samples=len(batch))
        self.ledger.charge("prepare", seconds=time.perf_counter() - begun)
        return np.concatenate(losses)

    def evaluate(self, evaluators: Mapping[str, Callable[[nn.Module], Metrics]], charged: str = "") -> Metrics:
        """Runs evaluators on the present model. charged: the ledger's category for their cost; measuring alone is not charged."""
        metrics: Metrics = {}
        with self.measuring():
            for name, evaluator in evaluators.items():
                with self.counted(("steer", name), charged) if charged else nullcontext(), self._explaining(f"evaluator '{name}', "):
                    found = evaluator(self.model)
                check(f"evaluator '{name}'", found, Mapping)
                if charged:
                    self.ledger.charge(charged, evaluations=1)
                for key, value in found.items():
                    try:
                        metrics[f"{name}/{key}"] = float(value)
                    except (TypeError, ValueError, RuntimeError) as error:
                        raise BadInput(f"evaluator '{name}', {key}", shown(value), "a number") from error
            return metrics if charged else self.hooks.change("evaluate", self, metrics)


def mean_of(outputs: Sequence[Output]) -> Output:
    """One output for several, one after another: means by their weights, samples side by side."""
    weight = sum(output.weight for output in outputs)

    def mean(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([v * (o.weight / weight) for v, o in zip(values, outputs, strict=True)]).sum()

    samples = [output.per_sample for output in outputs if output.per_sample is not None]
    signals = {name: mean([output.signals[name] for output in outputs]) for name in outputs[0].signals}
    return Output(mean([o.loss for o in outputs]), torch.cat(samples) if len(samples) == len(outputs) else None, weight, signals)


def even(most: int, size: int) -> int:
    """The size of even pieces of `size` samples, of at most `most`."""
    return -(-size // -(-size // most))


def shapes_of(data: Mapping[str, Tensor]) -> tuple[Any, ...]:
    return tuple((name, *tensor.shape) for name, tensor in data.items())
