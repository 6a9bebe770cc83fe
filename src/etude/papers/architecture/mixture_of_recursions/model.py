"""The recursive transformer and mixture-of-recursions as a language model.

Middle-cycle sharing: first and last block are their own; one group of (L - 2) / N blocks runs N times between them.
Shapes: B sequences, T positions, D width, N recursions, S tokens still active, k tokens kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from etude.errors import BadInput
from etude.nn.transformer import Block, Embedding, Head, KeysValues, RMSNorm, TransformerConfig, document_mask, rotary
from etude.papers.architecture.mixture_of_recursions.routing import (
    KINDS,
    Router,
    auxiliary_loss,
    balance_loss,
    capacities,
    check_capacities,
    choose,
    num_kept,
    z_loss,
)  # fmt: skip

SHARING = ("middle-cycle", "cycle", "middle-sequence", "sequence")
CACHES = ("recursion", "shared")


@dataclass(frozen=True, kw_only=True)
class RecursiveConfig:
    """shape: of the unrolled model (its `depth` is L). num_recursions: N, dividing the shared part of L.

    router:     "none" (all tokens take all recursions), "expert", "random" (expert-choice by random logits: the control), "token".
    sharing:    which blocks are shared (section 2.1); "middle-" keeps the first and the last block apart.
    cache:      "recursion": a recursion attends to the keys and values of its own active tokens; "shared": to those that the
                first recursion made for all tokens.
    alpha:      factor on the gate, 0.1. auxiliary: weight of the expert-choice loss, 0.001; balance, z: of the token-choice losses.
    threshold:  of sigmoid(logit), for inference without future tokens.
    """

    shape: TransformerConfig = field(default_factory=TransformerConfig)
    num_recursions: int = 3
    router: str = "expert"
    sharing: str = "middle-cycle"
    cache: str = "recursion"
    shares: tuple[float, ...] | None = None
    alpha: float = 0.1
    auxiliary: float = 0.001
    balance: float = 0.1
    z: float = 1e-5
    threshold: float = 0.5

    def __post_init__(self) -> None:
        for name, known in (("router", KINDS), ("sharing", SHARING), ("cache", CACHES)):
            if getattr(self, name) not in known:
                raise BadInput(f"RecursiveConfig.{name}", f"'{getattr(self, name)}'", f"one of {', '.join(known)}")
        if self.num_recursions < 1 or self.num_shared <= 0 or self.num_shared % self.num_recursions:
            raise BadInput(
                "RecursiveConfig.num_recursions",
                repr(self.num_recursions),
                f"a divisor of the {self.num_shared} shared layers of {self.shape.depth}",
            )
        if self.shape.shifted:
            raise BadInput("RecursiveConfig.shape.shifted", "True", "False: the recursions read plain embeddings")
        check_capacities(self.capacities, self.num_recursions)
        if self.cache == "shared" and self.capacities[0] != 1:
            raise BadInput("RecursiveConfig.cache", "'shared' where the first recursion drops tokens", "a first capacity of 1")
        if not 0 < self.threshold < 1:
            raise BadInput("RecursiveConfig.threshold", repr(self.threshold), "a number between 0 and 1")

    @property
    def capacities(self) -> tuple[float, ...]:
        return self.shares if self.shares is not None else capacities(self.num_recursions)

    @property
    def num_shared(self) -> int:
        return self.shape.depth - (2 if self.sharing.startswith("middle") else 0)

    @property
    def group(self) -> int:
        """Blocks in the shared group."""
        return self.num_shared // self.num_recursions


class RecursiveTransformer(nn.Module):
    """`model(tokens)["hidden"]`, "auxiliary" and "signals" as etude's language models give them.

    In training mode tokens are chosen by top-k, as the paper trains. In evaluation mode `routing` decides: "threshold"
    (causal: a token goes on where sigmoid(logit) > 0.5) or "top-k" (looks at later tokens; reported, never the metric).
    """

    def __init__(self, config: RecursiveConfig) -> None:
        super().__init__()
        self.config = config
        shape, middle = config.shape, config.sharing.startswith("middle")
        self.embedding = Embedding(shape.vocab, shape.width, shape.init_std)
        self.first = nn.ModuleList([Block(shape)] if middle else [])
        self.shared = nn.ModuleList(Block(shape) for _ in range(config.group))
        self.last = nn.ModuleList([Block(shape)] if middle else [])
        self.norm = RMSNorm(shape.width, shape.norm_eps)
        self.head = Head(self.embedding, shape.tied)
        outputs = config.num_recursions if config.router == "token" else 1
        routers = {"expert": config.num_recursions, "token": 1}.get(config.router, 0)
        self.routers = nn.ModuleList(Router(shape.width, outputs) for _ in range(routers))
        self.routing = "threshold"
        # With a threshold the number of kept tokens follows the data.
        self.data_dependent_flops = config.router == "token"

    def order(self) -> list[list[int]]:
        """Which shared blocks each recursion runs: cycle repeats the group (0 1 0 1), sequence repeats each block (0 0 1 1)."""
        group, num = self.config.group, self.config.num_recursions
        if self.config.sharing.endswith("cycle"):
            return [list(range(group)) for _ in range(num)]
        unrolled = [i // num for i in range(group * num)]
        return [unrolled[r * group : (r + 1) * group] for r in range(num)]

    def forward(self, tokens: Tensor, document_ids: Tensor | None = None) -> dict[str, Any]:
        """tokens: [B, T]. document_ids: [B, T]; a position sees only its own document."""
        config = self.config
        x = self.embedding(tokens)
        tables = rotary(torch.arange(tokens.shape[1], device=tokens.device), config.shape, x.dtype)
        mask = None if document_ids is None else document_mask(document_ids)
        for block in self.first:
            x = block(x, tables, mask)
        run = {"expert": self._expert, "random": self._expert, "token": self._token, "none": self._fixed}[config.router]
        x, auxiliary, signals = run(x, tables, mask)
        for block in self.last:
            x = block(x, tables, mask)
        output: dict[str, Any] = {"hidden": self.norm(x), "signals": signals}
        if auxiliary is not None and self.training:
            output["auxiliary"] = auxiliary
        return output

    def _fixed(self, x: Tensor, tables: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        for blocks in self.order():
            for i in blocks:
                x = self.shared[i](x, tables, mask)
        return x, None, {}

    def _scores(self, active: Tensor, recursion: int) -> tuple[Tensor, Tensor]:
        """[B, S] router logits of the active tokens and what their gates are made of, both before alpha."""
        if self.config.router == "expert":
            logits = self.routers[recursion](active).squeeze(-1)
            return logits, torch.sigmoid(logits)
        shares = (1.0, *self.config.capacities)
        # Uniform scores as in the authors' random router; shifted, a threshold at 0 keeps as many as top-k does.
        draws = torch.rand(active.shape[:2], device=active.device, dtype=active.dtype)
        return draws - (1 - shares[recursion + 1] / shares[recursion]), draws

    def _expert(self, x: Tensor, tables: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        config, length = self.config, x.shape[1]
        places = torch.arange(length, device=x.device).expand(x.shape[0], length)  # [B, S] positions still active
        valid = torch.ones_like(places, dtype=torch.bool)  # False where thresholding pads shorter rows
        kept_pairs: list[KeysValues] = []
        auxiliary, signals = x.new_zeros(()), {}
        for recursion, blocks in enumerate(self.order()):
            active = _gather(x, places)
            logits, scores = self._scores(active, recursion)
            if config.capacities[recursion] == 1:
                # Nothing to choose: with a threshold, too, all tokens take this recursion.
                chosen, stays = torch.arange(logits.shape[1], device=x.device).expand_as(logits), valid
                auxiliary = auxiliary + auxiliary_loss(logits, torch.ones_like(logits))
            elif self.training or self.routing == "top-k":
                k = min(num_kept(config.capacities[recursion], length), places.shape[1])
                chosen, targets = choose(logits, k)
                auxiliary = auxiliary + auxiliary_loss(logits, targets)
                stays = torch.ones_like(chosen, dtype=torch.bool)
            else:
                above = (torch.sigmoid(logits) > config.threshold) & valid
                chosen, stays = _ragged(above)
            signals[f"kept {recursion + 1}"] = stays.sum().detach() / x.shape[0] / length
            if not chosen.shape[1]:
                break
            places, valid = places.gather(1, chosen), stays
            gate = config.alpha * scores.gather(1, chosen) * stays  # padded places add nothing
            y = _gather(x, places)
            gathered = tables.expand(x.shape[0], -1, -1).gather(1, places.unsqueeze(-1).expand(-1, -1, tables.shape[-1]))
            y = self._run(blocks, y, gathered, places, valid, mask, x, tables, kept_pairs, recursion)
            x = x.scatter_add(1, places.unsqueeze(-1).expand_as(y), gate.unsqueeze(-1) * y)
        weight = config.auxiliary if config.router == "expert" else 0.0
        return x, weight * auxiliary, signals

    def _run(
        self, blocks: list[int], y: Tensor, gathered: Tensor, places: Tensor, valid: Tensor, mask: Tensor | None, x: Tensor,
        tables: Tensor, kept_pairs: list[KeysValues], recursion: int,
    ) -> Tensor:  # fmt: skip
        """The group's blocks on gathered tokens y [B, k, D], with the rotary tables of their original positions."""
        everything = places.shape[1] == x.shape[1]
        if self.config.cache == "shared":
            # The first recursion runs all tokens and leaves its pairs; later ones bring only queries.
            look = _between(places, torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1), None, mask)
            for slot, i in enumerate(blocks):
                block = cast(Block, self.shared[i])
                h = block.attention_norm(y)
                if recursion == 0:
                    queries, own = block.attention.project(h, gathered)
                    kept_pairs.append(own)
                else:  # what the shared cache saves: no keys and values of later recursions
                    queries = block.attention.queries(h, gathered)
                y = y + block.attention.attend(queries, kept_pairs[slot], look)
                y = y + block.feed_forward(block.feed_forward_norm(y))
            return y
        # Sorted places keep causality by order alone; a mask is needed only for documents or padding.
        look = None if mask is None and bool(valid.all()) else _between(places, places, valid, mask)
        for i in blocks:
            y = self.shared[i](y, tables if everything and look is None else gathered, look)
        return y

    def _token(self, x: Tensor, tables: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Token-choice: one router fixes each token's depth before the first recursion."""
        config, length = self.config, x.shape[1]
        logits = self.routers[0](x)
        probabilities = logits.softmax(-1)
        weight, depth = probabilities.max(-1)  # [B, T]; depth d takes recursions 1 .. d + 1
        everywhere = torch.arange(length, device=x.device).expand(x.shape[0], length)
        kept_pairs: list[KeysValues] = []
        signals = {}
        for recursion, blocks in enumerate(self.order()):
            chosen, stays = _ragged(depth >= recursion)
            signals[f"kept {recursion + 1}"] = stays.sum().detach() / x.shape[0] / length
            if not chosen.shape[1]:
                break
            places = everywhere.gather(1, chosen)
            gathered = tables.expand(x.shape[0], -1, -1).gather(1, places.unsqueeze(-1).expand(-1, -1, tables.shape[-1]))
            y = self._run(blocks, _gather(x, places), gathered, places, stays, mask, x, tables, kept_pairs, recursion)
            gate = config.alpha * weight.gather(1, chosen) * stays
            x = x.scatter_add(1, places.unsqueeze(-1).expand_as(y), gate.unsqueeze(-1) * y)
        return x, config.balance * balance_loss(probabilities, depth) + config.z * z_loss(logits), signals


def _gather(x: Tensor, places: Tensor) -> Tensor:
    """x [B, T, D] at places [B, k] -> [B, k, D]."""
    return x.gather(1, places.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _ragged(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Boolean [B, S] -> indices [B, k] of True in ascending order, padded to the longest row, and which of them are real."""
    counts = chosen.sum(1)
    order = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(counts.max())]
    return order, torch.arange(order.shape[1], device=chosen.device) < counts.unsqueeze(1)


def _between(queries: Tensor, keys: Tensor, valid: Tensor | None, mask: Tensor | None) -> Tensor:
    """[B, 1, k, S] boolean: which key positions a query position may see. A padded query sees itself, so that no row is empty."""
    look = keys.unsqueeze(1) <= queries.unsqueeze(2)
    if mask is not None:
        whole = mask.squeeze(1).expand(queries.shape[0], -1, -1)
        rows = whole.gather(1, queries.unsqueeze(2).expand(-1, -1, whole.shape[2]))
        look = look & rows.gather(2, keys.unsqueeze(1).expand(-1, queries.shape[1], -1))
    if valid is not None:
        look = (look & valid.unsqueeze(1)) | torch.eye(queries.shape[1], dtype=torch.bool, device=queries.device)
    return look.unsqueeze(1)
