"""CSV files."""

import pytest
import torch

from etude.data.tables import read_table
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
