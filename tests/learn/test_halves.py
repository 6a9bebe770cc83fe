"""Evaluators on halves of what is held out: two that share nothing, always the same ones."""

import numpy as np
import pytest
import torch
from torch import nn

from etude.data.sources import TensorSource
from etude.engine.protocols import Halved
from etude.engine.streams import halves
from etude.learn.language import HeldOutLoss
from etude.learn.supervised import Accuracy, Supervised
from etude.recipe.reading import Losses


def test_halves_share_nothing_and_leave_nothing_out():
    for count in (2, 7, 100):
        first, second = halves(count)
        assert sorted([*first, *second]) == list(range(count))
        assert len(second) - len(first) in (0, 1)
        assert np.array_equal(first, halves(count)[0])
    assert not np.array_equal(halves(100)[0], np.arange(50))


def data(n=11):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


def test_a_loss_and_an_accuracy_are_the_means_of_their_halves():
    x, y = data()
    model = nn.Linear(3, 2)
    for whole in (HeldOutLoss(TensorSource(x=x, y=y), Supervised()), Accuracy(x, y)):
        assert isinstance(whole, Halved)
        a, b, all_of_it = whole.half(0)(model), whole.half(1)(model), whole(model)
        for name, value in all_of_it.items():
            assert (5 * a[name] + 6 * b[name]) / 11 == pytest.approx(value)


def test_a_half_of_a_limited_loss_has_as_many_samples_where_there_are_enough():
    source = TensorSource(**dict(zip("xy", data(100), strict=True)))
    limited = HeldOutLoss(source, Supervised(), limit=20)
    assert [len(limited.half(which).ids) for which in (0, 1)] == [20, 20]
    assert not set(limited.half(0).ids) & set(limited.half(1).ids)
    assert len(HeldOutLoss(source, Supervised(), limit=80).half(0).ids) == 50


def test_what_is_too_small_has_no_halves_and_neither_has_what_holds_it():
    one, many = (TensorSource(**dict(zip("xy", data(n), strict=True))) for n in (1, 10))
    assert HeldOutLoss(one, Supervised()).half(0) is None
    assert Accuracy(*data(1)).half(0) is None
    assert Losses({"a": one, "b": many}, {"": Supervised()}, 5, 4).half(0) is None
    assert set(Losses({"a": many, "b": many}, {"": Supervised()}, 5, 4).half(0).each) == {"a", "b"}
