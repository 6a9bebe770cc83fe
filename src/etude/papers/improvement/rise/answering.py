"""Answering: over turns with a sliding window, or in parallel; with an oracle that knows a right answer, or by a vote.

p1@tT: right within T turns.  m1@tT: the vote of T turns, none of them stopped.  p5@t1, m5@t1: the same of five first answers.
What a turn reads counts as well: `Answers.flops` has it (arXiv 2407.18219, section 5; the ledger is ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb

import numpy as np
from torch import nn

from etude.data.tokenizers import Tokenizer
from etude.engine.ledger import Ledger
from etude.engine.protocols import Problem, Sampling
from etude.errors import BadInput
from etude.generate.local import LocalGenerator
from etude.learn.problems import Domain, ProblemPool
from etude.learn.rollouts import Collector
from etude.papers.improvement.rise.episodes import Protocol, Retry, majority


@dataclass(frozen=True)
class Answers:
    """right: [Q, G, N] whether, for Q questions, G groups of N answers. keys: as they vote, the same shape.
    ledger: what they cost, `prompt_tokens` of later turns included.
    """

    right: np.ndarray
    keys: list[list[list[str | None]]]
    ledger: Ledger

    def accuracy(self, place: int = 0) -> float:
        """Of the answers at one place in their groups (a turn, from 0)."""
        return float(self.right[:, :, place].mean())

    def any_right(self) -> float:
        """With an oracle: a group is right where one of its answers is."""
        return float(self.right.any(2).mean())

    def voted(self) -> float:
        """Without: the group's most frequent answer."""
        won = [[m is not None and bool(self.right[q, g, m]) for g, m in enumerate(map(majority, row))] for q, row in enumerate(self.keys)]
        return float(np.mean(won))

    def repeats(self) -> float:
        """How often a wrong answer is followed by the very same."""
        after = [
            b == a
            for q, row in enumerate(self.keys)
            for g, group in enumerate(row)
            for i, (a, b) in enumerate(pairwise(group))
            if a is not None and not self.right[q, g, i]
        ]
        return float(np.mean(after)) if after else 0.0

    def within(self, num: int) -> float:
        """p`num`@t1 out of all G N answers of a question taken as independent: 1 - C(wrong, num) / C(all, num), on average."""
        total = self.right.shape[1] * self.right.shape[2]
        if not 1 <= num <= total:
            raise BadInput("num", str(num), f"1 to the {total} answers of a question")
        rights = self.right.sum((1, 2))
        return float(np.mean([1 - comb(total - int(c), num) / comb(total, num) for c in rights]))

    @property
    def flops(self) -> float:
        return self.ledger.total("flops")


def over_turns(
    model: nn.Module, problems: Sequence[Problem], protocol: Protocol, tokenizer: Tokenizer, sampling: Sampling,
    *, context: int, turns: int, window: int | None, samples: int, seed: int,
) -> Answers:  # fmt: skip
    """`samples` episodes of `turns` answers to each question, none stopped: what comes before the first right one is the same
    with an oracle, so that `any_right` is its score. Raises BadInput where the context has no room for the turns."""
    ledger = Ledger()
    pool = ProblemPool([Domain("test", problems, lambda: Retry(protocol, stop=False))])
    rules = Collector(pool, tokenizer, sampling, context=context, max_turns=turns, window=window)
    generator = LocalGenerator(model, tokenizer, ledger=ledger)
    numbers = np.arange(len(problems))
    rollouts, _ = rules.collect(generator, numbers, samples, seed=seed, prompt_ids=numbers.tolist())
    rules.check(rollouts)
    right = np.zeros((len(problems), samples, turns), dtype=bool)
    keys: list[list[list[str | None]]] = [[[] for _ in range(samples)] for _ in problems]
    for rollout in rollouts:
        texts = rollout.texts[0::2]
        if len(texts) < turns:
            raise BadInput(f"problem {problems[rollout.problem].id}", f"room for {len(texts)} turns", f"a context of {turns} turns")
        keys[rollout.problem][rollout.sample] = [protocol.key(text) for text in texts]
        right[rollout.problem, rollout.sample] = [protocol.reward(problems[rollout.problem], text) == 1 for text in texts]
    return Answers(right, keys, ledger)


def in_parallel(
    model: nn.Module, problems: Sequence[Problem], protocol: Protocol, tokenizer: Tokenizer, sampling: Sampling,
    *, num: int, groups: int, seed: int,
) -> Answers:  # fmt: skip
    """`groups` groups of `num` independent answers to each question; a group reads its prompt once."""
    ledger = Ledger()
    generator = LocalGenerator(model, tokenizer, ledger=ledger)
    prompts = [tokenizer.encode(p.prompt).astype(np.int64) for p in problems for _ in range(groups)]
    drawn = generator.complete(prompts, sampling, n=num, seed=seed)
    texts = [[[c.text for c in drawn[q * groups + g]] for g in range(groups)] for q in range(len(problems))]
    right = np.array([[[protocol.reward(p, t) == 1 for t in group] for group in row] for p, row in zip(problems, texts, strict=True)])
    return Answers(right, [[[protocol.key(t) for t in group] for group in row] for row in texts], ledger)
