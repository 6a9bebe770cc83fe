"""Reading text that a user names, with errors that say what is wrong with it; in pieces, so that memory stays flat."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from etude.errors import BadInput, reason

READ = 1 << 18
"""Bytes in memory at a time."""
_SAFE = re.compile(r"(?<=\S)\n(?=\S)")


def read_text(path: Path) -> str:
    """The whole file as UTF-8 text. Raises BadInput where it is missing, empty, binary or not UTF-8 (with the byte's place)."""
    text = "".join(text_pieces(path))
    if not text.strip():
        raise BadInput(str(path), "an empty file", "text")
    return text


def text_pieces(path: Path, size: int = READ) -> Iterator[str]:
    """The file's text in pieces of about `size` bytes. Raises BadInput as `read_text`; an empty file has no pieces.

    Every byte is looked at: a zero byte or an invalid one is named by its place however late it comes.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0  # bytes before this block
    for data in _blocks(path, size):
        if (at := data.find(b"\0")) >= 0:
            raise BadInput(str(path), f"binary data (a zero byte at {done + at})", "UTF-8 text")
        yield _decoded(decoder, data, path, done)
        done += len(data)
    yield _decoded(decoder, b"", path, done, final=True)


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while data := file.read(size):
                yield data
    except FileNotFoundError as error:
        raise BadInput(str(path), "no such file", "a text file") from error
    except OSError as error:
        raise BadInput(str(path), reason(error), "a text file that can be read") from error


def _decoded(decoder: codecs.IncrementalDecoder, data: bytes, path: Path, done: int, final: bool = False) -> str:
    held = len(decoder.getstate()[0])
    try:
        return decoder.decode(data, final)
    except UnicodeDecodeError as error:
        found = f"a byte that is not UTF-8 (0x{error.object[error.start]:02x} at {done - held + error.start})"
        raise BadInput(str(path), found, "UTF-8 text") from error


@dataclass(frozen=True)
class TextFile:
    """What one look at a whole text file tells. characters: their number."""

    path: Path
    sha256: str
    characters: int
    whole: bool = False
    """Whether its documents stay whole without a separator too."""

    @classmethod
    def scan(cls, path: str | Path) -> TextFile:
        """Reads it once, in pieces. Raises BadInput as `read_text`. A folder is a `TextFolder`."""
        path = Path(path)
        if path.is_dir():
            return TextFolder.of(path)
        digest, characters, blank = hashlib.sha256(), 0, True
        for piece in text_pieces(path):
            digest.update(piece.encode())
            characters += len(piece)
            blank = blank and not piece.strip()
        if blank:
            raise BadInput(str(path), "an empty file", "text")
        return cls(path, digest.hexdigest(), characters)

    def alphabet(self) -> str:
        """The distinct characters, sorted: another look at the file."""
        found: set[str] = set()
        for piece in text_pieces(self.path):
            found.update(piece)
        return "".join(sorted(found))

    def documents(self, separator: str = "") -> Iterator[tuple[int, Iterator[str]]]:
        """(the number of characters before it, its pieces) of each document; all is one without a separator.

        A piece ends where a byte-pair encoder starts anew (one line end between two visible characters), so that encoding
        pieces gives the tokens of the whole; a quarter of a megabyte without such a place is cut at its end. The pieces of one document
        are to be used up before the next is asked for. With a separator, a document is in memory at once.
        """
        if not separator:
            yield 0, _cut_safely(text_pieces(self.path))
            return
        before, kept = 0, ""
        for piece in text_pieces(self.path):
            *whole, kept = (kept + piece).split(separator)
            for document in whole:
                yield before, iter([document])
                before += len(document) + len(separator)
        yield before, iter([kept])


ENDINGS = (".txt", ".md", ".text")


def texts_in(folder: Path) -> list[Path]:
    """The text files below a folder, by path; hidden ones are left out."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def parts_of(folder: Path, where: str) -> tuple[str, ...]:
    """The folders inside, each of which holds the texts of one domain; empty where the texts lie in the folder itself.

    Raises BadInput where there are both, or a folder without texts.
    """
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    beside = [p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and p.is_file()]
    if inside and beside:
        raise BadInput(where, f"{beside[0]} beside the folder {inside[0].name}", "texts, or a folder of texts for each domain")
    empty = next((p for p in inside if not texts_in(p)), None)
    if empty is not None or not (inside or beside):
        raise BadInput(where, f"{empty or folder}, a folder without texts", f"files that end in {', '.join(ENDINGS)}")
    return tuple(p.name for p in inside)


@dataclass(frozen=True)
class TextFolder(TextFile):
    """The text files below a folder, in the order of their paths, each a document (or several, with a separator)."""

    files: tuple[TextFile, ...] = ()
    whole: bool = True

    @classmethod
    def of(cls, path: Path) -> TextFolder:
        """Reads every file once. Raises BadInput as `read_text` for one of them, and for a folder without texts."""
        files = tuple(TextFile.scan(p) for p in texts_in(path))
        if not files:
            raise BadInput(str(path), "a folder without texts", f"files that end in {', '.join(ENDINGS)}")
        digest = hashlib.sha256("".join(f"{f.path.relative_to(path)} {f.sha256}\n" for f in files).encode())
        return cls(path, digest.hexdigest(), sum(f.characters for f in files), files=files)

    def alphabet(self) -> str:
        return "".join(sorted({c for file in self.files for c in file.alphabet()}))

    def documents(self, separator: str = "") -> Iterator[tuple[int, Iterator[str]]]:
        done = 0
        for file in self.files:
            for before, pieces in file.documents(separator):
                yield done + before, pieces
            done += file.characters


def _cut_safely(pieces: Iterator[str]) -> Iterator[str]:
    kept = ""
    for piece in pieces:
        text = kept + piece
        cut = _last_safe(text, max(0, len(text) - READ // 16)) or (_last_safe(text, 0) or len(text) if len(text) > READ else 0)
        if cut:
            yield text[:cut]
        kept = text[cut:]
    if kept:
        yield kept


def _last_safe(text: str, start: int) -> int:
    return max((found.end() for found in _SAFE.finditer(text, start)), default=0)


def parted(pieces: Iterator[str], first: int) -> tuple[Iterator[str], Iterator[str]]:
    """The pieces of the first `first` characters and of the rest; the former are to be used up before the latter."""
    rest: list[str] = []

    def head() -> Iterator[str]:
        left = first
        for piece in pieces:
            if len(piece) > left:
                rest.append(piece[left:])
                piece = piece[:left]
            left -= len(piece)
            if piece:
                yield piece
            if not left:
                return

    def tail() -> Iterator[str]:
        yield from rest
        yield from pieces

    return head(), tail()
