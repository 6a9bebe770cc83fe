"""Sources of samples."""

import numpy as np
import pytest
import torch

from etude.data.sources import MappedSource, MixtureSource, SubsetSource, TensorSource, WindowSource
from etude.data.tokens import TokenCorpus
from etude.engine.protocols import Labelled
from etude.errors import BadInput


def test_windows_share_one_token_and_predict_all_but_the_first():
    source = WindowSource(np.arange(11, dtype=np.uint8), 3)
    assert len(source) == 3
    data = source.get(np.array([2, 0]))
    assert data["tokens"].tolist() == [[6, 7, 8, 9], [0, 1, 2, 3]]
    assert data["tokens"].dtype == torch.int64
    assert set(data) == {"tokens"}
    assert len(WindowSource(np.arange(10), 3)) == 3  # the last window may end with the last token


def test_windows_know_their_documents_and_domains():
    corpus = TokenCorpus(np.arange(10, dtype=np.uint8), [0, 4, 10], vocab=256, domains=[1, 0], domain_names=("a", "b"))
    source = WindowSource(corpus, 3, documents=True)
    assert source.get(np.array([1]))["document_ids"].tolist() == [[0, 1, 1, 1]]
    assert isinstance(source, Labelled)
    assert source.domains.tolist() == [1, 1, 0]
    assert not isinstance(WindowSource(np.arange(10), 3), Labelled)
    given = WindowSource(np.arange(10), 3, document_ids=np.arange(10) // 5)
    assert given.get(np.array([1]))["document_ids"].tolist() == [[0, 0, 1, 1]]


def test_bad_windows():
    with pytest.raises(BadInput, match="data: found 3 tokens, expected at least one window of 4"):
        WindowSource(np.arange(3), 3)
    with pytest.raises(BadInput, match="found token 9, expected ids from 0 to 8"):
        WindowSource(np.arange(10), 3, vocab=9).get(np.array([2]))
    with pytest.raises(BadInput, match="found token -1"):
        WindowSource(np.arange(-1, 9), 3, vocab=9).get(np.array([0]))
    with pytest.raises(BadInput, match="one dimension of whole numbers"):
        WindowSource(np.zeros(9), 3)
    with pytest.raises(BadInput, match="tokens without document offsets"):
        WindowSource(np.arange(10), 3, documents=True)


def test_tensors_by_name():
    source = TensorSource(x=np.zeros((4, 2)), y=np.array([0, 1, 2, 3], dtype=np.uint8))
    data = source.get(np.array([3, 1]))
    assert data["x"].dtype == torch.float32
    assert data["y"].dtype == torch.int64
    assert data["y"].tolist() == [3, 1]
    kept = torch.zeros(4, dtype=torch.float64)
    assert TensorSource(x=kept).data["x"] is kept
    with pytest.raises(BadInput, match="x of 4 rows, y of 3 rows, expected one number of rows"):
        TensorSource(x=np.zeros(4), y=np.zeros(3))
    with pytest.raises(BadInput, match=r"data\.x: found \['a', 'b'\] that is no array"):
        TensorSource(x=["a", "b"])
    with pytest.raises(BadInput, match="found no rows"):
        TensorSource(x=np.zeros((0, 3)))


def test_rows_that_hold_nan_or_infinity_are_named():
    x = np.zeros((3_000_000, 3), np.float32)  # more than one look's worth
    source = TensorSource(x=x, y=[0] * len(x))
    source.require_finite(("x", "y", "weights"))
    for row in (2, 5, 1_500_000, 2_000_000, 2_999_999):
        x[row, row % 3] = np.nan if row % 2 else -np.inf
    named = "rows 2, 5, 1500000, 2000000 and 2999999 "
    with pytest.raises(BadInput, match=f"^data.x: found NaN or infinity in {named}.from 0., expected finite numbers"):
        source.require_finite(("y", "x"))
    x[[7, 8]] = np.nan
    with pytest.raises(BadInput, match="in rows 2, 5, 7, 8, 1500000 and 2 more "):
        source.require_finite(("x",))
    with pytest.raises(BadInput, match="data.y: found NaN or infinity in row 1 "):
        TensorSource(x=[1, 2], y=[0.0, 1e300]).require_finite(("y",))  # infinite in single precision


def test_a_mixture_gives_what_its_parts_give():
    parts = {"a": TensorSource(x=np.arange(3.0)), "b": TensorSource(x=np.arange(10.0, 15.0))}
    source = MixtureSource(parts)
    assert len(source) == 8
    assert source.get(np.array([7, 0, 3, 2]))["x"].tolist() == [14, 0, 10, 2]
    assert source.domains.tolist() == [0] * 3 + [1] * 5
    assert tuple(source.domain_names) == ("a", "b")
    assert isinstance(source, Labelled)
    with pytest.raises(BadInput, match="found no domains"):
        MixtureSource({})


def test_a_users_data_set():
    samples = [(np.full(2, i, dtype=np.float64), i % 2) for i in range(5)]
    data = MappedSource(samples).get(np.array([4, 1]))
    assert data["x"].tolist() == [[4, 4], [1, 1]]
    assert data["y"].tolist() == [0, 1]
    with pytest.raises(BadInput, match=r"sample 1: found x \(3,\), expected x \(2,\) as in sample 0"):
        MappedSource([torch.zeros(2), torch.zeros(3)]).get(np.array([0, 1]))
    with pytest.raises(BadInput, match="samples of 3 values"):
        MappedSource([(1, 2, 3)]).get(np.array([0]))
    with pytest.raises(BadInput, match="an empty data set"):
        MappedSource([])


def test_a_subset_keeps_domains():
    whole = MixtureSource({"a": TensorSource(x=np.arange(3.0)), "b": TensorSource(x=np.arange(10.0, 13.0))})
    part = SubsetSource(whole, [5, 1])
    assert (len(part), part.domains.tolist(), tuple(part.domain_names)) == (2, [1, 0], ("a", "b"))
    assert part.get(np.array([0, 1, 0]))["x"].tolist() == [12.0, 1.0, 12.0]
    with pytest.raises(BadInput, match="no samples"):
        SubsetSource(whole, [])
