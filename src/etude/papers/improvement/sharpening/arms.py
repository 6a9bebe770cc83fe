"""What each arm does: ways of answering with the base as it is, and ways of training it on its own samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from etude.data.stream import DataStream
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.protocols import Completion, Source
from etude.engine.schedule import Linear
from etude.engine.streams import derive, numpy_rng
from etude.engine.trainer import Trainer
from etude.evidence.study import Job, Outcome
from etude.generate.local import LocalGenerator
from etude.learn.finetune import Finetune
from etude.learn.logprobs import frozen_copy
from etude.learn.pairs import PairSource
from etude.learn.preference import Preference
from etude.learn.rows import CompletionSource
from etude.nn.transformer import Transformer
from etude.papers.improvement.sharpening import drawing, tables
from etude.papers.improvement.sharpening.reward import SelfRewardRegression, stopping_parameter
from etude.papers.improvement.sharpening.settings import Settings
from etude.papers.improvement.sharpening.text import TOKENIZER, Test, base_model, encoded, problems, sampling

EPSILON = 0.1
"""Share of a table's contexts that may stay unsharpened."""


class Bench:
    """A job's base, its test, and the ledger that both are charged to."""

    def __init__(self, job: Job) -> None:
        self.job, self.settings = job, job.settings
        self.ledger = Ledger()
        # No loss is told: whether the base is taught now or was before must not show in what a run reports.
        base = base_model(self.settings, job.seed, lambda share, loss: job.progress(0.2 * share, None))
        base.charge(self.ledger)
        self.base = frozen_copy(base.model)
        self.test = Test.of(self.base, self.settings, job.seed)
        self.generator = LocalGenerator(self.base, TOKENIZER, ledger=self.ledger)
        job.progress(0.2, None)

    def endless(self) -> Iterator[np.ndarray]:
        """The prompts that samples are drawn for: the same ones in every arm."""
        for item in problems(self.settings, self.job.seed, "prompts"):
            self.test.refuse(item)
            yield encoded([item])[0]

    def prompts(self, count: int) -> list[np.ndarray]:
        return list(islice(self.endless(), count))

    def seed(self, *names: str | int) -> int:
        return derive(self.job.seed, *names)

    def train(self, model: Transformer, source: Source, rows_each: int, objective: Any, updates: int, name: str) -> Transformer:
        """`updates` of about `settings.batch` rows at the arm's learning rate; charged."""
        s = self.settings
        size = min(s.batch // rows_each, len(source))
        result = Trainer(
            model, DataStream(source, size, self.seed(name), drop_last=True), objective,
            optimizer=AdamW(lr=s.rates[self.job.arm], weight_decay=s.weight_decay), schedule=Linear(warmup=0.05),
            budget=Budget(steps=updates), seed=self.seed(name), clip=s.clip,
            progress=lambda share, loss: self.job.progress(0.4 + 0.5 * share, loss),
        ).run()  # fmt: skip
        self.ledger.merge(result.ledger)
        return result.model

    def outcome(self, model: Transformer, **more: float) -> Outcome:
        metrics = self.test.measured(model, self.settings, self.job.seed) | more
        return Outcome(metrics=metrics, ledger=self.ledger.as_dict(), parameters=sum(p.numel() for p in model.parameters()))


# --- answering with the base -------------------------------------------------------------------------------------------
def base(job: Job) -> Outcome:
    """The base at temperature 1, with what is known of it."""
    bench = Bench(job)
    outcome = bench.outcome(bench.base, **bench.test.about_base())
    groups = _answers(bench, 1.0, job.settings.most_samples)
    numbers = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= job.settings.most_samples]
    for reward in ("likelihood", "mean likelihood", "majority"):
        told = [bench.test.answered([_best(group[:n], reward) for group in groups]) for n in numbers]
        outcome.curves[f"accuracy of the best of N, {reward} / N"] = ([float(n) for n in numbers], [t["accuracy"] for t in told])
        outcome.metrics[f"accuracy of the best of {numbers[-1]}, {reward}"] = told[-1]["accuracy"]
    for beta in (0.1, 0.3, 1.0):  # what a regression that fits perfectly would reach
        outcome.metrics[f"mass at the optimum, beta {beta:g}"] = bench.test.mass_at_optimum(groups, beta)
    return outcome


