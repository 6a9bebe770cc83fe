"""Language data of a recipe: text files, corpora and token folders, alone or as the domains of a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.cards import cards
from etude.data.corpora import corpus, corpus_tokenizer, data_hash, encoded_corpus
from etude.data.encoding import encoded, tokenizer_for
from etude.data.packing import PackedSource
from etude.data.sources import MixtureSource, SubsetSource, WindowSource
from etude.data.text import TextFile
from etude.data.tokenizers import Bytes, Tokenizer, load
from etude.data.tokens import TokenCorpus, read_header
from etude.engine.protocols import Evaluator, Source
from etude.errors import BadInput, one_of
from etude.generate.hub import locate
from etude.generate.pretrained import tokenizer_of
from etude.learn.language import CausalLM, HeldOutLoss, PerDomainLoss
from etude.recipe.material import Material
from etude.recipe.tables import EvaluateTable, PretrainedTable, Recipe, TextData, TextSource

LIMIT = 256
"""Held-out windows that are measured, where a recipe does not say."""


def language(recipe: Recipe, data: TextData) -> Material:
    """Raises BadInput where a source is missing, too short, without the documents asked for, or of another vocabulary."""
    sources: Mapping[str, TextSource] = data.domains or {"": data}
    for name, source in sources.items():
        if source.corpus is not None and source.corpus not in cards():
            raise one_of(f"data.domains.{name}.corpus" if name else "data.corpus", source.corpus, cards())
    texts = {name: TextFile.scan(source.text) for name, source in sources.items() if source.text is not None}
    facts: dict[str, Any] = {"sources": {}}
    own: Tokenizer | None = None
    if isinstance(recipe.model, PretrainedTable):
        own, facts["model"] = _of_model(recipe.model)
    tokenizer = own if data.tokenizer == "model" else _tokenizer(data, sources, texts)
    training: dict[str, Source] = {}
    held_out: dict[str, Source] = {}
    vocab = 0
    for name, source in sources.items():
        train, held, sha256 = _read(data, source, texts.get(name), tokenizer)
        _long_enough(data, source, len(train.tokens), len(held.tokens))
        if vocab and train.vocab != vocab:
            raise BadInput(f"data.domains.{name}", f"a vocabulary of {train.vocab}", f"{vocab}, as the domains before")
        vocab = train.vocab
        training[name], held_out[name] = _samples(data, train), _samples(data, held)
        facts["sources"][name] = {"sha256": sha256, "tokens": len(train.tokens), "held_out_tokens": len(held.tokens)}
    source, held = (MixtureSource(training), MixtureSource(held_out)) if data.domains else (training[""], held_out[""])
    facts |= {"vocab": vocab, "samples": len(source), "held_out_samples": len(held)}
    if len(source) < data.batch:
        only = next(iter(sources.values())) if len(sources) == 1 else None
        found = f"{len(source)} windows of {data.context} tokens for training"
        expected = f"at least one batch of {data.batch}; more text, or a smaller data.batch or data.context"
        raise BadInput(_called(only) if only else "data", found + _held_out(data, only), expected)
    return Material(
        source=source,
        objective=CausalLM(),
        evaluators=_evaluators(recipe.evaluate, held),
        facts=facts,
        vocab=vocab,
        tokenizer=tokenizer,
        context=data.context,
        groups=getattr(source, "domains", None),
        group_names=tuple(getattr(source, "domain_names", ())),
    )


def _of_model(table: PretrainedTable) -> tuple[Tokenizer, dict[str, Any]]:
    """A pretrained model's tokenizer, and which model it is."""
    found = locate(table.pretrained, table.revision, "model.pretrained")
    weights = {path.name: path.stat().st_size for path in sorted(found.path.glob("*.safetensors"))}
    return tokenizer_of(found.path), {"name": found.name, "commit": found.commit, "bytes": weights}


def _tokenizer(data: TextData, sources: Mapping[str, TextSource], texts: Mapping[str, TextFile]) -> Tokenizer | None:
    """One for all sources; None for token folders that do not tell theirs."""
    if texts or data.tokenizer == "byte":
        if data.tokenizer != "byte" and len(texts) < len(sources):
            raise BadInput("data.tokenizer", f"'{data.tokenizer}' for texts and corpora together", "byte, or text files alone")
        folders = [Path(source.tokens) for source in sources.values() if source.tokens is not None]
        if folders and not texts:
            own = folders[0] / "tokenizer.json"
            return load(own) if own.exists() else Bytes() if read_header(folders[0])["tokenizer"] == "byte" else None
        return tokenizer_for(list(texts.values()), data.tokenizer, data.vocab, held_out=data.held_out, separator=data.separator or "")
    if len(sources) > 1:
        raise BadInput("data.tokenizer", f"'{data.tokenizer}' for several corpora", "byte, which all of them share")
    return corpus_tokenizer(next(iter(sources.values())).corpus or "", _word(data))


