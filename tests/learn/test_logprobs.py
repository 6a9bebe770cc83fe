"""Log-probabilities of given tokens: by hand, at temperatures, and against the generator's."""

import math

import numpy as np
import pytest
import torch
from plain_stream import Unsampled
from rollout_toys import PlainGenerator, Table, tiny

from etude.engine.flops import FlopCounter
from etude.engine.ledger import Budget
from etude.engine.protocols import Batch
from etude.engine.streams import generator
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.finetune import Finetune
from etude.learn.logprobs import frozen_logprobs, masked_work, rounded, token_logprobs
from etude.learn.rows import CompletionSource, filled


def test_by_hand_and_zero_off_the_mask():
    model = Table([[0.0, math.log(3)], [0.0, 0.0]])
    tokens, mask = torch.tensor([[0, 1, 0, 0]]), torch.tensor([[True, False, True]])
    scored = token_logprobs(model, tokens, mask, entropy="value")
    assert scored.logprobs.tolist()[0] == pytest.approx([math.log(3 / 4), 0, math.log(1 / 4)])
    entropy = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    assert scored.entropy.tolist()[0] == pytest.approx([entropy, 0, entropy])
    assert not scored.entropy.requires_grad
    cool = token_logprobs(model, tokens, mask, 0.5).logprobs  # logits twice as far apart: 9 to 1
    assert cool.tolist()[0] == pytest.approx([math.log(9 / 10), 0, math.log(1 / 10)])
    rows = token_logprobs(model, tokens.repeat(2, 1), mask.repeat(2, 1), torch.tensor([1.0, 0.5])).logprobs
    assert torch.allclose(rows, torch.cat([scored.logprobs, cool]))


def test_a_transformer_scores_as_the_generator_does_at_a_temperature():
    model = tiny()
    prompts, answers = [np.array([1, 2, 12]), np.array([5, 12])], [np.array([3, 4, 11]), np.array([6, 11])]
    data = CompletionSource(list(zip(prompts, answers, strict=True)), context=32).get(np.arange(2))
    found = token_logprobs(model, data["tokens"], data["loss_mask"], 0.7).logprobs
    for row, mask, expected in zip(found, data["loss_mask"], PlainGenerator(model).score(prompts, answers, temperature=0.7), strict=True):
        assert torch.allclose(row[mask].double(), torch.tensor(expected), atol=1e-6)
    assert torch.equal(found.detach(), frozen_logprobs(model, data, 0.7))
    assert torch.allclose(found, frozen_logprobs(model, data, torch.tensor([0.7, 0.7]), batch_size=1), atol=1e-6)


def test_the_head_runs_at_the_targets_and_its_cost_is_counted_by_their_number():
    assert [rounded(n, 160) for n in (1, 10, 11, 160)] == [10, 10, 20, 160]
    assert rounded(3, 5) == 3
    model, tokens = tiny(), torch.randint(14, (4, 17), generator=generator(0, "t"))
    totals = {}
    for marked in (4, 16):
        mask = torch.zeros(4, 16, dtype=torch.bool)
        mask[:, : marked // 4] = True
        with FlopCounter() as counter, torch.no_grad():
            token_logprobs(model, tokens, mask)
        totals[marked] = counter.total
        assert masked_work(Batch({"loss_mask": mask}, np.arange(4))) == marked
    assert totals[16] - totals[4] == 2 * 12 * 16 * 14  # twelve more targets through a head of 16 x 14


def test_the_trainer_charges_each_batch_what_its_targets_cost():
    """Two batches of one shape with different numbers of targets: their counts are kept apart."""
    rows = [(np.arange(1, 9), np.arange(1, 2)), (np.arange(1, 2), np.arange(1, 9))]

    class Turns(Unsampled):
        def __init__(self):
            self.source, self.turn = CompletionSource(rows, context=32), 0

        def stage(self):
            from etude.engine.protocols import Stage

            return Stage("all", 0)

        def next(self):
            ids = np.array([self.turn % 2])
            self.turn += 1
            return Batch(self.source.get(ids), ids)

    def spent(steps):
        return Trainer(tiny(), Turns(), Finetune(), budget=Budget(steps=steps)).run().ledger.total("flops")

    two = spent(2)
    assert spent(4) == 2 * two
    model, costs = tiny(), []
    for k in range(2):
        with FlopCounter() as counter:
            Finetune()(model, Batch(CompletionSource(rows, context=32).get(np.array([k])), np.arange(1))).loss.backward()
        costs.append(counter.total)
    assert two == sum(costs)
    assert costs[0] != costs[1]


def test_bad_input():
    data = filled(CompletionSource([([1], [2])], context=8).rows)
    with pytest.raises(BadInput, match="a batch whose loss mask leaves nothing"):
        token_logprobs(tiny(), data["tokens"], torch.zeros_like(data["loss_mask"]))
    for wrong in ([[1, 99, 2]], [[1, 2, 99]]):
        with pytest.raises(BadInput, match="found token 99, expected ids below the model's vocabulary of 14"):
            token_logprobs(tiny(), torch.tensor(wrong), torch.ones(1, 2, dtype=torch.bool))
