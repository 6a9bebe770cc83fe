"""Measured decoding: how many tokens a second, with recursion depth chosen by each token, against all tokens at full depth.

Each new token recomputes nothing: every block keeps its pairs, a recursion's block only those of the tokens that took it.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from etude.engine.streams import generator
from etude.errors import BadInput
from etude.nn.transformer import Block, KeysValues, Transformer, rotary
from etude.papers.architecture.mixture_of_recursions.model import RecursiveTransformer


class Decoder:
    """Greedy or sampled decoding of one sequence, with a cache a (recursion, block).

    Equals the full forward: of a plain transformer, of a fixed recursion, under thresholding, or under token-choice. A router
    that draws lots has no decoding of its own.
    """

    def __init__(self, model: RecursiveTransformer | Transformer) -> None:
        if isinstance(model, RecursiveTransformer) and model.config.router == "random":
            raise BadInput("Decoder", "a router that draws lots", "the router none, expert or token")
        self.model, self.pairs, self.position = model, {}, 0

    def _attend(self, block: Block, x: Tensor, tables: Tensor, key: tuple[int, int], look: tuple[int, int] | None = None) -> Tensor:
        h = block.attention_norm(x)
        if look is None:
            queries, own = block.attention.project(h, tables)
            kept = self.pairs.get(key)
            if kept is not None:
                own = KeysValues(torch.cat((kept.keys, own.keys), 2), torch.cat((kept.values, own.values), 2))
            self.pairs[key] = own
        else:
            queries, own = block.attention.queries(h, tables), self.pairs[look]
        x = x + block.attention.attend(queries, own, is_causal=False)
        return x + block.feed_forward(block.feed_forward_norm(x))

    def step(self, token: int) -> Tensor:
        """Logits [V] after one more token."""
        model = self.model
        recursive = isinstance(model, RecursiveTransformer)
        shape = model.config.shape if recursive else model.config
        x = model.embedding(torch.tensor([[token]]))
        tables = rotary(torch.tensor([self.position]), shape, x.dtype)
        for i, block in enumerate(model.first if recursive else model.blocks):
            x = self._attend(block, x, tables, (-1, i))  # type: ignore[arg-type]
        if recursive:
            x = self._recursions(model, x, tables)
            for i, block in enumerate(model.last):
                x = self._attend(block, x, tables, (-2, i))  # type: ignore[arg-type]
        self.position += 1
        return model.head(model.norm(x))[0, 0]

    def _recursions(self, model: RecursiveTransformer, x: Tensor, tables: Tensor) -> Tensor:
        config = model.config
        weight, depth = 1.0, config.num_recursions
        if config.router == "token":
            shares = model.routers[0](x)[0, 0].softmax(-1)
            weight, depth = float(shares.max()), int(shares.argmax()) + 1
        for recursion, blocks in enumerate(model.order()[:depth]):
            if config.router == "expert":
                weight = float(torch.sigmoid(model.routers[recursion](x).squeeze()))
                if config.capacities[recursion] < 1 and weight <= config.threshold:
                    break
            y = x
            for slot, i in enumerate(blocks):
                look = (0, slot) if config.cache == "shared" and recursion else None
                y = self._attend(model.shared[i], y, tables, (recursion, slot), look)  # type: ignore[arg-type]
            x = y if config.router == "none" else x + config.alpha * weight * y
        return x


@torch.no_grad()
def tokens_per_second(model: RecursiveTransformer | Transformer, prompt: Tensor, num_tokens: int, seed: int) -> float:
    """New tokens a second, sampled at temperature 1 after `prompt` [T]; wall time of this process, so only ratios in one run say much."""
    was_training = model.training
    model.eval()
    decoder, rng = Decoder(model), generator(seed, "decode")
    logits = torch.zeros(1)
    for token in prompt.tolist():
        logits = decoder.step(token)
    started = time.perf_counter()
    for _ in range(num_tokens):
        logits = decoder.step(int(torch.multinomial(logits.softmax(-1), 1, generator=rng)))
    seconds = time.perf_counter() - started
    model.train(was_training)
    return num_tokens / seconds