def _word(data: TextData) -> str:
    return f"bpe:{data.vocab}" if data.tokenizer == "bpe" else data.tokenizer


def _read(data: TextData, source: TextSource, text: TextFile | None, tokenizer: Tokenizer | None) -> tuple[Any, Any, str]:
    """Training tokens, held-out tokens (each a corpus with `tokens` and `offsets`) and the SHA-256 of what they are from."""
    if text is not None and tokenizer is not None:
        train, held = encoded(text, tokenizer, held_out=data.held_out, separator=data.separator or "")
        return train, held, text.sha256
    if source.corpus is not None:
        if data.tokenizer == "model" and tokenizer is not None:
            train, held = (encoded_corpus(source.corpus, split, tokenizer, "model") for split in ("train", "validation"))
        else:
            train, held = (corpus(source.corpus, split, _word(data)) for split in ("train", "validation"))
        return train, held, data_hash(source.corpus)
    folder = Path(source.tokens or "")
    whole = TokenCorpus.open(folder)
    shares = {"train": 1 - data.held_out, "validation": data.held_out}
    by = "documents" if whole.num_documents > 1 else "tokens"
    sha256 = read_header(folder)["sha256"]["tokens.bin"]
    return whole.part("train", shares=shares, by=by), whole.part("validation", shares=shares, by=by), sha256


def _long_enough(data: TextData, source: TextSource, training: int, held_out: int) -> None:
    """Raises BadInput, naming the source and the share held out, where a part has no window."""
    for part, tokens in (("for training", training), ("held out", held_out)):
        if tokens <= data.context:
            other = "" if source.corpus is not None else f", or a {'smaller' if part == 'for training' else 'larger'} data.held_out"
            expected = f"at least one window of {data.context + 1}; more text, a smaller data.context{other}"
            raise BadInput(_called(source), f"{tokens} tokens {part}{_held_out(data, source)}", expected)


def _called(source: TextSource) -> str:
    return source.text or source.tokens or f"corpus '{source.corpus}'"


def _held_out(data: TextData, source: TextSource | None) -> str:
    """What goes off a text for measuring: the rest may be less than its size lets expect."""
    return "" if source is None or source.corpus is not None else f" (data.held_out = {data.held_out:g} of the text is measured on)"


def _samples(data: TextData, tokens: Any) -> Source:
    """Windows over all documents, windows with document masks, or whole documents packed into rows."""
    if data.documents != "joined" and (tokens.offsets is None or len(tokens.offsets) < 3):
        expected = "several: a corpus or tokens with documents, or `separator` for a text"
        raise BadInput("data.documents", f"'{data.documents}' where there is one document", expected)
    if data.documents != "packed":
        return WindowSource(tokens, data.context, documents=data.documents == "masked")
    if not tokens.domain_names:
        return PackedSource(tokens, data.context)
    domains = np.asarray(tokens.document_domains)
    present = [k for k in range(len(tokens.domain_names)) if (domains == k).any()]
    parts = {tokens.domain_names[k]: PackedSource(tokens, data.context, documents=np.flatnonzero(domains == k)) for k in present}
    return MixtureSource(parts)


def _evaluators(table: EvaluateTable, held: Source) -> dict[str, Evaluator]:
    limit = table.limit or LIMIT
    made: dict[str, Evaluator] = {}
    for measure in table.measures or ("loss",):
        if measure == "loss":
            made["held-out"] = HeldOutLoss(held, limit=limit, batch_size=table.batch)
        elif measure == "domains":
            names = getattr(held, "domain_names", ())
            if not names:
                raise BadInput(
                    "evaluate.measures", "'domains' where the data has none", "loss; or a corpus with domains, or [data.domains.NAME]"
                )
            domains = np.asarray(held.domains)  # type: ignore[attr-defined]
            parts = {n: SubsetSource(held, np.flatnonzero(domains == k)) for k, n in enumerate(names) if (domains == k).any()}
            made["domains"] = PerDomainLoss(dict(parts), limit=limit, batch_size=table.batch)
        elif measure == "accuracy":
            raise BadInput("evaluate.measures", "'accuracy' of text", "loss, domains, verifier or lm_eval:TASK")
    return made
