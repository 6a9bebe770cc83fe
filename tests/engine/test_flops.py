import pytest
import torch
import torch.nn.functional as F
from torch import nn

from etude.engine import flops
from etude.engine.flops import FlopCounter, UnknownOperator, register
from etude.errors import BadInput
from etude.nn import linear
from etude.nn.transformer import Transformer, TransformerConfig, count_parameters


def count(run) -> int:
    with FlopCounter() as counter:
        run()
    return counter.total


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), requires_grad=True)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda: leaf(3, 4) @ leaf(4, 5), 2 * 3 * 4 * 5),
        (lambda: leaf(7, 3, 4) @ leaf(7, 4, 5), 2 * 7 * 3 * 4 * 5),
        (lambda: leaf(7, 3, 4) @ leaf(4, 5), 2 * 7 * 3 * 4 * 5),
        (lambda: leaf(3, 4) @ leaf(4), 2 * 3 * 4),
        (lambda: leaf(4) @ leaf(4), 2 * 4),
        (lambda: F.linear(leaf(2, 3, 4), leaf(5, 4), leaf(5)), 2 * 6 * 4 * 5),
        (lambda: torch.baddbmm(leaf(1, 3, 5), leaf(7, 3, 4), leaf(7, 4, 5)), 2 * 7 * 3 * 4 * 5),
        (lambda: torch.einsum("bij,bkj->bik", leaf(2, 3, 4), leaf(2, 5, 4)), 2 * 2 * 3 * 4 * 5),
        (lambda: torch.tensordot(leaf(3, 4, 5), leaf(4, 5, 6), 2), 2 * 3 * 20 * 6),
        (lambda: torch.sparse.mm(leaf(3, 4).detach().eq(0).logical_not().float().tril().to_sparse(), leaf(4, 5)), 2 * 6 * 5),
        (lambda: F.embedding(torch.tensor([1, 2]), leaf(5, 9)), 0),
        (lambda: torch.cdist(leaf(3, 4), leaf(5, 4), p=1.0), 2 * 3 * 5 * 4),
        (lambda: torch.linalg.cholesky(torch.eye(6)), 72),
        (lambda: torch.linalg.solve(torch.eye(6), leaf(6, 2)), 2 * 6**3 // 3 + 2 * 36 * 2),
        (lambda: torch.linalg.solve(torch.eye(6), leaf(6)), 2 * 6**3 // 3 + 2 * 36),
        (lambda: torch.linalg.solve_triangular(torch.eye(6), leaf(6, 2), upper=True), 36 * 2),
        (lambda: torch.linalg.eigh(torch.eye(6)), 9 * 216),
        (lambda: torch.ops.aten._linalg_eigh(torch.eye(6), "L", False), 4 * 216 // 3),
        (lambda: torch.linalg.svd(leaf(2, 6, 3).detach(), full_matrices=False), 2 * (6 * 6 * 9 + 20 * 27)),
        (lambda: torch.linalg.inv(torch.eye(6)), 2 * 216),
        (lambda: torch.linalg.qr(leaf(6, 3).detach()), 2 * (2 * 6 * 9 - 18)),
        (lambda: torch.fft.fft(leaf(3, 16).detach() + 0j), 5 * 48 * 4),
        (lambda: torch.fft.rfft(leaf(3, 16).detach()), 5 * 48 * 4 // 2),
        (lambda: torch.fft.irfft(leaf(3, 9).detach() + 0j), 5 * 48 * 4 // 2),
    ],
)
def test_forward_by_hand(run, expected):
    assert count(run) == expected


def test_backward_of_a_product_is_two_products_in_any_thread():
    a, b = leaf(30, 40), leaf(40, 50)
    assert count(lambda: (a @ b).sum().backward()) == 3 * 2 * 30 * 40 * 50
    loss = (a @ b).sum()
    with FlopCounter() as counter:
        loss.backward()
    assert counter.by_operator == {"aten.mm": 2 * 2 * 30 * 40 * 50}
    assert count(lambda: torch.autograd.grad((a @ b.detach()).sum(), a)) == 2 * 2 * 30 * 40 * 50


def unfused_attention(q, k, v, mask=None):
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ v


@pytest.mark.parametrize("kind", ["plain", "causal", "masked", "grouped", "cross", "math"])
def test_attention_counts_as_the_unfused_path(kind):
    B, H, T, E = 2, 4, 6, 8
    G, S = (2 if kind == "grouped" else H), (9 if kind == "cross" else T)
    q, k, v = leaf(B, H, T, E), leaf(B, G, S, E), leaf(B, G, S, E)
    mask = torch.ones(T, T, dtype=torch.bool).tril() if kind in ("causal", "masked") else None

    def fused():
        with torch.nn.attention.sdpa_kernel(
            torch.nn.attention.SDPBackend.MATH if kind == "math" else torch.nn.attention.SDPBackend.FLASH_ATTENTION
        ):
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask if kind == "masked" else None, is_causal=kind == "causal", enable_gqa=kind == "grouped"
            )

    torch.testing.assert_close(fused(), unfused_attention(q, k, v, mask))
    forward = 2 * B * H * T * S * 2 * E
    assert count(fused) == count(lambda: unfused_attention(q, k, v, mask)) == forward
    both = count(lambda: fused().sum().backward())
    assert both == count(lambda: unfused_attention(q, k, v, mask).sum().backward()) == 3 * forward


@pytest.mark.parametrize(
    "name", ["_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention", "_scaled_dot_product_cudnn_attention"]
)
def test_kernels_of_other_devices_have_the_same_cost(name):
    q, k, v = (torch.empty(2, 4, n, 8, device="meta") for n in (6, 9, 9))
    forward = flops._FORMULAS[name]({"query": q, "key": k, "value": v}, None)
    assert forward == 2 * 2 * 4 * 6 * 9 * 16
    assert flops._FORMULAS[name + "_backward"]({"query": q, "key": k, "value": v}, None) == 2 * forward


def test_attention_over_sequences_of_unequal_length():
    q = torch.empty(7, 2, 8)  # two sequences of 3 and 4 rows
    borders = torch.tensor([0, 3, 7])
    formula = flops._FORMULAS["_flash_attention_forward"]
    assert formula({"query": q, "key": q, "value": q, "cum_seq_q": borders, "cum_seq_k": borders}, None) == 2 * (9 + 16) * 2 * 16
    whole = torch.empty(3, 5, 2, 8)
    assert formula({"query": whole, "key": whole, "value": whole, "cum_seq_q": None}, None) == 2 * 3 * 2 * 25 * 16


def by_unfolding(x, weight, stride, padding, dilation, groups):
    """A convolution as products of patches."""
    kernel = weight.shape[2:]
    patches = F.unfold(x, kernel, dilation, padding, stride).unflatten(1, (groups, -1))
    return weight.view(groups, weight.shape[0] // groups, -1) @ patches


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 1), (1, 2, 2, 1), (1, 1, 1, 2), (2, 1, 1, 4)]
)
def test_convolution_counts_as_products_of_patches(stride, padding, dilation, groups):
    x, weight = leaf(2, 4, 9, 8), leaf(8, 4 // groups, 3, 2)
    fused = lambda: F.conv2d(x, weight, None, stride, padding, dilation, groups)  # noqa: E731
    plain = lambda: by_unfolding(x, weight, stride, padding, dilation, groups)  # noqa: E731
    torch.testing.assert_close(fused().flatten(), plain().flatten(), rtol=1e-4, atol=1e-4)
    assert count(fused) == count(plain)
    assert count(lambda: fused().sum().backward()) == count(lambda: plain().sum().backward())
    assert count(lambda: torch.autograd.grad(fused().sum(), weight)) == 2 * count(fused)


@pytest.mark.parametrize(("dimensions", "groups"), [(1, 1), (1, 2), (2, 1)])
def test_transposed_convolution_counts_as_the_backward_of_the_ordinary_one(dimensions, groups):
    transposed = (F.conv_transpose1d, F.conv_transpose2d)[dimensions - 1]
    ordinary = (F.conv1d, F.conv2d)[dimensions - 1]
    small, weight = leaf(2, 4, *[5] * dimensions), leaf(4, 6 // groups, *[3] * dimensions)
    large = transposed(small, weight, stride=2, groups=groups).detach().requires_grad_()
    forward = count(lambda: transposed(small, weight, stride=2, groups=groups))
    assert forward == count(lambda: ordinary(large, weight, stride=2, groups=groups))
    assert count(lambda: transposed(small, weight, stride=2, groups=groups).sum().backward()) == 3 * forward


def lstm_by_hand(x, module):
    h = c = torch.zeros(x.shape[0], module.hidden_size)
    outputs = []
    for t in range(x.shape[1]):
        i, f, g, o = (
            F.linear(x[:, t], module.weight_ih_l0, module.bias_ih_l0) + F.linear(h, module.weight_hh_l0, module.bias_hh_l0)
        ).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs, 1)


def test_lstm_counts_as_the_unfused_cell():
    module, x = nn.LSTM(5, 7, batch_first=True), leaf(3, 200, 5)
    torch.testing.assert_close(module(x)[0], lstm_by_hand(x, module))
    forward = 2 * 3 * 200 * 4 * 7 * (5 + 7)
    assert count(lambda: module(x)) == count(lambda: lstm_by_hand(x, module)) == forward
    # By hand, nothing flows back into the first state, which is a constant: hence not exactly equal.
    fused, plain = count(lambda: module(x)[0].sum().backward()), count(lambda: lstm_by_hand(x, module).sum().backward())
    assert fused == 3 * forward
    assert fused == pytest.approx(plain, rel=0.01)
    module.eval()
    with torch.no_grad():
        assert count(lambda: module(x)) == forward
    with torch.inference_mode():
        assert count(lambda: module(x)) == forward


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_of_any_shape(kind, gates):
    module, x = kind(5, 7, num_layers=2, bidirectional=True), leaf(6, 3, 5)
    forward = 2 * 18 * gates * 7 * (2 * (5 + 7) + 2 * (14 + 7))
    assert count(lambda: module(x)) == forward
    assert count(lambda: module(x)[0].sum().backward()) == pytest.approx(3 * forward, rel=0.1)
    with torch.inference_mode():
        assert count(lambda: module(x)) == forward
    packed = nn.utils.rnn.pack_sequence([x[:6, 0], x[:2, 1]])
    assert count(lambda: module(packed)) == 2 * 8 * gates * 7 * (2 * (5 + 7) + 2 * (14 + 7))


@pytest.mark.parametrize("rows", [linear.FEWEST_ROWS, 64])
def test_transformer_is_six_per_weight_and_token_plus_attention(rows, monkeypatch):
    monkeypatch.setattr(linear, "wide_vectors", lambda: True)
    config = TransformerConfig(vocab=16, width=16, depth=2, heads=2, kv_heads=1, tied=False)
    model, tokens = Transformer(config), torch.zeros(rows // 32, 32, dtype=torch.long)
    matrices = count_parameters(model, embeddings=False) - 16 * 5  # norms do not multiply matrices

    def run():
        F.cross_entropy(model.head(model(tokens)["hidden"]).flatten(0, 1), tokens.flatten()).backward()

    attention = 2 * (rows // 32) * 32 * 32 * 2 * 16
    assert count(run) == 6 * matrices * rows + 3 * 2 * attention


def test_encoder_layer_of_torch_counts_the_same_on_its_fast_path():
    layer, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0), torch.randn(3, 5, 16)
    with torch.no_grad():
        trained = count(lambda: layer(x))
        layer.eval()
        with FlopCounter() as counter:
            layer(x)
    assert "aten._transformer_encoder_layer_fwd" in counter.by_operator
    assert counter.total == trained


def test_functions_that_transform_functions():
    weight, x = leaf(4, 3), leaf(5, 4)
    per_sample = torch.func.vmap(torch.func.grad(lambda w, row: (row @ w).sum()), (None, 0))
    assert per_sample(weight, x).shape == (5, 4, 3)
    assert count(lambda: per_sample(weight, x)) > 0
    second = count(
        lambda: torch.autograd.grad(torch.autograd.grad((x @ weight).square().sum(), weight, create_graph=True)[0].sum(), weight)
    )
    assert second > 3 * 2 * 5 * 4 * 3
    recomputed = count(lambda: torch.utils.checkpoint.checkpoint(lambda: x @ weight, use_reentrant=False).sum().backward())
    assert recomputed >= 3 * 2 * 5 * 4 * 3


def test_counters_nest_and_start_anew():
    a, b = leaf(3, 4), leaf(4, 5)
    with FlopCounter() as outer:
        a @ b
        with FlopCounter() as inner:
            a @ b
    assert (outer.total, inner.total) == (240, 120)
    assert count(lambda: a + a) == 0


def test_results_are_what_they_are_without():
    module, x = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 2)), leaf(4, 8)
    torch.manual_seed(1)
    expected = module(x)
    torch.manual_seed(1)
    with FlopCounter():
        assert torch.equal(module(x), expected)


@pytest.fixture
def library():
    with torch.library._scoped_library("etude_test", "FRAGMENT") as made:
        made.define("twice(Tensor x) -> Tensor")
        made.impl("twice", lambda x: x * 2, "CPU")
        yield made
    flops._registered.clear()
    flops._rules.clear()


def test_unknown_operator_is_an_error(library):
    with pytest.raises(UnknownOperator) as caught, FlopCounter():
        torch.ops.etude_test.twice(torch.ones(3))
    assert isinstance(caught.value, BadInput)
    assert str(caught.value) == (
        "FLOP count: found operator etude_test::twice, expected one with a known cost "
        "(say it with etude.engine.flops.register('etude_test::twice', ...))"
    )


def test_operators_of_ones_own(library):
    register("etude_test::twice", lambda arguments, result: 5 * arguments["x"].numel())
    assert count(lambda: torch.ops.etude_test.twice(torch.ones(3))) == 15
    register("etude_test::twice", None)
    assert count(lambda: torch.ops.etude_test.twice(torch.ones(3))) == 0
    with pytest.raises(BadInput, match="register: found 'twice', expected an operator's name, such as 'mine::scan'"):
        register("twice", None)
