"""Steps from a generator: cut at separators, counted and charged, the same whichever questions run beside."""

import numpy as np
import pytest

from etude.data.tokenizers import Characters
from etude.engine.ledger import Ledger
from etude.engine.protocols import Sampling
from etude.engine.streams import derive, initialise
from etude.errors import BadInput
from etude.generate.local import LocalGenerator
from etude.generate.search import MCTS, Expand, GeneratedSteps, Limit, Question, Rollout, Step, run_searches
from etude.nn.transformer import Transformer, TransformerConfig

LETTERS = Characters("\nabcdefgh")
LINE, END = int(LETTERS.encode("\n")[0]), LETTERS.vocab
CONTEXT = 40


def generator(ledger=None):
    config = TransformerConfig(vocab=LETTERS.vocab + 1, width=16, depth=1, heads=2, context=CONTEXT, init_std=0.3)
    return LocalGenerator(initialise(Transformer(config), 3), LETTERS, ledger=ledger)


def steps(ledger=None, seed=0, most=6, **more):
    sampling = Sampling(temperature=0.9, max_tokens=most)
    return GeneratedSteps(generator(ledger), sampling, separator=LINE, ends=(END,), context=CONTEXT, seed=seed, tokenizer=LETTERS, **more)


def test_a_step_is_what_the_generator_says_up_to_a_separator():
    expand = steps()
    requests = [Expand(Question(f"q{i}", "abc"), (), 1 + i % 3, i) for i in range(40)]
    answers = expand(requests)
    kinds = set()
    for request, found in zip(requests, answers, strict=True):
        assert len(found) == request.num_steps
        name = derive(0, "search", request.question.id, request.number)
        (alone,) = generator().complete(
            ["abc"], Sampling(temperature=0.9, max_tokens=6, stop_tokens=(LINE, END)), n=request.num_steps, seed=0, ids=[name]
        )
        for step, completion in zip(found, alone, strict=True):
            assert step.tokens == tuple(completion.tokens)
            assert step.num_tokens == len(step.tokens)
            last = step.tokens[-1]
            kinds.add("line" if last == LINE else "end" if last == END else "cut")
            assert step.ended == (last != LINE)
            assert step.text == LETTERS.decode(np.array([t for t in step.tokens if t != END]))
    assert kinds == {"line", "end", "cut"}


def test_a_state_is_read_with_its_steps_and_one_that_fills_the_context_has_ended():
    expand = steps(most=30)
    path = (Step("ab\n", tuple(int(t) for t in LETTERS.encode("ab\n"))), Step("c\n", tuple(int(t) for t in LETTERS.encode("c\n"))))
    (found,) = expand([Expand(Question("q", "abc"), path, 4, 7)])
    name = derive(0, "search", "q", 7)
    (alone,) = generator().complete(
        ["abcab\nc\n"], Sampling(temperature=0.9, max_tokens=30, stop_tokens=(LINE, END)), n=4, seed=0, ids=[name]
    )
    assert [s.tokens for s in found] == [tuple(c.tokens) for c in alone]
    long = Question("long", "a" * (CONTEXT - 1))
    for i in range(30):
        for step in expand([Expand(long, (), 3, i)])[0]:
            assert len(step.tokens) <= 2
            assert step.ended == (step.tokens[-1] != LINE or len(step.tokens) == 2)


def evaluate(requests):
    return [[sum(len(s.tokens) for s in path) % 5 / 5 for path in r.paths] for r in requests]


def test_the_same_alone_and_beside_others_and_every_token_is_charged():
    questions = [Question(f"q{i}", "abcdefgh"[: 1 + i % 8]) for i in range(12)]
    search = MCTS(limit=Limit(rounds=4), rollout=Rollout(steps=2), max_depth=5)
    ledger = Ledger()
    together = run_searches(search, questions, steps(ledger), evaluate)
    assert sum(f.spent.tokens for f in together) == ledger.entries["generate"]["generated_tokens"] > 300
    for question, found in list(zip(questions, together, strict=True))[::4]:
        (alone,) = run_searches(search, [question], steps(), evaluate)
        assert [n.path for n in alone.roots[0].walk()] == [n.path for n in found.roots[0].walk()]
        assert alone.spent == found.spent
    again = run_searches(search, questions, steps(), evaluate)
    assert [f.path for f in again] == [f.path for f in together]
    other = run_searches(search, questions, steps(seed=1), evaluate)
    assert [f.path for f in other] != [f.path for f in together]


def test_refuses():
    class Words:
        capabilities = frozenset()

    with pytest.raises(BadInput, match="without token ids"):
        GeneratedSteps(Words(), Sampling(), separator=LINE, ends=(END,), context=8, seed=0)
    with pytest.raises(BadInput, match="the separator 0 too"):
        GeneratedSteps(generator(), Sampling(), separator=LINE, ends=(LINE,), context=8, seed=0)
    bare = GeneratedSteps(generator(), Sampling(), separator=LINE, ends=(END,), context=8, seed=0)
    with pytest.raises(BadInput, match="question q: found text"):
        bare([Expand(Question("q", "ab"), (), 1, 0)])
