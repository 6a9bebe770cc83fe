"""EleutherAI's lm-evaluation-harness over a model in this process: an `LM` with loglikelihood and generate_until (extra `lm-eval`).

    Harness(tokenizer, ["arc_easy"], context=2048)(model)  ->  {"arc_easy/acc": 0.61, ...}

Tasks, prompts, filters and metrics are the harness's own; contexts too long for the model lose their beginning, as under its own models.
Shapes: B requests, T positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from etude.data.chat import Template
from etude.data.tokenizers import Tokenizer
from etude.engine.device import evaluating
from etude.engine.protocols import Metrics, Sampling
from etude.engine.streams import global_streams
from etude.errors import BadInput, one_of
from etude.generate.local import SCORED_TOKENS, LocalGenerator
from etude.generate.states import logits_at
from etude.nn.decoding import padded

INSTALL = "the package: pip install 'etude[lm-eval]'"
MAX_TOKENS = 256
"""Of a generation whose task does not say; the harness's own default."""


class Harness:
    """Tasks of the harness as an evaluator: {"TASK/METRIC": value}; of a filter of its own "TASK/METRIC,FILTER". No standard errors.

    include: a folder of YAML tasks of one's own; the harness's own thousands are only read where it does not hold all that is asked for.
    context: most tokens that the model reads. end: ids that end a text; the first one stands before a text without context.
    shots, limit: examples before each document, documents of each task; as the task says where not given.
    template: where prompts are to be turns of a chat.
    Raises BadInput where the package is missing, for an unknown task (proposing a near one), and one whose data cannot be had.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tasks: Sequence[str],
        *,
        context: int,
        end: Sequence[int] = (),
        include: str | None = None,
        shots: int | None = None,
        limit: int | None = None,
        batch_size: int = 32,
        template: Template | None = None,
        seed: int = 0,
    ) -> None:
        self.tokenizer, self.context, self.end, self.limit = tokenizer, context, tuple(end), limit
        self.batch_size, self.template, self.seed = batch_size, template, seed
        manager = _manager_of(tasks, include)
        with _refusing(tasks), _quiet():
            self.loaded = manager.load(list(tasks))
        for task in self.loaded["tasks"].values():
            own = task.get_config("num_fewshot")
            if (shots is not None and own != 0) or own is None:  # a task that says 0 is meant so
                task.set_config(key="num_fewshot", value=shots or 0)

    def __call__(self, model: nn.Module) -> Metrics:
        lm = harness_model(
            model, self.tokenizer, context=self.context, end=self.end, batch_size=self.batch_size, template=self.template, seed=self.seed
        )
        with _refusing(list(self.loaded["tasks"])), _quiet(), global_streams(self.seed):
            for task in self.loaded["tasks"].values():
                task.set_fewshot_seed(seed=self.seed)
            # Not `simple_evaluate`: it asks git and pip about the machine each time.
            found = import_module("lm_eval.evaluator").evaluate(
                lm, self.loaded, limit=self.limit, bootstrap_iters=0, log_samples=False, apply_chat_template=self.template is not None
            )
        metrics: Metrics = {}
        for task, values in found["results"].items():
            for name, value in values.items():
                metric, _, chosen = name.partition(",")
                if isinstance(value, int | float) and not isinstance(value, bool) and chosen and not metric.endswith("_stderr"):
                    metrics[f"{task}/{metric}" + (f",{chosen}" if chosen != "none" else "")] = float(value)
        return metrics


@contextlib.contextmanager
def _refusing(tasks: Sequence[str]) -> Iterator[None]:
    """What the harness and `datasets` raise, as BadInput that names the tasks."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # of many kinds: no network, no file, a task that asks for what a model cannot do
        line = " ".join(str(error).split())
        found = f"{type(error).__name__}: {line[:200]}"
        raise BadInput(f"lm_eval:{', lm_eval:'.join(tasks)}", found, "tasks whose data are here or can be had") from error


def _manager_of(tasks: Sequence[str], include: str | None) -> Any:
    if include is not None:
        if not Path(include).is_dir():
            raise BadInput("include", f"{include}, which is no folder", "a folder of YAML tasks")
        own = _manager(include, False)
        if all(task in own.all_tasks for task in tasks):
            return own
    manager = _manager(include, True)
    for task in tasks:
        if task not in manager.all_tasks:
            raise one_of("tasks", task, manager.all_tasks)
    return manager


@cache
def _manager(include: str | None, with_all: bool) -> Any:
    try:
        with _quiet():
            return import_module("lm_eval.tasks").TaskManager(include_path=include, include_defaults=with_all)
    except ImportError as error:
        what = "" if error.name in (None, "lm_eval") else f" ('{error.name}' is missing)"
        raise BadInput("tasks", f"lm_eval:TASK without the package lm_eval{what}", INSTALL) from None


def harness_model(
    model: nn.Module,
    tokenizer: Tokenizer,
    *,
    context: int,
    end: Sequence[int] = (),
    batch_size: int = 32,
    template: Template | None = None,
    seed: int = 0,
) -> Any:
    """The model as the harness's `LM`."""
    return _class()(model, tokenizer, context, tuple(end), batch_size, template, seed)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's own lines and bars: stdout belongs to the command, stderr to its progress."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@cache
