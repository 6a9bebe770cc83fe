"""Next steps from a generator: each is sampled up to a separator (a line's end, say), or to the end of the whole answer.

One call of `complete` answers all requests of a round that want equally many steps. The samples' random numbers are named by the
question's id and the request's number, so that they do not depend on what else is searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from etude.data.tokenizers import Tokenizer
from etude.engine.protocols import Completion, Generator, Sampling
from etude.engine.streams import derive
from etude.errors import BadInput
from etude.generate.search.asking import Expand, Question, Step


class GeneratedSteps:
    """The `expand` of `run_searches`, over a Generator that works on token ids.

    separator: the token that ends a step and belongs to it. ends: tokens that end the whole answer; such a token, or a step cut short
    by `sampling.max_tokens` or by the context, ends the path. sampling: its stops are set here. seed: of all samples.
    context:   of the model, in tokens; a state that fills it has ended.
    Raises BadInput for a generator without token ids, and for a separator that is an end.
    """

    def __init__(
        self,
        generator: Generator,
        sampling: Sampling,
        *,
        separator: int,
        ends: Sequence[int],
        context: int,
        seed: int,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        if "tokens" not in generator.capabilities:
            raise BadInput("GeneratedSteps.generator", "one without token ids", "a generator with the capability 'tokens'")
        if separator in ends:
            raise BadInput("GeneratedSteps.ends", f"the separator {separator} too", "other tokens")
        self.generator, self.ends, self.context, self.seed, self.tokenizer = generator, frozenset(ends), context, seed, tokenizer
        self.separator = separator
        self.sampling = replace(sampling, stop_tokens=(separator, *ends), stop_strings=())

    def prompt(self, question: Question) -> np.ndarray:
        """The question's token ids."""
        if not isinstance(question.prompt, str):
            return np.asarray(question.prompt, dtype=np.int64)
        if self.tokenizer is None:
            raise BadInput(f"question {question.id}", "text", "token ids, or GeneratedSteps with a tokenizer")
        return np.asarray(self.tokenizer.encode(question.prompt), dtype=np.int64)

    def __call__(self, requests: Sequence[Expand]) -> list[list[Step]]:
        results: list[list[Step]] = [[] for _ in requests]
        for count in sorted({request.num_steps for request in requests}):
            places = [i for i, request in enumerate(requests) if request.num_steps == count]
            prompts = [self._read(requests[i]) for i in places]
            names = [derive(self.seed, "search", requests[i].question.id, requests[i].number) for i in places]
            groups = self.generator.complete(prompts, self.sampling, n=count, seed=self.seed, ids=names)
            for place, prompt, group in zip(places, prompts, groups, strict=True):
                results[place] = [self._step(len(prompt), completion) for completion in group]
        return results

    def _read(self, request: Expand) -> np.ndarray:
        return np.concatenate([self.prompt(request.question), *(np.array(step.tokens, dtype=np.int64) for step in request.path)])

    def _step(self, before: int, completion: Completion) -> Step:
        tokens = tuple(int(t) for t in completion.tokens)
        ended = completion.finish == "length" or tokens[-1] in self.ends or before + len(tokens) > self.context
        separated = completion.finish == "stop" and tokens[-1] == self.separator and self.tokenizer is not None
        text = completion.text + (self.tokenizer.decode(np.array([self.separator])) if separated and self.tokenizer is not None else "")
        return Step(text, tokens, ended, len(tokens))
