"""Stand-ins for the tests of learning: a sampler that recomputes everything, a task of two-digit copies, a tiny table model."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from etude.engine.protocols import Completion, Problem, Turn
from etude.engine.streams import generator, initialise, numpy_rng
from etude.learn.logprobs import token_logprobs
from etude.learn.rows import Row, filled
from etude.nn.transformer import Transformer, TransformerConfig

ALPHABET = "0123456789=.?!"
END = ALPHABET.index(".")


class Letters:
    """One id a character of ALPHABET."""

    name, vocab = "letters", len(ALPHABET)

    def encode(self, text):
        return np.array([ALPHABET.index(c) for c in text], dtype=np.int64)

    def decode(self, ids):
        return "".join(ALPHABET[int(i)] for i in ids)

    def to_json(self):
        return "{}"


class PlainGenerator:
    """Samples one token at a time from a full forward pass: slow, and as plain as the definition."""

    capabilities = frozenset({"tokens", "logprobs", "score"})

    def __init__(self, model, tokenizer=None):
        self.model, self.tokenizer = model, tokenizer or Letters()

    def spread(self, tokens, temperature):
        with torch.no_grad():
            result = self.model(torch.tensor([tokens]))
            logits = self.model.head(result["hidden"]) if isinstance(result, dict) else result
        return torch.log_softmax(logits[0].double() / temperature, -1)

    def complete(self, prompts, sampling, *, n=1, seed=0, ids=None):
        ids = range(len(prompts)) if ids is None else ids
        return [[self._one(p, sampling, numpy_rng(seed, "sample", int(i), k)) for k in range(n)] for p, i in zip(prompts, ids, strict=True)]

    def _one(self, prompt, sampling, rng):
        tokens, logprobs, finish = [], [], "length"
        for _ in range(sampling.max_tokens):
            spread = self.spread([*prompt.tolist(), *tokens], sampling.temperature)[-1].numpy()
            token = int(np.searchsorted(np.cumsum(np.exp(spread)), rng.random()).clip(0, len(spread) - 1))
            tokens.append(token)
            logprobs.append(spread[token])
            if token in sampling.stop_tokens:
                finish = "stop"
                break
        text = self.tokenizer.decode(tokens[:-1] if finish == "stop" else tokens)
        return Completion(np.array(tokens), text, np.array(logprobs), finish)

    def score(self, prompts, completions, *, temperature=1.0):
        found = []
        for prompt, completion in zip(prompts, completions, strict=True):
            spread = self.spread([*prompt.tolist(), *completion.tolist()[:-1]], temperature)[len(prompt) - 1 :]
            found.append(spread[torch.arange(len(completion)), torch.tensor(completion)].numpy())
        return found


class Copy:
    """ "7?" is answered by "7"; level 2 asks for two digits. Half a point for a right first digit."""

    name, difficulties = "copy", (1, 2)

    def problem(self, seed, index, difficulty):
        digits = "".join(str(d) for d in numpy_rng(seed, "copy", difficulty, index).integers(0, 10, difficulty))
        return Problem(f"copy/{seed}/{difficulty}/{index}", f"{digits}?", digits, difficulty)

    def verify(self, problem, response):
        return 1.0 if response == problem.answer else 0.5 * (response[:1] == problem.answer[:1])


class Retry:
    """Copy over several turns: says "!" and the question again after a wrong answer; a right one ends it."""

    def __init__(self, task=None):
        self.task = task or Copy()

    def reset(self, problem):
        self.problem = problem
        return problem.prompt

    def step(self, response):
        right = response == self.problem.answer
        return Turn("" if right else f"!{self.problem.prompt}", 1.0 if right else -0.25, terminated=right)


def tiny(seed=0, context=32):
    return initialise(Transformer(TransformerConfig(vocab=len(ALPHABET), width=16, depth=1, heads=2, context=context)), seed)


class Table(nn.Module):
    """Logits [V, V] by the present token: everything about it can be enumerated."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(table, dtype=torch.float64))

    def forward(self, tokens):
        return self.table[tokens]


def rollouts(model, seed=0):
    """Four rows of unequal length with behaviour log-probabilities of `model` at temperature 0.7."""
    rng = generator(seed, "rollouts")
    rows = [Row(np.arange(1, 4 + n), np.arange(1, 3 + n) >= 3) for n in (2, 7, 4, 1)]
    data = filled(rows)
    mask, temperature = data["loss_mask"], torch.full((4,), 0.7)
    logprobs = token_logprobs(model, data["tokens"], mask, temperature).logprobs.detach()
    advantages = torch.randn(4, 1, generator=rng) * mask
    return data | {"logprobs": logprobs, "advantages": advantages, "temperature": temperature}
