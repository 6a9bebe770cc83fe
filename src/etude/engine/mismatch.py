"""What a layer could not take, said in one line: found and expected widths and types, read from the error's own frames.

A model is a stranger's code: only what one of torch's layers refuses, for a reason that its settings show, is bad input.
Any other error stays what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from etude.engine.arguments import shown
from etude.errors import BadInput

MISMATCHES = (RuntimeError, ValueError, IndexError)
"""What torch's layers raise for an input that they cannot take."""


def explained(error: BaseException, model: nn.Module, names: Sequence[str] = ()) -> BadInput | None:
    """The layer of `model` that refused its input, as bad input; None where the error tells of nothing that is plain to see.

    names: of the batch's tensors. At the model's first layer with weights it is the data that does not fit, at a later one the
    model itself.
    """
    found = _refusing(error.__traceback__)
    if found is None:
        return None
    layer, given = found
    told = _of_layer(layer, given)
    name = next((n for n, m in model.named_modules() if m is layer), None)
    if told is None or name is None:
        return None
    first = next((m for m in model.modules() if any(True for _ in m.parameters(recurse=False))), None)
    called = f"layer '{name}' ({type(layer).__name__})" if name else f"the model, {shown(layer)},"
    if layer is first:
        where = "data." + next((n for n in names if n in ("x", "tokens")), "x")
        return BadInput(where, told[0], f"{told[1]}, which {'the first ' if name else ''}{called} takes")
    return BadInput(f"model, {called}", told[0], told[1])


def _refusing(trace: TracebackType | None) -> tuple[nn.Module, Tensor] | None:
    """The innermost module in whose call the error came up, and the first tensor that it was given."""
    found = None
    while trace is not None:
        frame = trace.tb_frame
        names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
        values = [frame.f_locals.get(name) for name in names]
        if len(values) > 1 and isinstance(values[0], nn.Module) and names[0] == "self":
            tensor = next((v for v in values[1:] if isinstance(v, Tensor)), None)
            found = (values[0], tensor) if tensor is not None else found
        trace = trace.tb_next
    return found


def _of_layer(layer: Any, given: Tensor) -> tuple[str, str] | None:
    """(found, expected) where an input does not go with a layer's settings."""
    shape = f"of shape {list(given.shape)}"
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        if given.is_floating_point():
            return f"{_type(given)} {shape}", "whole numbers (ids)"
        low, high = int(given.min()), int(given.max())
        wrong = low if low < 0 else high
        return None if low >= 0 and high < layer.num_embeddings else (f"id {wrong}", f"ids from 0 to {layer.num_embeddings - 1}")
    weight = next(layer.parameters(recurse=False), None)
    if weight is not None and given.dtype != weight.dtype and not torch.is_autocast_enabled(given.device.type):
        return f"{_type(given)} {shape}", f"{_type(weight)} numbers"
    if isinstance(layer, nn.modules.conv._ConvNd):
        spatial = len(layer.kernel_size)
        if given.ndim != spatial + 2:
            return f"a batch {shape}", f"one of {spatial + 2} dimensions: samples, {layer.in_channels} channels, {spatial} of size"
        return _width(given.shape[-spatial - 1], layer.in_channels, "channels", shape)
    if isinstance(layer, nn.modules.batchnorm._NormBase):
        return _width(given.shape[1], layer.num_features, "features", shape) if given.ndim > 1 else (f"a batch {shape}", "two dimensions")
    if isinstance(layer, nn.RNNBase):
        return _width(given.shape[-1], layer.input_size, "numbers a step", shape) if given.ndim else None
    if isinstance(layer, nn.LayerNorm):
        wanted = list(layer.normalized_shape)
        return None if list(given.shape[-len(wanted) :]) == wanted else (f"a batch {shape}", f"one that ends in {wanted}")
    if isinstance(layer, nn.Linear):
        return _width(given.shape[-1], layer.in_features, "numbers a sample", shape) if given.ndim else None
    return None


def _width(found: int, expected: int, what: str, shape: str) -> tuple[str, str] | None:
    return None if found == expected else (f"{found} {what} (a batch {shape})", str(expected))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
