import math
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.evidence import toml

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
scalar = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), text)
value = st.recursive(scalar, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)), max_leaves=8)


@given(st.dictionaries(text, value, max_size=4))
@settings(max_examples=60, deadline=None, database=None)
def test_what_is_written_reads_back(table):
    assert tomllib.loads(toml.dumps(table)) == table


def test_layout():
    table = {"a": 1, "t": {"x": None, "y": [1, 2]}, "rows": [{"n": 1.5}, {"n": 2.0, "sub": {"k": "v"}}], "odd key": "a\nb"}
    assert toml.dumps(table) == (
        "a = 1\n\"odd key\" = '''\na\nb'''\n\n[t]\ny = [1, 2]\n\n[[rows]]\nn = 1.5\n\n[[rows]]\nn = 2.0\n\n[rows.sub]\nk = \"v\"\n"
    )


def test_numbers_that_are_not_finite():
    back = tomllib.loads(toml.dumps({"a": math.inf, "b": -math.inf, "c": math.nan}))
    assert (back["a"], back["b"]) == (math.inf, -math.inf)
    assert math.isnan(back["c"])


def test_what_it_cannot_say():
    with pytest.raises(TypeError, match="TOML: object cannot be written"):
        toml.dumps({"a": object()})
