import pytest
import torch

from etude.engine.streams import initialise
from etude.errors import BadInput
from etude.nn.mlp import ACTIVATIONS, MLP, DeepReLU
from etude.nn.transformer import count_parameters


def test_by_hand():
    model = MLP((2, 2, 1))
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.tensor([[1.0, -1], [2, 0]]))
        model.layers[0].bias.copy_(torch.tensor([0.5, -1]))
        model.layers[1].weight.copy_(torch.tensor([[3.0, -2]]))
        model.layers[1].bias.copy_(torch.tensor([0.25]))
    # first row: relu(2 - 1 + .5, 4 - 1) = (1.5, 3) -> 4.5 - 6 + .25; second: relu(-1.5, -1) = 0 -> the bias alone
    torch.testing.assert_close(model(torch.tensor([[2.0, 1], [0, 2]])), torch.tensor([[-1.25], [0.25]]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_and_flattening(activation):
    model = initialise(MLP((12, 5, 3), activation), 0)
    x = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = model.layers[1](ACTIVATIONS[activation](model.layers[0](x.flatten(1))))
    torch.testing.assert_close(model(x), expected)


def test_deep_relu_keeps_the_size_of_the_signal():
    model = initialise(DeepReLU(256, 10, depth=10, width=256), 0)
    assert count_parameters(model) == 10 * (256 * 256 + 256) + 256 * 10 + 10
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    for layer in model.layers[:-1]:
        x = layer(x).relu()
    assert 0.3 < x.square().mean().item() < 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP((3,)), "MLP.sizes: found (3,), expected at least two whole numbers >= 1"),
        (lambda: MLP((3, 0)), "MLP.sizes: found (3, 0), expected at least two whole numbers >= 1"),
        (lambda: MLP((3, 2), "rely"), "MLP.activation: found 'rely', expected a known name; did you mean 'relu'?"),
        (lambda: DeepReLU(3, 2, depth=0, width=4), "DeepReLU.depth: found 0, expected a whole number >= 1"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(BadInput) as caught:
        build()
    assert str(caught.value) == message
