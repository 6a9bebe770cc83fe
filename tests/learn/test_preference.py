"""Preference losses against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from rollout_toys import tiny

from etude.data.stream import DataStream
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import SGD
from etude.engine.protocols import Batch
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.logprobs import frozen_copy
from etude.learn.pairs import PairSource, reference_logprobs
from etude.learn.preference import DPO, IPO, ORPO, PairLogprobs, Preference, SimPO, log_odds

PAIRS = PairLogprobs(torch.tensor([[-4.0, -6.0]]), torch.tensor([[-5.0, -4.0]]), torch.tensor([[2.0, 4.0]]))
ROWS = [([1, 12], [2, 3], [4]), ([5, 12], [6], [7, 8, 9, 1]), ([2], [3, 3, 3], [3, 4])]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_by_hand():
    # Log ratios: chosen -4 + 5 = 1, rejected -6 + 4 = -2; margin 3. Per token: 1/2 and -2/4; margin 1.
    assert DPO(beta=0.5)(PAIRS).item() == pytest.approx(-math.log(sigmoid(1.5)))
    assert DPO(beta=5, normalised=True)(PAIRS).item() == pytest.approx(-math.log(sigmoid(5)))
    assert DPO(beta=0.5).rewards(PAIRS).tolist() == [[0.5, -1.0]]
    assert DPO(beta=5, normalised=True).rewards(PAIRS).tolist() == [[2.5, -2.5]]
    assert IPO(beta=0.25)(PAIRS).item() == pytest.approx((3 - 2) ** 2)
    # Means under the policy: -2 and -1.5.
    assert SimPO(beta=2, gamma=0.5)(PAIRS).item() == pytest.approx(-math.log(sigmoid(2 * (-2 + 1.5) - 0.5)))
    odds = [math.exp(m) / (1 - math.exp(m)) for m in (-2, -1.5)]
    expected = 2 - 0.1 * math.log(sigmoid(math.log(odds[0]) - math.log(odds[1])))
    assert ORPO(weight=0.1)(PAIRS).item() == pytest.approx(expected)


def test_log_odds_are_finite_and_exact_near_certainty():
    p = 1 - 1e-4
    assert log_odds(torch.tensor([math.log(p)], dtype=torch.float64)).item() == pytest.approx(math.log(p / (1 - p)))
    assert torch.isfinite(log_odds(torch.tensor([0.0]))).all()


def output_of(loss, model, reference=None, source=None):
    source = source or PairSource(ROWS, context=16)
    return Preference(loss, reference)(model, Batch(source.get(np.arange(3)), np.arange(3)))


@pytest.mark.parametrize("normalised", [False, True])
def test_an_unmoved_policy_loses_log_two(normalised):
    model = tiny()
    output = output_of(DPO(normalised=normalised), model, frozen_copy(model))
    assert output.per_sample.tolist() == pytest.approx([math.log(2)] * 3, abs=1e-6)
    assert output.signals["margin"].item() == pytest.approx(0, abs=1e-6)
    assert output_of(IPO(beta=0.5), model, frozen_copy(model)).loss.item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("loss", [DPO(), DPO(beta=5, normalised=True), IPO()])
def test_precomputed_references_equal_a_frozen_model(loss):
    model, reference, ledger = tiny(0), tiny(1), Ledger()
    values = reference_logprobs(reference, PairSource(ROWS, context=16), batch_size=2, ledger=ledger)
    kept = output_of(loss, model, source=PairSource(ROWS, context=16, reference=values))
    live = output_of(loss, model, reference)
    assert kept.per_sample.tolist() == pytest.approx(live.per_sample.tolist(), rel=1e-5)
    assert ledger.total("tokens") == sum(2 * (len(p) - 1) + len(c) + len(r) for p, c, r in ROWS)
    assert ledger.total("flops", ("prepare",)) > 0


def test_filling_and_company_change_nothing():
    model, source = tiny(), PairSource(ROWS, context=16)
    together = output_of(SimPO(), model)
    alone = [Preference(SimPO())(model, Batch(source.get(np.array([i])), np.array([i]))).loss.item() for i in range(3)]
    assert together.per_sample.tolist() == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("loss", [DPO(beta=1.0), DPO(beta=5, normalised=True), IPO(beta=0.5), ORPO(weight=1.0), SimPO()])
def test_training_prefers_the_chosen(loss):
    model, reference = tiny(), tiny()
    before = output_of(loss, model, reference)
    stream = DataStream(PairSource(ROWS, context=16), 2, 0)
    trainer = Trainer(model, stream, Preference(loss, reference), optimizer=SGD(lr=1.0), budget=Budget(steps=12), accumulate=2)
    result = trainer.run()
    after = output_of(loss, model, reference)
    assert after.loss < before.loss
    assert after.signals["accuracy"] == 1
    assert all(torch.equal(a, b) for a, b in zip(reference.parameters(), tiny().parameters(), strict=True))
    assert result.ledger.total("flops") > 0


def test_bad_input():
    with pytest.raises(BadInput, match=r"Preference\.reference: found none"):
        output_of(DPO(), tiny())
    model = tiny()
    with pytest.raises(BadInput, match="the model in training itself"):
        output_of(DPO(), model.requires_grad_(True), model)
    for make in (lambda: DPO(beta=0), lambda: IPO(beta=-1), lambda: ORPO(weight=0), lambda: SimPO(beta=0), lambda: SimPO(gamma=-1)):
        with pytest.raises(BadInput, match="expected a number >"):
            make()
