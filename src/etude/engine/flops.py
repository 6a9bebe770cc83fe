"""Counts floating-point operations as they are dispatched, forward and backward, on any device.

Convention: a product of [m, k] and [k, n] costs 2 m n k, whatever kernel computes it. Fused kernels cost what the unfused
path computes: causal attention counts all T x S pairs (a mask does not make it cheaper), attention's backward pass is four
products (what a kernel recomputes to save memory is its own affair), grouped queries count with the query heads, a
recurrent layer counts its gates' products, a convolution every tap, padding included. Element-wise work, reductions,
normalisation, movement, indexing, random numbers and optimizer steps count zero: by rule, never by omission. An operator
that no formula and no rule knows is an error. Dense linear algebra has its textbook counts to leading order
(Golub and Van Loan, Matrix Computations, 4th ed.), a Fourier transform 5 n log2 n.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from etude.errors import BadInput

Arguments = dict[str, Any]
Formula = Callable[[Arguments, Any], int]  # (arguments by schema name, result) -> operations


class UnknownOperator(BadInput):
    """An operator was dispatched of which nobody has said what it costs."""

    def __init__(self, name: str) -> None:
        self.operator = name
        remedy = f"one with a known cost (say it with etude.engine.flops.register('{name}', ...))"
        super().__init__("FLOP count", f"operator {name}", remedy)


class FlopCounter(TorchDispatchMode):
    """`with FlopCounter() as counter: ...` counts what runs inside, backward passes started there included.

    total: operations so far. by_operator: the same by operator ("aten.mm"), without those that cost nothing.
    Counters nest: an outer one counts what an inner one saw. Raises UnknownOperator (a BadInput) inside the block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.by_operator: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = _rules.get(func)
        if rule is None:
            rule = _rules[func] = _rule(func)
        if rule is _DECOMPOSE:
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if rule is not _ZERO:
            cost = rule(_bind(func, args, kwargs), out)
            self.total += cost
            self.by_operator[str(func._schema.name).replace("::", ".")] += cost
        return out


def register(operator: str, formula: Formula | None) -> None:
    """Says what an operator of one's own costs: `register("mine::scan", lambda arguments, result: ...)`; None: nothing."""
    if operator.count("::") != 1:
        raise BadInput("register", f"'{operator}'", "an operator's name, such as 'mine::scan'")
    _registered[operator] = _ZERO if formula is None else formula
    _rules.clear()


def _bind(func: Any, args: Any, kwargs: Any) -> Arguments:
    bound: Arguments = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    bound.update(zip((a.name for a in func._schema.arguments), args, strict=False))
    bound.update(kwargs)
    return bound


# --- formulas ---------------------------------------------------------------------------------------------------------
def _product(first: str, second: str) -> Formula:
    """[..., m, k] times [..., k, n], or times [k]."""

    def formula(a: Arguments, out: Any) -> int:
        left, right = a[first], a[second]
        return 2 * _stored(left) * (right.shape[-1] if right.dim() > 1 else 1)

    return formula


def _stored(matrix: Tensor) -> int:
    return matrix._nnz() if matrix.layout is torch.sparse_coo else matrix.numel()


def _linear_backward(a: Arguments, out: Any) -> int:
    return 2 * a["grad_output"].numel() * a["self"].shape[-1] * (bool(a["output_mask"][0]) + bool(a["output_mask"][1]))


def _convolution(a: Arguments, out: Any) -> int:
    taps = a["weight"].shape[1:].numel()
    # A transposed one spreads every input over its taps; an ordinary one gathers every output from them.
    moved: Tensor = (a["input"] if "input" in a else a["self"]) if a.get("transposed", False) else out
    return 2 * moved.numel() * taps


def _convolution_backward(a: Arguments, out: Any) -> int:
    moved: Arguments = {"weight": a["weight"], "input": a.get("input", a.get("self")), "transposed": a.get("transposed", False)}
    once = _convolution(moved, a["grad_output"])
    return once * (bool(a["output_mask"][0]) + bool(a["output_mask"][1]))


