"""A Llama-style decoder: pre-norm RMSNorm, rotary positions, SwiGLU, grouped queries, no biases.

Sources: Llama (arXiv 2302.13971), rotary positions (2104.09864), SwiGLU (2002.05202), grouped queries (2305.13245),
residual initialisation scaled by depth (GPT-2 report, section 2.3); tokens that know the one before after the "smeared keys" of
Olsson et al. 2022 (2209.11895), which blend keys with those before.
Shapes: B sequences, T positions, S attended positions, D width, H query heads, G key-value heads, E = D / H, V vocabulary.
Rotary tables and masks come to a block from outside, so that another architecture can run a block on gathered tokens,
share it between depths, or let it attend to keys and values it has kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from etude.engine.arguments import check_fields, typed
from etude.errors import BadInput
from etude.nn.decoding import AttentionState, align_ends, one_query
from etude.nn.linear import Projection, linear
from etude.nn.one_token import OneToken


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The shape of a `Transformer`.

    vocab:      number of token ids. width: D. depth: number of blocks. heads: H, dividing `width` into even parts.
    kv_heads:   G, dividing `heads`; None means as many as `heads`.
    hidden:     inner width of the feed-forward part; None means 8/3 of `width`, rounded up to a multiple of 8, which gives
                SwiGLU's three matrices the parameters of an ordinary feed-forward part of 4 x width (2002.05202, section 2).
    context:    longest sequence trained on; longer ones run, with rotary positions unseen in training.
    tied:       whether the head is the embedding. rope_base: of the rotary frequencies. norm_eps: added to the mean square.
    init_std:   standard deviation of initial weights; GPT-2 and the Llama family use 0.02.
    shifted:    whether a token comes with a map of the one before it in its row and document, x_t = e(token_t) + S e(token_{t-1}),
                so that one layer can find what followed the last time (an induction head takes two, and far more training).
                Of `Transformer`; an architecture that takes a config as the shape of its blocks embeds tokens itself.
    """

    vocab: int = 256
    width: int = 96
    depth: int = 8
    heads: int = 4
    kv_heads: int | None = None
    hidden: int | None = None
    context: int = 256
    tied: bool = True
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    init_std: float = 0.02
    shifted: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("vocab", "width", "depth", "heads", "kv_heads", "hidden", "context"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"TransformerConfig.{name}", repr(value), "a whole number >= 1")
        for name in ("rope_base", "norm_eps", "init_std"):
            if not getattr(self, name) > 0:
                raise BadInput(f"TransformerConfig.{name}", repr(getattr(self, name)), "a number > 0")
        if self.width % self.heads or (self.width // self.heads) % 2:
            found = f"{self.width} and {self.heads}"
            raise BadInput("TransformerConfig.width and heads", found, "a width that the heads divide into even parts")
        if self.heads % self.num_kv_heads:
            raise BadInput("TransformerConfig.kv_heads", repr(self.kv_heads), f"a divisor of heads ({self.heads})")

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads if self.kv_heads is not None else self.heads

    @property
    def num_hidden(self) -> int:
        return self.hidden if self.hidden is not None else -(-8 * self.width // 24) * 8


class KeysValues(NamedTuple):
    """Keys (already rotated) and values, each [B, G, S, E]."""

    keys: Tensor
    values: Tensor


def rotary(positions: Tensor, config: TransformerConfig, dtype: torch.dtype = torch.float32) -> Tensor:
    """Tables for `positions` [T] or [B, T]: complex, [1 or B, T, (H + 2 G) E / 2], as a row of queries, keys and values is laid out.

    Dimensions 2i and 2i + 1 of a head turn by position * base^(-2i / E), as in the paper (checkpoints that pair i with
    i + E / 2 need their rows permuted). Values are multiplied by one: a single product over whole rows is several times
    faster on a CPU than taking the row apart. dtype: float32, or float64 for models of that precision.
    """
    width, heads = config.head_width, config.heads + config.num_kv_heads
    steps = torch.arange(0, width, 2, dtype=torch.float64, device="cpu" if positions.device.type == "mps" else positions.device)
    angles = positions.to(steps).unsqueeze(-1) * config.rope_base ** (-steps / width)
    turns = torch.polar(torch.ones_like(angles), angles)
    still = torch.ones_like(turns).repeat_interleave(config.num_kv_heads, -1)
    row = torch.cat((turns.repeat(*[1] * positions.dim(), heads), still), -1)
    row = row.to(positions.device, torch.complex128 if dtype == torch.float64 else torch.complex64)
    return row.unsqueeze(0) if positions.dim() == 1 else row


def rotate(rows: Tensor, tables: Tensor) -> Tensor:
    """rows: [B, T, (H + 2 G) E], turned by position; in `rows`' own precision."""
    precise = rows.to(tables.real.dtype)  # there are no complex numbers in half precision
    pairs = torch.view_as_complex(precise.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * tables).flatten(-2).to(rows.dtype)


def document_mask(document_ids: Tensor) -> Tensor:
    """[B, T] ids -> [B, 1, T, T] boolean: True where a position may look, at itself and before, in its own document."""
    length = document_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids.device).tril()
    return (document_ids.unsqueeze(2) == document_ids.unsqueeze(1)).logical_and_(causal).unsqueeze(1)


def prefix_mask(prefix: Tensor, document_ids: Tensor | None = None) -> Tensor:
    """prefix [B, T], True where attention is mutual -> [B, 1, T, T]: at itself and before, and from inside the prefix at all of it."""
    both = (prefix.unsqueeze(2) & prefix.unsqueeze(1)).unsqueeze(1)
    if document_ids is None:
        return both | torch.ones(prefix.shape[1], prefix.shape[1], dtype=torch.bool, device=prefix.device).tril()
    return document_mask(document_ids) | (both & (document_ids.unsqueeze(2) == document_ids.unsqueeze(1)).unsqueeze(1))


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Softmax attention of H query heads over G key-value heads. Queries, keys and values are one matrix."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.num_kv_heads, config.head_width
        self.query_key_value = Projection(config.width, (self.heads + 2 * self.kv_heads) * self.head_width, config.init_std)
        self.out = Projection(config.width, config.width, config.init_std * (2 * config.depth) ** -0.5)

    def project(self, x: Tensor, tables: Tensor) -> tuple[Tensor, KeysValues]:
        """x [B, T, D] -> queries [B, H, T, E] and keys and values [B, G, T, E]; queries and keys are rotated."""
        batch, length = x.shape[:2]
        rows = rotate(self.query_key_value(x), tables).view(batch, length, -1, self.head_width).transpose(1, 2)
        queries, keys, values = rows.split((self.heads, self.kv_heads, self.kv_heads), 1)
        return queries, KeysValues(keys, values)

    def queries(self, x: Tensor, tables: Tensor) -> Tensor:
        """The queries alone, [B, H, T, E]: a third of `project`'s work where keys and values are at hand."""
        width = self.heads * self.head_width
        rows = rotate(linear(x, self.query_key_value.weight[:width]), tables[..., : width // 2])
        return rows.unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)

    def attend(self, queries: Tensor, kept: KeysValues, mask: Tensor | None = None, is_causal: bool = True) -> Tensor:
        """queries [B, H, T, E] over kept pairs [B, G, S, E] -> [B, T, D]. mask: [B or 1, 1, T, S], True where one may look."""
        grouped = self.heads != self.kv_heads
        mixed = F.scaled_dot_product_attention(
            queries, kept.keys, kept.values, attn_mask=mask, is_causal=is_causal and mask is None, enable_gqa=grouped
        )
        return self.out(mixed.transpose(1, 2).flatten(2))

    def extend(self, x: Tensor, tables: Tensor, depth: int, state: AttentionState, mask: Tensor | None) -> Tensor:
        """x [B, T, D] of new tokens, over themselves and all that `state` holds at `depth` -> [B, T, D]; writes their pairs to it."""
        batch, length = x.shape[:2]
        heads, groups, width = self.heads, self.kv_heads, self.head_width
        rows = rotate(self.query_key_value(x), tables)
        queries, new = rows.split((heads * width, 2 * groups * width), -1)
        pairs = state.write(depth, new.view(batch, length, 2, groups, width).permute(2, 0, 3, 1, 4))
        if length == 1 and x.device.type == "cpu":
            keys, values = pairs.flatten(1, 2)
            mixed = one_query(queries.reshape(batch * groups, heads // groups, width), keys, values, state.bias(groups))
            return self.out(mixed.view(batch, 1, heads * width))
        queries = queries.unflatten(-1, (heads, width)).transpose(1, 2)
        return self.attend(queries, KeysValues(pairs[0], pairs[1]), mask, is_causal=not state.length)

    def forward(
        self, x: Tensor, tables: Tensor, mask: Tensor | None = None, keys_values: KeysValues | None = None, is_causal: bool = True
    ) -> Tensor:
        """x: [B, T, D]. keys_values: attend to these, which must hold those of `x` where it should see itself; None: to x's own.

        A mask, where there is one, says everything: `is_causal` counts only without it, and compares places, not positions.
        """
        if keys_values is not None:
            return self.attend(self.queries(x, tables), keys_values, mask, is_causal)
        return self.attend(*self.project(x, tables), mask, is_causal)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); gate and up are one matrix, gate first."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = Projection(config.width, 2 * config.num_hidden, config.init_std)
        self.down = Projection(config.num_hidden, config.width, config.init_std * (2 * config.depth) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)). checkpointing: see `nn.activations`."""

    checkpointing = False

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.width, config.norm_eps)
        self.feed_forward = SwiGLU(config)

    def forward(
        self, x: Tensor, tables: Tensor, mask: Tensor | None = None, keys_values: KeysValues | None = None, is_causal: bool = True
    ) -> Tensor:
        """x: [B, T, D] -> [B, T, D]. The rest as in `Attention.forward`."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self._forward, x, tables, mask, keys_values, is_causal, use_reentrant=False)
        return self._forward(x, tables, mask, keys_values, is_causal)

    def _forward(self, x: Tensor, tables: Tensor, mask: Tensor | None, keys_values: KeysValues | None, is_causal: bool) -> Tensor:
        x = x + self.attention(self.attention_norm(x), tables, mask, keys_values, is_causal)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Embedding(nn.Embedding):
    """Token vectors, drawn from N(0, std)."""

    def __init__(self, vocab: int, width: int, std: float = 0.02) -> None:
        self.std = std
        super().__init__(vocab, width)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


class Head(nn.Module):
    """Hidden states to logits: a matrix of its own, or the embedding's."""

    def __init__(self, embedding: Embedding, tied: bool) -> None:
        super().__init__()
        self.std, self.tied = embedding.std, tied
        self.weight = embedding.weight if tied else nn.Parameter(torch.empty_like(embedding.weight))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        # A tied head owns nothing: drawing here would overwrite the embedding.
        if not self.tied:
            nn.init.normal_(self.weight, std=self.std)

    def forward(self, hidden: Tensor) -> Tensor:
        return linear(hidden, self.weight)


class Transformer(nn.Module):
    """The decoder. `model(tokens)["hidden"]` are hidden states after the final norm, `model.head(hidden)` logits."""

    @typed()
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab, config.width, config.init_std)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = Head(self.embedding, config.tied)
        self.shift = Projection(config.width, config.width, config.width**-0.5) if config.shifted else None

    def rotary(self, positions: Tensor) -> Tensor:
        """Tables for `positions` [T] or [B, T] in the model's precision, for `Block` and `Attention`."""
        return rotary(positions, self.config, self.norm.weight.dtype)

    def forward(
        self, tokens: Tensor, document_ids: Tensor | None = None, positions: Tensor | None = None, prefix: Tensor | None = None
    ) -> dict[str, Tensor]:
        """tokens: [B, T] ids. document_ids: [B, T]; positions look only at their own document. positions: [T] or [B, T], default 0..T-1.
        prefix: [B, T] bool, True where attention looks both ways (among its like, in its own document).

        Rotary attention depends on distances alone, so positions need not start anew with each document.
        """
        x = self.embedding(tokens)
        if self.shift is not None:
            first = torch.ones_like(tokens, dtype=torch.bool)
            first[:, 1:] = False if document_ids is None else document_ids[:, 1:] != document_ids[:, :-1]
            x = x + self._before(tokens.roll(1, 1), first)
        tables = self.rotary(torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions)
        mask = None if document_ids is None else document_mask(document_ids)
        if prefix is not None:
            mask = prefix_mask(prefix, document_ids)
        for block in self.blocks:
            x = block(x, tables, mask)
        return {"hidden": self.norm(x)}

    def _before(self, tokens: Tensor, first: Tensor) -> Tensor:
        """tokens: [B, T], each the one before; first: [B, T], True where there is none -> what is added to the embeddings, [B, T, D]."""
        assert self.shift is not None
        return self.shift(self.embedding(tokens)).masked_fill(first.unsqueeze(-1), 0.0)

    @property
    def incremental(self) -> bool:
        """Whether `begin` and `extend` compute what `forward` computes: every block, and its attention, is a plain one, without hooks."""
        return all(
            type(b).forward is Block.forward
            and type(b.attention).forward is Attention.forward
            and not _hooked(b)
            and not _hooked(b.attention)
            for b in cast("list[Block]", list(self.blocks))
        )

    @torch.inference_mode()
    def begin(self, tokens: Tensor, mask: Tensor | None = None, prefix: Tensor | None = None) -> AttentionState:
        """Reads prompts: tokens [B, T], mask [B, T] False on padding, left or right. `state.logits` [B, V] are those of the next token.

        prefix: [B, T] bool, True where attention looks both ways, as in `forward`.
        The state may go on with the weights as they are now: one that outlives a change of them is not to be used.
        """
        if prefix is not None:
            prefix, first = align_ends(prefix, mask)
            if first is not None:  # what stands before a row is arbitrary, and must be no prefix
                prefix = prefix & (torch.arange(prefix.shape[1], device=prefix.device) >= first[:, None])
        tokens, first = align_ends(tokens, mask)
        state = AttentionState(self, tokens, first)
        state.close(tokens.shape[1], self.head(self._read(tokens, state, prefix)[:, -1]))
        state.plan = OneToken.of(self, _PLAIN)
        return state

    @torch.inference_mode()
    def extend(self, tokens: Tensor, state: AttentionState) -> Tensor:
        """Reads tokens [B, T] after those in `state`, which it changes. Returns the logits after each, [B, T, V]."""
        if tokens.shape[1] == 1 and state.plan is not None:
            state.open(tokens)
            logits = state.plan.step(tokens[:, 0], state)[:, None]
        else:
            logits = self.head(self._read(tokens, state))
        state.close(tokens.shape[1], logits[:, -1])
        return logits

    def _read(self, tokens: Tensor, state: AttentionState, prefix: Tensor | None = None) -> Tensor:
        """Hidden states of new tokens, [B, T, D]. prefix: of a state's first tokens."""
        state.open(tokens)
        length = tokens.shape[1]
        x, tables = self.embedding(tokens), state.positions(length)
        if self.shift is not None:
            x = x + self._before(*state.before(length))
        mask = state.mask(length) if length > 1 or x.device.type != "cpu" else None
        if prefix is not None:
            mask = prefix_mask(prefix) if mask is None else mask | (prefix.unsqueeze(2) & prefix.unsqueeze(1)).unsqueeze(1)
        for depth, block in enumerate(cast("list[Block]", list(self.blocks))):
            x = x + block.attention.extend(block.attention_norm(x), tables, depth, state, mask)
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return self.norm(x)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


_PLAIN = (Transformer, Block, Attention, SwiGLU, RMSNorm, Projection, Embedding, Head, nn.ModuleList)
"""What a model is made of where `OneToken` may compute its steps."""


def count_parameters(model: nn.Module, embeddings: bool = True) -> int:
    """Parameters, tied ones once. Without `embeddings`, those of `nn.Embedding` modules are left out (and so is a head tied to one)."""
    left_out = set() if embeddings else {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in left_out)
