"""Distillation: a student's next-token distributions are drawn to a teacher's.

Shapes: B rows, T targets, N of them marked, V vocabulary, K kept teacher tokens. t and s are the softmaxes at a temperature.

    forward   KL(t || s) = sum t (log t - log s)         Hinton et al., arXiv 1503.02531, section 2; covers the teacher's modes
    reverse   KL(s || t) = sum s (log s - log t)         MiniLLM, arXiv 2306.08543, section 2.1; seeks one
    top-k     forward, t renormalised over its K likeliest tokens; s stays whole, so that mass elsewhere costs

Gradients shrink with 1 / temperature^2; `scaled` multiplies that back (1503.02531, section 2).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.engine.protocols import Batch, Output
from etude.errors import BadInput, one_of
from etude.learn.logprobs import logits_at, masked_work, places

DIRECTIONS = ("forward", "reverse")


def forward_kl(teacher: Tensor, student: Tensor, temperature: float = 1.0, top_k: int = 0) -> Tensor:
    """KL(teacher || student) in nats for each row. Logits [N, V] -> [N]. top_k 0 keeps the whole vocabulary."""
    log_s = F.log_softmax(student / temperature, -1)
    if top_k:
        teacher, kept = teacher.topk(top_k, -1)
        log_s = log_s.gather(-1, kept)
    log_t = F.log_softmax(teacher / temperature, -1)
    return (log_t.exp() * (log_t - log_s)).sum(-1)


def reverse_kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(student || teacher) in nats for each row. Logits [N, V] -> [N]."""
    return forward_kl(student, teacher, temperature)


class Distillation:
    """The mean KL over the marked targets (`loss_mask`, or all), mixed with the likelihood of the targets themselves.

    teacher: a frozen model over the same vocabulary, run with every batch (charged with the training).
    likelihood: share of the ordinary loss, 0 to 1. scaled: multiplies the KL by temperature^2. top_k: for "forward" only.
    Signals: `kl`, `agreement` (share of targets at which both prefer one token). Raises BadInput for vocabularies of different size.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        direction: str = "forward",
        temperature: float = 1.0,
        top_k: int = 0,
        likelihood: float = 0.0,
        scaled: bool = True,
    ) -> None:
        if direction not in DIRECTIONS:
            raise one_of("Distillation.direction", direction, DIRECTIONS)
        if not temperature > 0:
            raise BadInput("Distillation.temperature", repr(temperature), "a number > 0")
        if top_k < 0 or (top_k and direction == "reverse"):
            raise BadInput("Distillation.top_k", f"{top_k} with {direction} KL", "a whole number >= 1 with forward KL, or 0 for all")
        if not 0 <= likelihood <= 1:
            raise BadInput("Distillation.likelihood", repr(likelihood), "a number from 0 to 1")
        self.teacher = teacher.eval().requires_grad_(False)
        self.direction, self.temperature, self.top_k = direction, temperature, top_k
        self.likelihood, self.scaled = likelihood, scaled

    def work_of(self, batch: Batch) -> Hashable:
        return masked_work(batch) if "loss_mask" in batch.data else 0

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        if model is self.teacher:
            raise BadInput("Distillation.teacher", "the model in training itself", "another model, or a frozen copy")
        tokens = batch.data["tokens"]
        mask = batch.data.get("loss_mask")
        mask = torch.ones_like(tokens[:, 1:], dtype=torch.bool) if mask is None else mask
        where, picked = places(mask)
        count = len(where)
        student = logits_at(model, model(tokens[:, :-1]), picked)
        with torch.no_grad():
            teacher_model = self.teacher.to(tokens.device)
            teacher = logits_at(teacher_model, teacher_model(tokens[:, :-1]), picked)
        if teacher.shape != student.shape:
            raise BadInput("Distillation.teacher", f"a vocabulary of {teacher.shape[-1]}", f"the student's {student.shape[-1]}")
        if self.top_k > student.shape[-1]:
            raise BadInput("Distillation.top_k", repr(self.top_k), f"at most the vocabulary of {student.shape[-1]}")
        if self.direction == "forward":
            kl = forward_kl(teacher, student, self.temperature, self.top_k)[:count]
        else:
            kl = reverse_kl(teacher, student, self.temperature)[:count]
        each = kl * (self.temperature**2 if self.scaled else 1.0)
        if self.likelihood:
            targets = tokens[:, 1:].flatten()[where]
            each = (1 - self.likelihood) * each + self.likelihood * F.cross_entropy(student[:count], targets, reduction="none")
        with torch.no_grad():
            rows = where // mask.shape[1]
            per_sample = each.new_zeros(len(mask)).index_add(0, rows, each) / mask.sum(1).clamp(min=1)
            agreement = (teacher[:count].argmax(-1) == student[:count].argmax(-1)).float().mean()
        return Output(each.mean(), per_sample, float(count), {"kl": kl.detach().mean(), "agreement": agreement})
