"""An objective in a trainer: rows written otherwise before the trainer counts and learns them, or a term beside its loss.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etude.adapt.checks import HERE
from etude.adapt.losses import IGNORED, predicts_next, row_losses
from etude.engine.arguments import shown
from etude.engine.protocols import Batch, Objective
from etude.errors import BadInput
from etude.learn.corruption import Corruption, MaskedLM, SpanCorruption
from etude.learn.corruption import Infilling as OneOrder
from etude.learn.dispatch import Sometimes
from etude.learn.infilling import Infilling
from etude.learn.language import CausalLM
from etude.learn.prefix import PrefixLM
from etude.learn.unlikelihood import Unlikelihood, previous_tokens, unlikelihood

ALLOWED = "a corruption read from left to right (SpanCorruption, Infilling), Unlikelihood, CausalLM, or Sometimes of these"
PLACE = f"{HERE}, objective"
TEXT = ("input_ids", "attention_mask", "labels")


class Given:
    """An objective as a trainer has a place for it. Raises BadInput for one that has none there, naming what does not fit.

    rewrites: whether it writes rows otherwise. adds: whether it adds to the trainer's loss. Neither where it is the trainer's own.
    """

    def __init__(self, objective: Objective | None, trainer: Any) -> None:
        self.objective = objective
        parts = [] if objective is None else [part for part in _parts(objective) if not _is_own(part)]
        self.rewrites = any(isinstance(part, Corruption | Infilling) for part in parts)
        self.adds = any(isinstance(part, Unlikelihood) for part in parts)
        if not parts:
            return
        self._sft = any(kind.__name__ == "SFTTrainer" for kind in type(trainer).__mro__)
        if any(kind.__name__ == "GRPOTrainer" for kind in type(trainer).__mro__):
            raise BadInput(
                PLACE, f"{_name(parts[0])} beside a {type(trainer).__name__}, whose loss is of rewards", "a Trainer or an SFTTrainer"
            )
        if not predicts_next(trainer.model):
            raise BadInput(PLACE, f"{_name(parts[0])} for a {type(trainer.model).__name__}", "a decoder that predicts the next token")
        size = trainer.model.get_input_embeddings().weight.shape[0]
        for part in parts:
            _check_marks(part, size)
        if self.adds:
            self._check_plain(trainer)

    def of(self, batch: Batch) -> Objective | None:
        """What the batch's update is trained by; None where that is the trainer's own loss."""
        part = self.objective
        while isinstance(part, Sometimes):
            part = part.of(batch)
        return None if part is None or _is_own(part) else part

    def rewritten(self, inputs: Mapping[str, Any], ids: np.ndarray, key: int) -> dict[str, Any]:
        """A trainer's inputs with rows, labels and attention mask of the objective. ids [B]: the rows' numbers. key: of the update."""
        part = self.of(Batch({}, ids, key=key))
        if not isinstance(part, Corruption | Infilling):
            return dict(inputs)
        tokens, kept = _text(inputs, _name(part), len(ids))
        batch = Batch({"tokens": tokens, "document_ids": kept.long() - 1}, ids, key=key)
        made = (part.corrupt(batch) if isinstance(part, Corruption) else part.rearrange(batch)).data
        counts = torch.cat([torch.zeros_like(kept[:, :1]), made["loss_mask"].bool()], 1)
        return {
            "input_ids": made["tokens"],
            "attention_mask": (made["document_ids"] >= 0).long(),
            "labels": torch.where(counts, made["tokens"], IGNORED),
        }

    def extra(self, batch: Batch, outputs: Any) -> Tensor | None:
        """[B]: what the objective adds to each row's loss, summed over its labels; None where nothing."""
        part, data = self.of(batch), batch.data
        if not isinstance(part, Unlikelihood):
            return None
        _check_separate(data, _name(part))
        logits = getattr(outputs, "logits", None)
        tokens, labels, mask = data.get("input_ids"), data.get("labels"), data.get("attention_mask")
        if logits is None or tokens is None or labels is None or logits.shape[:2] != labels.shape:
            found = f"{', '.join(data)} and {shown(outputs)}"
            raise BadInput(f"{PLACE}, {_name(part)}", found, "input_ids, labels, and a model that gives logits for each of them")
        documents = None if mask is None or bool(mask.all()) else mask[:, :-1].long()
        candidates = previous_tokens(tokens[:, :-1], tokens[:, 1:], logits.shape[-1], documents)
        losses = unlikelihood(logits[:, :-1].float(), candidates)
        counted = labels[:, 1:] != IGNORED
        if mask is not None:
            counted = counted & mask[:, :-1].bool()  # nothing stood before a text whose filling did
        return part.alpha * (losses * counted).sum(1)

    @contextmanager
    def logits(self, trainer: Any, batch: Batch) -> Iterator[None]:
        """Has TRL's SFTTrainer compute logits for `extra`, which its own head leaves out."""
        if not self.adds or not self._sft or self.of(batch) is None:
            yield
            return

        def mean(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
            sums, counts = row_losses(outputs, labels, True)
            return sums.sum() / (counts.sum() if num_items_in_batch is None else num_items_in_batch)

        trainer.compute_loss_func = mean
        try:
            yield
        finally:
            trainer.compute_loss_func = None

    def _check_plain(self, trainer: Any) -> None:
        args, found = trainer.args, ""
        if args.label_smoothing_factor:
            found = f"label_smoothing_factor = {args.label_smoothing_factor:g}"
        elif trainer.compute_loss_func is not None:
            found = "a compute_loss_func of your own"
        elif getattr(args, "loss_type", "nll") not in ("nll", "chunked_nll"):
            found = f"loss_type = '{args.loss_type}'"
        elif self._sft and getattr(trainer, "aux_loss_enabled", False):
            found = "a router's auxiliary loss"
        if found:
            raise BadInput("trainer", f"{found} beside Unlikelihood", "the plain loss of the labels")


def _parts(objective: Any) -> list[Any]:
    if isinstance(objective, Sometimes):
        return [*_parts(objective.objective), *_parts(objective.otherwise)]
    if isinstance(objective, MaskedLM | PrefixLM) or (isinstance(objective, Corruption) and objective.prefix):
        found = f"{_name(objective)}(prefix=True)" if isinstance(objective, Corruption) else _name(objective)
        raise BadInput(PLACE, f"{found}, with attention both ways", "one read from left to right, as the trainer's decoder reads")
    if type(objective) is not CausalLM and not isinstance(objective, Corruption | Infilling | Unlikelihood):
        raise BadInput(PLACE, shown(objective), ALLOWED)
    return [objective]


def _is_own(part: Any) -> bool:
    return type(part) is CausalLM or (isinstance(part, Unlikelihood) and not part.alpha)


def _name(part: Any) -> str:
    return type(part).__name__


def _check_marks(part: Any, size: int) -> None:
    ids: list[int] = [part.filler] if isinstance(part, Corruption) else []
    if isinstance(part, SpanCorruption):
        ids += part.marks.every.tolist()
    elif isinstance(part, OneOrder | Infilling):
        ids += [part.marks.prefix, part.marks.suffix, part.marks.middle, part.marks.end]
    beyond = [i for i in ids if not 0 <= i < size]
    if beyond:
        raise BadInput(f"{PLACE}, {_name(part)}.marks", f"the id {beyond[0]}", f"ids of the model's {size} tokens")


def _check_separate(inputs: Mapping[str, Any], why: str) -> None:
    packed = [name for name in inputs if name in ("position_ids", "seq_idx", "shift_labels") or name.startswith("cu_seq_lens")]
    if packed:
        raise BadInput("trainer, rows", f"'{packed[0]}' beside {why}", "rows of their own: padding_free and packing off")


def _text(inputs: Mapping[str, Any], why: str, rows: int) -> tuple[Tensor, Tensor]:
    """(tokens [B, T] with each text at its row's beginning, which [B, T] are text). Raises BadInput for rows that are more than a text."""
    _check_separate(inputs, why)
    other = [name for name in inputs if name not in TEXT]
    tokens, mask, labels = (inputs.get(name) for name in TEXT)
    if other or not isinstance(tokens, Tensor) or tokens.ndim != 2:
        raise BadInput("trainer, rows", f"'{other[0]}' beside {why}" if other else "no input_ids [B, T]", f"nothing but {', '.join(TEXT)}")
    if len(tokens) != rows:
        raise BadInput("trainer, rows", f"{rows} laid end to end beside {why}", "rows of their own: padding_free and packing off")
    if mask is not None and mask.shape != tokens.shape:
        raise BadInput("trainer, attention_mask", f"shape {tuple(mask.shape)}", f"{tuple(tokens.shape)}, which tokens are text")
    kept = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
    order = (~kept).long().argsort(dim=1, stable=True)  # filling before a text goes behind it
    tokens, kept = tokens.gather(1, order), kept.gather(1, order)
    if labels is not None and labels.shape == tokens.shape and tokens.shape[1] > 1:
        learnt = labels.gather(1, order) != IGNORED
        if bool((kept[:, 1] & ~learnt[:, 1] & learnt[:, 2:].any(1)).any()):
            raise BadInput(
                "trainer, labels", f"texts whose beginning is not learnt (prompts) beside {why}", "texts that are learnt throughout"
            )
    return tokens, kept
