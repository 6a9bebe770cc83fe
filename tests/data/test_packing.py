"""Packing documents into rows."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.packing import PADDING, PackedSource, best_fit, cut, packed
from etude.data.tokens import TokenCorpus
from etude.errors import BadInput


def corpus_of(lengths):
    # Token = place in the corpus, so that a row says where each of its tokens came from.
    return TokenCorpus(np.arange(sum(lengths)), np.cumsum([0, *lengths]), vocab=2**16)


def test_long_documents_are_cut_with_one_token_shared():
    documents, starts, lengths = cut(np.array([7, 1, 3, 4]), 4)
    assert documents.tolist() == [0, 0, 2, 3]
    assert starts.tolist() == [0, 3, 0, 0]
    assert lengths.tolist() == [4, 4, 3, 4]


def test_best_fit_by_hand():
    # Rows of 10: 7 and 3 fill one; 6 leaves 4, taken by 4; 2 opens a third.
    assert best_fit(np.array([3, 7, 6, 4, 2]), 10).tolist() == [0, 0, 1, 1, 2]


def test_rows_by_hand():
    source = PackedSource(corpus_of([3, 2]), context=5)
    assert len(source) == 1
    row = source.get(np.array([0]))
    assert row["tokens"].tolist() == [[0, 1, 2, 3, 4, 0]]
    assert row["document_ids"].tolist() == [[0, 0, 0, 1, 1, PADDING]]
    assert row["loss_mask"].tolist() == [[True, True, False, True, False]]
    assert source.share_filled == pytest.approx(5 / 6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=25).filter(lambda n: max(n) > 1), st.integers(1, 12), st.randoms())
def test_every_target_comes_exactly_once(lengths, context, random):
    corpus = corpus_of(lengths)
    source = PackedSource(corpus, context)
    ids = list(range(len(source)))
    random.shuffle(ids)
    data = source.get(np.array(ids))
    tokens, documents, mask = (data[k].numpy() for k in ("tokens", "document_ids", "loss_mask"))
    pairs = sorted(zip(tokens[:, :-1][mask].tolist(), tokens[:, 1:][mask].tolist(), strict=True))
    expected = sorted((i - 1, i) for a, b in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True) for i in range(a + 1, b))
    assert pairs == expected
    # A run of one id within a row is consecutive text of one document, and each id is one run.
    for row, ids_of_row in zip(tokens, documents, strict=True):
        for number in set(ids_of_row.tolist()) - {PADDING}:
            places = np.flatnonzero(ids_of_row == number)
            assert (np.diff(places) == 1).all()
            assert (np.diff(row[places]) == 1).all()
            assert len(set(corpus.document_of(row[places]))) == 1


def test_no_target_anywhere():
    with pytest.raises(BadInput, match="3 documents of fewer than 2 tokens"):
        PackedSource(corpus_of([1, 1, 1]), 4)


def test_only_the_chosen_documents():
    source = PackedSource(corpus_of([5, 4, 6, 3]), 7, documents=np.array([1, 3]))
    assert len(source) == 1
    assert source.get(np.array([0]))["tokens"][0].tolist() == [5, 6, 7, 8, 15, 16, 17, 0]


def test_rows_hold_documents_of_one_domain_and_about_one_difficulty():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 200)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    corpus = SimpleNamespace(tokens=np.repeat(np.arange(200), lengths), offsets=offsets, vocab=200)
    domains, difficulty, taken = rng.integers(0, 2, 200), rng.normal(size=200), np.arange(0, 200, 2)
    source = packed(corpus, 24, documents=taken, domains=domains[taken], names=("a", "b"), difficulty=difficulty[taken])
    data = source.get(np.arange(len(source)))
    seen, spread = set(), []
    for row, owners in enumerate(data["document_ids"].numpy()):
        tokens = data["tokens"][row].numpy()[owners >= 0]
        assert set(domains[tokens].tolist()) == {int(source.domains[row])}
        assert source.difficulty[row] == pytest.approx(difficulty[tokens].mean())
        seen |= set(tokens.tolist())
        spread.append(np.ptp(difficulty[tokens]))
    assert seen == {d for d in taken if lengths[d] > 1}
    assert max(spread) < 0.5 * np.ptp(difficulty)
    assert type(packed(corpus, 24)) is PackedSource
    with pytest.raises(BadInput, match="nothing of two tokens or more in the domain 'b'"):
        packed(SimpleNamespace(tokens=np.arange(4), offsets=np.array([0, 3, 4])), 24, domains=[0, 1], names=("a", "b"))