def _attention(a: Arguments, out: Any) -> int:
    """query [B, H, T, E], key [B, G, S, E], value [B, G, S, Ev]."""
    query, key, value = a["query"], a["key"], a["value"]
    return 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_by_rows(a: Arguments, out: Any) -> int:
    """query [B, T, H, E], or [sum of T, H, E] with the sequences' borders (which must then be read)."""
    query, key, value = a["query"], a["key"], a["value"]
    width = query.shape[-1] + value.shape[-1]
    borders = [b for n, b in a.items() if n in ("cum_seq_q", "cum_seq_k", "cu_seqlens_q", "cu_seqlens_k") and b is not None]
    if borders:
        pairs = int((borders[0].diff().double() * borders[-1].diff().double()).sum())
        return 2 * pairs * query.shape[-2] * width
    return 2 * query.shape[:-1].numel() * key.shape[1] * width


def _recurrent_layer(a: Arguments, out: Any) -> int:
    """One layer and direction: every row passes the input's and the state's gate matrices once."""
    rows = a["input"].numel() // a["input"].shape[-1]
    matrices = [w for n, w in a.items() if n.startswith("weight") and isinstance(w, Tensor) and w.dim() == 2]
    return 2 * rows * sum(w.numel() for w in matrices)


def _recurrent(weights: str) -> Formula:
    """All layers and directions at once."""

    def formula(a: Arguments, out: Any) -> int:
        rows = a["input"].numel() // a["input"].shape[-1]
        return 2 * rows * sum(w.numel() for w in a[weights] if w.dim() == 2)

    return formula


def _grouped(a: Arguments, out: Any) -> int:
    """[M, K] x [G, K, N] and [G, M, K] x [G, K, N] by rows of the left; [M, K] x [K, N] with K cut in groups likewise."""
    return 2 * a["self"].numel() * a["mat2"].shape[-1]


def _multi_head(a: Arguments, out: Any) -> int:
    batch, length, width = a["query"].shape
    return 2 * batch * length * (a["qkv_weight"].numel() + a["proj_weight"].numel()) + 4 * batch * length * a["key"].shape[1] * width


def _encoder_layer(a: Arguments, out: Any) -> int:
    rows = a["src"].shape[0] * a["src"].shape[1]
    inner = _multi_head(a | {"query": a["src"], "key": a["src"]}, out)
    return inner + 2 * rows * (a["ffn_weight_1"].numel() + a["ffn_weight_2"].numel())


def _trilinear(a: Arguments, out: Any) -> int:
    """Two products and a sum for each element of the three, spread over each other."""
    parts = []
    for i in (1, 2, 3):
        part = a[f"i{i}"]
        for dim in a[f"expand{i}"]:
            part = part.unsqueeze(dim)
        parts.append(part.shape)
    return 3 * torch.broadcast_shapes(*parts).numel()


def _distances(a: Arguments, out: Any) -> int:
    return 2 * a["x1"].numel() * a["x2"].shape[-2]


def _distances_within(a: Arguments, out: Any) -> int:
    rows, width = a["self"].shape
    return rows * (rows - 1) * width


def _fourier(share: float) -> Formula:
    def formula(a: Arguments, out: Any) -> int:
        full = max(a["self"], out, key=Tensor.numel) if share < 1 else out  # a real transform keeps half of the spectrum
        lengths = [full.shape[d] for d in a["dim"]]
        return int(share * 5 * full.numel() * math.log2(max(2, math.prod(lengths))))

    return formula


def _matrix(count: Callable[[int, int], float]) -> Formula:
    """For factorisations of the first argument [..., m, n]; `count` of the larger and the smaller side."""

    def formula(a: Arguments, out: Any) -> int:
        matrix = next(v for v in a.values() if isinstance(v, Tensor))
        large, small = max(matrix.shape[-2:]), min(matrix.shape[-2:])
        return round(matrix.shape[:-2].numel() * count(large, small))

    return formula


def _with(option: str, yes: Formula, no: Formula) -> Formula:
    return lambda a, out: (yes if a[option] else no)(a, out)


