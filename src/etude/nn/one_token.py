"""One more token through a plain transformer on a CPU, with as few and as short operations as it takes.

The same numbers as `Transformer.extend`'s general path up to rounding: norms' weights and the attention's 1 / sqrt(E) are folded into
the matrices that follow, products write into memory whose views were made once, the residual is added by the product. A small
model's step is mostly the fixed cost of its operators (0.2M parameters, one row: three times faster than module by module).
Shapes: B rows, D width, S columns read so far and this one, H query heads, G key-value heads, E head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.nn.decoding import AttentionState


class Workspace:
    """Memory for B rows: projections, with the views through which they are turned, written and attended."""

    def __init__(self, rows: int, plan: OneToken, like: Tensor) -> None:
        heads, groups, width = plan.heads, plan.groups, plan.head_width
        split = heads * width
        self.projected = like.new_empty(rows, split + 2 * groups * width)
        self.turned = torch.view_as_complex(self.projected.view(rows, -1, 2))
        self.queries = self.projected[:, :split].view(rows, groups, heads // groups, width)
        self.new = self.projected[:, split:].view(rows, 2, groups, width).transpose(0, 1)
        self.inner = like.new_empty(rows, plan.layers[0][2].shape[1])
        self.gate, self.up = self.inner.chunk(2, -1)


class OneToken:
    """Prepared from a model's weights as they are now; `of` gives None for a model that has any part of another kind."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.heads, self.groups, self.head_width = config.heads, config.num_kv_heads, config.head_width
        self.embedding, self.share = model.embedding.weight, 1 / config.width
        self.layers: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for block in model.blocks:
            attention, feed_forward = block.attention, block.feed_forward
            projection = attention.query_key_value.weight * block.attention_norm.weight
            projection[: self.heads * self.head_width] *= self.head_width**-0.5
            gate_up = feed_forward.gate_up.weight * block.feed_forward_norm.weight
            self.layers.append((projection.t(), attention.out.weight.t(), gate_up.t(), feed_forward.down.weight.t()))
        self.head = (model.head.weight * model.norm.weight).t()
        self.epsilon = self.embedding.new_tensor(config.norm_eps)
        self._workspace: Workspace | None = None

    @classmethod
    def of(cls, model: Any, parts: tuple[type, ...]) -> OneToken | None:
        """parts: the classes that make up a plain model. None where a module is of another class, has a hook or is not on a CPU,
        and where tokens come with the one before them."""
        weight = model.embedding.weight
        if model.shift is not None:
            return None
        if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.float64):
            return None
        for module in model.modules():
            if type(module) not in parts or module._forward_hooks or module._forward_pre_hooks:
                return None
        return cls(model) if len(model.blocks) else None

    def _normed(self, x: Tensor) -> Tensor:
        """x / rms(x), without the weight."""
        size = torch.linalg.vector_norm(x, 2, -1, True)
        return x * torch.addcmul(self.epsilon, size, size, value=self.share).rsqrt_()

    def step(self, tokens: Tensor, state: AttentionState) -> Tensor:
        """tokens: [B] -> logits [B, V]. The state has room (`open`) and is not yet counted on (`close`)."""
        rows, end = len(tokens), state.length + 1
        if self._workspace is None or len(self._workspace.projected) != rows:
            self._workspace = Workspace(rows, self, self.embedding)
        space = self._workspace
        tables, bias = state.positions(1)[:, 0], state.bias(self.groups)
        x = self.embedding[tokens]
        for (projection, out, gate_up, down), pairs, (keys, values) in zip(self.layers, state.pairs, state.views(), strict=True):
            torch.mm(self._normed(x), projection, out=space.projected)
            space.turned.mul_(tables)
            pairs.select(3, state.length).copy_(space.new)
            queries = space.queries.reshape(-1, self.heads // self.groups, self.head_width)
            scores = torch.bmm(queries, keys.narrow(2, 0, end))
            if bias is not None:
                scores += bias
            mixed = torch.bmm(scores.softmax(-1), values.narrow(1, 0, end))
            x = torch.addmm(x, mixed.view(rows, -1), out)
            torch.mm(self._normed(x), gate_up, out=space.inner)
            x = torch.addmm(x, F.silu(space.gate).mul_(space.up), down)
        return torch.mm(self._normed(x), self.head)
