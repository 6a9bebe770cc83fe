import pytest
import torch
import torch.nn.functional as F

from etude.errors import BadInput
from etude.nn.convolution import DIGITS, MNIST_1D, Convolution, ConvolutionConfig
from etude.nn.transformer import count_parameters


@pytest.mark.parametrize(("config", "shape", "parameters"), [(MNIST_1D, (40,), 9874), (DIGITS, (8, 8), 9818)])
def test_sizes(config, shape, parameters):
    torch.manual_seed(0)
    model = Convolution(config)
    assert count_parameters(model) == parameters
    x = torch.randn(5, *shape)
    assert model(x).shape == (5, 10)
    torch.testing.assert_close(model(x), model(x.unsqueeze(1)))


def test_first_layer_by_hand():
    model = Convolution(ConvolutionConfig(size=5, channels=(2,), kernels=(3,), strides=(2,), classes=3))
    x = torch.randn(1, 5)
    layer, padded = model.layers[0], F.pad(x[0], (1, 1))
    maps = torch.stack([torch.stack([layer.weight[c, 0] @ padded[i : i + 3] + layer.bias[c] for i in (0, 2, 4)]) for c in range(2)])
    torch.testing.assert_close(model(x)[0], model.out(maps.relu().flatten()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimensions": 3}, "ConvolutionConfig.dimensions: found 3, expected 1 or 2"),
        (
            {"kernels": (3,)},
            "ConvolutionConfig.channels, kernels, strides: found 3, 1 and 3 numbers, expected the same number of them, at least one",
        ),
        ({"strides": (2, 0, 2)}, "ConvolutionConfig.strides: found (2, 0, 2), expected whole numbers >= 1"),
        ({"classes": 0}, "ConvolutionConfig.classes: found 0, expected a whole number >= 1"),
    ],
)
def test_bad_config(change, message):
    with pytest.raises(BadInput) as caught:
        ConvolutionConfig(**change)
    assert str(caught.value) == message


def test_bad_input():
    with pytest.raises(BadInput, match=r"Convolution input: found \[39\] numbers a sample, expected \[1, 40\]"):
        Convolution()(torch.zeros(2, 39))
