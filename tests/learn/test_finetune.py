"""Fine-tuning on completions: the losses by hand, weights, and micro-batches of unequal length."""

import math

import numpy as np
import pytest
import torch
from plain_stream import Unsampled
from rollout_toys import Table, tiny

from etude.engine.ledger import Budget
from etude.engine.optim import SGD
from etude.engine.protocols import Batch, Stage
from etude.engine.schedule import Constant
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.finetune import Finetune, exponential_weights, finetune_loss
from etude.learn.language import CausalLM
from etude.learn.rows import CompletionSource

# Row 0 gives its successor 1 three quarters; row 1 is even.
TABLE = [[0.0, math.log(3)], [0.0, 0.0]]
LONG, SHORT = ([0], [1, 1, 1]), ([0], [0])  # losses log 4/3, log 2, log 2; log 4


def output_of(rows, objective, weights=None, model=None):
    source = CompletionSource(rows, context=16, weights=weights)
    return objective(model or Table(TABLE), Batch(source.get(np.arange(len(rows))), np.arange(len(rows))))


def test_tokens_are_summed_over_the_batch_not_averaged_by_rows():
    output = output_of([LONG, SHORT], Finetune())
    long, short = math.log(4 / 3) + 2 * math.log(2), math.log(4)
    assert output.loss.item() == pytest.approx((long + short) / 4)
    assert output.weight == 4
    assert output.per_sample.tolist() == pytest.approx([long / 3, short])
    by_rows = output_of([LONG, SHORT], Finetune("rows"))
    assert by_rows.loss.item() == pytest.approx((long / 3 + short) / 2)
    assert by_rows.weight == 2


def test_weights_scale_rows_and_leave_the_divisor_alone():
    assert exponential_weights(np.array([-1.0, 0.0, 1.0]), 0.4) == pytest.approx([0.0820850, 1, 12.182494])  # RISE's .08, 1, 12.2
    plain, weighted = output_of([LONG, SHORT], Finetune("rows")), output_of([LONG, SHORT], Finetune("rows"), weights=[12.0, 0.5])
    long, short = plain.per_sample.tolist()
    assert weighted.loss.item() == pytest.approx((12 * long + 0.5 * short) / 2)
    assert weighted.per_sample.tolist() == pytest.approx([long, short])
    ones = output_of([LONG, SHORT], Finetune(), weights=[1, 1])
    assert torch.equal(ones.loss, output_of([LONG, SHORT], Finetune()).loss)


def test_it_is_the_language_models_loss_under_the_same_mask():
    rows, model = [([1, 2, 3], [4, 5]), ([6], [7, 8, 9, 1])], tiny()
    for name, loss in (("finetune", Finetune()), ("causal", CausalLM())):
        model.zero_grad()
        output_of(rows, loss, model=model).loss.backward()
        if name == "finetune":
            expected = [p.grad.clone() for p in model.parameters()]
    assert all(torch.allclose(p.grad, e, atol=1e-6) for p, e in zip(model.parameters(), expected, strict=True))


def test_the_entropy_bonus():
    output = output_of([LONG, SHORT], Finetune(entropy=0.1))
    spread = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    mean = (2 * spread + 2 * math.log(2)) / 4
    assert output.signals["entropy"].item() == pytest.approx(mean)
    assert output.loss.item() == pytest.approx(output_of([LONG, SHORT], Finetune()).loss.item() - 0.1 * mean)


class Fixed(Unsampled):
    """Batches of one source in a given split, for one update."""

    def __init__(self, source, splits):
        self.source, self.splits, self.at = source, splits, 0

    def stage(self):
        return Stage("all", 0)

    def next(self):
        ids = np.array(self.splits[self.at])
        self.at += 1
        return Batch(self.source.get(ids), ids)


@pytest.mark.parametrize("over", ["tokens", "rows"])
def test_micro_batches_of_unequal_length_add_up(over):
    rows = [([1], [2] * 7), ([1, 3], [4]), ([5], [6, 7]), ([8, 9, 9], [2, 3, 4, 5])]
    after = []
    for splits in ([[0, 1, 2, 3]], [[0, 1], [2], [3]]):
        model = tiny()
        source = CompletionSource(rows, context=32, weights=[1, 2, 0.5, 3])
        Trainer(model, Fixed(source, splits), Finetune(over), optimizer=SGD(lr=1.0), schedule=Constant(), clip=None,
                budget=Budget(steps=1), accumulate=len(splits)).run()  # fmt: skip
        after.append([p.detach() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*after, strict=True))
    assert not torch.allclose(after[0][0], tiny().embedding.weight)


def test_bad_input():
    with pytest.raises(BadInput, match="tau: found 0, expected a number > 0"):
        exponential_weights(np.zeros(2), 0)
    with pytest.raises(BadInput, match=r"Finetune\.mean_over"):
        Finetune("row")
    with pytest.raises(BadInput, match=r"Finetune\.entropy"):
        Finetune(entropy=-1)
    assert finetune_loss(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), None, "rows")[1] == 1
