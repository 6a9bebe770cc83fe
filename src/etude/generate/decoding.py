"""One batch of samples on its way: draws a token for each row, notes it, and says which rows go on.

Shapes: N samples, of which `rows` are still decoded; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from etude.data.tokenizers import Tokenizer
from etude.engine.protocols import Completion, Sampling
from etude.generate.diffusion import NotFinite
from etude.generate.drawing import Drawn, Uniforms, draw
from etude.generate.stopping import StopStrings, text_of

LEAVE_SHARE = 0.25
"""Finished rows leave the batch once they are this share of it: a departure copies the state of the others."""


class Decoding:
    """samples: (prompt id, sample index) of each; limits: most tokens of each.

    Call `step` with the logits of every row until it returns None, then `completions`.
    """

    def __init__(
        self, sampling: Sampling, stops: StopStrings, seed: int, samples: Sequence[tuple[int, int]], limits: Sequence[int]
    ) -> None:
        self.sampling, self.stops, self.samples = sampling, stops, samples
        self.limits = np.array(limits)
        self.shortest, self.longest, self.position = int(self.limits.min()), int(self.limits.max()), 0
        self.uniforms = Uniforms(seed, samples) if sampling.temperature else None
        self.lengths = self.limits.copy()
        self.stopped = np.zeros(len(samples), bool)
        self.slots: np.ndarray | None = None  # rows -> samples; None while they are the same
        self._alive = np.ones(len(samples), bool)
        self._tokens: list[Tensor] = []
        self._logprobs: list[Tensor] = []
        self._slots: list[np.ndarray | None] = []
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []
        self._told = np.zeros((len(samples), self.longest if stops.strings else 0), np.int64)

    @property
    def share(self) -> float:
        """Of the longest sample's tokens."""
        return self.position / self.longest

    def step(self, logits: Tensor) -> tuple[Tensor, np.ndarray | None] | None:
        """logits [rows, V] -> the rows' next tokens and, where rows leave, which stay ([rows'] numbers among the present ones); None
        when all is done."""
        uniforms = None
        if self.uniforms is not None:
            uniforms = self.uniforms.at(self.position)
            uniforms = uniforms if self.slots is None else uniforms[self.slots]
        drawn = draw(logits, self.sampling, uniforms)
        self._note(drawn)
        self.position += 1
        if self.position == self.longest and not (self.sampling.stop_tokens or self.stops.strings):
            return None
        ended = self._ended(drawn.tokens)
        if ended is not None and ended.any():
            self._alive &= ~ended
        if self.position == self.longest or not self._alive.any():
            return None
        if (~self._alive).sum() < LEAVE_SHARE * len(self._alive):
            return drawn.tokens, None
        stay = np.flatnonzero(self._alive)
        self.slots = stay if self.slots is None else self.slots[stay]
        self._alive = np.ones(len(stay), bool)
        return drawn.tokens[torch.from_numpy(stay).to(drawn.tokens.device)], stay

    def _note(self, drawn: Drawn) -> None:
        self._tokens.append(drawn.tokens)
        self._logprobs.append(drawn.logprobs)
        self._slots.append(self.slots)
        if drawn.kept is not None:
            kept = drawn.kept.cpu().numpy()
            self._kept.append((kept.sum(1), np.nonzero(kept)[1]))

    def _ended(self, tokens: Tensor) -> np.ndarray | None:
        """[rows] True where a row that was going on ends here; notes how and at which length."""
        if not (self.sampling.stop_tokens or self.stops.strings or self.position >= self.shortest):
            return None
        new = tokens.cpu().numpy()
        samples = np.arange(len(new)) if self.slots is None else self.slots
        stopped = np.isin(new, self.sampling.stop_tokens)
        if self.stops.strings:
            self._told[samples, self.position - 1] = new
            for row in np.flatnonzero(self._alive & ~stopped):
                stopped[row] = self.stops.ended(self._told[samples[row], : self.position])
        stopped &= self._alive
        self.stopped[samples[stopped]] = True
        self.lengths[samples[stopped]] = self.position
        return stopped | (self.limits[samples] <= self.position)

    def completions(self, tokenizer: Tokenizer | None) -> list[Completion]:
        """All samples, in the order given. Raises NotFinite where the model's logits were not numbers."""
        shape = (len(self.samples), len(self._tokens))
        tokens, logprobs = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        for position, slots in enumerate(self._slots):
            where = slice(None) if slots is None else slots
            tokens[where, position] = self._tokens[position].cpu().numpy()
            logprobs[where, position] = self._logprobs[position].float().cpu().numpy()
        kept = self._kept_by_sample()
        results = []
        for sample, length in enumerate(self.lengths):
            own, chances = tokens[sample, :length].copy(), logprobs[sample, :length].copy()
            if not np.isfinite(chances).all():
                raise NotFinite("logits", f"NaN or Inf at token {int(np.flatnonzero(~np.isfinite(chances))[0])}", "finite logits")
            stopped = bool(self.stopped[sample])
            body = own[:-1] if stopped and own[-1] in self.sampling.stop_tokens else own
            sets = None if kept is None else tuple(kept[sample][:length])
            counts = None if sets is None else np.array([len(s) for s in sets])
            results.append(Completion(own, text_of(body, tokenizer), chances, "stop" if stopped else "length", counts, sets))
        return results

    def _kept_by_sample(self) -> list[list[np.ndarray]] | None:
        if not self._kept:
            return None
        kept: list[list[np.ndarray]] = [[] for _ in self.samples]
        for (counts, ids), slots in zip(self._kept, self._slots, strict=True):
            parts = np.split(ids, np.cumsum(counts)[:-1])
            for row, part in enumerate(parts):
                kept[row if slots is None else slots[row]].append(part)
        return kept
