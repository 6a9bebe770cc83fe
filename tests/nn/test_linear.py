import pytest
import torch
import torch.nn.functional as F

from etude.nn import linear as module
from etude.nn.linear import FEWEST_ROWS, Projection, linear


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(module, "wide_vectors", lambda: True)
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(8, 128), (FEWEST_ROWS,), (2, 4, 128)])
def test_fast_path_equals_the_plain_one_with_its_gradients(shape):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, 24, generator=generator, requires_grad=True)
    weight = torch.randn(40, 24, generator=generator, requires_grad=True)
    upstream = torch.randn(*shape, 40, generator=generator)
    fast, plain = linear(x, weight), F.linear(x, weight)
    assert fast.is_contiguous()
    assert "Convolution" in str(fast.grad_fn.next_functions[0][0].next_functions[0][0])
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    for a, b in zip(torch.autograd.grad(fast, [x, weight], upstream), torch.autograd.grad(plain, [x, weight], upstream), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-4)


def test_fast_path_twice_is_bit_identical():
    x, weight = torch.randn(FEWEST_ROWS, 24), torch.randn(40, 24)
    assert torch.equal(linear(x, weight), linear(x.clone(), weight.clone()))


def test_second_derivatives_pass():
    x, weight = torch.randn(FEWEST_ROWS, 8), torch.randn(4, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(linear(x, weight).square().sum(), weight, create_graph=True)
    gradient.sum().backward()
    torch.testing.assert_close(weight.grad, (2 * x.T @ x).sum(1).expand(4, -1), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    "x",
    [torch.randn(FEWEST_ROWS - 16, 8), torch.randn(FEWEST_ROWS + 1, 8), torch.randn(8, FEWEST_ROWS).T],
    ids=["few rows", "not in 16 images", "not contiguous"],
)
def test_other_inputs_take_the_plain_path_bit_for_bit(x):
    weight = torch.randn(4, 8)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_double_precision_and_autocast_take_the_plain_path():
    x, weight = torch.randn(FEWEST_ROWS, 8), torch.randn(4, 8)
    assert torch.equal(linear(x.double(), weight.double()), F.linear(x.double(), weight.double()))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


def test_projection_draws_its_weights():
    torch.manual_seed(0)
    projection = Projection(64, 64, std=0.1)
    assert projection.bias is None
    assert projection.weight.std().item() == pytest.approx(0.1, rel=0.05)
