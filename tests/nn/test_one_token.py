import pytest
import torch
from torch import nn

from etude.engine.flops import FlopCounter
from etude.engine.streams import initialise
from etude.nn.transformer import Transformer, TransformerConfig


def _model(**change) -> Transformer:
    config = {"vocab": 11, "width": 16, "depth": 2, "heads": 4, "init_std": 0.3} | change
    model = initialise(Transformer(TransformerConfig(**config)), 0).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.copy_(torch.linspace(0.5, 2, len(value)))
    return model


def _tokens(*shape: int) -> torch.Tensor:
    return torch.randint(11, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("change", [{}, {"kv_heads": 2}, {"kv_heads": 1, "tied": False}, {"norm_eps": 0.1}])
@pytest.mark.parametrize("ragged", [False, True])
def test_it_equals_the_general_path_and_costs_the_same(change, ragged):
    model, tokens = _model(**change), _tokens(3, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool() if ragged else None
    quick, general = model.begin(tokens, mask), model.begin(tokens, mask)
    assert quick.plan is not None
    general.plan = None
    for i in range(30):
        new = (tokens[:, i % 4] + i)[:, None] % 11
        with FlopCounter() as one:
            a = model.extend(new, quick)
        with FlopCounter() as other:
            b = model.extend(new, general)
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)
        assert one.total == other.total > 0
    torch.testing.assert_close(model.extend(_tokens(3, 2), quick), model.extend(_tokens(3, 2), general), rtol=0, atol=2e-5)


def test_selected_rows_use_it_too():
    model = _model()
    state = model.begin(_tokens(3, 4))
    model.extend(_tokens(3, 1), state)
    fewer = state.select([2, 0])
    whole = torch.cat((_tokens(3, 4), _tokens(3, 1)), 1)[[2, 0]]
    new = torch.tensor([[1], [2]])
    expected = model.head(model(torch.cat((whole, new), 1))["hidden"][:, -1]).detach()
    torch.testing.assert_close(model.extend(new, fewer)[:, 0], expected, rtol=0, atol=2e-5)


def test_double_precision():
    model = _model().double()
    state = model.begin(_tokens(2, 4))
    expected = model.head(model(torch.cat((_tokens(2, 4), _tokens(2, 1)), 1))["hidden"][:, -1]).detach()
    torch.testing.assert_close(model.extend(_tokens(2, 1), state)[:, 0], expected)


class _Adapted(nn.Module):
    """What low-rank adaptation makes of a projection."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.weight = inner, inner.weight

    def forward(self, x):
        return 2 * self.inner(x)


def test_models_with_other_parts_take_the_general_path():
    assert _model(shifted=True).begin(_tokens(2, 4)).plan is None
    model = _model()
    model.blocks[1].feed_forward = _Adapted(model.blocks[1].feed_forward.down)
    model.blocks[1].feed_forward.inner = nn.Linear(16, 16)
    assert model.incremental
    state, tokens = model.begin(_tokens(2, 4)), _tokens(2, 1)
    assert state.plan is None
    expected = model.head(model(torch.cat((_tokens(2, 4), tokens), 1))["hidden"][:, -1]).detach()
    torch.testing.assert_close(model.extend(tokens, state)[:, 0], expected, rtol=0, atol=1e-5)
    hooked = _model()
    hooked.norm.register_forward_hook(lambda *a: None)
    assert hooked.begin(tokens).plan is None
