"""The most likely completion against all completions."""

import itertools
import math

import numpy as np
import pytest
import torch
from rollout_toys import Table, tiny

from etude.errors import BadInput
from etude.generate import mode
from etude.generate.local import LocalGenerator
from etude.generate.mode import most_likely


def enumerated(model, prompt, end, max_tokens, vocab):
    """All finished completions with their log-probabilities, likeliest first."""
    others = [t for t in range(vocab) if t != end]
    completions = [[*body, end] for n in range(max_tokens) for body in itertools.product(others, repeat=n)]
    scores = LocalGenerator(model, context=64).score([prompt] * len(completions), [np.array(c) for c in completions])
    return sorted(((float(s.astype(np.float64).sum()), c) for s, c in zip(scores, completions, strict=True)), key=lambda pair: -pair[0])


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_best_of_all_completions(seed):
    model = tiny(seed)
    with torch.no_grad():
        for block in model.blocks:
            block.feed_forward.down.weight *= 20  # far from flat
        model.embedding.weight *= 20
    prompts = [np.array([1, 2]), np.array([3]), np.array([5, 6, 7, 8])]
    found = most_likely(model, prompts, end=11, max_tokens=3, batch_size=7)
    for prompt, one in zip(prompts, found, strict=True):
        best, completion = enumerated(model, prompt, 11, 3, 14)[0]
        assert one.tokens.tolist() == completion
        assert one.logprob == pytest.approx(best, abs=1e-4)


def test_greedy_may_miss_it():
    # After 0: token 1 with 0.6, then five ways of 0.2; token 2 with 0.4, then the end at once.
    table = torch.full((8, 8), -1e9)
    table[0, [1, 2]] = torch.tensor([0.6, 0.4]).log()
    table[1, [3, 4, 5, 6, 0]] = math.log(0.2)
    table[2:, 7] = 0.0
    (one,) = most_likely(Table(table), [np.array([0])], end=7, max_tokens=4)
    assert one.tokens.tolist() == [2, 7]
    assert one.logprob == pytest.approx(math.log(0.4))


def test_ties_go_to_the_first_in_order_of_token_ids():
    table = torch.zeros(4, 4)
    table[1:, :3] = -1e9
    (one,) = most_likely(Table(table), [np.array([0])], end=3, max_tokens=3)
    assert one.tokens.tolist() == [1, 3]  # as likely as [2, 3] and [3]


def test_the_bound_on_length_counts_the_end_token():
    table = torch.full((3, 3), -1e9)
    table[0, 1], table[1, 2], table[0, 2] = math.log(0.9), 0.0, math.log(0.1)
    model = Table(table)
    assert most_likely(model, [np.array([0])], end=2, max_tokens=2)[0].tokens.tolist() == [1, 2]
    assert most_likely(model, [np.array([0])], end=2, max_tokens=1)[0].tokens.tolist() == [2]


def test_the_models_mode_is_restored():
    model = tiny().train()
    most_likely(model, [np.array([1])], end=11, max_tokens=1)
    assert model.training


def test_refuses():
    with pytest.raises(BadInput, match="max_tokens: found 0, expected a whole number >= 1"):
        most_likely(tiny(), [np.array([1])], end=11, max_tokens=0)
    with pytest.raises(BadInput, match="prompt 1: found no tokens"):
        most_likely(tiny(), [np.array([1]), np.array([], dtype=np.int64)], end=11, max_tokens=2)
    flat = torch.zeros(14, 14)
    flat[:, 11] = -20.0
    model = Table(flat).train()
    with pytest.raises(BadInput, match="prompt 0: found more than 20 prefixes opened, expected a model with more mass on one completion"):
        most_likely(model, [np.array([1])], end=11, max_tokens=9, most_opened=20)
    assert model.training  # what it was before, though the search ended early


def test_it_opens_no_more_prefixes_than_the_bound():
    model = tiny(2)
    (one,) = most_likely(model, [np.array([1, 2])], end=11, max_tokens=2)
    assert one.opened <= 2 / math.exp(one.logprob) + mode.OPENED_AT_ONCE
