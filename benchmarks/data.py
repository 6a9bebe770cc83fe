"""Rows of JSONL, tokenised and packed: etude against `datasets.map` with the same fast tokenizer.

    python benchmarks/data.py [--json] [--megabytes N] [--repeats N]

Both read the file, tokenise in batches, append the end token, pack into rows of 1,025 tokens and leave a memory-mapped result on disk.
etude packs whole documents by best fit, the peer joins and cuts them as transformers' examples do, which is less work. Prints the
peer's time over etude's, the median over repeats of pairs run in turn; both begin without a cache. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import datasets
import transformers

from etude.data.cards import card
from etude.data.packing import PackedSource
from etude.data.row_files import row_file
from etude.data.row_store import stored
from etude.data.tokenizers import BytePairs

CONTEXT = 1024
VOCAB = 4096
DOCUMENT = 3000
"""Characters of a document."""


def write(path: Path, megabytes: float) -> str:
    """A packaged corpus again and again, as rows; returns its text."""
    text = card("sample").path.read_text(encoding="utf-8")
    pieces = [text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT)]
    with path.open("w", encoding="utf-8") as out:
        number = 0
        while out.tell() < megabytes * 1e6:
            out.write(json.dumps({"text": f"{number}. {pieces[number % len(pieces)]}"}, ensure_ascii=False) + "\n")
            number += 1
    return text


def with_etude(path: Path, tokenizer: BytePairs, cache: Path) -> int:
    os.environ["ETUDE_CACHE"] = str(cache)
    return len(PackedSource(stored(row_file(path), tokenizer, end=0), CONTEXT))


def with_datasets(path: Path, tokenizer: Any, cache: Path) -> int:
    def encoded(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"input_ids": [[*row, 0] for row in ids]}

    def packed(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = [i for row in batch["input_ids"] for i in row]
        return {"input_ids": [joined[start : start + CONTEXT + 1] for start in range(0, len(joined), CONTEXT + 1)]}

    rows = datasets.Dataset.from_json(str(path), cache_dir=str(cache))
    rows = rows.map(encoded, batched=True, remove_columns=rows.column_names).map(packed, batched=True)
    return len(rows)


def timed(run: Callable[[Path, Any, Path], int], path: Path, tokenizer: Any) -> float:
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        run(path, tokenizer, Path(cache))
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        ours = BytePairs.train(write(path, arguments.megabytes), VOCAB)
        theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=ours.inner)
        pairs = [(timed(with_etude, path, ours), timed(with_datasets, path, theirs)) for _ in range(arguments.repeats + 1)][1:]
    ratio = round(statistics.median(peer / own for own, peer in pairs), 3)
    if arguments.json:
        print(json.dumps({"ratios": {"datasets": ratio}}))
        return
    for own, peer in pairs:
        print(f"etude {arguments.megabytes / own:6.1f} MB/s    datasets {arguments.megabytes / peer:6.1f} MB/s")
    print(f"datasets     {ratio:.3f}")


if __name__ == "__main__":
    main()
