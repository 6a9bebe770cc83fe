"""`ServerGenerator`: the Generator protocol over any OpenAI-compatible server (vLLM, llama.cpp, Ollama, a hosted one).

Every sample is a request of its own, whose `seed` comes from (seed, prompt id, sample index): a retry, another order and the cache
give the same sample, as far as the server honours its seed. What it costs is reported in tokens, never in FLOPs.
Differences that a server imposes: a stop string is not part of the text; log-probabilities are those at temperature 1.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from etude.data.tokenizers import Tokenizer
from etude.engine.ledger import Ledger
from etude.engine.protocols import Completion, Sampling
from etude.engine.streams import derive
from etude.errors import BadInput, one_of
from etude.generate.asking import Answer, Client
from etude.generate.drawing import check
from etude.generate.prompts import ids_of, ids_or_default

CAPABILITIES = ("tokens", "logprobs", "score")
KEY_VARIABLE = "OPENAI_API_KEY"
LEAST = 1e30
"""No log-probability is below minus this: float32 holds it, and some servers say -9999 for "none"."""


class ServerGenerator:
    """Completes, and scores where the server can, over HTTP.

    url, timeout, attempts, parallel, cache: see `asking.Client`.   key: by default what $OPENAI_API_KEY holds.
    model:        the name that the server knows it by.
    chat:         ask `/chat/completions`, the prompt as the user's message (after `system`, where given), not `/completions`.
    tokenizer:    the model's, for token ids in and out; without it prompts are text and completions have no tokens.
    capabilities: what this server can do, of "tokens" (prompts as ids), "logprobs", "score" (`echo`). What is not
                  declared is never asked for; a method that needs it refuses this generator by name.
    ledger:       charged under `category` with calls, samples, generated_tokens, prompt_tokens, seconds; an answer from the cache
                  costs what it cost first, but for the seconds.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        chat: bool = False,
        system: str = "",
        tokenizer: Tokenizer | None = None,
        capabilities: Iterable[str] = (),
        key: str | None = None,
        timeout: float = 60.0,
        attempts: int = 6,
        parallel: int = 8,
        cache: str | Path | bool = True,
        ledger: Ledger | None = None,
        category: str = "generate",
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.capabilities = frozenset(capabilities)
        for name in self.capabilities:
            if name not in CAPABILITIES:
                raise one_of("ServerGenerator.capabilities", name, CAPABILITIES)
        if chat and self.capabilities & {"tokens", "score"}:
            raise BadInput("ServerGenerator.capabilities", "tokens or score with chat", "completions, not chat: chat takes messages alone")
        if "logprobs" in self.capabilities and tokenizer is None:
            raise BadInput("ServerGenerator.tokenizer", "none", "the model's: log-probabilities belong to its tokens")
        secret = os.environ.get(KEY_VARIABLE, "") if key is None else key
        self.client = Client(url, secret, timeout=timeout, attempts=attempts, parallel=parallel, cache=cache)
        self.model, self.chat, self.system, self.tokenizer = model, chat, system, tokenizer
        self.ledger, self.category, self.progress = ledger, category, progress

    def complete(
        self, prompts: Sequence[np.ndarray | str], sampling: Sampling, *, n: int = 1, seed: int = 0, ids: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        """`n` completions of each prompt. Raises BadInput for an empty prompt, a sampling that is out of range or that a server cannot
        do, ids without a tokenizer, and a server that is not there, refuses or gives no good answer."""
        check(sampling)
        if n < 1:
            raise BadInput("n", repr(n), "a whole number >= 1")
        names = ids_or_default(ids, len(prompts))
        shared = self._shared(sampling)
        asked = [shared | self._prompt(p, i) for i, p in enumerate(prompts)]
        bodies = [
            body | {"seed": derive(seed, "sample", name, j) % 2**31} for body, name in zip(asked, names, strict=True) for j in range(n)
        ]
        answers = self._ask(bodies, self._good_completion)
        done = [self._completion(answer, sampling) for answer in answers]
        self._charge(
            samples=len(done), calls=len(done), prompt_tokens=sum(_usage(a, "prompt_tokens") for a in answers),
            generated_tokens=sum(_usage(a, "completion_tokens") or len(c.tokens) for a, c in zip(answers, done, strict=True)),
        )  # fmt: skip
        return [done[i * n : (i + 1) * n] for i in range(len(prompts))]

    def score(
        self, prompts: Sequence[np.ndarray | str], completions: Sequence[np.ndarray | str], *, temperature: float = 1.0
    ) -> list[np.ndarray]:
        """Log-probabilities of each completion's tokens, [n] float32, read off an echo. Raises BadInput where "score" is not declared,
        at a temperature other than 0 or 1 (both: of the softmax at 1), and where the server's tokens cross the prompt's end."""
        if "score" not in self.capabilities:
            raise BadInput(f"server {self.client.url}", "no capability 'score'", "a server declared with it (it echoes log-probabilities)")
        if temperature not in (0, 1):
            raise BadInput("temperature", repr(temperature), "0 or 1: a server gives log-probabilities at 1")
        if len(prompts) != len(completions):
            raise BadInput("score", f"{len(prompts)} prompts and {len(completions)} completions", "as many of one as of the other")
        before = [self._text(p, "prompt", i) for i, p in enumerate(prompts)]
        after = [self._text(c, "completion", i) for i, c in enumerate(completions)]
        wanted = [i for i, text in enumerate(after) if text]
        bodies = [
            {"model": self.model, "prompt": before[i] + after[i], "max_tokens": 0, "temperature": 1.0, "echo": True, "logprobs": 0}
            for i in wanted
        ]
        answers = self._ask(bodies, _good_echo)
        results = [np.zeros(0, np.float32)] * len(after)
        for i, answer in zip(wanted, answers, strict=True):
            results[i] = _echoed(answer, len(before[i]), f"completion {i}")
        self._charge(calls=len(bodies), prompt_tokens=sum(_usage(a, "prompt_tokens") for a in answers))
        return results

    # --- parts --------------------------------------------------------------------------------------------------------
    def _ask(self, bodies: list[Answer], good: Callable[[Answer], None]) -> list[Answer]:
        started = time.perf_counter()
        answers = self.client.ask_all("/chat/completions" if self.chat else "/completions", bodies, good, self.progress)
        self._charge(seconds=time.perf_counter() - started)
        return answers

    def _shared(self, sampling: Sampling) -> Answer:
        body: Answer = {
            "model": self.model, "max_tokens": sampling.max_tokens,
            "temperature": float(sampling.temperature), "top_p": float(sampling.top_p),
        }  # fmt: skip
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        stops = list(sampling.stop_strings)
        if sampling.stop_tokens:
            if self.tokenizer is None:
                raise BadInput("Sampling.stop_tokens", repr(sampling.stop_tokens), "stop strings, or a generator with a tokenizer")
            # One beyond the tokenizer's vocabulary is the model's own end mark, at which a server stops anyway.
            # So is one without text, which some servers refuse as a stop string.
            written = [self.tokenizer.decode(np.array([t])) for t in sampling.stop_tokens if t < self.tokenizer.vocab]
            stops += [text for text in written if text]
        if stops:
            body["stop"] = stops
        if "logprobs" in self.capabilities:
            body |= {"logprobs": True} if self.chat else {"logprobs": 0}
        return body

    def _prompt(self, prompt: np.ndarray | str, number: int) -> Answer:
        if not len(prompt):
            raise BadInput(f"prompt {number}", "no tokens", "at least one")
        if self.chat:
            system = [{"role": "system", "content": self.system}] if self.system else []
            return {"messages": [*system, {"role": "user", "content": self._text(prompt, "prompt", number)}]}
        if not isinstance(prompt, str) and "tokens" in self.capabilities:
            return {"prompt": ids_of([prompt], None, None, what="prompt", first=number)[0].tolist()}
        return {"prompt": self._text(prompt, "prompt", number)}

    def _text(self, item: np.ndarray | str, what: str, number: int) -> str:
        if isinstance(item, str):
            return item
        if self.tokenizer is None:
            raise BadInput(f"{what} {number}", "token ids", "text, or a generator with the model's tokenizer")
        return self.tokenizer.decode(ids_of([item], None, self.tokenizer.vocab, what=what, first=number)[0])

    def _good_completion(self, answer: Answer) -> None:
        choice = _choice(answer)
        text = _said(choice, self.chat)
        if not isinstance(text, str):
            raise ValueError("no text")
        text.encode()  # half a surrogate pair is none: a UnicodeEncodeError is a ValueError
        if "logprobs" in self.capabilities:
            _logprobs(choice, self.chat)

    def _completion(self, answer: Answer, sampling: Sampling) -> Completion:
        choice = _choice(answer)
        text = _said(choice, self.chat)
        tokens = np.zeros(0, np.int64) if self.tokenizer is None else np.asarray(self.tokenizer.encode(text), dtype=np.int64)
        logprobs = None
        if "logprobs" in self.capabilities and sampling.temperature in (0, 1):
            given = _logprobs(choice, self.chat)
            if len(given) not in (len(tokens), len(tokens) + 1):  # some servers count the end mark
                found = f"{len(given)} log-probabilities for {len(tokens)} tokens"
                raise BadInput(f"server {self.client.url}, log-probabilities", found, "a tokenizer that is the model's")
            logprobs = np.array(given[: len(tokens)], dtype=np.float32)
        # Whatever else a server calls it (a filter, say), the model had not ended.
        return Completion(tokens, text, logprobs, "stop" if choice.get("finish_reason") == "stop" else "length")

    def _charge(self, **amounts: float) -> None:
        if self.ledger is not None:
            self.ledger.charge(self.category, **amounts)


def _choice(answer: Answer) -> Answer:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("no choices")
    return choices[0]


def _said(choice: Answer, chat: bool) -> Any:
    """The text, or whatever stands where it should."""
    if not chat:
        return choice.get("text")
    message = choice.get("message")
    return message.get("content") if isinstance(message, dict) else None


def _logprobs(choice: Answer, chat: bool) -> list[float]:
    """[n] of the completion's tokens. Raises ValueError where there are none."""
    given = choice.get("logprobs")
    if not isinstance(given, dict):
        raise ValueError("no log-probabilities, which were declared")
    rows = given.get("content" if chat else "token_logprobs")
    values = [row.get("logprob") if chat and isinstance(row, dict) else row for row in rows] if isinstance(rows, list) else [None]
    numbers = [float(v) for v in values if _is_logprob(v)]
    if len(numbers) < len(values):
        raise ValueError("log-probabilities that are none")
    return numbers


def _is_logprob(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LEAST <= value <= 0


def _good_echo(answer: Answer) -> None:
    given = _choice(answer).get("logprobs")
    if not isinstance(given, dict) or not all(isinstance(given.get(k), list) for k in ("text_offset", "token_logprobs")):
        raise ValueError("no echo with log-probabilities, which 'score' was declared for")
    if len(given["text_offset"]) != len(given["token_logprobs"]):
        raise ValueError("an echo of unequal lengths")
    if not all(v is None or _is_logprob(v) for v in given["token_logprobs"]):
        raise ValueError("log-probabilities that are none")


def _echoed(answer: Answer, start: int, where: str) -> np.ndarray:
    given = _choice(answer)["logprobs"]
    if start not in given["text_offset"]:
        raise BadInput(where, f"a token across the prompt's end, character {start}", "prompt and completion that meet between two tokens")
    values = given["token_logprobs"][given["text_offset"].index(start) :]
    if None in values:
        raise BadInput(where, "a token without a log-probability", "a prompt of at least one token before it")
    return np.array(values, dtype=np.float32)


def _usage(answer: Answer, name: str) -> int:
    usage = answer.get("usage")
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else 0
