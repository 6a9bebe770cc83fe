"""Ordinary training costs nothing beyond its products, and never meets an unknown operator."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from etude.engine.flops import FlopCounter


def count(run) -> int:
    with FlopCounter() as counter:
        run()
    return counter.total


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), requires_grad=True)


@pytest.mark.parametrize(
    "build",
    [
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.AdamW(p, foreach=True, amsgrad=True),
        lambda p: torch.optim.AdamW(p, foreach=False),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p, momentum=0.5),
        lambda p: torch.optim.NAdam(p),
    ],
)
def test_optimizers_cost_nothing(build):
    parameters = [leaf(4, 3), leaf(3)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = build(parameters)

    def step():
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        torch.nn.utils.clip_grad_value_(parameters, 1.0)

    assert count(step) == 0


def test_products_inside_optimizers_count():
    parameter = leaf(4, 3)
    parameter.grad = torch.ones_like(parameter)
    assert count(torch.optim.Adafactor([parameter]).step) == 2 * 4 * 3  # the outer product of row and column factors


def test_muon_counts_its_products():
    parameter = leaf(4, 6)
    parameter.grad = torch.ones_like(parameter)
    # Five rounds of X X^T, its square, and the product with X.
    assert count(torch.optim.Muon([parameter]).step) == 5 * (2 * 4 * 6 * 4 + 2 * 4 * 4 * 4 + 2 * 4 * 4 * 6)


MODULES = {
    "norms 1-d": lambda x: nn.Sequential(nn.BatchNorm1d(6), nn.LayerNorm(8), nn.GroupNorm(2, 6), nn.InstanceNorm1d(6), nn.RMSNorm(8))(x),
    "evaluated norm": lambda x: nn.BatchNorm1d(6).eval()(x),
    "dropouts": lambda x: F.feature_alpha_dropout(F.alpha_dropout(F.dropout1d(F.dropout(x))), training=True),
    "activations": lambda x: (
        sum(
            f(x)
            for f in (
                F.relu,
                F.relu6,
                F.gelu,
                F.silu,
                F.elu,
                F.selu,
                F.celu,
                F.leaky_relu,
                F.softplus,
                F.mish,
                F.hardswish,
                F.hardtanh,
                F.tanh,
                F.hardsigmoid,
                F.sigmoid,
                F.logsigmoid,
                F.softsign,
                F.tanhshrink,
                F.softshrink,
                F.hardshrink,
                F.rrelu,
                torch.erf,
                torch.sin,
            )
        )
        + F.prelu(x, x.new_full((1,), 0.1))
        + F.threshold(x, 0.1, 0.2)
        + F.glu(torch.cat((x, x), -1))
    ),
    "softmaxes": lambda x: F.softmax(x, -1) + F.log_softmax(x, 1) + F.gumbel_softmax(x) + F.softmin(x, 0) + F.normalize(x, dim=-1),
    "pooling": lambda x: sum(
        f(x).sum()
        for f in (
            lambda x: F.max_pool1d(x, 2),
            lambda x: F.avg_pool1d(x, 2),
            lambda x: F.adaptive_avg_pool1d(x, 3),
            lambda x: F.lp_pool1d(x, 2, 2),
            lambda x: F.adaptive_max_pool1d(x, 3),
            lambda x: F.max_pool2d(x[None], 2),
            lambda x: F.avg_pool2d(x[None], 2),
            lambda x: F.adaptive_avg_pool2d(x[None], 3),
            lambda x: F.adaptive_avg_pool2d(x[None], 1),
            lambda x: F.max_pool3d(x[None, None], 2),
            lambda x: F.adaptive_max_pool2d(x[None], 2),
            lambda x: F.fractional_max_pool2d(x[None], 2, 3),
            lambda x: F.max_unpool1d(*F.max_pool1d(x, 2, return_indices=True), 2),
        )
    ),
    "padding and resampling": lambda x: sum(
        f(x).sum()
        for f in (
            *(lambda x, m=m: F.pad(x, (1, 2), mode=m) for m in ("constant", "reflect", "replicate", "circular")),
            lambda x: F.pad(x[None], (1, 1, 1, 1), mode="reflect"),
            lambda x: F.interpolate(x, 5),
            lambda x: F.interpolate(x, 5, mode="linear"),
            *(lambda x, m=m: F.interpolate(x[None], (5, 9), mode=m) for m in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")),
            lambda x: F.interpolate(x[None], (3, 3), mode="bilinear", antialias=True),
            lambda x: F.pixel_shuffle(x[:, :4], 2),
            lambda x: F.grid_sample(x[None], x.new_zeros(1, 2, 2, 2), align_corners=False),
            lambda x: F.unfold(x[None], 2),
            lambda x: F.fold(F.unfold(x[None], 2), (6, 8), 2),
        )
    ),
    "indexing": lambda x: sum(
        t.sum()
        for t in (
            x[0],
            x[:, 1:3],
            x[..., ::2],
            x[x > 0],
            x[torch.tensor([0, 1])],
            x[:, torch.tensor([0, 2])],
            x.gather(2, torch.zeros(4, 6, 2, dtype=torch.long)),
            x.scatter(2, torch.zeros(4, 6, 1, dtype=torch.long), 1.0),
            x.scatter_add(2, torch.zeros(4, 6, 8, dtype=torch.long), x),
            x.scatter_reduce(2, torch.zeros(4, 6, 8, dtype=torch.long), x, "amax"),
            x.index_add(0, torch.tensor([1]), x[:1]),
            x.index_copy(0, torch.tensor([1]), x[:1]),
            x.index_fill(0, torch.tensor([1]), 2.0),
            x.index_select(1, torch.tensor([1])),
            x.index_put((torch.tensor([0]),), x[1]),
            x.masked_fill(x > 0, 0.0),
            x.masked_select(x > 0),
            x.masked_scatter(x > 0, x),
            x.take(torch.tensor([3])),
            torch.where(x > 0, x, 0.0),
            x.take_along_dim(x.argsort(-1), -1),
            x.diagonal(dim1=1, dim2=2),
            torch.diag_embed(x),
            x.tril(),
            x.triu(1),
            x.unfold(2, 3, 1),
            x.select_scatter(x[0], 0, 1),
            x.slice_scatter(x[:1], 0, 2, 3),
            x.narrow(0, 1, 2),
            *x.split(2),
            *x.chunk(2),
            *x.unbind(1),
        )
    ),
    "order and scans": lambda x: sum(
        t.sum()
        for t in (
            x.sort(-1).values,
            x.topk(2).values,
            x.kthvalue(2).values,
            x.median(),
            x.nanmedian(),
            x.median(1).values,
            x.mode().values,
            x.cumsum(1),
            x.cumprod(1),
            x.cummax(1).values,
            x.logcumsumexp(1),
            x.logsumexp(1),
            x.std(),
            x.var(1),
            x.mean(),
            x.prod(1),
            x.norm(),
            x.amax(1),
            x.amin(),
            x.max(1).values,
            x.min(),
            x.quantile(0.5),
            x.diff(),
            x.roll(1, 0),
            x.flip(0),
            x.rot90(),
            x.repeat(2, 1, 1),
            x.repeat_interleave(2, 0),
            x.aminmax()[0],
            torch.stack((x, x)),
            torch.cat((x, x), 1),
            x.expand(2, 4, 6, 8),
            x.permute(2, 0, 1).reshape(8, 24).contiguous(),
            x.clamp(-1, 1),
            x.lerp(x, 0.3),
            x.outer(x) if x.dim() == 1 else x,
            x.atan2(x),
            x.pow(2),
            x.exp().log(),
            x.abs().sqrt(),
            x.sign(),
            x.nan_to_num(),
            x.double(),
            x.bfloat16(),
            x.renorm(2, 0, 1.0),
            x.abs().add(0.1).rsqrt(),
            torch.linalg.vector_norm(x),
            torch.linalg.cross(x[..., :3], x[..., 1:4]),
            x.trace() if x.dim() == 2 else x,
        )
    ),
    "losses": lambda x: (
        sum(
            f(x, x.detach().sigmoid()).sum()
            for f in (
                F.mse_loss,
                F.l1_loss,
                F.smooth_l1_loss,
                F.huber_loss,
                F.binary_cross_entropy_with_logits,
                F.kl_div,
                F.soft_margin_loss,
                F.poisson_nll_loss,
            )
        )
        + F.binary_cross_entropy(x.sigmoid(), x.detach().sigmoid())
        + F.cross_entropy(x, torch.zeros(4, 8, dtype=torch.long), label_smoothing=0.1, weight=x.new_ones(6))
        + F.cross_entropy(x, x.detach().softmax(1))
        + F.cross_entropy(x[..., None], torch.zeros(4, 8, 1, dtype=torch.long), ignore_index=3)
        + F.multi_margin_loss(x[:, :, 0], torch.zeros(4, dtype=torch.long))
        + F.multilabel_margin_loss(x[:, :, 0], torch.zeros(4, 6, dtype=torch.long))
        + F.cosine_similarity(x, x).sum()
        + F.cosine_embedding_loss(x[0], x[1], x.new_ones(6))
        + F.triplet_margin_loss(x, x + 1, x - 1)
        + F.margin_ranking_loss(x, x + 1, x.new_ones(4, 6, 8))
        + F.gaussian_nll_loss(x, x + 1, x.detach().abs() + 1)
        + F.ctc_loss(x.permute(2, 0, 1).log_softmax(-1), torch.ones(4, 2, dtype=torch.long), torch.full((4,), 8), torch.full((4,), 2))
    ),
    "embeddings": lambda x: (
        F.embedding(torch.tensor([[0, 1]]), x[0], padding_idx=0).sum() + F.embedding_bag(torch.tensor([[0, 1]]), x[0], mode="mean").sum()
    ),
    "in place and made": lambda x: (
        (x + 0).add_(1).mul_(2).masked_fill_(x.detach() > 1, 0.0).copy_(x)
        + (x + 0).relu_()
        + (x + 0).clamp_(0, 9)
        + torch.rand_like(x)
        + torch.randn_like(x)
        + torch.zeros_like(x)
        + torch.arange(8)
        + torch.linspace(0, 1, 8)
        + torch.empty(8).fill_(1.0)
        + torch.eye(6, 8)
        + torch.full((8,), 2.0)
        + torch.bernoulli(torch.full((8,), 0.5))
        + torch.randint(3, (8,))
        + torch.empty(8).exponential_()
        + torch.randperm(8)
        + torch.empty(8).uniform_()
        + torch.poisson(torch.ones(8))
        + torch.multinomial(torch.ones(8), 8)
        + torch.empty(8).normal_()
        + torch.ones(8).floor_divide_(2)
        + torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 1, 1)).weight.sum()
        + torch.empty(8).log_normal_()
        + torch.empty(8).geometric_(0.5)
    ),
    "comparisons": lambda x: (
        x * (x.ge(0) & x.le(1) | x.eq(2) | ~x.isnan()).float()
        + x.isfinite().all()
        + x.allclose(x)
        + torch.equal(x, x)
        + torch.bincount(torch.tensor([1, 2])).sum()
        + torch.unique(torch.tensor([1, 1])).sum()
        + torch.isin(x, x[0]).any()
        + torch.histc(x.detach()).sum()
        + torch.searchsorted(torch.tensor([0.0, 1.0]), x.detach()).sum()
        + torch.bucketize(x.detach(), torch.tensor([0.0])).sum()
        + x.nonzero().sum()
        + torch.nn.functional.one_hot(torch.tensor([1, 2])).sum()
        + (x.item() if x.numel() == 1 else 0)
        + torch.ones(3).ge_(1).sum()
    ),
    "complex": lambda x: (
        torch.view_as_real(torch.polar(x.abs(), x) * torch.view_as_complex(torch.stack((x, x), -1)).conj()).sum()
        + torch.complex(x, x).abs().sum()
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_everything_but_products_is_free(name):
    x = leaf(4, 6, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def run():
            MODULES[name](x).sum().backward()

        assert count(run) == 0
        with torch.no_grad():
            assert count(lambda: MODULES[name](x)) == 0
        if name not in ("indexing", "comparisons", "losses"):  # their outputs have data-dependent shapes, or read values
            with torch.inference_mode():
                assert count(lambda: MODULES[name](x.detach())) == 0
