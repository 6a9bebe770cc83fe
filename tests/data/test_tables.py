"""CSV files and NPZ files."""

import numpy as np
import pytest
import torch

from etude.data.tables import read_arrays, read_table
from etude.errors import BadInput


def table(tmp_path, text, target="kind", **more):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    return read_table(path, target, **more)


def test_features_and_classes(tmp_path):
    read = table(tmp_path, 'a, b,kind\n1,2.5,red\n\n-3,"4e1",blue\n0,0,red\n')
    assert read.features == ("a", "b")
    assert read.classes == ("blue", "red")
    assert torch.equal(read.x, torch.tensor([[1, 2.5], [-3, 40], [0, 0]]))
    assert read.y.tolist() == [1, 0, 1]
    assert read.y.dtype == torch.int64


def test_a_number_to_predict_and_chosen_features(tmp_path):
    read = table(tmp_path, "a,b,y\n1,x,0.1\n3,y,5\n", "y", features=["a"], classify=False)
    assert torch.equal(read.x, torch.tensor([[1.0], [3.0]]))
    assert torch.equal(read.y, torch.tensor([0.1, 5.0]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,kind\n1,2,x\n1,two,x\n", r"t\.csv, line 3, column 'b': found 'two', expected a number"),
        ("a,b,kind\n1,,x\n", "line 2, column 'b': found nothing, expected a number"),
        ("a,b,kind\n1,inf,x\n", "column 'b': found 'inf', expected a finite number"),
        ("a,b,kind\n1,2\n", "line 2: found 2 fields, expected 3 as in line 1"),
        ("a,b,kind\n1,2,\n", "line 2, column 'kind': found nothing, expected a value"),
        ("a,b,kinds\n1,2,x\n", "found 'kind', expected a known name; did you mean 'kinds'"),
        ("a,a,kind\n1,2,x\n", "line 1: found column 'a' twice"),
        ("kind\nx\n", "found only 'kind', expected at least one more column"),
        ("a,kind\n", "found a header and no rows"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    with pytest.raises(BadInput, match=message):
        table(tmp_path, text)


def test_unknown_features(tmp_path):
    with pytest.raises(BadInput, match="did you mean 'length'"):
        table(tmp_path, "length,kind\n1,x\n", features=["lenght"])


def test_arrays_by_name(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, size=np.arange(4), shape=np.ones((4, 2)), kind=np.array(["b", "a", "b", "b"]))
    table = read_arrays(path, "kind")
    assert table.features == ("size", "shape[0]", "shape[1]")
    assert table.x.tolist() == [[float(i), 1.0, 1.0] for i in range(4)]
    assert (table.classes, table.y.tolist()) == (("a", "b"), [1, 0, 1, 1])
    number = read_arrays(path, "size", features=["shape"], classify=False)
    assert number.y.tolist() == [0.0, 1.0, 2.0, 3.0]
    for given, message in (
        ({"target": "knd"}, "did you mean 'kind'"),
        ({"target": "kind", "features": ["kind"]}, "features: found 'kind', expected one of size, shape"),
        ({"target": "size", "features": ["kind"]}, "array 'kind': found values of <U1, expected numbers"),
        ({"target": "kind", "classify": False}, "array 'kind': found values of <U1"),
        ({"target": "shape"}, r"array 'shape': found shape \(4, 2\), expected one value a row"),
    ):
        with pytest.raises(BadInput, match=message):
            read_arrays(path, **given)
    np.savez(path, y=np.arange(4), x=np.array([1.0, np.nan, 1, 1]))
    with pytest.raises(BadInput, match="array 'x': found a number that is not finite"):
        read_arrays(path, "y")
    np.savez(path, y=np.arange(4), x=np.arange(3))
    with pytest.raises(BadInput, match=r"array 'x': found shape \(3,\), expected 4 rows as 'y'"):
        read_arrays(path, "y")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_files_that_are_no_arrays(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="a file that cannot be read"):
        read_arrays(path, "y")
    with pytest.raises(BadInput, match="no such file"):
        read_arrays(tmp_path / "none.npz", "y")
