"""One run of an arm: the same rows of the task in the same order, beside hints or more of the task, and lists up to four times as long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.schedule import Cosine
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.evidence.study import Job, Outcome
from etude.learn.language import CausalLM
from etude.nn.transformer import TransformerConfig
from etude.papers.order.task_hinting.data import Exact, Numbers, data
from etude.papers.order.task_hinting.model import PositionFree
from etude.papers.order.task_hinting.sampler import TaskHinting
from etude.papers.order.task_hinting.settings import Settings

HALF = 0.5
"""The hints' share where there are hints: as many rows as of the task."""
LATE = 0.2
"""What "late" is a mean over: the evaluations of the last fifth of the run, as single ones jump."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What an arm trains on. hint: a task of `HINTS`, or none. rows: of all tasks, in multiples of the task's alone."""

    hint: str = ""
    rows: int = 1
    tempered: bool = False
    repeats: bool = False

    def share(self) -> float:
        return HALF if self.hint else 0.0


def model_config(settings: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=Numbers(settings.largest).vocab, width=settings.width, depth=settings.depth, heads=settings.heads,
        hidden=settings.hidden, context=settings.context,
    )  # fmt: skip


def spent(settings: Settings, lesson: Lesson) -> dict[str, float]:
    """What a run will spend. task_rows: those of the main task among its samples."""
    samples = settings.updates * settings.batch * lesson.rows
    return {"train.steps": settings.updates, "train.samples": samples, "train.task_rows": round(samples * (1 - lesson.share()))}


def train(job: Job, lesson: Lesson) -> Outcome:
    s: Settings = job.settings
    method = TaskHinting(share=lesson.share())
    part = job.part("train")
    result = Trainer(
        initialise(PositionFree(model_config(s), lesson.tempered), job.seed),
        DataStream(data(s, job.seed, lesson.hint, lesson.repeats), s.batch * lesson.rows, job.seed), CausalLM(),
        optimizer=AdamW(lr=s.lr, betas=(0.9, s.beta2), weight_decay=s.weight_decay), schedule=Cosine(warmup=s.warmup),
        methods=[method], budget=Budget(steps=s.updates), seed=job.seed,
        evaluators={f"{k}x": Exact(s, job.seed, lesson.repeats, n) for k, n in zip(s.factors, s.tested, strict=True)},
        evaluate_every=1 / s.evaluations, folder=part.folder,
        progress=lambda share, loss: job.progress(min(share, 1.0), loss),
    ).run(resume=part.begun)  # fmt: skip
    used = method.sampler.used
    assert used is not None
    result.ledger.charge("train", task_rows=int(used[0]))
    temper = result.model.temper
    return Outcome(
        metrics=measured(s, result.history) | ({} if temper is None else {"sharpness per ln n": float(temper.slope.detach())}),
        curves=curves(s, result.history),
        ledger=result.ledger.as_dict(),
        parameters=result.parameters,
    )


def measured(s: Settings, history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each tested length: "exact" and "tokens", late; "area", exact over the run; "end", exact at its last evaluation."""
    shares = np.array([row["share"] for row in history])
    late = shares >= 1 - LATE - 1e-9
    found = {}
    for k in s.factors:
        exact, tokens = (np.array([row[f"{k}x/{name}"] for row in history]) for name in ("exact", "tokens"))
        found[f"exact, {k}x"], found[f"tokens, {k}x"] = float(exact[late].mean()), float(tokens[late].mean())
        found[f"area, {k}x"] = float(np.trapezoid(exact, shares) / (shares[-1] - shares[0]))
        found[f"end, {k}x"] = float(exact[-1])
    return found


def curves(s: Settings, history: Sequence[Mapping[str, float]]) -> dict[str, tuple[list[float], list[float]]]:
    told = {}
    for k in s.factors:
        exact = [row[f"{k}x/exact"] for row in history]
        told[f"exact, {k}x / updates"] = ([row["step"] for row in history], exact)
        told[f"exact, {k}x / flops"] = ([row["flops"] for row in history], exact)
        told[f"tokens, {k}x / updates"] = ([row["step"] for row in history], [row[f"{k}x/tokens"] for row in history])
    return told
