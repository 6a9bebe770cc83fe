"""Reading text that a user names, with errors that say what is wrong with it."""

from __future__ import annotations

from pathlib import Path

from etude.errors import BadInput


def read_text(path: Path) -> str:
    """The file as UTF-8 text. Raises BadInput where it is missing, empty, binary or not UTF-8 (with the byte's place)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(str(path), "no such file", "a text file") from error
    except OSError as error:
        raise BadInput(str(path), error.strerror or "an error", "a text file that can be read") from error
    if not data.strip():
        raise BadInput(str(path), "an empty file", "text")
    if b"\0" in data[:65536]:
        raise BadInput(str(path), f"binary data (a zero byte at {data.index(0)})", "UTF-8 text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(str(path), f"a byte that is not UTF-8 (0x{data[error.start]:02x} at {error.start})", "UTF-8 text") from error
