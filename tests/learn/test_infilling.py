"""Middles at the end of their texts, and prefixes that are read both ways."""

import numpy as np
import pytest
import torch
from hf_folders import chat_folder

from etude.engine.protocols import Batch
from etude.engine.streams import initialise
from etude.errors import BadInput
from etude.generate.pretrained import pretrained
from etude.learn.corruption import MiddleMarks
from etude.learn.infilling import Infilling
from etude.learn.language import CausalLM, token_losses
from etude.learn.prefix import PrefixLM, check_two_way
from etude.nn.recurrent import RecurrentConfig, RecurrentLM
from etude.nn.transformer import Transformer, TransformerConfig

MARKS = MiddleMarks(prefix=50, suffix=51, middle=52, end=53)


def model():
    return initialise(Transformer(TransformerConfig(vocab=64, width=16, depth=2, heads=2, context=32)), 0)


def batch(rows=6, length=21, documents=None, key=5):
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (rows, length)))
    data = {"tokens": tokens} | ({} if documents is None else {"document_ids": torch.tensor([documents] * rows)})
    return Batch(data, np.arange(rows), key=key)


def texts(row, owners):
    """The texts that a rearranged row was made of, in their own order, and whether each had its suffix first."""
    found = []
    for owner in np.unique(owners[owners >= 0]):
        part = row[owners == owner].tolist()
        assert part[0] == MARKS.prefix
        assert part[-1] == MARKS.end
        at = {mark: part.index(mark) for mark in (MARKS.suffix, MARKS.middle)}
        suffix = part[at[MARKS.suffix] + 1 : at[MARKS.middle]]
        rest = part[at[MARKS.middle] + 1 : -1]
        found.append((part[1 : at[MARKS.suffix]], suffix, rest))
    return found


@pytest.mark.parametrize("order", ["psm", "spm", "both"])
def test_rearranged_rows_hold_the_text_again(order):
    given = batch()
    made = Infilling(MARKS, order).rearrange(given)
    firsts = set()
    for row, owners, text in zip(made.data["tokens"].numpy(), made.data["document_ids"].numpy(), given.data["tokens"].numpy(), strict=True):
        ((before, suffix, rest),) = texts(row, owners)
        kept = text[: len(text) - 4].tolist()
        if before:
            assert [*before, *rest, *suffix] == kept
            assert order != "spm"
        else:  # suffix first, or an empty prefix: the rest is prefix and middle
            assert [*rest, *suffix] == kept
        firsts.add(bool(before))
    assert True in firsts or order == "spm"
    assert False in firsts or order == "psm"
    assert made.data["loss_mask"].all()
    assert made.data["tokens"].shape == given.data["tokens"].shape


def test_draws_belong_to_the_sample_and_the_update():
    whole, half = Infilling(MARKS, "both").rearrange(batch()), batch().part(3, 6)
    half.key = 5
    assert torch.equal(whole.data["tokens"][3:], Infilling(MARKS, "both").rearrange(half).data["tokens"])
    assert not torch.equal(whole.data["tokens"], Infilling(MARKS, "both").rearrange(batch(key=6)).data["tokens"])


def test_documents_are_rearranged_each_by_itself_and_filling_is_not():
    owners = [0] * 6 + [1] * 5 + [-1] * 10
    given = batch(documents=owners)
    made = Infilling(MARKS).rearrange(given)
    for row, own, mask, text in zip(
        made.data["tokens"].numpy(),
        made.data["document_ids"].numpy(),
        made.data["loss_mask"].numpy(),
        given.data["tokens"].numpy(),
        strict=True,
    ):
        parts = texts(row, own)
        assert [[*b, *r, *s] for b, s, r in parts] == [text[:6].tolist(), text[6:11].tolist()]
        assert mask[:18].all()
        assert not mask[18:].any()
    assert Infilling(MARKS)(model(), given).weight == 6 * (9 + 8)  # a document's first token has no target before it
    with pytest.raises(BadInput, match="rows of 4 tokens"):
        Infilling(MARKS).rearrange(batch(length=4))
    with pytest.raises(BadInput, match="order"):
        Infilling(MARKS, "smp")