def _solve(matrix: str, right: str, factor: float, per_column: float) -> Formula:
    """factor n^3 for the factorisation and per_column n^2 for each column of the right-hand side."""

    def formula(a: Arguments, out: Any) -> int:
        n, vector = a[matrix].shape[-1], a[right]
        columns = vector.shape[-1] if vector.dim() >= 2 and vector.dim() >= a[matrix].dim() else 1
        batch = max(a[matrix].shape[:-2].numel(), vector.shape[:-2].numel())
        return round(batch * (factor * n**3 + per_column * n * n * columns))

    return formula


def _times(factor: int, formula: Formula) -> Formula:
    return lambda a, out: factor * formula(a, out)


def _qr(a: Arguments, out: Any) -> int:
    return (1 if a["mode"] == "r" else 2) * _matrix(_HOUSEHOLDER)(a, out)


def _HOUSEHOLDER(m: int, n: int) -> float:
    return 2 * m * n * n - 2 * n**3 / 3


def _named(formula: Formula, names: str) -> dict[str, Formula]:
    return dict.fromkeys(names.split(), formula)


_FORMULAS: dict[str, Formula] = {
    **_named(_product("self", "mat2"), "mm bmm _int_mm _scaled_mm"),
    **_named(_product("mat1", "mat2"), "addmm _addmm_activation _sparse_addmm"),
    **_named(_product("batch1", "batch2"), "baddbmm addbmm"),
    **_named(_product("self", "vec"), "mv"),
    **_named(_product("mat", "vec"), "addmv"),
    **_named(lambda a, out: 2 * a["self"].numel(), "dot vdot"),
    **_named(lambda a, out: 2 * a["vec1"].numel() * a["vec2"].numel(), "addr"),
    **_named(lambda a, out: 2 * sum(x.numel() * y.shape[-1] for x, y in zip(*list(a.values())[:2], strict=True)), "_foreach_mm"),
    **_named(_grouped, "_grouped_mm _scaled_grouped_mm"),
    **_named(lambda a, out: 2 * a["input"].numel() * a["weight"].shape[0], "linear mkldnn_linear"),
    **_named(_linear_backward, "linear_backward mkldnn_linear_backward"),
    "mkldnn::_linear_pointwise": lambda a, out: 2 * a["X"].numel() * a["W"].shape[0],
    **_named(_convolution, "convolution _convolution convolution_overrideable mkldnn_convolution cudnn_convolution _mps_convolution"),
    **_named(_convolution_backward, "convolution_backward convolution_backward_overrideable mps_convolution_backward"),
    **_named(
        _attention,
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention "
        "_scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math_for_mps",
    ),
    **_named(
        _times(2, _attention),
        "_scaled_dot_product_flash_attention_for_cpu_backward _scaled_dot_product_flash_attention_backward "
        "_scaled_dot_product_efficient_attention_backward _scaled_dot_product_cudnn_attention_backward "
        "_scaled_dot_product_fused_attention_overrideable_backward",
    ),
    **_named(_attention_by_rows, "_flash_attention_forward _efficient_attention_forward"),
    **_named(_times(2, _attention_by_rows), "_flash_attention_backward _efficient_attention_backward"),
    "_native_multi_head_attention": _multi_head,
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "mkldnn_rnn_layer": _recurrent_layer,
    "mkldnn_rnn_layer_backward": _times(2, _recurrent_layer),
    **_named(_recurrent("weight"), "_cudnn_rnn miopen_rnn"),
    **_named(_times(2, _recurrent("weight")), "_cudnn_rnn_backward miopen_rnn_backward"),
    **_named(_recurrent("params"), "_lstm_mps"),
    **_named(_times(2, _recurrent("params")), "lstm_mps_backward"),
    "_trilinear": _trilinear,
    **_named(_distances, "_cdist_forward _cdist_backward _euclidean_dist"),
    **_named(_distances_within, "_pdist_forward _pdist_backward"),
    **_named(_fourier(1.0), "_fft_c2c"),
    **_named(_fourier(0.5), "_fft_r2c _fft_c2r"),
    **_named(_matrix(lambda m, n: n**3 / 3), "cholesky linalg_cholesky_ex"),
    **_named(_matrix(lambda m, n: 2 * n**3 / 3), "cholesky_inverse"),
    **_named(_solve("input2", "self", 0, 2), "cholesky_solve"),
    **_named(_matrix(lambda m, n: m * n * n - n**3 / 3), "linalg_lu_factor_ex linalg_lu _linalg_det _linalg_slogdet"),
    **_named(_matrix(lambda m, n: 2 * n**3), "linalg_inv_ex"),
    **_named(_matrix(lambda m, n: n**3 / 3), "linalg_ldl_factor_ex"),
    **_named(_solve("A", "B", 2 / 3, 2), "_linalg_solve_ex"),
    **_named(_solve("LU", "B", 0, 2), "linalg_lu_solve"),
    **_named(_solve("LD", "B", 0, 2), "linalg_ldl_solve"),
    **_named(_solve("self", "B", 0, 1), "linalg_solve_triangular"),
    **_named(_solve("A", "self", 0, 1), "triangular_solve"),
    "linalg_qr": _qr,
    **_named(_matrix(_HOUSEHOLDER), "geqrf linalg_householder_product"),
    "ormqr": lambda a, out: 4 * a["input3"].numel() * a["input2"].shape[-1],
    "linalg_matrix_exp": _matrix(lambda m, n: 10 * n**3),  # five products; how often it squares depends on the values
    "linalg_lstsq": lambda a, out: _matrix(_HOUSEHOLDER)(a, out) + 4 * a["self"].numel() * (a["b"].shape[-1] if a["b"].dim() > 1 else 1),
    "_linalg_eigh": _with("compute_v", _matrix(lambda m, n: 9 * n**3), _matrix(lambda m, n: 4 * n**3 / 3)),
    "linalg_eig": _matrix(lambda m, n: 25 * n**3),
    **_named(_matrix(lambda m, n: 10 * n**3), "_linalg_eigvals linalg_eigvals"),
    "linalg_pinv": _matrix(lambda m, n: 8 * m * n * n + 20 * n**3),
    "_linalg_svd": _with("compute_uv", _matrix(lambda m, n: 6 * m * n * n + 20 * n**3), _matrix(lambda m, n: 2 * m * n * n + 2 * n**3)),
}  # fmt: skip

