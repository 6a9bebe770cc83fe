"""Data of the wrong width or type for a stranger's model: one line with found and expected, everything else as it was."""

import pytest
import torch
from torch import nn

import etude
from etude.engine.device import pick_device
from etude.errors import BadInput
from etude.nn.transformer import Transformer, TransformerConfig

X = torch.randn(40, 6)
Y = (X[:, 0] > 0).long()


def net(inputs=6, hidden=8):
    return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(hidden, 2))


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (lambda: net(7), (X, Y),
         "data.x: found 6 numbers a sample (a batch of shape [32, 6]), expected 7, which the first layer '0' (Linear) takes"),
        (lambda: net(6, 9), (X, Y), "model, layer '2' (Linear): found 8 numbers a sample (a batch of shape [32, 8]), expected 9"),
        (lambda: nn.Linear(5, 2), (X, Y),
         "data.x: found 6 numbers a sample (a batch of shape [32, 6]), expected 5, which the model, a Linear, takes"),
        (net, (X.double(), Y), "data.x: found float64 of shape [32, 6], expected float32 numbers"),
        (net, ((X * 9).long(), Y), "data.x: found int64 of shape [32, 6], expected float32 numbers"),
        (lambda: nn.Conv1d(1, 2, 3), (X, Y),
         "data.x: found a batch of shape [32, 6], expected one of 3 dimensions: samples, 1 channels, 1 of size"),
        (lambda: nn.Conv2d(3, 2, 1), (X.reshape(40, 1, 2, 3), Y), "data.x: found 1 channels (a batch of shape [32, 1, 2, 3]), expected 3"),
        (lambda: nn.Sequential(nn.BatchNorm1d(5)), (X, Y), "data.x: found 6 features (a batch of shape [32, 6]), expected 5"),
        (lambda: nn.Sequential(nn.LayerNorm(5)), (X, Y), "data.x: found a batch of shape [32, 6], expected one that ends in [5]"),
        (lambda: nn.LSTM(5, 2), (X, Y), "data.x: found 6 numbers a step (a batch of shape [32, 1, 6]), expected 5"),
        (lambda: nn.Embedding(4, 2), (X, Y), "data.x: found float32 of shape [32, 6], expected whole numbers (ids)"),
        (lambda: nn.Embedding(4, 2), (torch.full((40,), 9), Y), "data.x: found id 9, expected ids from 0 to 3"),
        (net, (X, Y + 5), "data.y: found class 6, expected classes from 0 to 1, the model's outputs"),
        (net, (X, Y[:, None]), "data.y: found int64 of shape [32, 1], expected whole numbers (int64) of shape [32]"),
        (net, (X, Y.int()), "data.y: found int32 of shape [32], expected whole numbers (int64) of shape [32]"),
        (lambda: nn.LSTM(6, 2), (X, Y), "model: found an output that is a tuple, expected a tensor"),
        (lambda: nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)), (X, Y), "model: found an output of shape [32], expected one row of logits"),
        (lambda: Transformer(TransformerConfig(width=8, depth=1, heads=2)), (X, Y), "data.x: found float32 of shape [32, 6], expected who"),
    ],
)  # fmt: skip
def test_one_line_names_found_and_expected(model, data, message):
    with pytest.raises(BadInput) as caught:
        etude.train(model(), data, epochs=1, quiet=True, device="cpu")
    assert str(caught.value).startswith(message)


def test_an_evaluator_s_data_is_told_apart_from_the_training_data():
    def wrong(model):
        return {"v": float(model(torch.zeros(3, 4)).sum())}

    with pytest.raises(BadInput, match=r"evaluator 'mine', data.x: found 4 numbers a sample"):
        etude.train(net(), (X, Y), epochs=1, quiet=True, device="cpu", evaluators={"mine": wrong})
    for returned, message in (
        (3, "evaluator 'mine': found 3, expected a dict"),
        ({"v": "x"}, "evaluator 'mine', v: found 'x', expected a n"),
    ):
        with pytest.raises(BadInput, match=message):
            etude.train(net(), (X, Y), epochs=1, quiet=True, device="cpu", evaluators={"mine": lambda model, r=returned: r})


def test_a_stranger_s_own_error_stays_what_it_is():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, x):
            raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match="my own"):
        etude.train(Mine(), (X, Y), epochs=1, quiet=True, device="cpu")


def test_devices(monkeypatch):
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=r"device: found 'cuda', which this machine does not have, expected auto or (mps or )?cpu"):
        pick_device("cuda")
    with pytest.raises(BadInput, match=r"device: found 'cdua', expected auto, cpu, cuda or mps; did you mean 'cuda'?"):
        pick_device("cdua")
