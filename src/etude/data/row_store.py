"""Rows as memory-mapped tokens with a mask, made once and kept in the cache folder under the hash of what they were made from.

A folder holds `tokens.bin`, `said.bin` (one byte a token: 1 where the model says it; not for documents), `rows.bin` (int64 [R, 2]:
end of each row in tokens, its line in the file) and `header.json`. It is written under another name and renamed, so that a
folder with that name is complete. Memory stays flat: a few hundred rows are in it at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import processors

from etude.data.cards import cache_folder
from etude.data.chat import Rendered, Template, rendered
from etude.data.row_files import RowFile
from etude.data.row_kinds import kind_of, said
from etude.data.tokenizers import BytePairs, Tokenizer
from etude.data.tokens import dtype_for
from etude.data.word_cache import WordCache, word_cache
from etude.errors import BadInput, reason

FORMAT = 1
AT_ONCE, CHARACTERS = 1024, 1 << 22
"""Rows tokenised together, and how many characters they have at most, the last one's apart."""
FEW_CORES = 4
"""Up to so many, one thread that keeps words' ids is as fast as all threads of `tokenizers` (5.5 times a core, on 20 MB of English)."""


@dataclass(frozen=True)
class RowStore:
    """kind: of `row_kinds.COLUMNS`. tokens: [N] ids. said: [N] bool, or None for documents. offsets: [R + 1]; row r is
    `tokens[offsets[r]:offsets[r + 1]]`. lines: [R] where it stood. A preference is two rows, the chosen one first; a conversation is
    several where its template rewrites earlier turns (`chat.rendered`), one below the other."""

    file: RowFile
    kind: str
    vocab: int
    tokens: np.ndarray
    said: np.ndarray | None
    offsets: np.ndarray
    lines: np.ndarray
    sha256: str

    @property
    def rows_each(self) -> int:
        return 2 if self.kind == "preference" else 1

    @property
    def num_lines(self) -> int:
        """Rows of the file."""
        return int((np.diff(self.lines, prepend=0) != 0).sum())

    def __len__(self) -> int:
        """Samples: documents, conversations or pairs."""
        return len(self.lines) // self.rows_each


Around = tuple[int | None, int | None]
"""The ids before and after a text."""


class Encode(Protocol):
    """Rows -> (ids, said) of each."""

    def __call__(self, rows: Sequence[Rendered]) -> list[tuple[np.ndarray, np.ndarray]]: ...


