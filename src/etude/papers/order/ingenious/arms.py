"""What each arm does: the same model, the same updates and the same first ones, on other parts of the pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from etude.data.sources import SubsetSource
from etude.data.stream import DataStream
from etude.engine.device import device_of
from etude.engine.flops import FlopCounter
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.protocols import Batch, Method, Metrics, Score, Source
from etude.engine.run import Run
from etude.engine.schedule import Cosine
from etude.engine.streams import initialise, numpy_rng
from etude.engine.trainer import RunResult, Trainer
from etude.evidence.study import Job, Outcome
from etude.learn.language import CausalLM
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.order.ingenious.importance import largest
from etude.papers.order.ingenious.pool import Pool, held_out, pool_of
from etude.papers.order.ingenious.sampler import ImportanceDraw, Ingenious, SubsetDraw
from etude.papers.order.ingenious.settings import Settings


class RandomSubset(SubsetDraw):
    """Each subset drawn evenly; `fixed`: the first one for good."""

    def __init__(self, share: float, warm_start: float, passes: float, fixed: bool) -> None:
        super().__init__(share, warm_start, passes)
        self.fixed, self.seed = fixed, -1

    def subset(self, number: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        if self.seed < 0 or not self.fixed:
            self.seed = int(rng.integers(2**62))
        return numpy_rng(self.seed, "subset").choice(len(source), self.size(source), replace=False)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seed = state["seed"]


class HighestLoss(SubsetDraw):
    """The samples of the highest loss under the present model, which is asked every `update_every` subsets."""

    def __init__(self, share: float, warm_start: float, passes: float, update_every: int) -> None:
        super().__init__(share, warm_start, passes)
        self.update_every = update_every
        self.losses = np.empty(0)

    def wants(self, stage: int) -> Score | None:
        number = self.number(stage)
        return Score() if number >= 0 and number % self.update_every == 0 else None

    def receive(self, score: Score, values: np.ndarray) -> None:
        self.losses = values

    def subset(self, number: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        return np.argsort(-self.losses, kind="stable")[: self.size(source)]

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = np.array(state["losses"])


class LargestGains(ImportanceDraw):
    """The control: those of the largest gains, for good, instead of a draw."""

    def due(self, stage: int) -> bool:
        return self.number(stage) >= 0 and not self.ranking

    def subset(self, number: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        return largest(self.ranking, self.share)


class Given(Method):
    """A sampler for a run."""

    slots = ("sampler",)

    def __init__(self, sampler: SubsetDraw) -> None:
        self.sampler = sampler

    def start(self, run: Run) -> None:
        run.set_sampler(self.sampler)


class Seen(Method):
    """Counts how often each sample is trained on, once the warm start is over."""

    def __init__(self, samples: int, after: int) -> None:
        self.times, self.after = np.zeros(samples, dtype=np.int64), after

    def batch(self, run: Run, batch: Batch) -> None:
        if run.step >= self.after:
            np.add.at(self.times, batch.ids, 1)


class HeldOut:
    """{"loss": mean nats a character, "accuracy": share of characters that are the likeliest} on windows that no arm trains on."""

    def __init__(self, settings: Settings) -> None:
        self.tokens = held_out(settings).data["tokens"]

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Metrics:
        loss = right = 0.0
        for tokens in self.tokens.to(device_of(model)).split(64):
            logits = model.head(model(tokens[:, :-1])["hidden"])  # type: ignore[operator]
            targets = tokens[:, 1:]
            loss += float(nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))
            right += float((logits.argmax(-1) == targets).sum())
        count = self.tokens[:, 1:].numel()
        return {"loss": loss / count, "accuracy": right / count}


Choosing = Callable[[Settings], list[Method]]


@dataclass(frozen=True, kw_only=True)
class How:
    """How an arm trains. choosing: what decides on the samples; nothing: all of them, shuffled. copied: whether the pool has near copies.

    distinct: on one window of each text alone. updates: how many.
    """

    choosing: Choosing = lambda s: []
    copied: bool = True
    distinct: bool = False
    updates: Callable[[Settings], int] = lambda s: s.updates


def ingenious(s: Settings) -> list[Method]:
    """With the study's settings."""
    return [
        Ingenious(
            s.share, warm_start=s.warm_passes, passes=s.passes, update_every=s.update_every, partition_size=s.partition_size,
            depth=s.layer, temperature=s.temperature, eps=s.eps,
        )
    ]  # fmt: skip


def at_temperature(temperature: float) -> Choosing:
    return lambda s: ingenious(replace(s, temperature=temperature))


