"""What each arm does: the loop with its histories, without them, or with other questions'; and how all are measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from torch import nn

from etude.engine.ledger import Ledger
from etude.engine.protocols import Problem
from etude.engine.streams import derive
from etude.errors import BadInput
from etude.evidence.study import Job, Outcome
from etude.learn.logprobs import frozen_copy
from etude.loop.loop import Progress, run_loop
from etude.nn.transformer import Transformer
from etude.papers.improvement.rise.answering import Answers, in_parallel, over_turns
from etude.papers.improvement.rise.settings import Settings
from etude.papers.improvement.rise.steps import Rise, RiseConfig
from etude.papers.improvement.rise.text import TOKENIZER, base_model, distinct, problems, protocol, sampling


def config(settings: Settings, history: str) -> RiseConfig:
    """history: "own", "swapped", or "none", which reads questions alone."""
    s, alone = settings, history == "none"
    return RiseConfig(
        questions=s.questions, batch_questions=s.batch_questions, corrections=s.corrections, best_of=s.best_of,
        criterion=s.single_criterion if alone else s.criterion, tau=s.tau, window=1 if alone else None,
        history="own" if alone else history, updates=s.updates, rows=s.rows, lr=s.single_lr if alone else s.lr, warmup=s.warmup,
        weight_decay=s.weight_decay,
    )  # fmt: skip


def base(job: Job) -> Outcome:
    """The base as it is."""
    model, ledger = _base(job)
    metrics, turns = measured(model, job)
    return _outcome(model, ledger, metrics, turns, alone=True)


def trained(job: Job, history: str = "own") -> Outcome:
    """`iterations` of the loop; the last model is measured whole, those before it in short."""
    with tempfile.TemporaryDirectory() as spare:
        return _trained(job, history, job.folder or Path(spare))


def _trained(job: Job, history: str, folder: Path) -> Outcome:
    s: Settings = job.settings
    model, ledger = _base(job)
    pool = list(islice(problems(s, job.seed, "rollouts"), s.questions * s.iterations))
    check_disjoint({p.prompt for p in pool}, {p.prompt for p in _test(job)})
    steps = Rise(
        model, pool, protocol(), TOKENIZER, sampling(s), context=s.context, config=config(s, history), seed=derive(job.seed, "rise")
    )
    state, more = steps.start(), {}
    for number in range(1, s.iterations + 1):
        state, reports = run_loop(steps, state, number, folder / "loop", identity=f"{job.arm} {job.seed} {s}", progress=_said(job, s))
        more |= {f"iteration {number}: {name}": value for name, value in reports[-1].items()}
        if number < s.iterations:
            told, _ = measured(steps.model_of(state), job)
            more |= {f"{name}, iteration {number}": told[name] for name in ("turn 1", "p1@t5", "m1@t5", "p5@t1")}
    ledger.merge(Ledger.from_dict(state["ledger"]))
    last = steps.model_of(state)
    metrics, turns = measured(last, job)
    return _outcome(last, ledger, metrics | more, turns, alone=history == "none")


def _said(job: Job, s: Settings) -> Callable[[Progress], None]:
    def say(event: Progress) -> None:
        inside = {"propose": 0.0, "judge": 0.5, "select": 0.5, "learn": 0.5, "done": 1.0}[event.phase]
        share = inside + (0.5 * event.done / max(event.total, 1) if event.phase == "propose" else 0.0)
        job.progress(0.2 + 0.7 * (event.number - 1 + share) / s.iterations, None)

    return say


def _base(job: Job) -> tuple[Transformer, Ledger]:
    ledger = Ledger()
    # No loss is told: whether the base is taught now or was before must not show in what a run reports.
    made = base_model(job.settings, job.seed, lambda share, loss: job.progress(0.2 * share, None))
    made.charge(ledger)
    return frozen_copy(made.model), ledger


def _test(job: Job) -> list[Problem]:
    return distinct(job.settings, job.seed, "test", job.settings.num_test)


def check_disjoint(learned: set[str], test: set[str]) -> None:
    """Raises BadInput where a question that is rolled out is one of the test's."""
    if shared := learned & test:
        raise BadInput("questions", f"'{min(shared)}' of the test", "questions that the test does not hold")


def measured(model: nn.Module, job: Job) -> tuple[dict[str, float], Answers]:
    """Both ways of answering the test with a model, and what they cost beside each other."""
    s: Settings = job.settings
    test, rules = _test(job), protocol()
    turns = over_turns(
        model, test, rules, TOKENIZER, sampling(s), context=s.context, turns=s.turns, window=s.window, samples=s.groups,
        seed=derive(job.seed, "test, turns"),
    )  # fmt: skip
    parallel = in_parallel(
        model, test, rules, TOKENIZER, sampling(s), num=s.turns, groups=s.groups, seed=derive(job.seed, "test, parallel")
    )
    ratio = turns.flops / parallel.flops
    as_dear = min(round(s.turns * ratio), s.turns * s.groups)
    each = len(test) * s.groups
    return {
        **{f"turn {t + 1}": turns.accuracy(t) for t in range(s.turns)},
        "p1@t5": turns.any_right(), "m1@t5": turns.voted(), "p5@t1": parallel.any_right(), "m5@t1": parallel.voted(),
        "gain over turns": turns.any_right() - turns.accuracy(), "gain over parallel": turns.any_right() - parallel.any_right(),
        "votes over parallel": turns.voted() - parallel.voted(),
        "parallel at equal FLOPs": parallel.within(as_dear), "answers at equal FLOPs": float(as_dear),
        "gain over parallel at equal FLOPs": turns.any_right() - parallel.within(as_dear),
        "FLOPs of turns over parallel": ratio,
        "tokens read, turns": turns.ledger.total("prompt_tokens") / each,
        "tokens read, parallel": parallel.ledger.total("prompt_tokens") / each,
        "tokens said, turns": turns.ledger.total("generated_tokens") / each,
        "tokens said, parallel": parallel.ledger.total("generated_tokens") / each,
        "repeats over turns": turns.repeats(), "repeats in parallel": parallel.repeats(),
    }, turns  # fmt: skip


def _outcome(model: nn.Module, ledger: Ledger, metrics: dict[str, float], turns: Answers, *, alone: bool) -> Outcome:
    """alone: the arm's own way of answering is in parallel."""
    metrics["five answers, oracle"] = metrics["p5@t1" if alone else "p1@t5"]
    metrics["five answers, vote"] = metrics["m5@t1" if alone else "m1@t5"]
    num = turns.right.shape[2]
    places = [float(t + 1) for t in range(num)]
    return Outcome(
        metrics=metrics,
        ledger=ledger.as_dict(),
        curves={
            "accuracy / turn": (places, [turns.accuracy(t) for t in range(num)]),
            "right so far / turn": (places, [float(turns.right[:, :, : t + 1].any(2).mean()) for t in range(num)]),
        },
        parameters=sum(p.numel() for p in model.parameters()),
    )
