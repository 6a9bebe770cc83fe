"""Language data of a recipe: text files, corpora and token folders, alone or as the domains of a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.cards import cards
from etude.data.corpora import corpus, corpus_tokenizer, data_hash, encoded_corpus
from etude.data.encoding import encoded, tokenizer_for
from etude.data.packing import PADDING, packed
from etude.data.sources import DescribedSource, MixtureSource, WindowSource
from etude.data.text import TextFile, parts_of
from etude.data.tokenizers import Bytes, Tokenizer, load
from etude.data.tokens import TokenCorpus, read_header
from etude.engine.ledger import Ledger
from etude.engine.protocols import Labelled, Source
from etude.errors import BadInput, one_of
from etude.generate.hub import locate
from etude.generate.pretrained import tokenizer_of
from etude.recipe.material import Material
from etude.recipe.reading import reading_of
from etude.recipe.scorers import scorer_of
from etude.recipe.tables import PretrainedTable, Recipe, TextData, TextSource

LIMIT = 256
"""Held-out windows that are measured, where a recipe does not say."""


def language(recipe: Recipe, data: TextData) -> Material:
    """Raises BadInput where a source is missing, too short, without the documents asked for, or of another vocabulary."""
    sources = sources_of(data)
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
        _check_documents(data, train)
        training[name], held_out[name] = _samples(data, train), _samples(data, held)
        facts["sources"][name] = {"sha256": sha256, "tokens": len(train.tokens), "held_out_tokens": len(held.tokens)}
    several = "" not in sources
    plain, held = (MixtureSource(training), MixtureSource(held_out)) if several else (training[""], held_out[""])
    plain, spent = _graded(data, plain, tokenizer, facts)
    reading = reading_of(recipe, tokenizer, vocab, data.context, own=not isinstance(recipe.model, PretrainedTable))
    source = reading.source(plain)
    facts |= {"vocab": reading.vocab, "samples": len(plain), "held_out_samples": len(held)}
    if len(plain) < data.batch:
        only = next(iter(sources.values())) if len(sources) == 1 else None
        found = f"{len(plain)} windows of {data.context} tokens for training"
        expected = f"at least one batch of {data.batch}; more text, or a smaller data.batch or data.context"
        raise BadInput(_called(only) if only else "data", found + _held_out(data, only), expected)
    return Material(
        source=source,
        objective=reading.objective,
        objective_for=reading.objective_for,
        evaluators=reading.evaluators(recipe.evaluate, held, recipe.evaluate.limit or LIMIT),
        facts=facts,
        vocab=reading.vocab,
        tokenizer=reading.tokenizer,
        context=data.context,
        groups=getattr(source, "domains", None),
        group_names=tuple(getattr(source, "domain_names", ())),
        spent=spent,
    )


def sources_of(data: TextData) -> Mapping[str, TextSource]:
    """The data's sources by name; one of its own is called "". Raises BadInput for a folder of texts with a domain that has none."""
    if data.domains is None and data.text is not None and Path(data.text).is_dir():
        parts = parts_of(Path(data.text), "data.text")
        if parts:
            return {name: TextSource(text=str(Path(data.text) / name)) for name in parts}
    return data.domains or {"": data}


def _graded(data: TextData, source: Source, tokenizer: Tokenizer | None, facts: dict[str, Any]) -> tuple[Source, Ledger]:
    """The source with a difficulty for each of its samples where a scorer is named, and what that has cost."""
    spent = Ledger()
    if data.difficulty is None or data.difficulty == "length":
        return source, spent
    scorer = scorer_of(data.difficulty, "data.difficulty")
    if tokenizer is None:
        raise BadInput(
            "data.difficulty", "a scorer of texts for tokens without their tokenizer", "tokens whose folder holds tokenizer.json"
        )
    texts = ((f"sample {i}", {"text": tokenizer.decode(_text(source, i))}) for i in range(len(source)))
    facts["difficulty"] = scorer.facts
    named = {"domains": source.domains, "names": source.domain_names} if isinstance(source, Labelled) else {}
    return DescribedSource(source, difficulty=scorer.scores(texts, spent), **named), spent


def _text(source: Source, number: int) -> np.ndarray:
    """A sample's tokens without filling."""
    data = source.get(np.array([number]))
    tokens, documents = data["tokens"][0].numpy(), data.get("document_ids")
    return tokens if documents is None else tokens[documents[0].numpy() != PADDING]


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


def _check_documents(data: TextData, tokens: Any) -> None:
    """Raises BadInput for a text of one document where several are asked for. tokens: of the training part; few may be held out."""
    if data.documents != "joined" and (tokens.offsets is None or len(tokens.offsets) < 3):
        expected = "several: a corpus or tokens with documents, a folder of texts, or `separator` for a text"
        raise BadInput("data.documents", f"'{data.documents}' where there is one document", expected)


def _samples(data: TextData, tokens: Any) -> Source:
    """Windows over all documents, windows with document masks, or whole documents packed into rows."""
    if data.documents != "packed":
        if data.difficulty == "length":
            expected = "data.documents = 'packed'; or a scorer, './hard.py:words'"
            raise BadInput("data.difficulty", "'length' of windows, which are all alike", expected)
        return WindowSource(tokens, data.context, documents=data.documents == "masked")
    lengths = np.diff(tokens.offsets) if data.difficulty == "length" else None
    if not tokens.domain_names:
        return packed(tokens, data.context, difficulty=lengths)
    domains = np.asarray(tokens.document_domains)
    present = [k for k in range(len(tokens.domain_names)) if (domains == k).any()]
    names = tuple(tokens.domain_names[k] for k in present)
    return packed(tokens, data.context, domains=np.searchsorted(present, domains), names=names, difficulty=lengths)
