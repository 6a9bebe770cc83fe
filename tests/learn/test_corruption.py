"""Span corruption, infilling and masking: invertible, of the right share, inside documents, and without a leak of the answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.engine.protocols import Batch
from etude.engine.streams import initialise, numpy_rng
from etude.errors import BadInput
from etude.learn.corruption import (
    SPARE_BYTES,
    Infilling,
    Marks,
    MaskedLM,
    MiddleMarks,
    SpanCorruption,
    corrupted,
    infill_prompt,
    infilling_row,
    longest_text,
    random_spans,
    restored,
)
from etude.nn.transformer import Transformer, TransformerConfig

MARKS = Marks(spans=tuple(range(40, 60)), separator=60, end_of_text=61, end_of_span=62)


def model(vocab=64):
    return initialise(Transformer(TransformerConfig(vocab=vocab, width=16, depth=2, heads=2, context=64)), 0)


def batch(rows=3, length=33, key=7, documents=None):
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, 40, (rows, length)))
    data = {"tokens": tokens} | ({} if documents is None else {"document_ids": documents})
    return Batch(data, np.arange(rows), key=key)


@settings(max_examples=200, deadline=None)
@given(length=st.integers(2, 300), ratio=st.floats(0.01, 0.9), mean=st.floats(1, 9), seed=st.integers(0, 9_999))
def test_spans_are_apart_in_order_and_of_the_share_asked_for(length, ratio, mean, seed):
    spans = random_spans(length, ratio, mean, np.random.default_rng(seed))
    starts, ends = spans.T
    noise = min(max(round(length * ratio), 1), length - 1)
    assert (ends - starts).sum() == noise
    assert (ends > starts).all()
    assert starts[0] >= 1
    assert (starts[1:] > ends[:-1]).all()
    assert ends[-1] <= length
    assert len(spans) == max(1, min(round(noise / mean), noise, length - noise))


@settings(max_examples=100, deadline=None)
@given(length=st.integers(2, 120), ratio=st.floats(0.05, 0.5), seed=st.integers(0, 9_999))
def test_what_is_corrupted_can_be_restored(length, ratio, seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 40, length)
    spans = random_spans(length, ratio, 5.0, rng)[: len(MARKS.spans)]
    row, separator = corrupted(tokens, spans, MARKS)
    assert (restored(row, MARKS) == tokens).all()
    assert row[separator] == MARKS.separator
    assert len(row) == length + 2 + 3 * len(spans)


def test_by_hand():
    row, separator = corrupted(np.arange(10), np.array([[2, 4], [7, 8]]), MARKS)
    assert row.tolist() == [0, 1, 40, 4, 5, 6, 41, 8, 9, 61, 60, 40, 2, 3, 62, 41, 7, 62]
    assert separator == 10
    # The prompt that is continued with "2 3 <eom>" is the same row with one span, up to the mark.
    one, _ = corrupted(np.arange(10), np.array([[2, 4]]), MARKS)
    assert infill_prompt(np.arange(2), np.arange(4, 10), MARKS).tolist() == one[: -len([2, 3, 62])].tolist()


@given(room=st.integers(0, 200), ratio=st.floats(0.05, 0.5), mean=st.floats(1, 6))
def test_the_longest_text_fits_and_one_more_token_does_not(room, ratio, mean):
    def needed(length):
        noise = min(max(round(length * ratio), 1), length - 1)
        return length + 2 + 3 * max(1, min(round(noise / mean), noise, length - noise))

    found = longest_text(room, ratio, mean)
    assert found == max((n for n in range(2, room + 1) if needed(n) <= room), default=0)


def test_infilling_by_hand():
    marks = MiddleMarks(prefix=90, suffix=91, middle=92, end=93)
    assert infilling_row(np.arange(6), 2, 4, marks).tolist() == [90, 0, 1, 91, 4, 5, 92, 2, 3, 93]
    assert infilling_row(np.arange(6), 2, 4, marks, "spm").tolist() == [90, 91, 4, 5, 92, 0, 1, 2, 3, 93]


@pytest.mark.parametrize("order", ["psm", "spm"])
@pytest.mark.parametrize("prefix", [False, True])
def test_infilling_rows_hold_the_text_and_learn_its_middle(order, prefix):
    marks = MiddleMarks(prefix=50, suffix=51, middle=52, end=53)
    documents = torch.tensor([[0] * 12 + [1] + [2] * 20]).repeat(40, 1)
    given_batch = batch(40, documents=documents)
    made = Infilling(marks, order=order, prefix=prefix).corrupt(given_batch)
    before = given_batch.data["tokens"]
    lengths = set()
    for row, owner, mask, text in zip(
        *(made.data[n].numpy() for n in ("tokens", "document_ids", "loss_mask")), before.numpy(), strict=True
    ):
        pre, suf, mid, end = (int(np.flatnonzero(row == m)[0]) for m in (50, 51, 52, 53))
        head = row[mid + 1 : end]
        if order == "psm":
            whole = np.concatenate([row[pre + 1 : suf], head, row[suf + 1 : mid]])
        else:
            whole = np.concatenate([head, row[suf + 1 : mid]])
        assert (whole == text[:12]).all()
        lengths.add(len(head))
        assert mask[mid:end].all()
        assert mask[pre:mid].any() == (not prefix)
        assert row[16] == text[12]  # the document of one token
        assert not mask[15]
        assert len(set(owner.tolist()) - {-1}) == 3
    assert len(lengths) > 5
    if prefix:
        assert bool(made.data["prefix"][:, 0].all())


def test_draws_belong_to_the_sample_and_the_update():
    objective, whole = SpanCorruption(MARKS), batch(4)
    alone = Batch({"tokens": whole.data["tokens"][2:3]}, whole.ids[2:3], key=whole.key)
    assert torch.equal(objective.corrupt(whole).data["tokens"][2:3], objective.corrupt(alone).data["tokens"])
    assert not torch.equal(objective.corrupt(batch(4, key=8)).data["tokens"], objective.corrupt(whole).data["tokens"])


def test_documents_are_corrupted_each_by_itself():
    documents = torch.tensor([[0] * 12 + [1] * 21]).repeat(3, 1)
    given_batch = batch(3, documents=documents)
    made = SpanCorruption(MARKS).corrupt(given_batch)
    for row, owner, before in zip(made.data["tokens"], made.data["document_ids"], given_batch.data["tokens"], strict=True):
        first = row[owner == 0].numpy()
        assert (restored(first, MARKS) == before[:12].numpy()).all()
        second = row[owner == len(first)].numpy()
        rest = restored(second, MARKS)
        assert (rest == before[12 : 12 + len(rest)].numpy()).all()
        assert len(rest) > 5


def test_a_document_of_one_token_stays_without_loss_and_the_next_goes_on():
    for before in ([0], [0] * 12 + [1]):
        given_batch = batch(1, documents=torch.tensor([before + [2] * (33 - len(before))]))
        made = SpanCorruption(MARKS).corrupt(given_batch)
        row, owner, mask = (made.data[name][0] for name in ("tokens", "document_ids", "loss_mask"))
        starts = [int((owner == o).nonzero()[0]) for o in owner[owner >= 0].unique_consecutive()]
        single, following = starts[-2:]
        assert len(starts) == len(set(before)) + 1
        assert following == single + 1
        assert row[single] == given_batch.data["tokens"][0, len(before) - 1]
        assert single == 0 or not mask[single - 1]
        rest = restored(row[following:][owner[following:] == owner[following]].numpy(), MARKS)
        assert len(rest) > 5
        assert (rest == given_batch.data["tokens"][0, len(before) : len(before) + len(rest)].numpy()).all()
        assert mask[following:].any()


def test_filling_is_not_corrupted():
    documents = torch.tensor([[0] * 15 + [-1] * 18])
    given_batch = batch(1, documents=documents)
    made = SpanCorruption(MARKS).corrupt(given_batch)
    row, owner = made.data["tokens"][0], made.data["document_ids"][0]
    assert (restored(row[owner == 0].numpy(), MARKS) == given_batch.data["tokens"][0, :15].numpy()).all()
    assert set(owner.unique().tolist()) == {0, -1}


def test_with_too_few_marks_the_spans_are_from_the_whole_text():
    few = Marks(spans=(40, 41), separator=60, end_of_text=61, end_of_span=62)
    made = SpanCorruption(few, ratio=0.3, mean_span=1.0).corrupt(batch(200))
    places = [int((row == 40).nonzero()[0]) for row in made.data["tokens"]]
    assert all(int((row == 62).sum()) == 2 for row in made.data["tokens"])
    assert np.mean(places) > 4  # the first of two among five or more; the first of all would stand at about 2


def test_spare_bytes_stand_in_no_text():
    assert len(set(SPARE_BYTES)) == 13
    for first in range(0, 0x110000, 0x1000):
        points = [c for c in range(first, first + 0x1000) if not 0xD800 <= c < 0xE000]
        assert not set("".join(map(chr, points)).encode()) & set(SPARE_BYTES)
    marks = Marks.of(SPARE_BYTES)
    assert len(marks.spans) == 10
    assert (marks.separator, marks.end_of_text, marks.end_of_span) == (0xFD, 0xFE, 0xFF)


@pytest.mark.parametrize("prefix", [False, True])
def test_no_target_is_seen_by_its_own_prediction(prefix):
    """Whatever stands in the spans' texts, the loss on the tokens before them does not move; with a prefix there is none there."""
    objective = SpanCorruption(MARKS, prefix=prefix)
    made = objective.corrupt(batch(1))
    row, mask = made.data["tokens"][0], made.data["loss_mask"][0]
    separator = int((row == MARKS.separator).nonzero()[0])
    assert bool(mask[separator:].any())
    assert bool(mask[:separator].any()) is not prefix
    net = model()
    other = made.data["tokens"].clone()
    other[0, separator + 2] = (other[0, separator + 2] + 1) % 40  # the first token of the first span's text
    more = {"prefix": made.data["prefix"][:, :-1]} if prefix else {}
    a, b = (net(t[:, :-1], document_ids=made.data["document_ids"][:, :-1], **more)["hidden"] for t in (made.data["tokens"], other))
    assert torch.equal(a[0, : separator + 2], b[0, : separator + 2])
    assert not torch.equal(a[0, separator + 2], b[0, separator + 2])


