"""The trainer: one loop for any `nn.Module`, any stream, any objective, any set of methods that compose."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from etude.engine import checkpoint, identity, memory, saving
from etude.engine.arguments import typed
from etude.engine.device import pick_device
from etude.engine.fitting import fitted
from etude.engine.folder import RunFolder, held
from etude.engine.hooks import Hooks, owned
from etude.engine.ledger import Budget, Ledger, scoring
from etude.engine.metrics import MetricsLog
from etude.engine.optim import AdamW, OptimizerSpec, selected
from etude.engine.protocols import Batch, Bound, Evaluator, Feedback, Method, Objective, Output, Score, Stream
from etude.engine.result import DataEnded, Interrupted, NonFinite, RunResult, not_finite
from etude.engine.run import Run
from etude.engine.schedule import Cosine, Schedule
from etude.engine.trackers import Mirror, check_trackers
from etude.errors import BadInput, choice, one_of

__all__ = ["DataEnded", "Interrupted", "NonFinite", "RunResult", "Trainer"]

M = TypeVar("M", bound=nn.Module)


class Trainer(Generic[M]):
    """Runs one recipe once.

    model:          any module; etude does not re-initialise it (see `streams.initialise`).
    objective:      one, or named ones that batches choose from ("" is the default).
    schedule:       factor on the learning rate over the consumed share of the budget.
    methods:        what is being tried; list order does not matter.
    budget:         when the run ends. The last update is the one after which less than half an update's worth is left. What a sampler
                    wants scored is not scored where that would leave less: the run ends with the scores there are.
    clip:           global gradient norm, or None.
    accumulate:     batches an update; an update never spans two stages.
    micro_batch:    most samples computed at once: a larger batch is cut into even pieces, whose mean is the batch's up to rounding (draws
                    such as dropout's, and a model's auxiliary losses, are each piece's own). "auto" finds the most that the memory
                    takes; what it found is in `RunResult.micro_batch` and `metrics.jsonl`, and resuming keeps it.
    evaluators:     name -> evaluator, run each `evaluate_every` share of the budget, at the start and at the end.
    folder:         for metrics, order and checkpoints; None writes nothing.
    checkpoint_every: share of the budget between checkpoints (a last one is always written where there is a folder).
    device:         "auto" takes cuda, then mps, then cpu. precision "auto": bfloat16 autocast on cuda, float32 elsewhere.
    trackers:       "tensorboard", "wandb", "trackio": shown what goes to `metrics.jsonl` (see `engine.trackers`).
    progress:       called with (share, loss) after each update.
    feedback_every: updates between reports of per-sample losses to the stream's sampler.
    steer:          evaluators on a split kept for steering (never the one that selects or tests), run at the start and each
                    `steer_every` share of the budget; charged as "prepare" and told to the sampler as `Feedback.evaluations`.

    Raises BadInput before anything runs where parts do not fit, NonFinite, DataEnded or Interrupted during the run.
    """

    beside: Mapping[str, str] = {}
    """Files (name -> content) that are written beside the run's mark as soon as the folder is its own."""

    config: Mapping[str, Any] = {}
    """What trackers show of the run: plain values by name."""

    prepared: Ledger | None = None
    """What making the data has cost (scoring samples, say): charged before the first update of a run that begins."""

    @typed("")
    def __init__(
        self,
        model: M,
        stream: Stream,
        objective: Objective | Mapping[str, Objective],
        *,
        optimizer: OptimizerSpec | None = None,
        schedule: Schedule | None = None,
        methods: Sequence[Method] | Method = (),
        budget: Budget,
        seed: int = 0,
        clip: float | None = 1.0,
        accumulate: int = 1,
        micro_batch: int | Literal["auto"] | None = None,
        evaluators: Mapping[str, Evaluator] | None = None,
        evaluate_every: float = 0.05,
        folder: Path | str | None = None,
        checkpoint_every: float = 0.1,
        keep_checkpoints: int = 2,
        log_every: int = 1,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        trackers: Sequence[str] = (),
        progress: Callable[[float, float], None] | None = None,
        count_flops: bool = True,
        feedback_every: int = 1,
        steer: Mapping[str, Evaluator] | None = None,
        steer_every: float = 0.05,
    ) -> None:
        counts = {"accumulate": accumulate, "keep_checkpoints": keep_checkpoints, "log_every": log_every, "feedback_every": feedback_every}
        for name, count in counts.items():
            if count < 1:
                raise BadInput(name, repr(count), "a whole number >= 1")
        if isinstance(folder, str) and not folder.strip():
            raise BadInput("folder", "an empty text", "a folder, or None to write nothing")
        if seed < 0:
            raise BadInput("seed", repr(seed), "a whole number >= 0")
        if clip is not None and not clip > 0:
            raise BadInput("clip", repr(clip), "a number > 0, or none")
        shares = {"evaluate_every": evaluate_every, "checkpoint_every": checkpoint_every, "steer_every": steer_every}
        for name, value in shares.items():
            if not 0 < value <= 1:
                raise BadInput(name, repr(value), "a share of the budget between 0 and 1")
        if precision not in ("auto", "float32", "bfloat16"):
            raise choice("precision", precision, ("auto", "float32", "bfloat16"))
        check_trackers(trackers, None if folder is None else Path(folder))
        self.trackers = tuple(trackers)
        self.device = pick_device(str(device))
        self.clip, self.accumulate, self.progress = clip, accumulate, progress
        self.evaluators, self.evaluate_every = dict(evaluators or {}), evaluate_every
        self.folder = None if folder is None else Path(folder)
        self.checkpoint_every, self.keep_checkpoints = checkpoint_every, keep_checkpoints
        self.log_every, self.feedback_every = log_every, feedback_every
        self.steer, self.steer_every = dict(steer or {}), steer_every
        self.hooks = Hooks(methods)
        self.micro_batch: int | Literal["auto"] | None = micro_batch
        if micro_batch is not None:
            self._check_micro_batch(model)
        self.autocast = precision == "bfloat16" or (precision == "auto" and self.device.type == "cuda")
        self.model, self.stream = model.to(self.device), stream
        self.objectives = dict(objective) if isinstance(objective, Mapping) else {"": objective}
        self.optimizer, self.schedule = optimizer or AdamW(), schedule or Cosine(warmup=0.02)
        self.budget, self.seed, self.count_flops = budget, seed, count_flops or any(q.endswith("flops") for q in budget.weights)
        self._told = self._identity()
        self._parts = identity.digests(self._told)
        self._stop = False

    def _check_micro_batch(self, model: nn.Module) -> None:
        """Pieces are to have the whole batch's mean: what mixes a batch's samples is refused."""
        if isinstance(self.micro_batch, int) and self.micro_batch < 1:
            raise BadInput("micro_batch", repr(self.micro_batch), "a whole number >= 1, or 'auto'")
        mixing = next((m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)), None)
        if mixing is not None:
            raise BadInput("micro_batch", f"it for a model with {type(mixing).__name__}, which needs the whole batch", "none")
        for event in ("forward", "loss", "backward"):
            if self.hooks.lists[event]:
                name = type(getattr(self.hooks.lists[event][0], "__self__", None)).__name__
                raise BadInput("micro_batch", f"it beside {name}, which looks at each batch's {event} pass", "none, or a smaller batch")

    def request_stop(self) -> None:
        """Ends the run after the present update, with a checkpoint; `run` then raises `Interrupted`. From any thread or signal."""
        self._stop = True

    # --- one run --------------------------------------------------------------------------------------------------
    def run(self, resume: bool = False) -> RunResult[M]:
        """Trains until the budget is spent. With `resume`, goes on from the newest good checkpoint of `folder`."""
        if resume and self.folder is None:
            raise BadInput("folder", "none", "the folder of the run to resume")
        try:
            methods = [f"{type(m).__module__}.{type(m).__qualname__}" for m in self.hooks.methods]
            place = nullcontext() if self.folder is None else held(self.folder, self._told, self.beside, methods, resume)
            with place as folder:
                return self._run(folder, resume)
        except BadInput as error:
            # What a method's part refuses during the run is named as the method's user knows it.
            raise owned(error, self.hooks.methods) if error.where[:1].isupper() else error from error
        except memory.TOO_LARGE as error:
            bad = memory.at_allocation(error, "memory", self.device, "a smaller batch, context or model")
            if bad is None:
                raise
            raise bad from error

    def _run(self, folder: RunFolder | None, resume: bool) -> RunResult[M]:
        log = MetricsLog(self.folder, Mirror(self.trackers, self.folder, self.config) if self.folder and self.trackers else None)
        try:
            run = Run(
                model=self.model, stream=self.stream, objectives=self.objectives, optimizer=self.optimizer, schedule=self.schedule,
                hooks=self.hooks, budget=self.budget, seed=self.seed, device=self.device, log=log, count_flops=self.count_flops,
                autocast=self.autocast, micro_batch=None if self.micro_batch == "auto" else self.micro_batch,
            )  # fmt: skip
            result = RunResult(model=self.model, metrics={}, history=run.history, ledger=run.ledger, steps=0, parameters=0)
            result.set_aside = str(folder.aside or "") if folder is not None else ""
            started, before = time.perf_counter(), 0.0
            cost = 0.0  # of the last update, in the budget's units, without what its stage's beginning took
            if isinstance(self.stream, Bound):
                log.open("timing.jsonl")
                self.stream.bind(run)
            self.hooks.call("start", run)
            if folder is not None and resume and not any(folder.checkpoints.glob("step-*")):
                resume = False  # killed before its first checkpoint: the beginning is where to go on from
                log.cut({})
            if folder is not None and resume:
                path, result.passed_over = checkpoint.latest(folder.checkpoints)
                state = checkpoint.load(path)
                saving.restore(run, state, self._parts, str(self.folder))
                result.resumed_from, before = path.name, run.ledger.total("seconds")
                cost = state.get("cost", 0.0)  # a run that had ended has ended: less than half an update's worth is left
            else:
                if self.prepared is not None:  # its seconds passed before this clock began
                    run.ledger.merge(self.prepared)
                    before = self.prepared.total("seconds")
                if self.evaluators:
                    self._evaluate(run, 0.0)
                if self.steer:
                    self._steer(run)
                if self.micro_batch == "auto":
                    found = fitted(run)
                    run.micro_batch = found.rows
                    log.write({"event": "micro_batch", "rows": found.rows, "of": found.of, "how": found.how})
            result.micro_batch = run.micro_batch
            run.model.train()
            while self._left(run) > 0.5 * cost:
                spent, seconds = self.budget.spent(run.ledger), run.ledger.of("seconds")
                self._entry, self._needed = 0.0, 0.5 * cost
                self._update(run)
                if folder is not None:
                    folder.worked = True
                self._clock(run, before + time.perf_counter() - started)
                if isinstance(self.stream, Bound):
                    log.times(run.step, seconds, run.ledger.of("seconds"))
                cost = self.budget.spent(run.ledger) - spent - self._entry
                previous = spent / self.budget.limit
                if self.steer and self._left(run) > 0.5 * cost and _crossed(previous, run.share, self.steer_every):
                    self._steer(run)  # first, for it is charged: what it spends may end the run, or pass other marks
                share, done = run.share, self._left(run) <= 0.5 * cost
                if self.progress is not None:
                    self.progress(min(share, 1.0), self._loss)
                stop = run.stop_requested or self._stop  # read once: a signal may come between the checkpoint and the end
                keep = folder is not None and (done or stop or _crossed(previous, share, self.checkpoint_every))
                if done or keep:
                    self._check_weights(run)
                if self.evaluators and (done or _crossed(previous, share, self.evaluate_every)):
                    self._evaluate(run, run.ledger.total("seconds"))
                if folder is not None and keep:
                    checkpoint.save(folder.checkpoints, run.step, saving.state_of(run, self._parts) | {"cost": cost}, self.keep_checkpoints)
                    folder.keep()
                if stop and not done:
                    raise Interrupted(f"stopped after step {run.step} at {share:.0%} of the budget")
            if run.stage is not None:
                self.hooks.call("stage_end", run, run.stage)
            self.hooks.call("stop", run)
        finally:
            log.close()
        result.model, result.steps, result.ledger = run.model, run.step, run.ledger  # type: ignore[assignment]
        result.history = run.history
        result.metrics = {k: v for k, v in run.history[-1].items() if "/" in k} if run.history else {}
        result.parameters = sum(p.numel() for p in run.model.parameters())
        return result

    def _left(self, run: Run) -> float:
        return self.budget.limit - self.budget.spent(run.ledger)

    def _update(self, run: Run) -> None:
        """One update: `accumulate` micro-batches of one stage, then the optimizer's step."""
        share_before = run.share
        run._extra = 0
        for parameter in run.named_parameters().values():
            parameter.grad = None
        taken: list[tuple[Batch, Output]] = []
        for micro_batch in range(self.accumulate):
            if micro_batch and run.stream.stage() != run.stage:
                break
            entered = not micro_batch and self._enter_stage(run)
            try:
                batch = run.stream.next().to(self.device)
            except StopIteration:
                raise self._ended(run) from None
            if entered:
                run.log_order()
            run.metrics_log.order(batch.ids)
            taken.append(run.train_on(batch, micro_batch, self.accumulate > 1))
        names = {batch.optimizer for batch, _ in taken}
        if len(names) > 1:
            raise BadInput("batch.optimizer", " and ".join(sorted(names)), "one optimizer for all micro-batches of an update")
        (name,) = names
        # Only what this update steps is clipped and must be finite: another optimizer's gradients are not looked at.
        stepped = run.stepped_by(name)
        with run.counted(("update", name), "train"):
            grads = [p.grad for p in stepped.values() if p.grad is not None]
            in_pieces = run.micro_batch is not None and len(taken[0][0]) > run.micro_batch
            if (self.accumulate > 1 or in_pieces) and grads:
                torch._foreach_mul_(grads, 1.0 / sum(output.weight for _, output in taken))
            self.hooks.call("gradients", run)
            self._check_and_clip(run, taken, stepped)
            if self.hooks.lists["clipped"]:
                self.hooks.call("clipped", run)
                # Noise or scaling after the clip may overflow too; what would be stepped is what must be finite.
                self._finite(run, taken, stepped)
            run.ledger.charge("train", steps=1)
            run.set_learning_rate((share_before + run.share) / 2)
            for optimizer in (run.optimizers[key] for key in selected(name, run.optimizers)):
                if not any(hook(run, optimizer) for hook in self.hooks.lists["update"]):
                    optimizer.step()
            run.step += 1
            self.hooks.call("updated", run)
        weight = sum(output.weight for _, output in taken)
        self._loss = sum(float(output.loss.detach()) * output.weight for _, output in taken) / weight
        if run.step % self.feedback_every == 0:
            for batch, output in taken:
                if output.per_sample is not None:
                    signals = {k: float(v) for k, v in output.signals.items()}
                    run.stream.observe(Feedback(run.step, batch.ids, output.per_sample.float().cpu().numpy(), signals))
        if run.step % self.log_every == 0:
            for key, value in taken[-1][1].signals.items():
                run.log(key, float(value))
            run.metrics_log.write(
                {"step": run.step, "loss": self._loss, "lr": run.learning_rate, "gradient_norm": run.gradient_norm}
                | ({"tokens": run.ledger.total("tokens")} if "tokens" in self.budget.weights else {"share": run.share})
                | {"stage": run.stage.name if run.stage else ""}
            )

    def _check_and_clip(self, run: Run, taken: list[tuple[Batch, Output]], stepped: dict[str, nn.Parameter]) -> None:
        grads = [p.grad for p in stepped.values() if p.grad is not None]
        if not grads:
            raise BadInput("objective", "a loss that reaches no parameter", "at least one gradient")
        norm = self._finite(run, taken, stepped)
        run.gradient_norm = norm
        if self.clip is not None and norm > self.clip:
            torch._foreach_mul_(grads, self.clip / (norm + 1e-6))

    def _finite(self, run: Run, taken: list[tuple[Batch, Output]], stepped: dict[str, nn.Parameter]) -> float:
        """The global norm of the gradients to be stepped; raises NonFinite naming the loss or the first bad gradient."""
        grads = [p.grad for p in stepped.values() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        # Read together: one wait for the device. A loss may be NaN where no gradient is (a constant was added to it).
        values = torch.stack([norm, *(output.loss.detach().to(norm.dtype) for _, output in taken)]).tolist()
        if all(math.isfinite(v) for v in values):
            return values[0]
        cause = not_finite([batch for batch, _ in taken])
        if not all(math.isfinite(v) for v in values[1:]):
            raise NonFinite(run.step, "the loss", cause)
        for name, parameter in stepped.items():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise NonFinite(run.step, f"the gradient of {name}", cause)
        raise NonFinite(run.step, "the gradients' norm", cause)

    def _check_weights(self, run: Run) -> None:
        """Before weights are kept or returned: the last update, too, may have made one infinite."""
        weights = {name: parameter.detach() for name, parameter in run.named_parameters().items()}
        if not math.isfinite(float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(weights.values())))))):
            bad = next((n for n, p in weights.items() if not bool(torch.isfinite(p).all())), "the weights' norm")
            raise NonFinite(run.step, bad)

    def _enter_stage(self, run: Run) -> bool:
        """Whether the next batch is the first of its stage."""
        stage = run.stream.stage()
        if stage is None:
            raise self._ended(run)
        if stage == run.stage:
            return False
        begun = self.budget.spent(run.ledger)
        if run.stage is not None:
            self.hooks.call("stage_end", run, run.stage)
        wanted = run.stream.sampler_wants()
        if wanted is not None and wanted.what != "loss":
            raise one_of("Score.what", wanted.what, ("loss",))
        if wanted is not None and self._left(run) - self.budget.spent(scoring(run.ledger, _count(run, wanted))) > self._needed:
            run.stream.give_score(wanted, run.score(wanted.ids, batch_size=256))
        elif wanted is not None:
            run.metrics_log.write({"event": "not scored", "step": run.step, "share": run.share, "stage": stage.name})
        run.stage = stage
        self.hooks.call("stage_start", run, stage)
        self._entry = self.budget.spent(run.ledger) - begun
        return True

    def _ended(self, run: Run) -> DataEnded:
        return DataEnded(f"the data ended at step {run.step} with {run.share:.1%} of the budget spent; repeat it or ask for less")

    def _evaluate(self, run: Run, seconds: float) -> None:
        metrics = run.evaluate(self.evaluators)
        tokens, flops = run.ledger.total("tokens"), run.ledger.total("flops")
        place = {"step": run.step, "share": run.share, "tokens": tokens, "flops": flops}
        run.history.append(place | {"seconds": seconds} | metrics)
        run.metrics_log.write({"event": "evaluate"} | place | metrics)

    def _steer(self, run: Run) -> None:
        """Measures what steers the training, charges it, and tells the sampler."""
        metrics = run.evaluate(self.steer, charged="prepare")
        run.stream.observe(Feedback(run.step, np.empty(0, np.int64), np.empty(0, np.float32), evaluations=metrics))
        run.metrics_log.write({"event": "steer", "step": run.step, "share": run.share} | metrics)

    def _clock(self, run: Run, seconds: float) -> None:
        """Wall time in the ledger; measuring with evaluators is part of it, as a user would feel it."""
        run.ledger.charge("train", seconds=max(0.0, seconds - run.ledger.total("seconds")))

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to belong to this run, part by part."""
        return {
            "model": {n: list(p.shape) for n, p in self.model.named_parameters()},
            "set of methods": sorted(([m.name, identity.settings_of(m)] for m in self.hooks.methods), key=str),
            "data": identity.describe_stream(self.stream),
            "objective": identity.describe_objectives(self.objectives),
            "optimizer": identity.describe(self.optimizer),
            "schedule": identity.describe(self.schedule),
            "budget": [self.budget.quantity, self.budget.limit],
            "seed": self.seed,
            "clip": self.clip,
            "accumulate": self.accumulate if self.micro_batch is None else [self.accumulate, self.micro_batch],
        }


def _count(run: Run, wanted: Score) -> int:
    return len(getattr(run.stream, "source", ())) if wanted.ids is None else len(wanted.ids)


def _crossed(before: float, after: float, every: float) -> bool:
    """Whether a multiple of `every` lies in (before, after]; the tiny slack absorbs rounding of shares such as 0.3."""
    return math.floor(after / every + 1e-9) > math.floor(before / every + 1e-9)
