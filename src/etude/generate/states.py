"""How decoding sees a model: read prompts, read more, select rows, step back. Any causal language model will do.

A model with `begin` and `extend` of its own keeps what it has computed (`nn.decoding`); a stranger's module is read anew from
the first token at every step. Both are used in the same way:

    decoder = decoder_of(model)
    state = decoder.begin(tokens, mask)           # [B, T], mask False on padding, left or right; state.logits [B, V]
    logits = decoder.extend(tokens, state)        # [B, T'] more -> [B, T', V]; changes the state
    state = state.select(rows)                    # a new state of these rows, repeated where named twice
    state.rewind(n)                               # forgets the last n tokens of every row

Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from etude.errors import BadInput
from etude.nn.decoding import align_ends, check_rewind, pad_right


class State(Protocol):
    """What was read so far, of `len(state)` sequences. logits: [B, V] of the token that comes next."""

    @property
    def logits(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def select(self, rows: Sequence[int] | Tensor) -> State: ...
    def rewind(self, num_tokens: int) -> None: ...


class RereadState:
    """The tokens themselves: [B, T], aligned at their ends; first: [B] each row's first real column, or None."""

    def __init__(self, reader: Rereading, tokens: Tensor, first: Tensor | None, logits: Tensor | None = None) -> None:
        self.reader, self.tokens, self.first, self._logits = reader, tokens, first, logits

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def logits(self) -> Tensor:
        if self._logits is None:
            self._logits = self.reader.read(self.tokens, self.first, 1)[:, -1]
        return self._logits

    def select(self, rows: Sequence[int] | Tensor) -> RereadState:
        index = torch.as_tensor(rows, device=self.tokens.device, dtype=torch.int64)
        first = None if self.first is None else self.first[index]
        return RereadState(self.reader, self.tokens[index], first, None if self._logits is None else self._logits[index])

    def rewind(self, num_tokens: int) -> None:
        check_rewind(num_tokens, self.tokens.shape[1], self.first)
        if num_tokens:
            self.tokens, self._logits = self.tokens[:, : self.tokens.shape[1] - num_tokens], None


class Rereading:
    """A decoder of any causal module: each step is a whole forward. Padding stands on the right, where nothing looks at it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @torch.inference_mode()
    def read(self, tokens: Tensor, first: Tensor | None, last: int) -> Tensor:
        """Logits after each of the `last` tokens of every row, [B, last, V]."""
        total = tokens.shape[1]
        if first is None:
            return logits_at(self.model, tokens, slice(total - last, total))
        places = torch.arange(total - last, total, device=tokens.device) - first[:, None]
        return logits_at(self.model, pad_right(tokens, first), places)

    def begin(self, tokens: Tensor, mask: Tensor | None = None) -> RereadState:
        return RereadState(self, *align_ends(tokens, mask))

    def extend(self, tokens: Tensor, state: RereadState) -> Tensor:
        state.tokens = torch.cat((state.tokens, tokens), 1)
        logits = self.read(state.tokens, state.first, tokens.shape[1])
        state._logits = logits[:, -1]
        return logits


class PrefixReading(nn.Module):
    """A decoder whose prompts are read with attention both ways up to and with their first `separator`, and onwards from left to right.

    LocalGenerator(PrefixReading(model, separator)).complete(prompts, sampling)     # for a model trained with `prefix`

    A prompt without a separator is read from left to right. Raises BadInput for a model whose `begin` takes no `prefix`.
    """

    def __init__(self, model: nn.Module, separator: int) -> None:
        super().__init__()
        if "prefix" not in signature(getattr(model, "begin", model)).parameters:
            raise BadInput("PrefixReading", f"a {type(model).__name__} whose `begin` takes no prefix", "etude's Transformer")
        self.model, self.separator, self.config = model, separator, getattr(model, "config", None)

    def begin(self, tokens: Tensor, mask: Tensor | None = None) -> State:
        separators = tokens == self.separator if mask is None else (tokens == self.separator) & mask
        # Up to the first separator there have been none before: a running count that leaves out a position's own.
        prefix = (separators.cumsum(1) - separators.long() == 0) & separators.any(1, keepdim=True)
        return self.model.begin(tokens, mask, prefix if mask is None else prefix & mask)  # type: ignore[operator]

    def extend(self, tokens: Tensor, state: State) -> Tensor:
        return self.model.extend(tokens, state)  # type: ignore[operator]


def logits_at(model: nn.Module, tokens: Tensor, places: slice | Tensor) -> Tensor:
    """Logits of a whole forward of tokens [B, T] at `places`, a slice of T or [B, P] column numbers -> [B, P, V].

    The head is computed there alone, where the model has one apart. Raises BadInput for an output that is no logits.
    """
    result = model(tokens)
    out = result["hidden"] if isinstance(result, dict) else result
    if not isinstance(out, Tensor) or out.dim() != 3 or out.shape[:2] != tokens.shape:
        found = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise BadInput("model", f"an output of {found}", f"logits {tuple(tokens.shape)} by vocabulary, or a dict with `hidden`")
    at = out[:, places] if isinstance(places, slice) else out.gather(1, places[..., None].expand(-1, -1, out.shape[-1]))
    return model.head(at) if isinstance(result, dict) else at  # type: ignore[operator]


def decoder_of(model: nn.Module) -> Any:
    """The model itself where it reads token by token and says that it is fit to, else `Rereading(model)`.

    A class that overrides `forward` below the one that defines `begin` is read anew: what it inherits would be another model's.
    """
    kind = type(model)
    begins = next((c for c in kind.__mro__ if "begin" in vars(c)), None)
    forwards = next((c for c in kind.__mro__ if "forward" in vars(c)), None)
    if begins is None or not hasattr(model, "extend") or (forwards is not None and not issubclass(begins, forwards)):
        return Rereading(model)
    hooked = bool(model._forward_hooks or model._forward_pre_hooks)
    return Rereading(model) if hooked or not getattr(model, "incremental", True) else model


def vocabulary(model: nn.Module) -> int | None:
    """How many token ids the model holds: of its config, or its first embedding; None where neither says."""
    stated = getattr(getattr(model, "config", None), "vocab", None)
    if isinstance(stated, int):
        return stated
    return next((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), None)
