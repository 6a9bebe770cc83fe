"""Supervised objectives against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from etude.engine.protocols import Batch
from etude.engine.streams import generator
from etude.errors import BadInput
from etude.learn.supervised import Accuracy, Supervised


class Given(nn.Module):
    """Gives back its input, through a parameter so that there is a device and a gradient."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * self.scale


def batch_of(x, y):
    return Batch({"x": torch.tensor(x), "y": torch.tensor(y)}, np.arange(len(x)))


def test_cross_entropy_by_hand():
    output = Supervised()(Given(), batch_of([[0.0, math.log(3)], [0.0, 0.0]], [1, 0]))
    assert output.per_sample.tolist() == pytest.approx([-math.log(3 / 4), math.log(2)])
    assert output.loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert output.weight == 2
    output.loss.backward()


def test_label_smoothing_by_hand():
    # (1 - s) of the loss on the label and s times the mean over the classes.
    output = Supervised(label_smoothing=0.2)(Given(), batch_of([[0.0, math.log(3)]], [1]))
    expected = 0.8 * math.log(4 / 3) + 0.2 * (math.log(4) + math.log(4 / 3)) / 2
    assert output.loss.item() == pytest.approx(expected)


def test_squared_error_by_hand():
    output = Supervised("mse")(Given(), batch_of([[1.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 1.0]]))
    assert output.per_sample.tolist() == [2.5, 5.0]
    assert output.loss.item() == 3.75
    assert Supervised("mse")(Given(), batch_of([[1.0], [3.0]], [0.0, 0.0])).per_sample.tolist() == [1, 9]


def test_a_function_of_ones_own():
    output = Supervised(lambda out, y: (out - y).abs().sum(1))(Given(), batch_of([[1.0, -2.0]], [[0.0, 0.0]]))
    assert output.loss.item() == 3


def test_micro_batches_add_up():
    x, y = torch.randn(7, 4, generator=generator(0, "x")), torch.randint(4, (7,), generator=generator(0, "y"))
    whole = Supervised()(Given(), Batch({"x": x, "y": y}, np.arange(7)))
    parts = [Supervised()(Given(), Batch({"x": x[s], "y": y[s]}, np.arange(len(x[s])))) for s in (slice(0, 2), slice(2, 7))]
    assert whole.loss.item() == pytest.approx(sum(p.loss.item() * p.weight for p in parts) / 7)
    assert whole.per_sample.tolist() == pytest.approx([v for p in parts for v in p.per_sample.tolist()])


def test_accuracy_by_hand():
    x, y = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0, 0])
    found = Accuracy(x, y)(Given())
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["loss"] == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)) + math.log1p(math.e)) / 3)
    assert Accuracy(x, y, batch_size=2)(Given()) == pytest.approx(found)


def test_bad_input():
    with pytest.raises(BadInput, match=r"objective\.loss: found 'cross entropy'"):
        Supervised("cross entropy")
    with pytest.raises(BadInput, match=r"found shape \(\), expected one loss a sample, \(1,\)"):
        Supervised(lambda out, y: out.sum())(Given(), batch_of([[1.0]], [0]))
    with pytest.raises(BadInput, match=r"data\.y: found float32 numbers of shape \(2, 3\), expected the model's \(2,\)$"):
        Supervised("mse")(Given(), batch_of([[1.0], [2.0]], [[0.0] * 3] * 2))
    with pytest.raises(BadInput, match="Accuracy.*: found x of 3 rows, y of 2 rows"):
        Accuracy(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(BadInput, match="label_smoothing"):
        Supervised(label_smoothing=1.5)
    with pytest.raises(BadInput, match="found class 5, expected classes from 0 to 1"):
        Supervised()(Given(), batch_of([[1.0, 0.0]], [5]))
    with pytest.raises(BadInput, match=r"found float32 numbers of shape \(2,\), expected the model's \(2, 2\); if they are classes,"):
        Supervised("mse")(Given(), batch_of([[1.0, 0.0]] * 2, [0.0, 1.0]))
    with pytest.raises(BadInput, match=r"data\.y: found class 1, expected two outputs or more .* or real numbers \(`y.float\(\)`\)"):
        Supervised()(Given(), batch_of([[1.0], [2.0]], [0, 1]))
    with pytest.raises(BadInput, match="classes as whole numbers"):
        Supervised()(Given(), batch_of([[1.0, 0.0]], [5.0]))
    with pytest.raises(BadInput, match="data: found samples of x, expected x and y"):
        Supervised()(Given(), Batch({"x": torch.ones(1, 2)}, np.arange(1)))
