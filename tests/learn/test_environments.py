"""Episodes with tools and with somebody to talk to: the loss covers what the model said itself, and nothing that it was told."""

import numpy as np
from rollout_toys import END, Letters, PlainGenerator, tiny

from etude.engine.protocols import Completion, Problem, Sampling, Turn
from etude.learn.problems import Domain, ProblemPool
from etude.learn.rollouts import Collector

SAMPLING = Sampling(temperature=1.0, max_tokens=3, stop_tokens=(END,))
PROBLEMS = [Problem(f"sum/{a}{b}", f"{a}{b}?", str(a + b), 1) for a, b in ((1, 2), (3, 4), (2, 2))]


class Calculator:
    """A tool: "12=" asks it for 1 + 2, and it says "=3!"; anything else is the answer. Whatever it said is remembered by problem."""

    said = {}

    def reset(self, problem):
        self.problem = problem
        return problem.prompt

    def step(self, response):
        if not response.endswith("="):
            return Turn("", float(response == self.problem.answer), terminated=True)
        told = f"={sum(int(c) for c in response[:-1])}!"
        self.said.setdefault(self.problem.id, []).append(told)
        return Turn(told, 0.0, terminated=False)


class Partner:
    """A dialogue: answers whatever is said with the number of the turn and a question, three turns long, and pays for each."""

    def reset(self, problem):
        self.turn = 0
        return problem.prompt

    def step(self, response):
        self.turn += 1
        return Turn(f"!{self.turn}?", 0.25 * self.turn, terminated=self.turn == 3)


class Tooled(PlainGenerator):
    """Asks the tool first, then repeats what it was told; keeps the tokens that it gave out."""

    def __init__(self):
        super().__init__(tiny())
        self.given = {}

    def _one(self, prompt, sampling, rng):
        text = self.tokenizer.decode(prompt)
        said = text.rsplit("=", 1)[1].rstrip("!") if text.endswith("!") else f"{text[:2]}="
        tokens = [*self.tokenizer.encode(said).tolist(), END]
        spread = self.spread([*prompt.tolist(), *tokens[:-1]], sampling.temperature)[len(prompt) - 1 :].numpy()
        logprobs = spread[np.arange(len(tokens)), tokens]
        self.given.setdefault(text[:3], []).append((tokens, logprobs))
        return Completion(np.array(tokens), said, logprobs, "stop")


def collected(environment, generator, max_turns):
    pool = ProblemPool([Domain("sums", PROBLEMS, environment)])
    rules = Collector(pool, Letters(), SAMPLING, context=32, max_turns=max_turns)
    rollouts, _ = rules.collect(generator, np.arange(3), 1, seed=0, prompt_ids=range(3))
    rules.check(rollouts)
    return rollouts


def parts(rollout):
    own = [t for t, mine in zip(rollout.tokens, rollout.mask, strict=True) if mine]
    told = [t for t, mine in zip(rollout.tokens, rollout.mask, strict=True) if not mine]
    assert all(p == 0 for p, mine in zip(rollout.logprobs, rollout.mask, strict=True) if not mine)
    assert rollout.row.mask.tolist() == rollout.mask[1:]
    return own, Letters().decode(told)


def test_what_a_tool_says_is_no_target():
    generator, Calculator.said = Tooled(), {}
    for rollout, problem in zip(collected(Calculator, generator, 4), PROBLEMS, strict=True):
        own, told = parts(rollout)
        (asked, asked_logprobs), (answered, answered_logprobs) = generator.given[problem.prompt]
        assert own == [*asked, *answered]
        assert told == problem.prompt + "".join(Calculator.said[problem.id])
        mine = [p for p, own in zip(rollout.logprobs, rollout.mask, strict=True) if own]
        assert mine == [*asked_logprobs.tolist(), *answered_logprobs.tolist()]
        assert rollout.reward == 1.0
        assert rollout.texts == [f"{problem.prompt[:2]}=", f"={problem.answer}!", problem.answer]


def test_what_the_other_says_in_a_dialogue_is_no_target():
    for rollout, problem in zip(collected(Partner, PlainGenerator(tiny()), 5), PROBLEMS, strict=True):
        own, told = parts(rollout)
        assert told == f"{problem.prompt}!1?!2?"
        assert rollout.texts[1::2] == ["!1?", "!2?"]
        assert Letters().decode([t for t in own if t != END]) == "".join(rollout.texts[0::2]).replace(".", "")
        assert len(own) == rollout.num_generated == sum(rollout.mask)
        assert rollout.reward == 1.5
        # Each response's reward stands at its last token.
        ends = [i for i, r in enumerate(rollout.rewards) if r]
        assert [rollout.rewards[i] for i in ends] == [0.25, 0.5, 0.75]
        assert all(rollout.mask[i] and (i + 1 == len(rollout.mask) or not rollout.mask[i + 1]) for i in ends)
