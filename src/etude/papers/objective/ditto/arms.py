"""The text, the base that all arms of a seed begin with, and an arm: the base, tuned for as many tokens by one objective or another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from torch import nn

from etude.data.corpora import corpus, corpus_tokenizer, data_hash
from etude.data.sources import WindowSource
from etude.data.stream import DataStream
from etude.data.tokenizers import Tokenizer
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.protocols import Method, Metrics, Objective
from etude.engine.schedule import Cosine
from etude.engine.streams import derive, initialise
from etude.engine.trainer import RunResult, Trainer
from etude.evidence.study import Job, Outcome
from etude.learn.dispatch import Sometimes
from etude.learn.language import CausalLM, HeldOutLoss
from etude.learn.unlikelihood import SequenceUnlikelihood, Unlikelihood
from etude.learn.warmstart import kept
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.objective.ditto.echoes import Echoes
from etude.papers.objective.ditto.method import Ditto, end_ids
from etude.papers.objective.ditto.probe import Continuations, SelfReinforcement, probe_pairs, repetitions
from etude.papers.objective.ditto.settings import Settings

Progress = Callable[[float, float], None]


@dataclass(frozen=True)
class Text:
    """What a scale reads. held_out: the test split, [N] tokens, from which losses, prompts and sentences are taken."""

    train: WindowSource
    held_out: WindowSource
    tokenizer: Tokenizer
    ends: tuple[int, ...]

    def starts(self, settings: Settings) -> list[np.ndarray]:
        """`num_prompts` stretches of prompt and human continuation, evenly over the held-out text, never overlapping at cpu scale."""
        length = settings.prompt + settings.continuation
        tokens = self.held_out.tokens
        places = np.linspace(0, len(tokens) - length, settings.num_prompts).round().astype(np.int64)
        return [tokens[p : p + length].astype(np.int64) for p in places]


@lru_cache(maxsize=2)
def text_of(settings: Settings) -> Text:
    name, how, context = settings.corpus, settings.tokenizer, settings.context
    tokenizer = corpus_tokenizer(name, how)
    train, held_out = (WindowSource(corpus(name, split, how), context) for split in ("train", "test"))
    return Text(train, held_out, tokenizer, end_ids(tokenizer, settings.ends))


def model_config(settings: Settings) -> TransformerConfig:
    s = settings
    return TransformerConfig(
        vocab=s.vocab, width=s.width, depth=s.depth, heads=s.heads, hidden=s.hidden, context=s.context, tied=s.tied, init_std=s.init_std,
        shifted=s.shifted,
    )  # fmt: skip


def network(settings: Settings) -> Transformer:
    return Transformer(model_config(settings))


def base_of(settings: Settings, seed: int, progress: Progress) -> tuple[Transformer, Ledger]:
    """The language model of a seed, trained on echoes and then on text once and kept, and what it cost."""
    s = settings

    def teach() -> dict:
        model, ledger = initialise(network(s), derive(seed, "base")), Ledger()
        stages = [(updates, echoes) for updates, echoes in ((s.echo_updates, 1.0), (s.base_updates, s.echoes)) if updates]
        for number, (updates, echoes) in enumerate(stages):
            begun = sum(u for u, _ in stages[:number])
            result = Trainer(
                model, _stream(s, derive(seed, "base rows", number), echoes), CausalLM(),
                optimizer=AdamW(lr=s.base_lr, weight_decay=s.weight_decay), schedule=Cosine(warmup=s.warmup), budget=Budget(steps=updates),
                seed=derive(seed, "base", number),
                progress=lambda share, loss, a=begun, n=updates: progress((a + share * n) / (s.echo_updates + s.base_updates), loss),
            ).run()  # fmt: skip
            ledger.merge(result.ledger)
        return {"model": model.state_dict(), "ledger": ledger.as_dict()}

    made_of = {
        "what": "language model", "config": asdict(model_config(s)), "echoes": s.echoes, "data": data_hash(s.corpus),
        "tokenizer": s.tokenizer, "batch": s.batch, "updates": [s.echo_updates, s.base_updates], "lr": s.base_lr, "warmup": s.warmup,
        "weight_decay": s.weight_decay, "seed": seed,
    }  # fmt: skip
    _, state = kept(made_of, teach)
    model = network(s)
    model.load_state_dict(state["model"])
    return model, Ledger.from_dict(state["ledger"])


def _stream(settings: Settings, seed: int, echoes: float = 0.0) -> DataStream:
    source = text_of(settings).train
    return DataStream(Echoes(source, echoes, seed) if echoes else source, settings.batch, seed, drop_last=True)


@dataclass(frozen=True)
class Way:
    """How an arm is tuned. methods, objective: made anew for each run. lr: of the settings."""

    lr: Callable[[Settings], float] = lambda s: s.lr
    objective: Callable[[Settings], Objective] = lambda s: CausalLM()
    methods: Callable[[Settings], Sequence[Method]] = lambda s: ()


def ditto(decay: float | None = None) -> Way:
    def methods(s: Settings) -> Sequence[Method]:
        chosen = s.decay if decay is None else decay
        return [Ditto(decay=chosen, rate=s.rate, coin=s.coin, ends=s.ends, tokenizer=text_of(s).tokenizer)]

    return Way(methods=methods)


def sequence_unlikelihood(settings: Settings) -> Objective:
    s = settings
    return Sometimes(SequenceUnlikelihood(s.prompt, s.continuation), s.rate)


MLE = Way()
TOKENS = Way(lr=lambda s: s.unlikelihood_lr, objective=lambda s: Unlikelihood(s.alpha))
SEQUENCES = Way(lr=lambda s: s.unlikelihood_lr, objective=sequence_unlikelihood)
BASE_SHARE = 0.6
"""Of a run's progress, if the base has to be made."""