def largest_gains(s: Settings) -> list[Method]:
    (method,) = ingenious(s)
    assert isinstance(method, Ingenious)
    method.sampler = LargestGains(s.share, s.warm_passes, s.passes, s.update_every, s.temperature)
    return [method]


def random_subset(fixed: bool) -> Choosing:
    return lambda s: [Given(RandomSubset(s.share, s.warm_passes, s.passes, fixed))]


def highest_loss(s: Settings) -> list[Method]:
    return [Given(HighestLoss(s.share, s.warm_passes, s.passes, s.update_every))]


def model_config(settings: Settings) -> TransformerConfig:
    return TransformerConfig(
        vocab=settings.vocab, width=settings.width, depth=settings.depth, heads=settings.heads, hidden=settings.hidden,
        context=settings.context,
    )  # fmt: skip


def paper_model(settings: Settings) -> Transformer:
    return Transformer(model_config(settings))


def train(job: Job, how: How) -> Outcome:
    s: Settings = job.settings
    pool = pool_of(s, job.seed, s.copied if how.copied else 0.0)
    source = SubsetSource(pool.source, pool.distinct) if how.distinct else pool.source
    updates = how.updates(s)
    methods, seen = how.choosing(s), Seen(len(source), s.warm_start)
    result = Trainer(
        initialise(Transformer(model_config(s)), job.seed), DataStream(source, s.batch, job.seed), CausalLM(),
        optimizer=AdamW(lr=s.lr, weight_decay=s.weight_decay), schedule=Cosine(warmup=s.warmup), methods=[*methods, seen],
        budget=Budget(weights={"train.samples": 1.0}, limit=updates * s.batch), seed=job.seed, evaluators={"test": HeldOut(s)},
        evaluate_every=1 / s.evaluations, progress=lambda share, loss: job.progress(min(share, 1.0), loss),
    ).run()  # fmt: skip
    times = np.zeros(len(pool.texts), dtype=np.int64)
    times[pool.distinct if how.distinct else slice(None)] = seen.times
    return Outcome(
        metrics=measured(result, pool, times), curves=curves(result, updates),
        ledger=result.ledger.as_dict(), parameters=result.parameters,
    )  # fmt: skip


def measured(result: RunResult, pool: Pool, times: np.ndarray) -> dict[str, float]:
    """loss, accuracy: at the end. After the warm start: how much of what was trained on was a text with near copies, how many texts
    that comes to (exp of the entropy) as a share of those there are; what preparing took, in updates' time."""
    of_texts = np.bincount(pool.texts, times, minlength=len(pool.distinct))
    shares = of_texts[of_texts > 0] / of_texts.sum()
    prepared = result.ledger.total("seconds", ("prepare",))
    an_update = result.ledger.total("seconds", ("train",)) / result.steps
    return {
        "loss": result.metrics["test/loss"], "accuracy": result.metrics["test/accuracy"],
        "copies seen": float(times[pool.copied].sum() / times.sum()),
        "distinct texts": float(np.exp(-(shares * np.log(shares)).sum()) / len(pool.distinct)),
        "preparing seconds, in updates": prepared / an_update,
    }  # fmt: skip


def curves(result: RunResult, updates: int) -> dict[str, tuple[list[float], list[float]]]:
    found = {f"loss / {x}": result.curve("test/loss", x) for x in ("flops", "seconds")}
    shares, losses = result.curve("test/loss", "share")
    return found | {"loss / updates": ([v * updates for v in shares], losses)}


@lru_cache(maxsize=8)
def flops(settings: Settings) -> tuple[float, float]:
    """(of an update, of embedding and comparing the pool once), as the ledger counts them."""
    s = settings
    with FlopCounter() as training:
        model = Transformer(model_config(s))
        tokens = torch.zeros(1, s.context + 1, dtype=torch.int64)
        CausalLM()(model, Batch({"tokens": tokens}, np.zeros(1, dtype=np.int64))).loss.backward()
    with FlopCounter() as embedding, torch.no_grad():
        hidden = dict(model(tokens[:, :-1]))["hidden"]
    blocks = max(1, round(s.layer * s.depth))
    parts = -(-s.pool // s.partition_size)
    similarities = 2 * (s.pool / parts) ** 2 * parts * hidden.shape[-1]
    return training.total * s.batch, embedding.total * blocks / s.depth * s.pool + similarities


def same_flops(settings: Settings) -> int:
    """Updates that cost what the method's do with its preparing."""
    update, preparing = flops(settings)
    return round(settings.updates + settings.rankings * preparing / update)