def test_attention_in_the_prefix_looks_both_ways_and_nowhere_else():
    net, tokens = model(), torch.randint(0, 40, (1, 12), generator=torch.Generator().manual_seed(0))
    prefix = torch.zeros(1, 12, dtype=torch.bool)
    prefix[0, :6] = True
    other = tokens.clone()
    other[0, 5] = (other[0, 5] + 1) % 40
    a, b = net(tokens, prefix=prefix)["hidden"], net(other, prefix=prefix)["hidden"]
    assert not torch.equal(a[0, 0], b[0, 0])
    c, d = net(tokens)["hidden"], net(other)["hidden"]
    assert torch.equal(c[0, :5], d[0, :5])
    nothing = net(tokens, prefix=torch.zeros_like(prefix))["hidden"]
    torch.testing.assert_close(nothing, c, atol=1e-5, rtol=1e-5)


def test_masking_hides_its_share_and_the_loss_is_there_alone():
    objective, given_batch = MaskedLM(63, vocab=40, ratio=0.25), batch(64, 41)
    tokens = given_batch.data["tokens"][:, :-1].numpy()
    hidden, chosen = objective.hide(tokens, given_batch)
    assert (chosen.sum(1) == 10).all()
    assert (hidden[~chosen] == tokens[~chosen]).all()
    shares = [(hidden[chosen] == 63).mean(), (hidden[chosen] == tokens[chosen]).mean()]
    assert shares[0] == pytest.approx(0.8, abs=0.06)
    assert shares[1] == pytest.approx(0.1, abs=0.05)
    output = objective(model(), given_batch)
    assert output.weight == 640
    assert float(output.loss.detach()) == pytest.approx(float(output.per_sample.mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: random_spans(10, 1.0, 3, np.random.default_rng(0)), "between 0 and 1"),
        (lambda: random_spans(1, 0.2, 3, np.random.default_rng(0)), "at least 2"),
        (lambda: corrupted(np.array([1, 61, 2]), np.array([[1, 2]]), MARKS), "reserved token 61 at 1"),
        (
            lambda: corrupted(np.arange(30), np.array([[1, 2], [3, 4]]), Marks(spans=[40], separator=60, end_of_text=61, end_of_span=62)),
            "at most the 1",
        ),
        (lambda: restored(np.array([1, 2, 61, 60, 40, 3, 62]), MARKS), "one for each mark"),
        (lambda: Marks(spans=[1, 2], separator=2, end_of_text=3, end_of_span=4), "all different"),
        (lambda: SpanCorruption(MARKS).corrupt(batch(1, 5)), "texts long enough"),
        (lambda: SpanCorruption(MARKS).corrupt(batch(1, 8, documents=torch.arange(8)[None])), "texts long enough"),
        (lambda: Marks.of([1, 2, 3]), "3 ids, expected at least four"),
        (lambda: infilling_row(np.arange(4), 2, 2, MiddleMarks(prefix=9, suffix=8, middle=7, end=6)), "a middle from 2 to 2"),
        (lambda: Infilling(MiddleMarks(prefix=9, suffix=8, middle=7, end=6), order="msp"), "found 'msp'"),
        (lambda: Infilling(MiddleMarks(prefix=90, suffix=80, middle=70, end=6)).corrupt(batch(9)), "reserved token 6"),
        (lambda: MaskedLM(3, 4, 0.0), "between 0 and 1"),
    ],
)
def test_what_cannot_be_corrupted_is_told(call, told):
    with pytest.raises(BadInput, match=told):
        call()


def test_numpy_rng_gives_each_sample_its_own():
    assert numpy_rng(7, "spans", 0).random() != numpy_rng(7, "spans", 1).random()
