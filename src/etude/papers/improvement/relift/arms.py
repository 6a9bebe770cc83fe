"""What each arm does with the same base, questions and tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from torch import nn

from etude.data.stream import DataStream
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW, Alternating, OptimizerSpec
from etude.engine.protocols import Objective, Stream
from etude.engine.schedule import Constant
from etude.engine.streams import derive
from etude.engine.trainer import Trainer
from etude.evidence.study import Job, Outcome
from etude.generate.local import LocalGenerator
from etude.learn.estimators import GroupAdvantages
from etude.learn.finetune import Finetune
from etude.learn.interlude import Interleaved
from etude.learn.logprobs import frozen_copy
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import PolicyGradient, relift
from etude.learn.rollouts import Collector
from etude.learn.round import RoundConfig
from etude.learn.rows import CompletionSource
from etude.nn.transformer import Transformer
from etude.papers.improvement.relift.bands import BANDS, by_band, sizes
from etude.papers.improvement.relift.buffer import HardestBuffer
from etude.papers.improvement.relift.settings import Settings
from etude.papers.improvement.relift.text import END, TOKENIZER, base_model, encode, halves, pool_of, sampling


class Bench:
    """A job's base, its pool and its test, and the ledger that all is charged to."""

    def __init__(self, job: Job) -> None:
        self.job, self.settings = job, job.settings
        s: Settings = job.settings
        self.ledger = Ledger()
        base = base_model(s, job.seed, lambda share, loss: job.progress(0.3 * share, None))
        base.charge(self.ledger)
        self.base = base.model
        self.pool = pool_of(halves(s.pool), s, job.seed, "pool")
        self.test = pool_of(halves(s.num_test), s, job.seed, "test", test=True)
        self.before = self.shares(frozen_copy(self.base), s.base_samples, 1.0, "bands")
        self.history: list[tuple[float, dict[str, float]]] = []
        job.progress(0.3, None)

    def seed(self, *names: str | int) -> int:
        return derive(self.job.seed, *names)

    @property
    def demonstrations(self) -> dict[int, str]:
        return {number: self.pool[number].answer for number in range(len(self.pool))}

    def shares(self, model: nn.Module, samples: int, temperature: float, name: str) -> np.ndarray:
        """Of each test question, how many of a model's answers are right, 0 to 1: [N]."""
        prompts = [encode(self.test[i].prompt) for i in range(len(self.test))]
        groups = LocalGenerator(model, TOKENIZER).complete(prompts, sampling(self.settings, temperature), n=samples, seed=self.seed(name))
        return np.array([np.mean([self.right(i, c.text) for c in group]) for i, group in enumerate(groups)])

    def right(self, number: int, text: str) -> float:
        environment = self.test.environment(number)
        environment.reset(self.test[number])
        return environment.step(text).reward

    def measured(self, model: nn.Module) -> dict[str, float]:
        s: Settings = self.settings
        now = self.shares(model, s.test_samples, s.test_temperature, "test answers")
        kinds = {f"success, {k}": float(now[self.test.domains == i].mean()) for i, k in enumerate(self.test.domain_names)}
        bands = {f"success, {name} band": value for name, value in by_band(self.before, now).items()}
        return {"success": float(now.mean())} | bands | kinds

    def train(
        self, model: Transformer, stream: Stream, objective: Objective | dict[str, Objective], optimizer: OptimizerSpec, tokens: float,
        name: str,
    ) -> Transformer:  # fmt: skip
        """Until `tokens` have been trained on; charged. After a warm-up the learning rates stay as they are."""
        s: Settings = self.settings
        done = self.ledger.total("tokens", ("train",))
        before = 0.3 + 0.7 * done / s.budget_tokens
        result = Trainer(
            model, stream, objective, optimizer=optimizer, schedule=Constant(warmup=s.warmup), seed=self.seed(name), clip=s.clip,
            budget=Budget(weights={"train.tokens": 1.0}, limit=tokens), evaluators={"test": self.measured}, evaluate_every=0.2,
            progress=lambda share, loss: self.job.progress(min(before + 0.7 * share * tokens / s.budget_tokens, 1.0), loss),
        ).run()  # fmt: skip
        for point in result.history[bool(done) :]:  # a second stage begins where the first has ended
            self.history.append((done + point["share"] * tokens, {k.removeprefix("test/"): v for k, v in point.items() if "/" in k}))
        self.ledger.merge(result.ledger)
        return result.model

    def outcome(self, model: nn.Module, **more: float) -> Outcome:
        labels = self.ledger.total("labels", ("train",))
        metrics = self.history[-1][1] | {"demonstrations used": labels / len(self.pool)} | more
        curves = {}
        for name in ("success", *(f"success, {band} band" for band in BANDS)):
            points = [(x, values[name]) for x, values in self.history if not np.isnan(values[name])]
            if points:
                curves[f"{name} / trained tokens"] = ([x for x, _ in points], [y for _, y in points])
        return Outcome(metrics=metrics, curves=curves, ledger=self.ledger.as_dict(), parameters=sum(p.numel() for p in model.parameters()))


