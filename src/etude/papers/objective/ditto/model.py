"""A small decoder that copies: each token comes with a map of the one before it, and some of its rows are there to be copied.

    x_t = e(token_t) + S e(token_{t-1})

A large language model's induction heads find what followed the last time that a token stood there, which takes two layers and far more
training than two cores have time for. Where keys know of the token before, one layer does and it is learnt soon: Olsson et al. 2022,
arXiv 2209.11895, blend keys with those before ("smeared keys"); here it is done once, on the embeddings. Rows that say a stretch of random
tokens again and again (their measure of induction heads too) are a reason to learn it: windows of 160 tokens of running text are hardly
one. No sentence of a text is among them.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from etude.data.sources import WindowSource
from etude.engine.streams import numpy_rng
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


class Echoes:
    """A source's windows, a share of them replaced by a stretch of 8 to 59 random tokens, again and again. Which, the seed says.

    The tokens are drawn one by one from the text, so that they are as frequent as there.
    """

    def __init__(self, source: WindowSource, share: float, seed: int) -> None:
        self.source, self.share, self.seed = source, share, seed

    def __len__(self) -> int:
        return len(self.source)

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        data, text = self.source.get(ids), self.source.tokens
        for row, number in enumerate(ids.tolist()):
            rng = numpy_rng(self.seed, "echo", number)
            if rng.random() < self.share:
                stretch = text[rng.integers(len(text), size=rng.integers(8, 60))].astype(np.int64)
                data["tokens"][row] = torch.from_numpy(np.resize(stretch, data["tokens"].shape[1]))
        return data
