"""Rows that repeat one of their own sentences, and the loss that asks each copy to be less likely than the one before.

    x = prefix, s, s, s, ...        loss = -log(1 - |P[n, l] - decay * P[n-1, l]|)  for n >= 1, no gradient through P[n-1, l]

P[n, l] is the probability of token l of copy n after all that stands before it; copy 0 and the prefix have no loss.
Source: Xu et al. 2022, arXiv 2206.02369, section 3; authors' code Jxu-Thu/DITTO at 35f5a22, repetetion_penalty_accum_loss.py.
Their lambda (rep_reduce_gamma in the code) is our decay. Shapes: B rows of T + 1 tokens, K sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.engine.protocols import Batch, Output
from etude.engine.streams import numpy_rng
from etude.errors import BadInput, one_of
from etude.learn.language import target_mask, token_losses

FORMS = ("log", "square", "clip")
SMALLEST = 1e-20
"""1 - difference is cut off here before its logarithm (authors' code)."""
SQUARE_SCALE = 3.0
"""Of the squared error, whose size is below a log-likelihood's (authors' code)."""
PATIENCE = 512
"""Rows that may be asked for a sentence before none of them having had one is bad input."""


def sentences(tokens: np.ndarray, ends: np.ndarray, documents: np.ndarray | None = None) -> np.ndarray:
    """[K, 3] (start of the sentence before, start, end) of each sentence whose predecessor is whole too.

    tokens: [n]. ends: ids that close a sentence and belong to it. documents: [n]; then both sentences are of one document.
    Fewer than three ends give none, as nothing says where the first sentence began.
    """
    places = np.flatnonzero(np.isin(tokens, ends)) + 1
    found = np.stack([places[:-2], places[1:-1], places[2:]], 1) if len(places) > 2 else np.empty((0, 3), dtype=np.int64)
    return found if documents is None else found[documents[found[:, 0]] == documents[found[:, 2] - 1]]


def fitting(found: np.ndarray, length: int) -> np.ndarray:
    """Those of `sentences` that fill a row of `length` with their predecessor and two whole copies at least."""
    before, start, end = found.T
    return found[(start - before) + 2 * (end - start) <= length]


def repeated(prefix: np.ndarray, sentence: np.ndarray, length: int) -> np.ndarray:
    """[length] the prefix, then the sentence again and again, the last copy cut off where the row ends.

    Raises BadInput for an empty sentence, one longer than half the row, or a prefix that leaves no room for two copies.
    """
    if not 0 < 2 * len(sentence) <= length:
        raise BadInput("sentence", f"{len(sentence)} tokens", f"from 1 to {length // 2}, half of a row of {length}")
    if len(prefix) + 2 * len(sentence) > length:
        raise BadInput("prefix", f"{len(prefix)} tokens before a sentence of {len(sentence)}", f"at most {length - 2 * len(sentence)}")
    return np.concatenate([prefix, np.resize(sentence, length - len(prefix))])


def penalty(probability: Tensor, before: Tensor, decay: float, form: str = "log") -> Tensor:
    """The loss of a token, of any shape. probability: in this copy. before: in the copy before, taken as a constant.

    form: "log" as above; "square" 3 (P - decay P')^2; "clip" the "log" where P is above its target, else 0.
    """
    gap = probability - decay * before.detach()
    if form == "square":
        return SQUARE_SCALE * gap.square()
    return -(1 - (gap.abs() if form == "log" else gap.clamp(min=0))).clamp(min=SMALLEST).log()


class PseudoRepetition:
    """`penalty` on rows made of one of their own sentences, next-token prediction on rows that have none.

    ends:  token ids that close a sentence. decay: 0 to 1; 1 asks a copy to be as likely as the one before, 0 to be impossible.
    share: of the rows that are made into repetitions, each by a coin of its own; the others are predicted as they are.
    The loss is the mean over all tokens that have one. Signals: "repetition" (mean penalty), "no sentence" (share of the rows asked).
    counts: rows "asked" for a sentence and "made" so far. Raises BadInput for settings out of range, and once 512 rows were asked
    and none had three ends with sentences short enough between them.
    """

    def __init__(self, ends: Sequence[int], *, decay: float = 0.5, form: str = "log", share: float = 1.0) -> None:
        if not len(ends) or min(ends) < 0:
            raise BadInput("ends", repr(list(ends)), "token ids of 0 and above, at least one")
        if not 0 <= decay <= 1:
            raise BadInput("decay", repr(decay), "a number from 0 to 1")
        if form not in FORMS:
            raise one_of("form", form, FORMS)
        if not 0 <= share <= 1:
            raise BadInput("share", repr(share), "a share of the rows, 0 to 1")
        self.ends, self.decay, self.form, self.share = tuple(ends), decay, form, share
        self.counts = {"asked": 0, "made": 0}

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        made, periods, penalised = self.repeat(batch)
        losses, result = token_losses(model, made)
        mask = target_mask(made)
        plain = (torch.ones_like(losses) if mask is None else mask.to(losses)) * (periods <= 0).unsqueeze(1)
        probability = (-losses).exp()
        place = torch.arange(losses.shape[1], device=losses.device) - periods.clamp(min=0).unsqueeze(1)
        before = probability.detach().gather(1, place.clamp(min=0))
        punished = penalised.to(losses)
        each = losses * plain + penalty(probability, before, self.decay, self.form) * punished
        counts = plain.sum(1) + punished.sum(1)
        weight = float(counts.sum())
        if not weight:
            raise BadInput("data", "a batch whose loss mask leaves nothing", "at least one target")
        asked = (periods >= 0).sum().clamp(min=1)
        signals = dict(result.get("signals") or {}) if isinstance(result, dict) else {}
        signals["repetition"] = ((each * punished).sum() / punished.sum().clamp(min=1)).detach()
        signals["no sentence"] = (periods == 0).sum() / asked
        loss = each.sum() / weight
        if isinstance(result, dict) and "auxiliary" in result:
            signals["auxiliary"] = result["auxiliary"].detach()
            loss = loss + result["auxiliary"]
        return Output(loss, each.detach().sum(1) / counts.clamp(min=1), weight, signals)

    def repeat(self, batch: Batch) -> tuple[Batch, Tensor, Tensor]:
        """(the batch with repetitions, [B] tokens a copy, [B, T] which targets are penalised); drawn for each sample and update.

        A row that is no repetition has 0 tokens a copy where no sentence was found, -1 where none was asked for.
        """
        given = batch.data.get("tokens")
        if given is None or given.ndim != 2:
            found = f"samples of {', '.join(batch.data)}" if given is None else f"tokens of shape {tuple(given.shape)}"
            raise BadInput("data", found, "one row of tokens a sample")
        tokens = given.cpu().numpy().copy()
        documents, lengths = (None if v is None else v.cpu().numpy().copy() for v in map(batch.data.get, ("document_ids", "lengths")))
        periods = np.full(len(tokens), -1)
        penalised = np.zeros((len(tokens), tokens.shape[1] - 1), dtype=bool)
        ends = np.array(self.ends)
        for row, sample in enumerate(batch.ids):
            rng = numpy_rng(batch.key, "sentence", int(sample))
            if self.share < 1 and rng.random() >= self.share:
                continue
            own = slice(None if lengths is None else int(lengths[row]))
            found = fitting(sentences(tokens[row][own], ends, None if documents is None else documents[row][own]), tokens.shape[1])
            self.counts["asked"] += 1
            periods[row] = 0
            if len(found):
                before, start, end = found[rng.integers(len(found))]
                tokens[row] = repeated(tokens[row, before:start], tokens[row, start:end], tokens.shape[1])
                periods[row] = end - start
                penalised[row, (start - before) + (end - start) - 1 :] = True
                if documents is not None:
                    documents[row] = documents[row, start]
                self.counts["made"] += 1
        if not self.counts["made"] and self.counts["asked"] >= PATIENCE:
            found = f"{self.counts['asked']} rows of {tokens.shape[1]} tokens without three of them and room for two copies between"
            raise BadInput("ends", found, "what ends a sentence in these texts, or longer rows")
        data = {**batch.data, "tokens": torch.from_numpy(tokens)}
        if documents is not None:
            data["document_ids"] = torch.from_numpy(documents)
        made = replace(batch, data=data).to(given.device)
        return made, torch.from_numpy(periods).to(given.device), torch.from_numpy(penalised).to(given.device)
