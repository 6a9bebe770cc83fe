"""Distillation: divergences by hand, their limits, and what training does."""

import math

import numpy as np
import pytest
import torch
from rollout_toys import tiny

from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.protocols import Batch
from etude.engine.streams import generator
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.distillation import Distillation, forward_kl, reverse_kl
from etude.learn.rows import CompletionSource

TEACHER, STUDENT = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])


def test_by_hand():
    assert forward_kl(TEACHER, STUDENT).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert reverse_kl(TEACHER, STUDENT).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert forward_kl(TEACHER, STUDENT, 0.5).item() == pytest.approx(0.1 * math.log(0.2) + 0.9 * math.log(1.8))
    # Only the likelier token is kept, with certainty: the student's surprise at it.
    assert forward_kl(TEACHER, STUDENT, top_k=1).item() == pytest.approx(math.log(2))


def test_limits():
    a, b = torch.randn(2, 5, 7, generator=generator(0, "logits"), dtype=torch.float64)
    assert torch.allclose(forward_kl(a, b, top_k=7), forward_kl(a, b))
    assert torch.allclose(forward_kl(a, b), reverse_kl(b, a))
    assert forward_kl(a, a).abs().max() < 1e-12
    # At high temperature KL T^2 tends to half the variance of the logits' differences over the vocabulary.
    hot = 1e3
    limit = 0.5 * (a - b).var(1, unbiased=False)
    assert torch.allclose(hot**2 * forward_kl(a, b, hot), limit, rtol=1e-2)


ROWS = [([1, 2], [3, 4, 5]), ([6], [7])]


def output_of(objective, model):
    return objective(model, Batch(CompletionSource(ROWS, context=16).get(np.arange(2)), np.arange(2)))


@pytest.mark.parametrize("settings", [{}, {"direction": "reverse"}, {"temperature": 2.0}, {"top_k": 14}])
def test_a_copy_has_nothing_to_learn(settings):
    output = output_of(Distillation(tiny(), **settings), tiny())
    assert output.loss.item() == pytest.approx(0, abs=1e-6)
    assert output.signals["agreement"] == 1
    assert output.weight == 4


def test_only_marked_targets_count_and_rows_add_up():
    objective = Distillation(tiny(1), likelihood=0.25)
    both, source = output_of(objective, tiny()), CompletionSource(ROWS, context=16)
    alone = [objective(tiny(), Batch(source.get(np.array([i])), np.array([i]))) for i in range(2)]
    assert both.loss.item() == pytest.approx(sum(o.loss.item() * o.weight for o in alone) / 4, rel=1e-5)
    assert both.per_sample.tolist() == pytest.approx([o.loss.item() for o in alone], rel=1e-5)
    unmasked = Distillation(tiny(1))(tiny(), Batch({"tokens": torch.tensor([[1, 2, 3]])}, np.arange(1)))
    assert unmasked.weight == 2


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_student_comes_nearer(direction):
    teacher, student = tiny(1), tiny()
    teacher.embedding.weight.data *= 20  # a teacher with opinions
    objective = Distillation(teacher, direction=direction)
    before = output_of(objective, student).loss.item()
    Trainer(
        student, DataStream(CompletionSource(ROWS, context=16), 2, 0), objective, optimizer=AdamW(lr=0.03), budget=Budget(steps=60)
    ).run()
    assert output_of(objective, student).loss.item() < 0.5 * before


def test_bad_input():
    model = tiny()
    for settings, message in (
        ({"direction": "back"}, r"Distillation\.direction"),
        ({"temperature": 0}, r"Distillation\.temperature"),
        ({"top_k": 2, "direction": "reverse"}, r"Distillation\.top_k: found 2 with reverse KL"),
        ({"likelihood": 2}, r"Distillation\.likelihood"),
    ):
        with pytest.raises(BadInput, match=message):
            Distillation(tiny(), **settings)
    with pytest.raises(BadInput, match="the model in training itself"):
        output_of(Distillation(model), model)
    with pytest.raises(BadInput, match="at most the vocabulary of 14"):
        output_of(Distillation(tiny(), top_k=15), tiny())