# --- what costs nothing -----------------------------------------------------------------------------------------------
_ZERO: Formula = lambda a, out: 0  # noqa: E731
_DECOMPOSE: Formula = lambda a, out: 0  # noqa: E731  its parts are counted
_FREE_TAGS = {torch.Tag.pointwise, torch.Tag.view_copy} | {t for n in ("reduction", "inplace_view") if (t := getattr(torch.Tag, n, None))}
_FREE_NAMESPACES = {"prim", "prims", "profiler", "c10d", "_c10d_functional", "_c10d_functional_autograd", "c10d_functional", "_dtensor"}
_FREE_PREFIXES = (
    # movement, shape, making
    "as_strided", "_reshape", "copy", "_copy", "_to_copy", "to_", "_to_", "_conj", "_neg_view", "empty", "_empty", "new_", "ones",
    "zeros", "full", "rand", "normal", "bernoulli", "multinomial", "poisson", "exponential", "geometric", "cauchy", "log_normal",
    "binomial", "fft_fftfreq", "fft_rfftfreq", "polar", "quantize_per", "dequantize", "_make_per", "int_repr", "q_", "sparse_dim",
    "dense_dim", "floor_divide", "_philox", "native_dropout", "_fused_dropout", "uniform", "dropout", "scalar_tensor", "lift",
    "_lazy_clone", "resize", "set", "stack", "_stack", "cat", "_cat", "_chunk_cat", "split", "unsafe_split", "_foreach_",
    "_efficientzerotensor", "_unsafe_view", "_pin_memory", "_nested_tensor_from", "_nested_from", "_nested_get", "_nested_view",
    "_coalesce", "coalesce", "_indices", "_values", "indices", "values", "sparse_coo", "_sparse_coo", "sparse_mask", "_nnz", "_dim",
    # indexing and order
    "index", "_index", "_unsafe_index", "_unsafe_masked_index", "gather", "scatter", "select", "slice", "diagonal", "masked", "_masked",
    "take", "put", "embedding", "_embedding", "unfold", "im2col", "col2im", "sort", "topk", "kthvalue", "median", "nanmedian", "mode",
    "unique", "_unique", "searchsorted", "bucketize", "bincount", "hist", "_hist", "isin", "nonzero", "tri", "trace", "fill", "zero",
    "segment", "_segment",
    # reductions and scans
    "cum", "_cum", "logcumsumexp", "_logcumsumexp", "_aminmax", "argm", "std", "var", "mean", "sum", "prod", "linalg_vector_norm",
    "renorm", "native_norm", "dist", "equal", "allclose", "_is_a", "is_", "_local_scalar", "_assert", "_functional_assert", "_sparse_sum",
    # softmax, losses, activations
    "_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax", "nll_loss", "cross_entropy", "binary_cross_entropy",
    "mse_loss", "smooth_l1", "huber", "soft_margin", "multi", "_ctc", "_cudnn_ctc", "_use_cudnn_ctc", "glu", "gelu", "silu", "elu",
    "prelu", "_prelu", "leaky_relu", "rrelu", "hard", "soft", "log_sigmoid", "threshold", "_weight_norm", "_spectral", "_linalg_check",
    "linalg_cross",
    # normalisation, pooling, padding, resampling
    "native_layer_norm", "native_batch_norm", "_native_batch_norm", "native_group_norm", "batch_norm", "_batch_norm", "cudnn_batch_norm",
    "miopen_batch_norm", "_fused_rms_norm", "adaptive", "_adaptive", "avg_pool", "max_pool", "max_unpool", "mkldnn_max_pool",
    "mkldnn_adaptive", "fractional_max", "reflection_pad", "replication_pad", "constant_pad", "upsample", "_upsample", "grid_sampler",
    "_grid_sampler", "affine_grid", "pixel", "channel_shuffle", "roll", "rot90", "flip", "repeat", "block_diag", "diag",
    # recurrent cells' point-wise part, optimizers, scaling
    "_thnn_fused", "_fused_adam", "_fused_sgd", "_fused_adagrad", "_amp", "_fused_sdp_choice", "_transform_bias", "_pack_padded",
    "_pad_packed", "_cudnn_init_dropout", "_cudnn_rnn_flatten", "_use_cudnn_rnn", "_standard_gamma", "_dirichlet", "_sample_dirichlet",
    "fake_quantize", "_fake_quantize", "_fused_moving", "_compute_linear", "lu_unpack", "arange", "range", "linspace", "logspace", "hann",
    "hamming", "blackman", "bartlett", "kaiser", "sym_", "_has_same", "_make_dep", "record_stream", "narrow_copy", "detach", "complex",
    "view", "alias", "eye", "clone", "nan_to_num", "clamp", "count_nonzero", "any", "all", "amax", "amin", "min", "max",
)  # fmt: skip
"""Names in `aten` by their beginnings; formulas are looked up first, by whole names."""

_registered: dict[str, Formula] = {}
_rules: dict[Any, Formula] = {}  # operator -> rule, found once


def _rule(func: Any) -> Formula:
    """The formula of an operator, or one of the two marks."""
    if not isinstance(func, torch._ops.OpOverload):
        raise UnknownOperator(str(func))
    name = func._schema.name
    namespace, _, short = name.partition("::")
    if name in _registered:
        return _registered[name]
    if name in _FORMULAS:
        return _FORMULAS[name]
    if namespace in _FREE_NAMESPACES:
        return _ZERO
    if namespace == "aten":
        for candidate in (short, short.removesuffix("_")):
            if candidate in _FORMULAS:
                return _FORMULAS[candidate]
        # Not every overload carries the tag of its family (`ge_` has none, `ge` has).
        packets = {getattr(torch.ops.aten, n) for n in (short, short.removesuffix("_")) if hasattr(torch.ops.aten, n)}
        tags = {tag for packet in packets for overload in packet.overloads() for tag in getattr(packet, overload).tags}
        if tags & _FREE_TAGS or getattr(func, "is_view", False) or short.startswith(_FREE_PREFIXES):
            return _ZERO
    if func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
        return _DECOMPOSE
    raise UnknownOperator(name)