def test_a_prefix_is_no_target_and_is_read_both_ways():
    net, given = model(), batch()
    made = PrefixLM().divide(given)
    prefix, mask = made.data["prefix"], made.data["loss_mask"]
    lengths = prefix.sum(1)
    assert (lengths >= 1).all()
    assert (lengths <= 20).all()
    assert len(set(lengths.tolist())) > 1
    assert torch.equal(mask, ~prefix[:, 1:])
    assert all(p[:n].all() and not p[n:].any() for p, n in zip(prefix, lengths, strict=True))
    losses, _ = token_losses(net, made)
    row = int(lengths.argmax())
    n = int(lengths[row])
    changed = made.data["tokens"].clone()
    changed[row, n - 1] = (changed[row, n - 1] + 1) % 50
    others, _ = token_losses(net, Batch({**made.data, "tokens": changed}, made.ids))
    assert losses[row, 0] != others[row, 0]  # the prefix's end is seen from its beginning
    changed = made.data["tokens"].clone()
    changed[row, -1] = (changed[row, -1] + 1) % 50
    others, _ = token_losses(net, Batch({**made.data, "tokens": changed}, made.ids))
    assert torch.equal(losses[row, :-1], others[row, :-1])  # no target is


def test_a_prefix_of_one_token_is_causal():
    given = batch()
    prefix = torch.zeros_like(given.data["tokens"], dtype=torch.bool)
    prefix[:, 0] = True
    with_one = CausalLM()(model(), Batch({**given.data, "prefix": prefix}, given.ids))
    assert torch.allclose(with_one.loss, CausalLM()(model(), given).loss, atol=1e-6)


def test_each_document_has_a_prefix_and_a_completions_is_its_prompt():
    made = PrefixLM().divide(batch(documents=[0] * 8 + [1] * 12 + [2]))
    for prefix in made.data["prefix"]:
        assert prefix[0]
        assert not prefix[7]
        assert prefix[8]
        assert not prefix[19:].any()
    mask = torch.zeros(6, 20, dtype=torch.bool)
    mask[:, 7:12] = True
    given = batch()
    given.data["loss_mask"] = mask
    told = PrefixLM(prompts=True).divide(given)
    assert told.data["prefix"].sum(1).tolist() == [8] * 6
    assert torch.equal(told.data["loss_mask"], mask)
    with pytest.raises(BadInput, match="targets are not marked"):
        PrefixLM(prompts=True).divide(batch())


def test_a_pretrained_model_reads_a_prefix_both_ways(tmp_path):
    pytest.importorskip("transformers")
    net = pretrained(chat_folder(tmp_path / "qwen"))
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 40, (1, 12)))
    documents = torch.tensor([[0] * 6 + [1] * 6])
    prefix = torch.zeros(1, 12, dtype=torch.bool)
    plain = net(tokens, document_ids=documents)["hidden"]
    assert torch.allclose(net(tokens, document_ids=documents, prefix=prefix)["hidden"], plain, atol=1e-5)
    prefix[:, 6:9] = True
    both = net(tokens, document_ids=documents, prefix=prefix)["hidden"]
    assert torch.allclose(both[:, :6], plain[:, :6], atol=1e-5)
    assert not torch.allclose(both[:, 6], plain[:, 6], atol=1e-3)
    alone = net(tokens[:, 6:], prefix=prefix[:, 6:])["hidden"]
    assert torch.allclose(both[:, 6:], alone, atol=1e-5)


def test_models_that_cannot_are_named():
    check_two_way(model(), "objective.kind", "'prefix'")
    with pytest.raises(BadInput, match=r"objective\.kind: found 'prefix' for a RecurrentLM, expected a model whose attention"):
        check_two_way(RecurrentLM(RecurrentConfig(cell="gru", vocab=64, width=8)), "objective.kind", "'prefix'")
