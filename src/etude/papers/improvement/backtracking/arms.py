"""What each arm does: the one base, its own warm-up, and then the same reinforcement learning on the same problems."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from etude.data.stream import DataStream
from etude.data.tasks.traces import count_backtracks
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.protocols import Metrics
from etude.engine.schedule import Constant, Cosine
from etude.engine.streams import derive
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence.study import Job, Outcome
from etude.generate.local import LocalGenerator
from etude.learn.finetune import Finetune
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import PolicyConfig, PolicyGradient
from etude.learn.rollouts import Collector
from etude.learn.round import RoundConfig
from etude.learn.rows import CompletionSource
from etude.learn.success import Success
from etude.nn.transformer import Transformer
from etude.papers.improvement.backtracking import testbed
from etude.papers.improvement.backtracking.settings import Settings
from etude.papers.improvement.backtracking.warmup import Warmup, warmup

GRPO = PolicyConfig(kl=0.0)  # authors' rl-scripts/grpo.sh: kl_loss_coef 0; their verl/trainer/config/ppo_trainer.yaml: clip_ratio 0.2
NAMES = {"solved": "success", "backtracks": "backtracks", "response_tokens": "response tokens", "finished": "finished"}
"""What `Success` calls a measure, and what the study does."""


def generator(model: nn.Module) -> LocalGenerator:
    return LocalGenerator(model, testbed.TOKENIZER, batch_size=512)


def held_out(settings: Settings, seed: int) -> Success:
    test = testbed.pool(settings, seed, "test", settings.num_test, test=True)
    return Success(
        generator, test, testbed.encode, testbed.sampling(settings), samples=settings.test_samples, seed=derive(seed, "test answers"),
        measures={"backtracks": lambda text: float(count_backtracks(text))},
    )  # fmt: skip


def run(job: Job, how: Warmup | None) -> Outcome:
    """One arm. how: of the warm-up; None starts cold."""
    s: Settings = job.settings
    total = Ledger()
    base = testbed.base_model(s, job.seed, lambda share, loss: job.progress(0.2 * share, None))
    base.charge(total)
    test, model = held_out(s, job.seed), base.model
    metrics: dict[str, float] = {"trace tokens": 0.0}
    if how is not None:
        model, rows = warmed(job, model, how, total)
        metrics["trace tokens"] = testbed.mean_tokens([text for _, text in rows])
    history = learned(job, model, test, total)
    before, after = history[0], history[-1]
    metrics |= {f"{name}, warm": before[f"test/{key}"] for key, name in NAMES.items()}
    metrics |= {name: after[f"test/{key}"] for key, name in NAMES.items()}
    for level in s.levels:
        metrics[f"success, {level} numbers, warm"] = before[f"test/solved/{level} numbers"]
        metrics[f"success, {level} numbers"] = after[f"test/solved/{level} numbers"]
    easier, harder = (metrics[f"success, {level} numbers"] for level in s.levels)
    success = [row["test/solved"] for row in history]
    metrics |= {"gain": success[-1] - success[0], "harder less easier": harder - easier, "largest fall": largest_fall(success)}
    curves = {}
    for x in ("updates", "sampled tokens"):
        xs = [row["step" if x == "updates" else "test/sampled tokens"] for row in history]
        curves |= {f"{name} / {x}": (xs, [row[f"test/{key}"] for row in history]) for key, name in NAMES.items()}
    return Outcome(metrics=metrics, curves=curves, ledger=total.as_dict(), parameters=sum(p.numel() for p in model.parameters()))


def warmed(job: Job, model: Transformer, how: Warmup, total: Ledger) -> tuple[Transformer, list[tuple[str, str]]]:
    """The base after SFT on one of the sets of traces, and its rows."""
    s: Settings = job.settings
    rows = warmup(testbed.task_of(s), testbed.traced(s, job.seed), how, derive(job.seed, "warm-up"), testbed.count_tokens)
    total.charge("prepare", samples=len(rows))
    longest = max(testbed.count_tokens(text) for _, text in rows)
    if longest >= s.max_tokens:  # a trace that is cut off while learning would look like a failure
        raise BadInput("settings.max_tokens", repr(s.max_tokens), f"at least {longest + 1}, as the longest trace and its end")
    source = CompletionSource(rows, context=s.context, tokenizer=testbed.TOKENIZER, end=testbed.END, name="trace")
    lr = s.warm_lr if how.turns_back else s.straight_lr
    part = job.part("warm-up")
    result = Trainer(
        model, DataStream(source, s.warm_batch, derive(job.seed, "rows")), Finetune(), optimizer=AdamW(lr=lr, weight_decay=0.01),
        schedule=Cosine(warmup=0.1, final=0.1), budget=Budget(steps=s.warm_updates), seed=derive(job.seed, "warm-up"), folder=part.folder,
        progress=lambda share, loss: job.progress(0.2 + 0.3 * share, None),
    ).run(resume=part.begun)  # fmt: skip
    total.merge(result.ledger)
    return result.model, rows


def learned(job: Job, model: Transformer, test: Success, total: Ledger) -> list[dict[str, float]]:
    """Reinforcement learning, the same in every arm; what the test said on the way, with the tokens sampled until then."""
    s: Settings = job.settings
    problems = testbed.pool(s, job.seed, "reinforcement", s.pool)
    collector = Collector(problems, testbed.TOKENIZER, testbed.sampling(s), context=s.context)
    config = RoundConfig(prompts=s.prompts, samples=s.samples, minibatch=s.prompts * s.samples)
    stream = RolloutStream(generator, collector, config, seed=derive(job.seed, "rollouts"))

    def watched(model: nn.Module) -> Metrics:
        return test(model) | {"sampled tokens": float(stream.run.ledger.total("generated_tokens"))}

    part = job.part("reinforcement")
    result = Trainer(
        model, stream, PolicyGradient(GRPO), optimizer=AdamW(lr=s.lr, weight_decay=0.01), schedule=Constant(),
        budget=Budget(steps=s.updates), seed=derive(job.seed, "reinforcement"), evaluators={"test": watched},
        evaluate_every=1 / (s.evaluations - 1), folder=part.folder, progress=lambda share, loss: job.progress(0.5 + 0.5 * share, None),
    ).run(resume=part.begun)  # fmt: skip
    total.merge(result.ledger)
    return result.history


def largest_fall(values: list[float]) -> float:
    """How far a curve ever lies below the best before: 0 where it never falls."""
    return float(np.max(np.maximum.accumulate(values) - np.asarray(values)))


@torch.no_grad()
def answers(model: nn.Module, settings: Settings, seed: int, count: int) -> list[tuple[str, str]]:
    """(prompt, response) of the first test problems of each level, to be looked at."""
    pool = testbed.pool(settings, seed, "test", 2 * count, test=True)
    prompts = [pool[i].prompt for i in range(len(pool))]
    groups = generator(model).complete([testbed.encode(p) for p in prompts], testbed.sampling(settings), seed=derive(seed, "looked at"))
    return [(prompt, group[0].text) for prompt, group in zip(prompts, groups, strict=True)]
