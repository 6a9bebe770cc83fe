import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.engine import checkpoint
from etude.errors import BadInput

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=5))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@given(TREES)
def test_any_plain_state_comes_back_equal(tree):
    tensors: dict = {}
    back = checkpoint.unpack(json.loads(json.dumps(checkpoint.pack(tree, tensors))), tensors)
    assert back == tree


def test_tensors_arrays_and_shared_storage_come_back(tmp_path):
    weight = torch.randn(3, 4)
    state = {"a": weight, "tied": weight, "part": weight[1:], "n": np.arange(3), "keys": {(1, "x"): 2}, "none": torch.empty(0)}
    back = checkpoint.load(checkpoint.save(tmp_path, 7, state))
    assert torch.equal(back["a"], weight)
    assert torch.equal(back["tied"], weight)
    assert torch.equal(back["part"], weight[1:])
    assert (back["n"] == np.arange(3)).all()
    assert back["keys"] == {(1, "x"): 2}
    assert back["none"].numel() == 0


def test_refuses_what_it_cannot_store(tmp_path):
    with pytest.raises(TypeError, match="state at '/f' is a function"):
        checkpoint.save(tmp_path, 1, {"f": lambda: 0})


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "COMMIT.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, file, damage):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"w": torch.full((50,), float(step))})
    path = tmp_path / "step-000000002" / file
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[: len(data) // 2] if damage == "truncate" else data)
    found, passed = checkpoint.latest(tmp_path)
    assert found.name == "step-000000001"
    assert passed[0].startswith("step-000000002: ")
    with pytest.raises(BadInput, match="a complete checkpoint whose checksums match"):
        checkpoint.load(tmp_path / "step-000000002")


def test_keeps_the_last_two_and_clears_half_written_ones(tmp_path):
    (tmp_path / ".writing-000000001-1").mkdir()
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, {"x": step})
    assert sorted(os.listdir(tmp_path)) == ["step-000000002", "step-000000003"]


def test_nothing_to_resume_from_is_said(tmp_path):
    with pytest.raises(BadInput, match="no checkpoint"):
        checkpoint.latest(tmp_path)