def _class() -> type:
    """The class, once the package is there: it inherits from the harness's."""
    utils, base = import_module("lm_eval.utils"), import_module("lm_eval.api.model").TemplateLM

    class EtudeLM(base):
        def __init__(
            self, model: nn.Module, tokenizer: Tokenizer, context: int, end: tuple[int, ...], batch_size: int, template: Template | None,
            seed: int,
        ) -> None:  # fmt: skip
            super().__init__()
            self.model, self.ours, self.context, self.end = model, tokenizer, context, end
            self.template, self.batch_size, self.seed = template, batch_size, seed
            self.generator = LocalGenerator(model, tokenizer, context=context, batch_size=batch_size)

        @property
        def eot_token_id(self) -> int:
            # A model of bytes has no end token: a line's end stands before a text without context.
            return self.end[0] if self.end else int(self.ours.encode("\n")[0])

        @property
        def tokenizer_name(self) -> str:
            return "" if self.template is None else self.template.name

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            return "" if self.template is None else self.template.text

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            if self.template is None:
                raise BadInput("evaluate.lm_eval.chat", "a model without a chat template", "one with it")
            return self.template.render(list(chat_history), ask=add_generation_prompt)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            return self.ours.encode(string).tolist()

        def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
            pairs = [(before, after) for _, before, after in requests]
            return scored(self.model, pairs, self.context)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            sums = []
            for (text,) in (request.args for request in requests):
                windows = utils.get_rolling_token_windows(
                    token_list=self.tok_encode(text), prefix_token=self.eot_token_id, max_seq_len=self.context, context_len=1
                )
                found = scored(self.model, [utils.make_disjoint_window(window) for window in windows], self.context)
                sums.append(sum(total for total, _ in found))
            return sums

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            texts = [""] * len(requests)
            groups: dict[Any, list[int]] = {}
            for number, request in enumerate(requests):
                groups.setdefault(_settings(request.args[1]), []).append(number)
            for (sampling, until), numbers in groups.items():
                room = self.context - sampling.max_tokens
                if room < 1:
                    raise BadInput("lm_eval", f"generations of {sampling.max_tokens} tokens", f"fewer than the context of {self.context}")
                ends = tuple(dict.fromkeys((*getattr(self.model, "end_tokens", ()), *self.end)))
                chosen = Sampling(
                    temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, max_tokens=sampling.max_tokens,
                    stop_tokens=ends, stop_strings=until,
                )  # fmt: skip
                prompts = [np.array(self.tok_encode(requests[n].args[0])[-room:] or [self.eot_token_id]) for n in numbers]
                for number, group in zip(numbers, self.generator.complete(prompts, chosen, seed=self.seed, ids=numbers), strict=True):
                    text = group[0].text
                    for stop in until:
                        text = text.split(stop)[0]
                    texts[number] = text
            return texts

    return EtudeLM


def _settings(given: dict[str, Any]) -> tuple[Sampling, tuple[str, ...]]:
    """(sampling, texts that end it) of the harness's keywords. Raises BadInput for one that is not known."""
    given = dict(given)
    until = given.pop("until", None) or ()
    until = (until,) if isinstance(until, str) else tuple(str(text) for text in until if text)
    most = next(
        (given.pop(name) for name in ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens") if name in given), MAX_TOKENS
    )
    drawn, temperature = bool(given.pop("do_sample", False)), float(given.pop("temperature", 0.0) or 0.0)
    top_p, top_k = float(given.pop("top_p", 1.0)), int(given.pop("top_k", 0) or 0)
    if given:
        raise BadInput(
            "lm_eval", f"the generation setting '{next(iter(given))}'", "until, max_gen_toks, do_sample, temperature, top_p, top_k"
        )
    if not drawn:
        return Sampling(temperature=0.0, max_tokens=int(most)), until
    return Sampling(temperature=temperature or 1.0, top_p=top_p, top_k=top_k, max_tokens=int(most)), until


@torch.inference_mode()
def scored(model: nn.Module, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], context: int) -> list[tuple[float, bool]]:
    """(log-probability in nats, whether each of its tokens is the likeliest) of each continuation after its context, both ids.

    Where both are longer than the model reads, the context loses its beginning. Raises BadInput for a continuation that does not fit alone.
    """
    rows = []
    for number, (before, after) in enumerate(pairs):
        if len(after) > context:
            raise BadInput(
                f"lm_eval, request {number}", f"a continuation of {len(after)} tokens", f"at most {context}, the model's context"
            )
        rows.append((np.array([*before, *after], dtype=np.int64)[-(context + 1) :], len(after)))
    results: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
    order = sorted((i for i in range(len(rows)) if rows[i][1]), key=lambda i: len(rows[i][0]))
    with evaluating(model) as device:
        while order:
            count = max(1, min(len(order), SCORED_TOKENS // len(rows[order[-1]][0])))
            batch, order = order[-count:], order[:-count]
            tokens, _ = padded([rows[i][0][:-1] for i in batch], device)
            most = max(rows[i][1] for i in batch)
            places, targets = np.zeros((len(batch), most), np.int64), np.zeros((len(batch), most), np.int64)
            for row, (ids, length) in enumerate(rows[i] for i in batch):
                places[row, :length] = np.arange(len(ids) - 1 - length, len(ids) - 1)
                targets[row, :length] = ids[-length:]
            spread = logits_at(model, tokens, torch.from_numpy(places).to(device)).float().log_softmax(-1)
            wanted = torch.from_numpy(targets).to(device)
            logprobs = spread.gather(2, wanted[..., None])[..., 0].cpu().numpy()
            likeliest = (spread.argmax(-1) == wanted).cpu().numpy()
            for row, i in enumerate(batch):
                length = rows[i][1]
                results[i] = (float(logprobs[row, :length].sum(dtype=np.float64)), bool(likeliest[row, :length].all()))
    return results