def measured(model: nn.Module, settings: Settings, seed: int) -> Metrics:
    """Everything at the end: continuations by greedy decoding and by nucleus sampling, sentences said again and again, loss."""
    s, text = settings, text_of(settings)
    texts = text.starts(s)
    model.eval()
    prompts = [t[: s.prompt] for t in texts]
    ways = {
        "": {},
        ", nucleus": {"temperature": 1.0, "top_p": s.top_p, "seed": seed},
        ", low temperature": {"temperature": s.temperature, "seed": seed},
    }
    told: dict[str, float] = {}
    for name, how in ways.items():
        told |= {f"{k}{name}": v for k, v in Continuations(prompts, s.continuation, text.ends, **how)(model).items()}
    told |= {f"{k}, human text": v for k, v in repetitions([t[s.prompt :] for t in texts], text.ends).items()}
    pairs = probe_pairs(text.held_out.tokens, text.ends, num_copies=s.num_copies, context=s.context, count=s.num_pairs)
    told |= SelfReinforcement(pairs, s.num_copies)(model)
    loss = HeldOutLoss(text.held_out, limit=s.held_out_windows)(model)["loss"]
    return told | {"held-out loss": loss, "perplexity": math.exp(loss)}


def run(job: Job, way: Way | None) -> Outcome:
    """One arm; the base as it is where there is no way to tune it."""
    s: Settings = job.settings
    model, cost = base_of(s, job.seed, lambda share, loss: job.progress(BASE_SHARE * min(share, 1.0), loss))
    ledger, curves, parameters = Ledger(), {}, sum(p.numel() for p in model.parameters())
    methods: Sequence[Method] = ()
    if way is not None:
        methods = list(way.methods(s))
        result = _tuned(job, way, model, methods)
        ledger.merge(result.ledger)
        for name, key in (("repetition", "greedy/repetition"), ("held-out loss", "held-out/loss")):
            curves[f"{name} / tokens"] = result.curve(key, "tokens")
        model = result.model
    ledger.merge(cost, category="base:language model")
    metrics = measured(model, s, derive(job.seed, "sampled"))
    curves["probability / copy"] = (
        [float(k + 1) for k in range(s.num_copies)], [metrics[f"probability, copy {k + 1}"] for k in range(s.num_copies)],
    )  # fmt: skip
    for method in methods:
        if isinstance(method, Ditto) and method.counts["asked"]:
            metrics["rows without a sentence"] = 1 - method.counts["made"] / method.counts["asked"]
    job.progress(1.0, metrics["repetition"])
    return Outcome(metrics=metrics, curves=curves, ledger=ledger.as_dict(), parameters=parameters)


def _tuned(job: Job, way: Way, model: Transformer, methods: Sequence[Method]) -> RunResult[Transformer]:
    s: Settings = job.settings
    text = text_of(s)
    few = [t[: s.prompt] for t in text.starts(s)][:: max(1, s.num_prompts // 50)]
    return Trainer(
        model, _stream(s, derive(job.seed, "tuning rows")), way.objective(s),
        optimizer=AdamW(lr=way.lr(s), weight_decay=s.weight_decay), schedule=Cosine(warmup=s.warmup),
        budget=Budget(tokens=s.tokens), seed=job.seed, methods=methods, evaluate_every=1 / s.evaluations,
        evaluators={
            "held-out": HeldOutLoss(text.held_out, limit=s.held_out_windows // 4),
            "greedy": Continuations(few, s.continuation, text.ends),
        },
        progress=lambda share, loss: job.progress(BASE_SHARE + (0.95 - BASE_SHARE) * min(share, 1.0), loss),
    ).run()  # fmt: skip