class RowEncoder:
    """Texts as ids without special tokens but those that they spell; `begin` stands before a text that no template has rendered, `end`
    after it. Batches use all threads of `tokenizers`. masked: whether what is said is asked for."""

    def __init__(self, tokenizer: Tokenizer, end: int | None = None, *, begin: int | None = None, masked: bool = True) -> None:
        self.tokenizer, self.end, self.begin, self.masked = tokenizer, end, begin, masked
        self.inner: FastTokenizer | None = None
        self.words: WordCache | None = None
        if isinstance(tokenizer, BytePairs):
            self.inner = FastTokenizer.from_str(tokenizer.inner.to_str())
            self.inner.no_truncation()
            self.inner.no_padding()
            # Post-processing would add tokens, and cut white space off the places of tokens.
            self.inner.post_processor = processors.ByteLevel(trim_offsets=False)
            if not masked and (os.cpu_count() or 1) <= FEW_CORES:
                self.words = word_cache(self.inner)

    def __call__(self, rows: Sequence[Rendered]) -> list[tuple[np.ndarray, np.ndarray]]:
        return [self._closed(row, *pair) for row, pair in zip(rows, self._encoded(rows), strict=True)]

    def _encoded(self, rows: Sequence[Rendered]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        texts = [row.text for row in rows]
        if self.inner is None:
            for row in rows:
                yield self._in_pieces(row)
        elif not self.masked:
            found = [None if self.words is None else self.words(text) for text in texts]
            left = [text for text, ids in zip(texts, found, strict=True) if ids is None]
            encodings = iter(self.inner.encode_batch_fast(left, add_special_tokens=False))
            for ids in found:
                yield np.array(next(encodings).ids, dtype=np.uint32) if ids is None else ids, np.zeros(0, dtype=bool)
        else:
            for row, encoding in zip(rows, self.inner.encode_batch(texts, add_special_tokens=False), strict=True):
                ids = np.array(encoding.ids, dtype=np.uint32)
                places = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
                own = np.zeros(len(ids), dtype=bool)
                for start, end in row.spans:  # a token across the border holds something that is to be said
                    own |= (places[:, 1] > start) & (places[:, 0] < end)
                yield ids, own

    def _in_pieces(self, row: Rendered) -> tuple[np.ndarray, np.ndarray]:
        """For tokenizers whose tokens never cross a character's border."""
        ids, own, place = [], [], 0
        for start, end in (*row.spans, (len(row.text), len(row.text))):
            for text, is_own in ((row.text[place:start], False), (row.text[start:end], True)):
                ids.append(np.asarray(self.tokenizer.encode(text), dtype=np.uint32) if text else np.zeros(0, dtype=np.uint32))
                own.append(np.full(len(ids[-1]), is_own))
            place = end
        return np.concatenate(ids), np.concatenate(own)

    def _closed(self, row: Rendered, ids: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if row.closed:
            return ids, own
        if self.begin is not None and not (len(ids) and ids[0] == self.begin):
            ids, own = np.insert(ids, 0, self.begin), np.insert(own, 0, False) if self.masked else own
        if self.end is None or (len(ids) and ids[-1] == self.end):
            return ids, own
        return np.append(ids, np.uint32(self.end)), np.append(own, True) if self.masked else own


def stored(
    file: RowFile, tokenizer: Tokenizer, *, template: Template | None = None, begin: int | None = None, end: int | None = None
) -> RowStore:
    """The rows of a file as memory-mapped tokens. begin, end: the ids that stand around a text (templates write their own).

    Raises BadInput naming the file, the line and the field for what `row_kinds` and `chat` refuse; also for a file without rows.
    """
    digest = file.sha256()
    made_of = [FORMAT, digest, file.form, end, hashlib.sha256(tokenizer.to_json().encode()).hexdigest(), template.text if template else ""]
    made_of += [] if begin is None else [begin]
    folder = cache_folder() / "rows" / hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    if not (folder / "header.json").exists():
        _write(folder, file, tokenizer, template, (begin, end), digest)
    return _opened(folder, file)


def _opened(folder: Path, file: RowFile) -> RowStore:
    try:
        header = json.loads((folder / "header.json").read_text(encoding="utf-8"))
        tokens = np.asarray(np.memmap(folder / "tokens.bin", dtype=np.dtype(header["dtype"]).newbyteorder("<"), mode="r"))
        own = None if header["kind"] == "text" else np.asarray(np.memmap(folder / "said.bin", dtype=np.bool_, mode="r"))
        rows = np.asarray(np.memmap(folder / "rows.bin", dtype="<i8", mode="r")).reshape(-1, 2)
        if len(tokens) != header["num_tokens"] or len(rows) != header["num_rows"] or (own is not None and len(own) != len(tokens)):
            raise ValueError("files of another length")
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(str(folder), f"damaged rows ({error})", "what etude wrote there: remove the folder, it is made again") from error
    offsets = np.concatenate([[0], rows[:, 0]])
    return RowStore(file, header["kind"], header["vocab"], tokens, own, offsets, rows[:, 1], header["sha256"])


def _write(folder: Path, file: RowFile, tokenizer: Tokenizer, template: Template | None, around: Around, digest: str) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        try:
            header = _fill(temporary, file, tokenizer, template, around) | {"sha256": digest}
            with (temporary / "header.json").open("w", encoding="utf-8") as out:
                json.dump(header, out, indent=1)
                out.flush()
                os.fsync(out.fileno())
            if file.sha256() != digest:
                raise BadInput(file.name, "content that changes while it is read", "a file that nobody is writing")
            if not (folder / "header.json").exists():  # another process may have been quicker, and wrote the same
                os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if not (folder / "header.json").exists():
            found = reason(error)
            raise BadInput(str(folder), found, "a folder that can be written; $ETUDE_CACHE names another") from error


def _fill(folder: Path, file: RowFile, tokenizer: Tokenizer, template: Template | None, around: Around) -> dict[str, Any]:
    kind, encode, dtype = "", None, dtype_for(tokenizer.vocab)
    num_tokens = num_rows = 0
    with (folder / "tokens.bin").open("wb") as tokens, (folder / "said.bin").open("wb") as own, (folder / "rows.bin").open("wb") as ends:
        for kind, texts, lines in _batches(file, template):
            encode = encode or RowEncoder(tokenizer, around[1], begin=around[0], masked=kind != "text")
            pairs = encode(texts)
            lengths = np.array([len(ids) for ids, _ in pairs], dtype="<i8")
            tokens.write(np.concatenate([ids for ids, _ in pairs]).astype(dtype).tobytes())
            if kind != "text":
                own.write(np.concatenate([mask for _, mask in pairs]).tobytes())
            ends.write(np.stack([num_tokens + np.cumsum(lengths), np.array(lines, dtype="<i8")], 1).tobytes())
            num_tokens, num_rows = num_tokens + int(lengths.sum()), num_rows + len(pairs)
        for out in (tokens, own, ends):
            out.flush()
            os.fsync(out.fileno())
    if not num_rows:
        raise BadInput(file.name, "no rows", "at least one")
    return {"format": FORMAT, "kind": kind, "dtype": dtype.name, "vocab": tokenizer.vocab, "num_tokens": num_tokens, "num_rows": num_rows}


def _batches(file: RowFile, template: Template | None) -> Iterator[tuple[str, list[Rendered], list[int]]]:
    """(kind, rows as texts, their lines), `AT_ONCE` or `CHARACTERS` together. All rows are of the first one's kind."""
    kind, texts, lines, size = "", [], [], 0
    for number, row in file.rows():
        where = file.where(number)
        kind = kind or kind_of(row, where)
        for part in said(row, kind, where):
            some = rendered(part, template, where)
            if kind == "preference" and len(some) > 1:
                found = "an answer of several turns, which the chat template writes differently once more follows"
                raise BadInput(where, found, "answers of one turn, with the turns before it in the prompt")
            texts += some
            lines += [number] * len(some)
            size += sum(len(text.text) for text in some)
        if len(texts) >= AT_ONCE or size >= CHARACTERS:
            yield kind, texts, lines
            texts, lines, size = [], [], 0
    if texts:
        yield kind, texts, lines
