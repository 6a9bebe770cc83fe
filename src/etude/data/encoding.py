"""A text file as memory-mapped tokens, made once and kept in the cache folder under the hash of what it was made from.

Memory stays flat however large the text: it is read, encoded and written in pieces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from etude.data.cards import cache_folder
from etude.data.text import TextFile, TextFolder, parted
from etude.data.tokenizers import BytePairs, Bytes, Characters, Tokenizer, load, save
from etude.data.tokens import TokenCorpus, TokenWriter
from etude.errors import BadInput, one_of, reason

PARTS = ("train", "held-out")


def text_tokens(path: str | Path) -> TokenCorpus:
    """A whole text file as memory-mapped bytes. Raises BadInput as `read_text`."""
    return encoded(TextFile.scan(path), Bytes())[0]


def encoded(text: TextFile, tokenizer: Tokenizer, *, held_out: float = 0.0, separator: str = "") -> tuple[TokenCorpus, TokenCorpus | None]:
    """A text as (training tokens, held-out tokens); without `held_out` the second is None.

    held_out:  share of the characters, from the end; with a separator, or of a folder's files, of whole documents: those that begin in
               that share.
    separator: what stands between two documents; without one the text is one document.
    Raises BadInput where a part would be empty or the file changes meanwhile.
    """
    made_of = f"{text.sha256} {held_out!r} {separator!r} {tokenizer.to_json()}"
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    folders = [cache_folder() / "tokens" / f"text-{digest}-{part}" for part in PARTS[: 2 if held_out else 1]]
    for number, folder in enumerate(folders):
        if not folder.exists():
            _write(folder, text, tokenizer, number, held_out, separator)
    opened = [TokenCorpus.open(folder) for folder in folders]
    return opened[0], opened[1] if held_out else None


def _write(folder: Path, text: TextFile, tokenizer: Tokenizer, part: int, held_out: float, separator: str) -> None:
    try:
        with TokenWriter(folder, vocab=tokenizer.vocab, tokenizer=tokenizer.name) as writer:
            for document in documents_of(text, part, held_out, separator):
                writer.add_pieces(tokenizer.encode(piece) for piece in document)
            if TextFile.scan(text.path).sha256 != text.sha256:
                raise BadInput(str(text.path), "content that changes while it is read", "a file that nobody is writing")
    except BadInput as error:
        if folder.exists():  # another process was quicker, and wrote the same
            return
        if error.where == str(folder) and error.found == "no tokens":
            raise BadInput(str(text.path), f"nothing for the part '{PARTS[part]}'", "a longer text, or another data.held_out") from None
        raise


def documents_of(text: TextFile, part: int, held_out: float, separator: str) -> Iterator[Iterator[str]]:
    """The documents, each in pieces, of the training part (0) or the held-out part (1)."""
    cut = int(text.characters * (1 - held_out))
    if isinstance(text, TextFolder):  # few files: at least the last is measured on
        cut = min(cut, text.characters - text.files[-1].characters)
    for before, pieces in text.documents(separator):
        if separator or text.whole:
            if (before >= cut) == bool(part) or not held_out:
                yield pieces
            continue
        first, rest = parted(pieces, cut)
        if part:
            for _ in first:
                pass
        yield rest if part else first


def tokenizer_for(texts: Sequence[TextFile], kind: str, vocab: int, *, held_out: float = 0.0, separator: str = "") -> Tokenizer:
    """One tokenizer for several texts: byte, character (all of theirs) or bpe of `vocab` ids (learnt on the training parts)."""
    if kind == "byte":
        return Bytes()
    if kind == "character":
        # Characters must cover what is measured too; a byte-pair vocabulary can encode anything.
        return Characters("".join(text.alphabet() for text in texts))
    if kind != "bpe":
        raise one_of("tokenizer", kind, ("byte", "character", "bpe"))
    made_of = f"{vocab} {held_out!r} {separator!r} {' '.join(text.sha256 for text in texts)}"
    path = cache_folder() / "tokens" / f"bpe-{vocab}-text-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.json"
    if path.exists():
        return load(path)
    pieces = (piece for text in texts for document in documents_of(text, 0, held_out, separator) for piece in document)
    made = BytePairs.train(pieces, vocab)
    try:
        save(made, path)
    except OSError as error:
        raise BadInput(str(path), reason(error), "a folder that can be written; $ETUDE_CACHE names another") from error
    return made
