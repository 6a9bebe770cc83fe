"""A small decoder that copies: each token comes with a map of the one before it.

    x_t = e(token_t) + S e(token_{t-1})

A large language model's induction heads find what followed the last time that a token stood there, which takes two layers and far more
training than two cores have time for. Where keys know of the token before, one layer does and it is learnt soon: Olsson et al. 2022,
arXiv 2209.11895, blend keys with those before ("smeared keys"); here it is done once, on the embeddings.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from etude.nn.decoding import AttentionState
from etude.nn.linear import Projection
from etude.nn.transformer import Block, Transformer, TransformerConfig, document_mask


class ShiftedTransformer(Transformer):
    """`Transformer` over tokens and their predecessors; a first token (of a row, of a document) has none. It decodes token by token."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.shift = Projection(config.width, config.width, config.width**-0.5)

    def forward(
        self, tokens: Tensor, document_ids: Tensor | None = None, positions: Tensor | None = None, prefix: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As `Transformer.forward`. Raises TypeError for a prefix, as looking ahead is not what a copying decoder is for."""
        if prefix is not None:
            raise TypeError("ShiftedTransformer has no prefix")
        first = torch.ones_like(tokens, dtype=torch.bool)
        first[:, 1:] = False if document_ids is None else document_ids[:, 1:] != document_ids[:, :-1]
        x = self._embedded(tokens, tokens.roll(1, 1), first)
        tables = self.rotary(torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions)
        mask = None if document_ids is None else document_mask(document_ids)
        for block in self.blocks:
            x = block(x, tables, mask)
        return {"hidden": self.norm(x)}

    begin = Transformer.begin  # says that `forward` and `_read` go together here

    def _embedded(self, tokens: Tensor, before: Tensor, first: Tensor) -> Tensor:
        """tokens, before, first: [B, T], the last True where a token has none before -> [B, T, D]."""
        return self.embedding(tokens) + self.shift(self.embedding(before)).masked_fill(first.unsqueeze(-1), 0.0)

    def _read(self, tokens: Tensor, state: AttentionState) -> Tensor:
        state.open(tokens)
        length = tokens.shape[1]
        columns = torch.arange(state.length, state.length + length, device=tokens.device).expand(len(tokens), -1)
        before = state.tokens.gather(1, (columns - 1).clamp(min=0))
        x = self._embedded(tokens, before, columns <= (0 if state.first is None else state.first[:, None]))
        tables = state.positions(length)
        mask = state.mask(length) if length > 1 or x.device.type != "cpu" else None
        for depth, block in enumerate(cast("list[Block]", list(self.blocks))):
            x = x + block.attention.extend(block.attention_norm(x), tables, depth, state, mask)
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return self.norm(x)
