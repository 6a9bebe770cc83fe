"""RISE as the steps of a loop: roll out the present model, correct every failed state, learn the corrections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from etude.data.jsonl import Row
from etude.data.stream import DataStream
from etude.data.tokenizers import Tokenizer
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.protocols import Generator, Problem, Sampling
from etude.engine.schedule import Cosine
from etude.engine.streams import derive, numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput, one_of
from etude.generate.local import LocalGenerator
from etude.learn.finetune import Finetune, exponential_weights
from etude.learn.logprobs import frozen_copy
from etude.learn.problems import Domain, ProblemPool
from etude.learn.rollouts import Collector, Rollout
from etude.learn.rows import CompletionSource
from etude.loop.loop import Batch
from etude.loop.rounds import Report, State
from etude.papers.improvement.rise.episodes import CRITERIA, Attempt, Pair, Protocol, Retry, converted, state_of, swapped

HISTORIES = ("own", "swapped")


@dataclass(frozen=True, kw_only=True)
class RiseConfig:
    """questions: rolled out in an iteration, in batches of `batch_questions`. best_of: samples at a failed state.
    corrections: at most so many failed states a batch are corrected, in order; the episodes after them are left out, so that arms draw
    equally many samples whatever they fail at.
    window:  how many interactions are read in collecting and in rows (None: all; 1: no history, which is rejection sampling).
    history: "own", or "swapped" for the control.    updates: of `rows` rows in an iteration.
    """

    questions: int = 2_048
    batch_questions: int = 256
    corrections: int = 256
    best_of: int = 16  # README, example 2
    criterion: str = "all"  # README
    tau: float = 0.4  # workflow_convert.py
    window: int | None = None
    history: str = "own"
    updates: int = 400
    rows: int = 64
    lr: float = 1e-5  # README
    warmup: float = 0.04  # README
    weight_decay: float = 0.0  # README

    def __post_init__(self) -> None:
        for name in ("questions", "batch_questions", "corrections", "best_of", "updates", "rows"):
            if getattr(self, name) < 1:
                raise BadInput(f"rise.{name}", repr(getattr(self, name)), "a whole number >= 1")
        if self.criterion not in CRITERIA:
            raise one_of("rise.criterion", self.criterion, CRITERIA)
        if self.history not in HISTORIES:
            raise one_of("rise.history", self.history, HISTORIES)
        if not self.tau > 0:
            raise BadInput("rise.tau", repr(self.tau), "a number > 0")
        if self.window is not None and self.window < 1:
            raise BadInput("rise.window", repr(self.window), "a whole number >= 1, or none")


class Rise:
    """Steps for `run_loop`; the state is {"model": state_dict, "ledger": what has been spent}. Round k is iteration k: k turns.

    model:    the architecture; its weights are those of the state.    problems: at least `config.questions`.
    teacher:  who corrects failed states; None: the present model itself, best of `best_of` under the verifier. A teacher given by the
              user charges its own ledger.
    sampling: with the end token among `stop_tokens`.    context: of the model, in tokens.
    """

    independent = False

    def __init__(
        self,
        model: nn.Module,
        problems: Sequence[Problem],
        protocol: Protocol,
        tokenizer: Tokenizer,
        sampling: Sampling,
        *,
        context: int,
        config: RiseConfig,
        seed: int,
        teacher: Generator | None = None,
        progress: Callable[[float, float], None] | None = None,
    ) -> None:
        if len(problems) < config.questions:
            raise BadInput("problems", str(len(problems)), f"at least the {config.questions} of an iteration")
        self.template, self.protocol, self.tokenizer, self.sampling = model, protocol, tokenizer, sampling
        self.context, self.config, self.seed, self.teacher, self.progress = context, config, seed, teacher, progress
        self.pool = ProblemPool([Domain("questions", problems, lambda: Retry(protocol, stop=True))])

    def start(self) -> State:
        return {"model": {k: v.clone() for k, v in self.template.state_dict().items()}, "ledger": {}}

    def model_of(self, state: State) -> nn.Module:
        """A copy of the model with the state's weights, to be trained or asked."""
        model = frozen_copy(self.template).requires_grad_(True)
        model.load_state_dict(state["model"])
        return model

    # --- the loop's steps ---------------------------------------------------------------------------------------------
    def plan(self, number: int, state: State) -> list[Batch]:
        c = self.config
        chosen = numpy_rng(self.seed, "questions", number).permutation(len(self.pool))[: c.questions]
        requests: list[Row] = [{"id": f"{number}-{i}", "problem": int(problem)} for i, problem in enumerate(chosen)]
        return [requests[at : at + c.batch_questions] for at in range(0, len(requests), c.batch_questions)]

    def propose(self, number: int, state: State, wanted: Batch) -> Iterator[Row]:
        c, ledger = self.config, Ledger()
        generator = LocalGenerator(self.model_of(state), self.tokenizer, ledger=ledger)
        rules = Collector(self.pool, self.tokenizer, self.sampling, context=self.context, max_turns=number, window=c.window)
        numbers = np.array([r["problem"] for r in wanted])
        rollouts, spent = rules.collect(generator, numbers, 1, seed=derive(self.seed, "rollouts", number), prompt_ids=numbers.tolist())
        rules.check(rollouts)
        ledger.charge("generate", environment_steps=spent.environment_steps)
        episodes = [self._attempts(r) for r in rollouts]
        failed = [(e, t) for e, attempts in enumerate(episodes) for t in range(1, len(attempts) + 1) if attempts[t - 1].reward != 1]
        questions = [self.tokenizer.encode(r.prompt).tolist() for r in rollouts]
        failed = [(e, t) for e, t in failed if self._fits(state_of(questions[e], episodes[e][:t], c.window))]
        used = failed[c.corrections][0] if len(failed) > c.corrections else len(episodes)
        failed = failed[: c.corrections]
        prompts = [np.array(state_of(questions[e], episodes[e][:t], c.window)) for e, t in failed]
        ids = [int(numbers[e]) * (number + 1) + t for e, t in failed]
        seed = derive(self.seed, "corrections", number)
        teacher = self.teacher or generator
        groups = teacher.complete(prompts, self.sampling, n=c.best_of, seed=seed, ids=ids) if prompts else []
        for place, request in enumerate(wanted):
            here = [(t, group) for (e, t), group in zip(failed, groups, strict=True) if e == place]
            yield {
                "id": request["id"], "request": request["id"], "problem": request["problem"], "question": questions[place],
                "attempts": [{"text": a.text, "tokens": list(a.tokens), "said": list(a.said)} for a in episodes[place]],
                "corrections": [
                    {"after": t, "answers": [{"text": a.text, "tokens": a.tokens.tolist()} for a in group]} for t, group in here
                ],
                "used": place < used, "spent": ledger.as_dict() if place == 0 else {},
            }  # fmt: skip

    def judge(self, number: int, state: State, candidates: Sequence[Row]) -> Iterator[Row]:
        for row in candidates:
            problem = self.pool[row["problem"]]
            yield {
                "id": row["id"],
                "attempts": [self.protocol.reward(problem, a["text"]) for a in row["attempts"]],
                "corrections": [[self.protocol.reward(problem, a["text"]) for a in c["answers"]] for c in row["corrections"]],
            }

    def select(self, number: int, state: State, judged: Sequence[Row]) -> list[Row]:
        """Rows of every trajectory that ends in the best correction, or of the rollout where it needed none; equal rows once."""
        pairs: list[Pair] = []
        histories: list[tuple[int, ...]] = []
        owners: list[int] = []
        for row in judged:
            if not row["used"]:
                continue
            for pair, history in self._pairs(row):
                pairs.append(pair)
                histories.append(history)
                owners.append(row["problem"])
        if self.config.history == "swapped":
            pairs = swapped(pairs, histories, owners)
        if not pairs:
            raise BadInput(f"iteration {number}", "no rows to learn from", "at least one; another criterion keeps more")
        firsts = [row["judgement"]["attempts"][0] for row in judged]
        best = [max(rewards) for row in judged for rewards in row["judgement"]["corrections"]]
        told = {
            "solved at turn 1": float(np.mean([r == 1 for r in firsts])), "corrected": float(np.mean([r == 1 for r in best] or [0.0])),
            "used": float(np.mean([row["used"] for row in judged])),
        }  # fmt: skip
        head = {"spent": _summed([row["spent"] for row in judged]), "told": told}
        rows = [{"state": list(p.state), "answer": list(p.answer), "reward": p.reward} for p in pairs]
        return [rows[0] | head, *rows[1:]]

    def learn(self, number: int, state: State, data: Sequence[Row], folder: Path) -> tuple[State, Report]:
        c = self.config
        weights = exponential_weights(np.array([row["reward"] for row in data]), c.tau)
        source = CompletionSource([(r["state"], r["answer"]) for r in data], context=self.context, weights=weights.tolist())
        seed, train = derive(self.seed, "learn", number), folder / "train"
        result = Trainer(
            self.model_of(state), DataStream(source, min(c.rows, len(source)), seed, drop_last=True), Finetune("rows"),
            optimizer=AdamW(lr=c.lr, weight_decay=c.weight_decay), schedule=Cosine(warmup=c.warmup, final=0.0),
            budget=Budget(steps=c.updates), seed=seed, folder=train, checkpoint_every=0.5, progress=self.progress,
        ).run(resume=(train / "run.json").exists())  # fmt: skip
        ledger = _summed([state["ledger"], data[0]["spent"], result.ledger.as_dict()])
        model = {k: v.detach().clone() for k, v in result.model.state_dict().items()}
        rewards = np.array([row["reward"] for row in data])
        return {"model": model, "ledger": ledger}, data[0]["told"] | {"rows": float(len(data)), "right rows": float((rewards == 1).mean())}

    # --- parts --------------------------------------------------------------------------------------------------------
    def _attempts(self, rollout: Rollout) -> list[Attempt]:
        said = self.tokenizer.encode(self.protocol.again(self.pool[rollout.problem])).tolist()
        ends = [*rollout.starts[1:], len(rollout.tokens)]
        attempts = []
        for start, end, text in zip(rollout.starts, ends, rollout.texts[0::2], strict=True):
            tokens = [t for t, own in zip(rollout.tokens[start:end], rollout.mask[start:end], strict=True) if own]
            attempts.append(Attempt(tokens, text, rollout.rewards[start + len(tokens) - 1], said))
        return attempts

    def _fits(self, state: Sequence[int]) -> bool:
        # One token more than the context: the last one is only a target.
        return len(state) + self.sampling.max_tokens <= self.context + 1

    def _pairs(self, row: Row) -> list[tuple[Pair, tuple[int, ...]]]:
        """The pairs of one episode, each with its state up to the last thing said."""
        rewards = row["judgement"]
        attempts = [Attempt(a["tokens"], a["text"], r, a["said"]) for a, r in zip(row["attempts"], rewards["attempts"], strict=True)]
        trajectories = []
        for correction, values in zip(row["corrections"], rewards["corrections"], strict=True):
            best = int(np.argmax(values))  # the first of those that are level
            answer = correction["answers"][best]
            trajectories.append([*attempts[: correction["after"]], Attempt(answer["tokens"], answer["text"], values[best])])
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], Pair] = {}
        for trajectory in trajectories or [attempts]:
            for pair in converted(row["question"], trajectory, self.config.criterion, self.config.window):
                found.setdefault((pair.state, pair.answer), pair)
        last = len(attempts[0].said) if attempts else 0
        return [(pair, pair.state[: len(pair.state) - last]) for pair in found.values()]


def _summed(ledgers: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    total = Ledger()
    for ledger in ledgers:
        total.merge(Ledger.from_dict(ledger))
    return total.as_dict()
