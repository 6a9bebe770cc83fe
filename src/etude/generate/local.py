"""`LocalGenerator`: the Generator protocol over a model in this process, in batches.

A prompt is read once; its samples start from rows of its state. Finished samples leave the batch as soon as a quarter of its rows
is finished. Samples draw from streams of their own (`drawing.Uniforms`), so that a token does not depend on what else is in the
batch, except where a draw, or the top two logits, lie within what the order of summation changes (1e-4).
Shapes: N samples in a batch, T positions, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from etude.data.tokenizers import Tokenizer
from etude.engine.device import device_of, evaluating
from etude.engine.flops import FlopCounter
from etude.engine.ledger import Ledger
from etude.engine.protocols import Completion, Sampling
from etude.errors import BadInput
from etude.generate.decoding import Decoding
from etude.generate.drawing import check, exact
from etude.generate.prompts import check_lengths, ids_of, ids_or_default, in_batches
from etude.generate.states import decoder_of, logits_at, vocabulary
from etude.generate.step_cost import StepCost
from etude.generate.stopping import StopStrings
from etude.nn.decoding import padded

Progress = Callable[[float], None]
SCORED_TOKENS = 16_384
"""Most tokens, padding included, in one forward of `score`."""


class LocalGenerator:
    """Completes and scores with `model`: etude's, a stranger's causal module, or a wrapped transformers model.

    tokenizer:  for text in and out; without one, prompts are ids and completions have no text.
    context:    most tokens that the model may read, by default its config's `context`; a completion that reaches it ends with "length".
    batch_size: most samples decoded together.
    ledger:     charged under `category` with generated_tokens, prompt_tokens (each prompt once, though a prompt whose
                samples fill several batches is read in each), samples, flops (of all that was read), seconds.
    progress:   called with the share of samples' tokens done, at most.
    The model is put into evaluation mode for the time of a call. Its weights may change between calls.
    """

    capabilities = frozenset({"tokens", "logprobs", "score", "kept"})

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer | None = None,
        *,
        context: int | None = None,
        batch_size: int = 256,
        ledger: Ledger | None = None,
        category: str = "generate",
        progress: Progress | None = None,
    ) -> None:
        if batch_size < 1:
            raise BadInput("LocalGenerator.batch_size", repr(batch_size), "a whole number >= 1")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.context = context if context is not None else getattr(getattr(model, "config", None), "context", None)
        self.ledger, self.category, self.progress = ledger, category, progress
        self._costs: dict[Any, StepCost] = {}

    def complete(
        self, prompts: Sequence[np.ndarray | str], sampling: Sampling, *, n: int = 1, seed: int = 0, ids: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        """`n` completions of each prompt. Raises BadInput for an empty prompt, one longer than the context, an unknown token, or a
        sampling out of range; NotFinite (a BadInput) where the model gives NaN."""
        check(sampling)
        if n < 1:
            raise BadInput("n", repr(n), "a whole number >= 1")
        vocab = vocabulary(self.model)
        rows = ids_of(prompts, self.tokenizer, vocab, what="prompt")
        check_lengths(rows, self.context)
        names = ids_or_default(ids, len(rows))
        stops = StopStrings(sampling.stop_strings, self.tokenizer)
        results: list[list[Completion]] = [[] for _ in rows]
        done = 0
        with self._running():
            for batch in in_batches([len(r) for r in rows], n, self.batch_size):
                limits = [self._limit(len(rows[p]), sampling) for p, _, k in batch for _ in range(k)]
                samples = [(names[p], first + j) for p, first, k in batch for j in range(k)]
                decoding = Decoding(sampling, stops, seed, samples, limits)
                total = len(rows) * n
                self._decode(decoding, [rows[p] for p, _, _ in batch], [k for _, _, k in batch], done / total, len(samples) / total)
                owners = [p for p, _, k in batch for _ in range(k)]
                for owner, completion in zip(owners, decoding.completions(self.tokenizer), strict=True):
                    results[owner].append(completion)
                done += len(samples)
                self._report(done / total)
        self._charge(
            generated_tokens=sum(len(c.tokens) for group in results for c in group), prompt_tokens=sum(map(len, rows)), samples=done
        )
        return results

    def score(
        self, prompts: Sequence[np.ndarray | str], completions: Sequence[np.ndarray | str], *, temperature: float = 1.0
    ) -> list[np.ndarray]:
        """Log-probabilities of each completion's tokens after its prompt, [n] float32; temperature 0: of the softmax at 1.

        What is read must fit the context. An empty completion scores [0].
        """
        if not 0 <= temperature < float("inf"):
            raise BadInput("temperature", repr(temperature), "a number >= 0")
        if len(prompts) != len(completions):
            raise BadInput("score", f"{len(prompts)} prompts and {len(completions)} completions", "as many of one as of the other")
        vocab = vocabulary(self.model)
        before = ids_of(prompts, self.tokenizer, vocab, what="prompt")
        after = ids_of(completions, self.tokenizer, vocab, what="completion")
        check_lengths(before, None)
        read = [np.concatenate((p, c))[:-1] if len(c) else p for p, c in zip(before, after, strict=True)]
        for number, row in enumerate(read):
            if self.context is not None and len(row) > self.context:
                raise BadInput(f"completion {number}", f"{len(row)} tokens with its prompt", f"at most {self.context}, the model's context")
        results = [np.zeros(0, np.float32)] * len(read)
        order = sorted((i for i in range(len(read)) if len(after[i])), key=lambda i: len(read[i]))
        with self._running() as device:
            while order:
                count = max(1, min(len(order), SCORED_TOKENS // len(read[order[-1]])))
                batch, order = order[-count:], order[:-count]
                with self._counted():
                    scores = self._scores([read[i] for i in batch], [after[i] for i in batch], temperature or 1.0, device)
                for i, row in zip(batch, scores, strict=True):
                    results[i] = row
        self._charge(prompt_tokens=sum(len(r) for r, c in zip(read, after, strict=True) if len(c)))
        return results

    # --- parts --------------------------------------------------------------------------------------------------------
    def _limit(self, prompt: int, sampling: Sampling) -> int:
        # The last token of a completion is never read, so that it may stand one beyond the context.
        return sampling.max_tokens if self.context is None else min(sampling.max_tokens, self.context - prompt + 1)

    def _decode(self, decoding: Decoding, prompts: list[np.ndarray], counts: list[int], before: float, part: float) -> None:
        decoder = decoder_of(self.model)
        tokens, mask = padded(prompts, device_of(self.model))
        with self._counted():
            state = decoder.begin(tokens, mask)
            logits = state.logits
        if max(counts) > 1:
            state = state.select(torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)))
            logits = state.logits
        cost = None if self.ledger is None else self._cost(decoder, tokens.shape[1] + decoding.longest)
        length, flops = tokens.shape[1], 0
        while True:
            chosen = decoding.step(logits)
            if chosen is None:
                break
            new, rows = chosen
            if rows is not None:
                state = state.select(rows)
            known = 0 if cost is None else cost.of(len(new), length)
            if known is None:
                with self._counted():
                    logits = decoder.extend(new[:, None], state)[:, -1]
            else:
                logits = decoder.extend(new[:, None], state)[:, -1]
                flops += known
            length += 1
            if self.progress is not None and not length % 16:
                self._report(before + part * decoding.share)
        self._charge(flops=flops)

    def _scores(self, read: list[np.ndarray], after: list[np.ndarray], temperature: float, device: torch.device) -> list[np.ndarray]:
        tokens, _ = padded(read, device)
        most = max(map(len, after))
        places = np.zeros((len(read), most), np.int64)
        targets = np.zeros((len(read), most), np.int64)
        for row, (r, c) in enumerate(zip(read, after, strict=True)):
            places[row, : len(c)] = np.arange(len(r) - len(c), len(r))
            targets[row, : len(c)] = c
        logits = exact(logits_at(self.model, tokens, torch.from_numpy(places).to(device)))
        logprobs = (logits / temperature).log_softmax(-1).gather(2, torch.from_numpy(targets).to(device)[..., None])[..., 0]
        scores = logprobs.float().cpu().numpy()
        return [scores[i, : len(c)].copy() for i, c in enumerate(after)]

    def _cost(self, decoder: Any, longest: int) -> StepCost:
        """By architecture and by length in steps of 64, so that growing models are measured again."""
        longest = -(-longest // 64) * 64 if self.context is None else self.context
        key = (type(self.model), tuple(p.shape for p in self.model.parameters()), longest)
        if key not in self._costs:
            self._costs = {key: StepCost(decoder, self.model, longest)}
        return self._costs[key]

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self.ledger is None:
            yield
            return
        with FlopCounter() as counter:
            yield
        self._charge(flops=counter.total)

    @contextmanager
    def _running(self) -> Iterator[torch.device]:
        """Evaluation mode without gradients; charges the seconds."""
        started = time.perf_counter()
        with evaluating(self.model) as device, torch.inference_mode():
            yield device
        self._charge(seconds=time.perf_counter() - started)

    def _charge(self, **amounts: float) -> None:
        if self.ledger is not None:
            self.ledger.charge(self.category, **amounts)

    def _report(self, share: float) -> None:
        if self.progress is not None:
            self.progress(share)
