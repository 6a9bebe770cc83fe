"""Recurrent nets around PyTorch's cells: a language model and a classifier of sequences.

Shapes: B sequences, T steps, D width, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from etude.engine.arguments import check_fields, typed
from etude.errors import BadInput, one_of
from etude.nn.decoding import RecurrentState, align_ends, pad_right
from etude.nn.transformer import Embedding, Head

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"gru": nn.GRU, "lstm": nn.LSTM, "elman": nn.RNN}
State = Tensor | tuple[Tensor, Tensor]
"""[L, B, D]; for "lstm" a pair of them (output, memory)."""


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """cell: "gru", "lstm" or "elman" (tanh). dropout: between layers. tied: whether the head is the embedding (language model)."""

    cell: str = "gru"
    width: int = 128
    depth: int = 1
    dropout: float = 0.0
    vocab: int = 256
    tied: bool = True
    init_std: float = 0.02

    def __post_init__(self) -> None:
        check_fields(self)
        if self.cell not in CELLS:
            raise one_of("RecurrentConfig.cell", self.cell, CELLS)
        for name in ("width", "depth", "vocab"):
            if getattr(self, name) < 1:
                raise BadInput(f"RecurrentConfig.{name}", repr(getattr(self, name)), "a whole number >= 1")
        if not self.init_std > 0:
            raise BadInput("RecurrentConfig.init_std", repr(self.init_std), "a number > 0")
        if not 0 <= self.dropout < 1:
            raise BadInput("RecurrentConfig.dropout", repr(self.dropout), "a number from 0 to under 1")
        if self.dropout and self.depth == 1:
            raise BadInput("RecurrentConfig.dropout", repr(self.dropout), "0 with one layer: dropout stands between layers")


def _recurrent(config: RecurrentConfig, inputs: int) -> nn.RNNBase:
    return CELLS[config.cell](inputs, config.width, config.depth, batch_first=True, dropout=config.dropout)


def _masked(state: State | None, keep: Tensor) -> State | None:
    """The state, with the sequences that are not kept set to zero. keep: [B] boolean."""
    if state is None:
        return None
    parts = [torch.where(keep[None, :, None], part, 0.0) for part in (state if isinstance(state, tuple) else (state,))]
    return (parts[0], parts[1]) if len(parts) == 2 else parts[0]


class RecurrentLM(nn.Module):
    """A language model with the protocol of `Transformer`: `model(tokens)["hidden"]`, `model.head(hidden)`."""

    @typed()
    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab, config.width, config.init_std)
        self.recurrent = _recurrent(config, config.width)
        self.head = Head(self.embedding, config.tied)

    def forward(self, tokens: Tensor, document_ids: Tensor | None = None, state: State | None = None) -> dict[str, Any]:
        """tokens: [B, T]. document_ids: [B, T]; memory starts empty where a document starts. state: what an earlier call returned.

        Returns `hidden` [B, T, D] and `state` after the last step (with gradient: detach it to cut there).
        """
        x = self.embedding(tokens)
        if document_ids is None:
            hidden, state = self.recurrent(x, state)
            return {"hidden": hidden, "state": state}
        # Between the columns where any sequence changes document, the fused kernel runs undisturbed.
        changes = document_ids[:, 1:] != document_ids[:, :-1]
        starts = [0, *(torch.nonzero(changes.any(0)).flatten() + 1).tolist(), tokens.shape[1]]
        parts = []
        for start, end in pairwise(starts):
            if start:
                state = _masked(state, ~changes[:, start - 1])
            hidden, state = self.recurrent(x[:, start:end], state)
            parts.append(hidden)
        return {"hidden": torch.cat(parts, 1), "state": state}

    @torch.inference_mode()
    def begin(self, tokens: Tensor, mask: Tensor | None = None) -> RecurrentState:
        """As `Transformer.begin`."""
        tokens, first = align_ends(tokens, mask)
        if first is None:
            memory = self.recurrent(self.embedding(tokens))[1]
        else:
            lengths = (tokens.shape[1] - first).cpu()
            x = pack_padded_sequence(self.embedding(pad_right(tokens, first)), lengths, batch_first=True, enforce_sorted=False)
            memory = self.recurrent(x)[1]
        top = memory[0][-1] if isinstance(memory, tuple) else memory[-1]
        return RecurrentState(self, tokens, first, memory, self.head(top))

    @torch.inference_mode()
    def extend(self, tokens: Tensor, state: RecurrentState) -> Tensor:
        """As `Transformer.extend`."""
        hidden, memory = self.recurrent(self.embedding(tokens), state.memory)
        logits = self.head(hidden)
        state.add(tokens, memory, logits[:, -1])
        return logits


class RecurrentClassifier(nn.Module):
    """x [B, T, inputs], or [B, T] of single numbers -> logits [B, classes], read off the last step."""

    @typed()
    def __init__(self, config: RecurrentConfig, *, inputs: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.config, self.inputs = config, inputs
        self.recurrent = _recurrent(config, inputs)
        self.out = nn.Linear(config.width, classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = x.unsqueeze(-1)
        if x.shape[-1] != self.inputs:
            raise BadInput("RecurrentClassifier input", f"{x.shape[-1]} numbers a step", f"{self.inputs}")
        return self.out(self.recurrent(x)[0][:, -1])
