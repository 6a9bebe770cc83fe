"""Files of rows, read in order and in pieces: JSONL, Parquet, and folders that `datasets` wrote with save_to_disk.

Parquet and Arrow need pyarrow (extra `rows`); `datasets` itself is not needed. No row's code or pickle is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.data.jsonl import Row, parse_row
from etude.errors import BadInput

AT_ONCE = 1024
"""Rows of a Parquet or Arrow file in memory at a time."""
JSONL = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class RowFile:
    """name: as the user gave it. files: those that hold the rows, in order. form: "jsonl", "parquet" or "arrow"."""

    name: str
    files: tuple[Path, ...]
    form: str

    def where(self, number: int, field: str = "") -> str:
        """The place of a row in an error: lines and rows count from 1."""
        return f"{self.name}, {'line' if self.form == 'jsonl' else 'row'} {number}" + (f", field '{field}'" if field else "")

    def sha256(self) -> str:
        """Of all its files' bytes."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                while data := file.read(1 << 20):
                    digest.update(data)
        return digest.hexdigest()

    def rows(self) -> Iterator[tuple[int, Row]]:
        """(line or row number from 1, row). Raises BadInput naming the line for what is no JSON object, no UTF-8, or damaged."""
        if self.form == "jsonl":
            yield from self._lines()
            return
        number = 0
        for table in _batches(self):
            for row in table.to_pylist():
                number += 1
                yield number, {name: value for name, value in row.items() if value is not None}

    def _lines(self) -> Iterator[tuple[int, Row]]:
        with self.files[0].open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    found = f"a byte that is not UTF-8 (0x{line[error.start]:02x}, byte {error.start + 1} of the line)"
                    raise BadInput(self.where(number), found, "UTF-8 text") from None
                if text.strip():
                    yield number, parse_row(text, self.where(number))


def row_file(path: str | Path, where: str = "data.rows") -> RowFile:
    """Which kind of file it is. Raises BadInput where it is missing, of an unknown kind, or a folder without a split to train on."""
    place = Path(path).expanduser()
    if place.is_dir():
        return RowFile(str(path), _arrow_files(place, where), "arrow")
    if not place.exists():
        raise BadInput(where, f"{path}, which is not there", "a JSONL or Parquet file, or a folder of `datasets`")
    if place.suffix == ".parquet":
        return RowFile(str(path), (place,), "parquet")
    if place.suffix == ".txt":
        expected = "rows (.jsonl, .parquet); a recipe takes a text as `data.text`, with data.tokenizer = 'model' for a pretrained one"
        raise BadInput(where, f"{path}, a plain text", expected)
    if place.suffix not in JSONL:
        raise BadInput(where, f"{path}, a file of another kind", "a name that ends in .jsonl or .parquet, or a folder of `datasets`")
    return RowFile(str(path), (place,), "jsonl")


def _arrow_files(folder: Path, where: str) -> tuple[Path, ...]:
    """The Arrow files of one split: the folder's own, or those of its `train`."""
    splits = folder / "dataset_dict.json"
    if splits.exists():
        names = _json(splits).get("splits", [])
        if "train" not in names:
            raise BadInput(where, f"{folder} with the splits {', '.join(names) or 'none'}", "one called train, or the folder of one split")
        folder = folder / "train"
    if not (folder / "state.json").exists():
        raise BadInput(where, f"{folder}, a folder without state.json", "a folder that save_to_disk of `datasets` wrote")
    files = tuple(folder / str(entry.get("filename")) for entry in _json(folder / "state.json").get("_data_files", []))
    missing = next((path for path in files if not path.exists()), None)
    if missing is not None or not files:
        raise BadInput(where, f"{missing or folder}, {'which is not there' if missing else 'without files'}", "all files of the split")
    if _json(folder / "state.json").get("_indices_data_files"):
        raise BadInput(where, f"{folder} with a selection beside its rows", "one written after flatten_indices()")
    return files


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(str(path), "content that is no JSON", "a file that `datasets` wrote") from error
    return found if isinstance(found, dict) else {}


def _batches(rows: RowFile) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadInput(rows.name, "no pyarrow", "the package: pip install 'etude[rows]'") from None
    try:
        for path in rows.files:
            if rows.form == "parquet":
                with pyarrow.parquet.ParquetFile(path) as file:
                    yield from file.iter_batches(batch_size=AT_ONCE)
                continue
            with pyarrow.memory_map(str(path)) as source:
                for batch in _arrow_reader(source):
                    for start in range(0, batch.num_rows, AT_ONCE):
                        yield batch.slice(start, AT_ONCE)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadInput(rows.name, f"unreadable content ({' '.join(str(error).split())[:120]})", f"a {rows.form.title()} file") from error


def _arrow_reader(source: Any) -> Iterator[Any]:
    """`datasets` writes the stream format; older files have the other."""
    import pyarrow

    try:
        stream = pyarrow.ipc.open_stream(source)
    except pyarrow.ArrowInvalid:
        source.seek(0)
        reader = pyarrow.ipc.open_file(source)
        yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        return
    yield from stream
