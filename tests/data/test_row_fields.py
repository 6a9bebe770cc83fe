"""One more field of users' rows, in JSONL and Parquet."""

import json

import numpy as np
import pytest

from etude.data.row_fields import labels, numbers
from etude.data.row_files import row_file
from etude.errors import BadInput

ROWS = [{"text": "a", "kind": "x", "n": 1}, {"text": "b", "kind": 7, "n": 2.5}, {"text": "c", "kind": "x", "n": -1}]


def jsonl(tmp_path, rows=ROWS, blank=""):
    path = tmp_path / "r.jsonl"
    path.write_text(blank.join(json.dumps(row) + "\n" for row in rows))
    return row_file(path)


def test_jsonl_with_empty_lines(tmp_path):
    file = jsonl(tmp_path, blank="\n")
    found = labels(file, "kind", "data.domain")
    assert found.names == ("x", "7")
    assert found.lines.tolist() == [1, 3, 5]
    assert found.at(np.array([5, 3, 1, 1])).tolist() == [0, 1, 0, 0]
    assert numbers(file, "n", "data.difficulty").values.tolist() == [1, 2.5, -1]


def test_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "n": [3, None]}), tmp_path / "r.parquet")
    file = row_file(tmp_path / "r.parquet")
    with pytest.raises(BadInput, match=r"r\.parquet, row 2, field 'n': found nothing, expected it in every row: data\.difficulty"):
        numbers(file, "n", "data.difficulty")


@pytest.mark.parametrize("value", [None, True, "1", [1], {"a": 1}])
def test_what_is_no_number(tmp_path, value):
    with pytest.raises(BadInput, match=r"line 2, field 'n'"):
        numbers(jsonl(tmp_path, [ROWS[0], ROWS[1] | {"n": value}]), "n", "data.difficulty")


@pytest.mark.parametrize("value", ["", "  ", 0.5, ["x"], "x" * 201])
def test_what_is_no_label(tmp_path, value):
    with pytest.raises(BadInput, match=r"line 2, field 'kind'"):
        labels(jsonl(tmp_path, [ROWS[0], ROWS[1] | {"kind": value}]), "kind", "data.domain")
