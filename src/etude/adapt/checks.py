"""What can be adapted, and what is refused by name before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etude.engine.arguments import shown
from etude.engine.hooks import EVENTS, Hooks
from etude.engine.protocols import SLOTS, Method
from etude.errors import BadInput

SUPPORTED_SLOTS = ("sampler", "schedule", "surgery")
SUPPORTED_EVENTS = (
    "start", "stop", "stage_start", "stage_end", "batch", "backward", "gradients", "clipped", "updated", "replaced",
)  # fmt: skip
HERE = "etude.adapt.hf"
ALLOWED = "a method of sampler, schedule, gradients, per-sample weights or surgery before training; etude.train takes the others"
TRAINERS = "a transformers Trainer, or TRL's SFTTrainer or GRPOTrainer"


def check_trainer(trainer: Any) -> None:
    """Raises BadInput for what is no trainer, one of another kind, one that is adapted or has trained, or one of several
    processes."""
    try:
        from transformers import Trainer
    except ImportError:
        raise BadInput(HERE, "no transformers", "the package: pip install 'etude[bench]'") from None
    if not isinstance(trainer, Trainer):
        raise BadInput(f"{HERE}, trainer", shown(trainer), TRAINERS)
    if hasattr(trainer, "_etude"):
        raise BadInput(f"{HERE}, trainer", "a trainer that has methods already", "all methods in one call")
    kinds = [kind.__name__ for kind in type(trainer).__mro__ if kind.__module__.startswith("trl.")]
    if kinds and kinds[0] not in ("SFTTrainer", "GRPOTrainer"):
        raise BadInput(f"{HERE}, trainer", f"a {kinds[0]}", TRAINERS)
    if trainer.state.global_step:
        raise BadInput(
            f"{HERE}, trainer", f"one that has trained, {trainer.state.global_step} updates", "a trainer before `trainer.train()`"
        )
    args = trainer.args
    if args.world_size > 1 or args.n_gpu > 1:
        raise BadInput(f"{HERE}, trainer", f"{max(args.world_size, args.n_gpu)} processes or devices", "one process on one device")
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise BadInput(f"{HERE}, trainer", "DeepSpeed or FSDP", "one process on one device")


def check_methods(methods: Sequence[Method] | Method, trainer: Any) -> Hooks:
    """The methods' events. Raises BadInput for a method whose slot or event this trainer has no place for."""
    hooks = Hooks(methods)
    for method in hooks.methods:
        for slot in method.slots:
            if slot not in SUPPORTED_SLOTS:
                raise BadInput(f"{HERE}, methods", f"{method.name}, which owns the slot '{slot}' ({SLOTS[slot]})", ALLOWED)
        for event in EVENTS:
            if event not in SUPPORTED_EVENTS and getattr(type(method), event) is not getattr(Method, event):
                raise BadInput(f"{HERE}, methods", f"{method.name}, which acts on '{event}'", ALLOWED)
    args = trainer.args
    for slot, owner in hooks.owner.items():
        if slot == "sampler":
            _check_order(owner, args)
        elif slot == "schedule" and trainer.lr_scheduler is not None:
            raise BadInput("trainer.optimizers", f"a learning-rate scheduler beside {owner}, which brings its own", "one of them")
        elif slot == "surgery" and (trainer.optimizer is not None or trainer.model_init is not None):
            found = "an optimizer of your own" if trainer.optimizer is not None else "a model_init"
            raise BadInput(
                "trainer", f"{found} beside {owner}, which replaces the model", "a trainer that makes its optimizer when it begins"
            )
    for event in ("gradients", "clipped"):
        changing = [m.name for m in hooks.methods if getattr(type(m), event) is not getattr(Method, event)]
        if changing and args.fp16:
            raise BadInput("trainer.args.fp16", f"scaled gradients, which {changing[0]} changes", "bf16 or full precision")
    return hooks


def _check_order(owner: str, args: Any) -> None:
    """That nothing else in the trainer decides on the order."""
    if args.dataloader_num_workers:
        found = f"{args.dataloader_num_workers}, which would draw batches ahead of {owner}"
        raise BadInput("trainer.args.dataloader_num_workers", found, "0")
    strategy = getattr(args, "train_sampling_strategy", "random")
    if strategy != "random":
        raise BadInput("trainer.args.train_sampling_strategy", f"'{strategy}' beside {owner}, which brings its own order", "one of them")
    if args.auto_find_batch_size:
        raise BadInput("trainer.args.auto_find_batch_size", f"a batch size that may change under {owner}", "a fixed one")


def check_rows(dataset: Any, why: str) -> None:
    """Raises BadInput for rows that cannot be asked for by number. why: the method that asks."""
    from torch.utils.data import IterableDataset

    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise BadInput("trainer.train_dataset", shown(dataset), f"rows with a length and numbers, which {why} asks for")
