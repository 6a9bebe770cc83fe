"""Token corpora on disk: memory-mapped, so that memory stays flat however large they are.

A corpus is a folder of `tokens.bin` (uint8, 16 or 32, little-endian), `documents.bin` (int64 [D, 2]: end of each document
in tokens, its domain) and `header.json` (format, dtype, vocabulary, tokenizer, domains, counts, SHA-256 of both files).
It is written under a temporary name and renamed, so that a folder with a header is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from etude.data.splits import SHARES, document_ranges, token_ranges
from etude.errors import BadInput, one_of, reason

FORMAT = 1
DTYPES = ("uint8", "uint16", "uint32")


def dtype_for(vocab: int) -> np.dtype[Any]:
    """The smallest of the three types that holds ids below `vocab`."""
    if not 1 <= vocab <= 2**32:
        raise BadInput("vocab", repr(vocab), "a whole number from 1 to 2**32")
    return np.dtype(DTYPES[0] if vocab <= 2**8 else DTYPES[1] if vocab <= 2**16 else DTYPES[2]).newbyteorder("<")


class TokenCorpus:
    """Documents of token ids, one after another.

    tokens:  [N] ids below `vocab`, memory-mapped when opened from disk.
    offsets: [D + 1] int64; document d is `tokens[offsets[d]:offsets[d + 1]]`.
    domains: [D] int64 indices into `domain_names`; without domains all are 0 and there are no names.
    """

    def __init__(
        self,
        tokens: Any,
        offsets: Any = None,
        *,
        vocab: int,
        tokenizer: str = "byte",
        domains: Any = None,
        domain_names: Sequence[str] = (),
    ) -> None:
        self.tokens = np.asarray(tokens)
        self.offsets = np.array([0, len(self.tokens)]) if offsets is None else np.asarray(offsets, dtype=np.int64)
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.tokens) or (np.diff(self.offsets) < 0).any():
            found = f"offsets from {self.offsets[0]} to {self.offsets[-1]}"
            raise BadInput("corpus.offsets", found, f"rising ones from 0 to {len(self.tokens)}")
        self.vocab, self.tokenizer, self.domain_names = vocab, tokenizer, tuple(domain_names)
        self.document_domains = np.zeros(self.num_documents, np.int64) if domains is None else np.asarray(domains, dtype=np.int64)

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = False) -> TokenCorpus:
        """The corpus in `folder`; verify reads it all and compares the hashes.

        Raises BadInput where it is missing, of another format, truncated or, with `verify`, altered.
        """
        folder = Path(folder)
        header = read_header(folder)
        tokens = _mapped(folder / "tokens.bin", np.dtype(header["dtype"]).newbyteorder("<"), header["num_tokens"])
        documents = _mapped(folder / "documents.bin", np.dtype("<i8"), 2 * header["num_documents"]).reshape(-1, 2)
        if verify:
            for name, expected in header["sha256"].items():
                with (folder / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                        raise BadInput(str(folder / name), "content that does not match its SHA-256", f"{expected[:12]} as in header.json")
        return cls(
            tokens,
            np.concatenate([[0], documents[:, 0]]),
            vocab=header["vocab"],
            tokenizer=header["tokenizer"],
            domains=documents[:, 1],
            domain_names=header["domain_names"],
        )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        return len(self.offsets) - 1

    def document(self, number: int) -> np.ndarray:
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]

    def document_of(self, places: np.ndarray) -> np.ndarray:
        """The document that holds each token, of any shape of places."""
        return np.searchsorted(self.offsets, places, side="right") - 1

    def part(self, split: str, *, shares: Mapping[str, float] = SHARES, by: str = "documents") -> TokenCorpus:
        """One of the splits, without copying: a contiguous range of whole documents or, by="tokens", of tokens."""
        if by not in ("documents", "tokens"):
            raise one_of("by", by, ("documents", "tokens"))
        if split not in shares:
            raise one_of("split", split, shares)
        if by == "documents":
            first, end = document_ranges(self.offsets, shares)[split]
            a, b = int(self.offsets[first]), int(self.offsets[end])
        else:
            a, b = token_ranges(len(self), shares)[split]
            first, end = int(self.document_of(np.array(a))), int(self.document_of(np.array(b - 1))) + 1
        return TokenCorpus(
            self.tokens[a:b],
            np.clip(self.offsets[first : end + 1], a, b) - a,
            vocab=self.vocab,
            tokenizer=self.tokenizer,
            domains=self.document_domains[first:end],
            domain_names=self.domain_names,
        )

    @cached_property
    def sha256(self) -> str:
        """Of the tokens as they are on disk."""
        return hashlib.sha256(np.ascontiguousarray(self.tokens, dtype=dtype_for(self.vocab)).data).hexdigest()


class TokenWriter:
    """Writes a corpus document by document; what is in memory is one document.

    with TokenWriter(folder, vocab=256) as writer:
        writer.add(ids)
    An exception inside leaves nothing behind. Raises BadInput where the folder exists already, an id is not below `vocab`,
    a domain is unknown, or nothing was added.
    """

    def __init__(self, folder: str | Path, *, vocab: int, tokenizer: str = "byte", domain_names: Sequence[str] = ()) -> None:
        self.folder, self.vocab, self.tokenizer, self.domain_names = Path(folder), vocab, tokenizer, tuple(domain_names)
        self.dtype = dtype_for(vocab)
        if self.folder.exists():
            raise BadInput(str(folder), "something there already", "a new folder, so that nothing is overwritten")
        self._temporary = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.tmp")
        self.num_tokens = self.num_documents = 0

    def __enter__(self) -> TokenWriter:
        try:
            self._temporary.mkdir(parents=True)
            self._files = {name: (self._temporary / name).open("wb") for name in ("tokens.bin", "documents.bin")}
        except OSError as error:
            raise BadInput(str(self.folder), reason(error), "a folder that can be written") from error
        self._sums = {name: hashlib.sha256() for name in self._files}
        return self

    def add(self, ids: Any, domain: str = "") -> None:
        """One document. ids: [n] whole numbers from 0 to vocab - 1; an empty one is left out."""
        self.add_pieces([ids], domain)

    def add_pieces(self, pieces: Iterable[Any], domain: str = "") -> None:
        """One document that comes in pieces, so that only a piece is in memory."""
        if domain and domain not in self.domain_names:
            raise one_of(f"document {self.num_documents}", domain, self.domain_names)
        before = self.num_tokens
        for piece in pieces:
            ids = np.asarray(piece)
            if not len(ids):
                continue
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= self.vocab:
                raise BadInput(f"document {self.num_documents}", f"token {low if low < 0 else high}", f"ids from 0 to {self.vocab - 1}")
            self.num_tokens += len(ids)
            self._write("tokens.bin", ids.astype(self.dtype).tobytes())
        if self.num_tokens == before:
            return
        self.num_documents += 1
        number = self.domain_names.index(domain) if domain else 0
        self._write("documents.bin", np.array([self.num_tokens, number], dtype="<i8").tobytes())

    def _write(self, name: str, data: bytes) -> None:
        self._files[name].write(data)
        self._sums[name].update(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        if kind is None and not self.num_tokens:
            shutil.rmtree(self._temporary, ignore_errors=True)
            raise BadInput(str(self.folder), "no tokens", "at least one document")
        if kind is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            return
        header = {
            "format": FORMAT,
            "dtype": self.dtype.name,
            "vocab": self.vocab,
            "tokenizer": self.tokenizer,
            "domain_names": self.domain_names,
            "num_tokens": self.num_tokens,
            "num_documents": self.num_documents,
            "sha256": {name: digest.hexdigest() for name, digest in self._sums.items()},
        }
        with (self._temporary / "header.json").open("w", encoding="utf-8") as file:
            json.dump(header, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._temporary, self.folder)


def write_documents(folder: str | Path, texts: Iterable[str], tokenizer: Any) -> TokenCorpus:
    """Encodes texts one at a time into a corpus at `folder` and opens it. tokenizer: see `etude.data.tokenizers`."""
    with TokenWriter(folder, vocab=tokenizer.vocab, tokenizer=tokenizer.name) as writer:
        for text in texts:
            writer.add(tokenizer.encode(text))
    return TokenCorpus.open(folder)


def read_header(folder: Path) -> dict[str, Any]:
    """`header.json`, checked. Raises BadInput."""
    path = folder / "header.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(str(folder), "no header.json that can be read", "a token corpus written by etude") from error
    except ValueError as error:
        raise BadInput(str(path), "content that is not JSON", "the header of a token corpus") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("dtype") not in DTYPES:
        found = header.get("format") if isinstance(header, dict) else type(header).__name__
        raise BadInput(str(path), f"format {found!r}", f"a token corpus of format {FORMAT}")
    return header


def _mapped(path: Path, dtype: np.dtype[Any], count: int) -> np.ndarray:
    size = path.stat().st_size if path.exists() else 0
    if size != count * dtype.itemsize:
        raise BadInput(str(path), f"{size} bytes", f"{count * dtype.itemsize} as header.json says")
    # A plain array over the map: indexing the memmap class itself costs several times as much.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