def rollouts(bench: Bench, buffer: HardestBuffer | None = None) -> RolloutStream:
    s: Settings = bench.settings
    return RolloutStream(
        lambda model: LocalGenerator(model, TOKENIZER),
        Collector(bench.pool, TOKENIZER, sampling(s), context=s.context),
        RoundConfig(prompts=s.prompts, samples=s.samples, minibatch=s.minibatch),
        seed=bench.seed("rollouts"), advantages=GroupAdvantages(by_std=False), watch=None if buffer is None else buffer.watch,
    )  # fmt: skip


def adam(settings: Settings, lr: float) -> AdamW:
    return AdamW(lr=lr, betas=(0.9, 0.999), weight_decay=settings.weight_decay)


def reward_loss(settings: Settings) -> PolicyGradient:
    return PolicyGradient(replace(relift(settings.max_tokens), entropy=settings.entropy))


def _reinforced(bench: Bench, model: Transformer, tokens: float) -> Transformer:
    s: Settings = bench.settings
    return bench.train(model, rollouts(bench), reward_loss(s), adam(s, s.lr), tokens, "reinforce")


def _tuned(bench: Bench, model: Transformer, tokens: float) -> Transformer:
    """SFT on the pool's demonstrations, all of them, as often as the tokens last."""
    s: Settings = bench.settings
    rows = [(bench.pool[number].prompt, answer) for number, answer in bench.demonstrations.items()]
    source = CompletionSource(rows, context=s.context, tokenizer=TOKENIZER, end=END)
    stream = DataStream(source, s.alone_batch, bench.seed("demonstrations"))
    model = bench.train(model, stream, Finetune(entropy=s.entropy), adam(s, s.alone_lr), tokens, "tune")
    bench.ledger.charge("train", labels=min(len(rows), bench.ledger.entries["train"]["samples"]))
    return model


def base(job: Job) -> Outcome:
    bench = Bench(job)
    bench.history.append((0.0, bench.measured(frozen_copy(bench.base))))
    bands = {f"share of the test, {name} band": value for name, value in sizes(bench.before).items()}
    return bench.outcome(bench.base, **bands)


def reinforce(job: Job) -> Outcome:
    bench = Bench(job)
    return bench.outcome(_reinforced(bench, bench.base, job.settings.budget_tokens))


def tune(job: Job) -> Outcome:
    bench = Bench(job)
    return bench.outcome(_tuned(bench, bench.base, job.settings.budget_tokens))


def tune_then_reinforce(job: Job) -> Outcome:
    bench = Bench(job)
    first = job.settings.budget_tokens * job.settings.sft_share
    model = _tuned(bench, bench.base, first)
    return bench.outcome(_reinforced(bench, model, job.settings.budget_tokens - bench.ledger.total("tokens", ("train",))))


def interleave(job: Job, pick: str = "failed") -> Outcome:
    bench = Bench(job)
    s: Settings = job.settings
    buffer = HardestBuffer(
        bench.pool, bench.demonstrations, TOKENIZER, size=s.size, context=s.context, end=END, pick=pick, seed=bench.seed("buffer")
    )
    stream = Interleaved(rollouts(bench, buffer), buffer, seed=bench.seed("interludes"), objective="sft", optimizer="sft")
    objectives: dict[str, Objective] = {"": reward_loss(s), "sft": Finetune(entropy=s.entropy)}
    optimizer = Alternating({"rl": adam(s, s.lr), "sft": adam(s, s.sft_lr)})
    model = bench.train(bench.base, stream, objectives, optimizer, s.budget_tokens, "reinforce")
    return bench.outcome(
        model,
        **{
            "failed groups": buffer.failed / max(buffer.groups, 1), "interludes": float(stream.number),
            "demonstrations trained": float(buffer.trained),
        },
    )  # fmt: skip


interleave_random = partial(interleave, pick="random")