def answer(job: Job, temperature: float = 1.0, num: int = 1) -> Outcome:
    """The base's answers, no training: greedy, cooled, or the best of `num` by likelihood. Here "mass" is how often y* is given."""
    bench = Bench(job)
    groups = _answers(bench, temperature, num)
    groups = [_best(group, "likelihood") for group in groups] if num > 1 else groups
    told = bench.test.answered(groups)
    return Outcome(
        metrics=told | {"mass on the mode": told["mode given"]}, ledger=bench.ledger.as_dict(),
        parameters=sum(p.numel() for p in bench.base.parameters()),
    )  # fmt: skip


def _answers(bench: Bench, temperature: float, num: int) -> list[list[Completion]]:
    how = sampling(bench.settings, temperature)
    return bench.generator.complete(encoded(bench.test.problems), how, n=num, seed=bench.seed("answers"))


def _best(group: Sequence[Completion], reward: str) -> list[Completion]:
    """The chosen one; where no sample ended, the first stands for an answer that is wrong."""
    return [drawing.chosen(group, reward) or group[0]]


# --- SFT-sharpening ---------------------------------------------------------------------------------------------------
def sft(job: Job, num: int, reward: str = "likelihood") -> Outcome:
    """Best of `num` samples for each of m / num prompts, then maximum likelihood on the winners. num 0: adaptive. reward "none": any."""
    bench = Bench(job)
    s: Settings = job.settings
    seed = bench.seed("samples")
    if num == 0:
        mu = stopping_parameter(s.adaptive_delta)
        won = drawing.best_adaptively(bench.generator, bench.endless(), s.num_samples, mu, sampling(s), seed=seed, most=s.most_samples)
    elif reward == "none":
        won = drawing.first_of_each(bench.generator, bench.prompts(s.num_samples // num), num, sampling(s), seed=seed)
    else:
        won = drawing.best_of_each(bench.generator, bench.prompts(s.num_samples // num), num, sampling(s), seed=seed, reward=reward)
    job.progress(0.4, None)
    source = CompletionSource(won.rows, context=s.context)
    model = bench.train(_trainable(bench), source, 1, Finetune(), s.updates, "train")
    return bench.outcome(model, **_drawn(won))


def _drawn(won: drawing.Winners) -> dict[str, float]:
    return {
        "winners": float(len(won.rows)),
        "winner tokens": float(np.mean([len(tokens) for _, tokens in won.rows])),
        "unfinished": won.num_unfinished / won.num_samples,
    }


def _trainable(bench: Bench) -> Transformer:
    return frozen_copy(bench.base).requires_grad_(True).train()


# --- RLHF-sharpening --------------------------------------------------------------------------------------------------
def regression(job: Job, explore: bool = False) -> Outcome:
    """Pairs, and the regression on their self-rewards: offline, or (explore) algorithm 1, y from the present model, all pairs kept.

    A round trains the model of the round before for its share of the updates; all samples of all rounds are m.
    """
    bench = Bench(job)
    s: Settings = job.settings
    rounds = s.rounds if explore else 1
    loss = SelfRewardRegression(beta=s.betas[job.arm], optimism=s.optimism if explore else 0.0)
    each = s.num_samples // (2 * rounds)
    prompts = bench.prompts(each * rounds)
    model, triples, rewards = _trainable(bench), [], []
    for number in range(rounds):
        asked = prompts[number * each : (number + 1) * each]
        present = bench.generator if not number else LocalGenerator(model, TOKENIZER, ledger=bench.ledger)
        first = [g[0] for g in present.complete(asked, sampling(s), seed=bench.seed("first", number))]
        second = [g[0] for g in bench.generator.complete(asked, sampling(s), seed=bench.seed("second", number))]
        scores = None if not number else _under_base(bench, asked, first)
        new, values = drawing.pairs_of(first, second, asked, scores)
        triples, rewards = triples + new, rewards + values
        source = PairSource(triples, context=s.context, reference=np.array(rewards), distinct=False)
        name = f"train {number}" if number else "train"
        model = bench.train(model, source, 2, Preference(loss), s.updates // rounds, name)
    different = float(np.mean([not np.array_equal(y, other) for _, y, other in triples]))
    return bench.outcome(model, **{"pairs that differ": different})


def _under_base(bench: Bench, prompts: Sequence[np.ndarray], samples: Sequence[Completion]) -> list[float]:
    """log pi_base of samples that another model drew; charged as judging."""
    scorer = LocalGenerator(bench.base, TOKENIZER, ledger=bench.ledger, category="judge")
    return [float(v.astype(np.float64).sum()) for v in scorer.score(prompts, [c.tokens for c in samples])]


# --- tables -----------------------------------------------------------------------------------------------------------
def table(job: Job, needed: Mapping[str, Callable[[tables.Draws, float, float], tables.Needed]]) -> Outcome:
    """How many samples m a softmax table needs to be sharpened, over coverages, and at one uneven coverage; each way of `needed`
    under its name ("": the arm's own).
    """
    s: Settings = job.settings
    drawn = 0.0

    def found(way: str, inverse: np.ndarray, name: str) -> float:
        nonlocal drawn
        rng = numpy_rng(job.seed, "table", name)  # the same tables and draws for every way and arm
        drawn += s.tables * len(inverse) * s.table_prompts * tables.longest(inverse)
        return tables.mean_needed(needed[way], inverse, s.responses, s.table_prompts, s.tables, EPSILON, s.delta, rng)

    counts = []
    for number, c in enumerate(s.coverages):
        counts.append(found("", tables.even(c, s.table_contexts), f"coverage {c:g}"))
        job.progress((number + 1) / (len(s.coverages) + 1), counts[-1])
    slope = tables.slope(np.array(s.coverages), np.array(counts))
    spread = tables.uneven(s.uneven_coverage, s.table_contexts)
    uneven = {f"samples needed, uneven coverage{way}": found(way, spread, "uneven") for way in needed}
    return Outcome(
        metrics={"slope in coverage": slope, "distance of the slope from 1": abs(slope - 1), **uneven},
        curves={"samples needed / coverage": (list(s.coverages), counts)},
        ledger={"generate": {"samples": drawn}},
    )


LINEAR = "mass in the linear class"


def linear(job: Job, way: str) -> Outcome:
    """The linear class at low coverage, over numbers of samples: "SFT" on the best of the N that turns out best, "RLHF" or "XPO".

    The N of SFT is chosen by the result, in its favour: from 1 to all samples, the same samples grouped anew.
    """
    s: Settings = job.settings
    theta = np.full(s.features, s.feature_weight)
    beta = np.expm1(2 * s.feature_weight) / (2 * np.log(2 * 2**s.features / s.delta))  # theorem 4.3
    bound = 2 * (1 + 1 / beta) * s.feature_weight
    masses, by_num = [], {}
    for count in s.linear_samples:
        rng = numpy_rng(job.seed, "linear", way, count)
        if way == "SFT":
            drawn = tables.draw_signs(theta, (count,), rng)
            groups = [2**k for k in range(count.bit_length()) if 2**k <= count]
            by_num = {num: tables.mass_on_ones(tables.linear_sft(theta, num, drawn, bound)) for num in groups}
            masses.append(max(by_num.values()))
        else:
            optimism, rounds = (s.optimism, s.rounds) if way == "XPO" else (0.0, 1)
            masses.append(tables.mass_on_ones(tables.linear_regression(theta, beta, optimism, rounds, count, bound, rng)))
    curves = {f"{LINEAR} / samples": ([float(n) for n in s.linear_samples], masses)}
    if by_num:
        curves[f"{LINEAR} / N"] = ([float(num) for num in by_num], list(by_num.values()))
    return Outcome(
        metrics={LINEAR: masses[-1], "coverage": 1 / tables.mass_on_ones(theta)},
        curves=curves, ledger={"generate": {"samples": float(sum(s.linear_samples))}},
    )  # fmt: skip
