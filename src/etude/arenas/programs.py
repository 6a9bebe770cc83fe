"""Arenas whose entrants are programs: each is given a base model and problems, and gives back a model, at the same FLOPs.

A base is taught once for a task and seed, kept in the cache, and charged to nobody: it is the same for all. What is held out is told
apart by what a problem asks, and no entrant sees it. Judged is the share of held-out problems that the greedy answer solves: what a
sampled answer gains by being less random, greedy answers of the base have already. Sampled answers are told beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
from torch import nn

from etude.arenas.arena import Goal, added, scored
from etude.data.stream import DataStream
from etude.data.tasks import task
from etude.data.tokenizers import Characters
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW, Muon
from etude.engine.protocols import Problem, Sampling, Stream, Task
from etude.engine.schedule import Constant, Linear
from etude.engine.streams import derive, numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence.study import Job, Outcome
from etude.generate.local import LocalGenerator
from etude.learn.finetune import Finetune
from etude.learn.logprobs import frozen_copy
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import PolicyConfig, PolicyGradient
from etude.learn.problems import Domain, ProblemPool, SingleTurn
from etude.learn.rollouts import Collector
from etude.learn.round import RoundConfig
from etude.learn.rows import CompletionSource
from etude.learn.warmstart import Base, warm_start
from etude.nn.transformer import TransformerConfig
from etude.papers.card import Card
from etude.papers.catalogue import card
from etude.papers.entering import Improve, Improved, Work
from etude.papers.loading import entry

ONE_IN = 5
"""One in so many problems is held out."""
SAMPLES = 4
"""Answers to each problem held out."""
END, LINE = "~", "\n"


@dataclass(frozen=True, kw_only=True)
class ProblemTask:
    """family, options: of `etude.data.tasks`. levels: its difficulties, a domain each, the easiest first. letters: of prompts and answers.

    taught: rows of each level that the base is taught, `slips` the share of their answers in which one letter is another one.
    problems: of each level, to learn from, of which the first `demonstrated` come with a right answer. held_out: of each level.
    flops: of a run after the base.
    """

    about: str
    family: str
    levels: tuple[int, ...]
    letters: str
    context: int
    max_tokens: int
    taught: tuple[int, ...]
    flops: float
    options: Mapping[str, Any] = field(default_factory=dict)
    worked: bool = False
    slips: float = 0.3
    updates: int = 600
    batch: int = 32
    problems: int = 500
    demonstrated: int = 125
    held_out: int = 100
    width: int = 64
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        if len(self.taught) != len(self.levels):
            raise BadInput("task.taught", f"{len(self.taught)} numbers", f"one for each of {len(self.levels)} levels")
        if not 0 < self.demonstrated <= self.problems:
            raise BadInput("task.demonstrated", repr(self.demonstrated), f"1 to the {self.problems} problems of a level")

    @property
    def goal(self) -> Goal:
        return Goal(about=self.about, worst=0.0, best=1.0)

    @property
    def tokenizer(self) -> Characters:
        return Characters(self.letters + LINE + END)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """tasks: name -> task, in order. The others are the baseline's and the control's: learning rates, rows and rollouts an update."""

    tasks: Mapping[str, ProblemTask]
    lr: float = 1e-4
    batch: int = 64
    policy_lr: float = 3e-4
    prompts: int = 16
    samples: int = 8


# --- the work ---------------------------------------------------------------------------------------------------------
def drawn(told: ProblemTask, seed: int, name: str, level: int, *, held_out: bool = False) -> Iterator[Problem]:
    """Problems of a level while there are new ones, of those held out or of the others. name: of the stream.

    Prompts of the same characters, in whatever order, are one problem: a sum's terms may change places.
    """
    family, stream = made(told), derive(seed, name)
    seen: set[str] = set()
    missed = 0
    for index in count():
        problem = family.problem(stream, index, level)
        asked = "".join(sorted(problem.prompt))
        missed += 1
        if asked not in seen and (derive(0, "held out", asked) % ONE_IN == 0) == held_out:
            seen.add(asked)
            missed = 0
            yield problem
        if missed > 2_000:
            return


def made(told: ProblemTask) -> Task:
    return task(told.family, **told.options)


def pool_of(told: ProblemTask, seed: int, name: str, each: int, *, held_out: bool = False) -> ProblemPool:
    """`each` problems of every level, or as many as there are."""
    family = made(told)
    return ProblemPool([
        Domain(f"level {level}", list(islice(drawn(told, seed, name, level, held_out=held_out), each)), lambda: SingleTurn(family))
        for level in told.levels
    ])  # fmt: skip


def answer(told: ProblemTask, problem: Problem) -> str:
    """A right answer, with its working where the task has it worked."""
    return made(told).solution(problem) if told.worked else problem.answer  # type: ignore[attr-defined]


def taught(told: ProblemTask, seed: int) -> list[tuple[str, str]]:
    """What the base is taught: right answers and, a share of them, answers with a slip."""
    rng, rows = numpy_rng(seed, "slips"), []
    for level, number in zip(told.levels, told.taught, strict=True):
        for problem in islice(drawn(told, seed, "taught", level), number):
            text = answer(told, problem)
            rows.append((problem.prompt, slip(text, rng) if rng.random() < told.slips else text))
    return rows


def slip(text: str, rng: np.random.Generator) -> str:
    """The text with one letter or digit replaced by another one of its kind."""
    places = [i for i, c in enumerate(text) if c.isalnum() or c in "+-*"]
    place = places[int(rng.integers(len(places)))]
    kind = next(k for k in ("0123456789", "abcdefghijklmnopqrstuvwxyz", "+-*") if text[place] in k)
    others = [c for c in kind if c != text[place] and (c != "*" or "*" in text)]
    return text[:place] + others[int(rng.integers(len(others)))] + text[place + 1 :]


def base_of(told: ProblemTask, seed: int, progress: Callable[[float, float], None] | None = None) -> Base:
    tokenizer = told.tokenizer
    config = TransformerConfig(
        vocab=tokenizer.vocab, width=told.width, depth=told.depth, heads=told.heads, context=told.context, tied=True
    )  # fmt: skip
    return warm_start(
        taught(told, seed), name=f"arena, {told.family}", config=config, tokenizer=tokenizer, end=int(tokenizer.encode(END)[0]),
        steps=told.updates, batch_size=told.batch, seed=seed, progress=progress,
        optimizer=Muon(lr=2e-2, weight_decay=0.01, rest=AdamW(lr=2.5e-3, weight_decay=0.01)),
    )  # fmt: skip


def work_of(told: ProblemTask, seed: int, teaching: Callable[[float, float], None] | None = None, **more: Any) -> Work:
    """A task as an entrant is given it. teaching: progress of the base. more: other fields of `Work`."""
    tokenizer, pool = told.tokenizer, pool_of(told, seed, "pool", told.problems)
    shown = [n for k in range(len(told.levels)) for n in np.flatnonzero(pool.domains == k)[: told.demonstrated].tolist()]
    return Work(
        task=made(told), base=base_of(told, seed, teaching).model, tokenizer=tokenizer, end=int(tokenizer.encode(END)[0]),
        line=int(tokenizer.encode(LINE)[0]), context=told.context, max_tokens=told.max_tokens, pool=pool,
        demonstrations={n: answer(told, pool[n]) for n in shown}, flops=told.flops, seed=seed, **more,
    )  # fmt: skip


# --- a run ------------------------------------------------------------------------------------------------------------
def entrant(found: Card | None, arena: str) -> Callable[[Job], Outcome] | str:
    """How a paper runs, or why it does not enter. None: the baseline."""
    if found is None:
        return baseline
    how = entry(found, arena)
    return how if isinstance(how, str) else partial(entering, word=found.word, arena=arena)


def entering(job: Job, word: str, arena: str) -> Outcome:
    how = entry(card(word), arena)
    assert not isinstance(how, str)
    return run(job, how)


def baseline(job: Job) -> Outcome:
    """Supervised fine-tuning on the demonstrations."""
    s: Settings = job.settings
    return run(job, partial(tuned, lr=s.lr, batch=s.batch))


def control(job: Job) -> Outcome:
    """GRPO on the problems, with nothing else."""
    s: Settings = job.settings
    return run(job, partial(reinforced, lr=s.policy_lr, prompts=s.prompts, samples=s.samples))


def run(job: Job, improve: Improve) -> Outcome:
    """All tasks, one after another. Beside each task's measure: the base's, that of sampled answers, and the share of the FLOPs spent."""
    settings: Settings = job.settings
    values: dict[str, float] = {}
    told: dict[str, float] = {}
    ledgers, parameters, number = [], 0, len(settings.tasks)
    for done, (name, one) in enumerate(settings.tasks.items()):

        def progress(share: float, loss: float | None, done: int = done) -> None:
            job.progress((done + min(share, 1.0)) / number, loss)

        # No loss is told of the base: whether it is taught now or was before must not show in what a run reports.
        work = work_of(
            one, derive(job.seed, name), lambda share, loss, say=progress: say(0.2 * share, None),
            part=lambda part, name=name: job.part(f"{name}, {part}"),
            progress=lambda share, loss, say=progress: say(0.2 + 0.7 * share, loss),
        )  # fmt: skip
        before = solved(one, work.base, work.seed)
        found = improve(work)
        after = solved(one, found.model, work.seed)
        values[name] = after["greedy"]
        told |= {f"base, {name}": before["greedy"], f"sampled, {name}": after["sampled"], f"base sampled, {name}": before["sampled"]}
        told |= {f"solved, {name}, {level}": after[level] for level in after if level.startswith("level")}
        told[f"spent, {name}"] = found.ledger.total("flops") / work.flops
        told |= {f"{what}, {name}": value for what, value in found.told.items()}
        ledgers.append(found.ledger.as_dict())
        parameters = max(parameters, sum(p.numel() for p in work.base.parameters()))
    goals = {name: one.goal for name, one in settings.tasks.items()}
    return scored(goals, values, metrics=told, ledger=added(ledgers), parameters=parameters)


def solved(told: ProblemTask, model: nn.Module, seed: int) -> dict[str, float]:
    """The share of held-out problems solved: by the "greedy" answer, also of each level, and by SAMPLES "sampled" ones, on average.

    Charged to nobody.
    """
    pool = pool_of(told, seed, "held out", told.held_out, held_out=True)
    tokenizer, end = told.tokenizer, int(told.tokenizer.encode(END)[0])
    generator = LocalGenerator(frozen_copy(model), tokenizer, context=told.context)
    prompts = [np.asarray(tokenizer.encode(pool[i].prompt), dtype=np.int64) for i in range(len(pool))]
    family = made(told)

    def right(temperature: float, samples: int) -> np.ndarray:
        sampling = Sampling(temperature=temperature, max_tokens=told.max_tokens, stop_tokens=(end,))
        groups = generator.complete(prompts, sampling, n=samples, seed=derive(seed, "held out"))
        return np.array([
            np.mean([c.finish == "stop" and family.verify(pool[i], c.text) >= 1 for c in group]) for i, group in enumerate(groups)
        ])  # fmt: skip

    greedy = right(0.0, 1)
    levels = {name: float(greedy[pool.domains == k].mean()) for k, name in enumerate(pool.domain_names)}
    return {"greedy": float(greedy.mean()), "sampled": float(right(1.0, SAMPLES).mean()), **levels}


def planned(settings: Settings) -> dict[str, float]:
    return {"flops": sum(one.flops for one in settings.tasks.values())}


# --- the baseline, and a control --------------------------------------------------------------------------------------
def trained(work: Work, stream: Stream, objective: Any, lr: float, ledger: Ledger, schedule: Any) -> Improved:
    """All that is left of the FLOPs on a copy of the base."""
    part = work.part("train")
    result = Trainer(
        work.trainable(), stream, objective, optimizer=AdamW(lr=lr, weight_decay=0.01), schedule=schedule,
        budget=Budget(flops=work.left(ledger)), seed=work.seed_of("train"), folder=part.folder, progress=work.progress,
    ).run(resume=part.begun)  # fmt: skip
    ledger.merge(result.ledger)
    return Improved(model=result.model, ledger=ledger)


def tuned(work: Work, lr: float, batch: int) -> Improved:
    """The baseline: supervised fine-tuning on the demonstrations."""
    source = CompletionSource(work.rows(), context=work.context, tokenizer=work.tokenizer, end=work.end)
    stream = DataStream(source, min(batch, len(source)), work.seed_of("rows"), drop_last=True)
    return trained(work, stream, Finetune(), lr, Ledger(), Linear(warmup=0.05))


def reinforced(work: Work, lr: float, prompts: int, samples: int) -> Improved:
    """A control: GRPO on the pool, with nothing else."""
    rules = Collector(work.pool, work.tokenizer, work.sampling(), context=work.context)
    config = RoundConfig(prompts=prompts, samples=samples, minibatch=prompts * samples)
    stream = RolloutStream(work.generator, rules, config, seed=work.seed_of("rollouts"))
    return trained(work, stream, PolicyGradient(PolicyConfig(kl=0.0)), lr, Ledger(), Constant())
