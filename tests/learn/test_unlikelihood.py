"""Unlikelihood by hand, and that it is causal training where it is switched off."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from etude.engine.protocols import Batch
from etude.engine.streams import initialise
from etude.errors import BadInput
from etude.generate.degeneration import distinct, ngrams, repetition, sentence_repetition
from etude.learn.language import CausalLM
from etude.learn.unlikelihood import SequenceUnlikelihood, Unlikelihood, previous_tokens, repeated_ngrams, unlikelihood
from etude.nn.transformer import Transformer, TransformerConfig


def test_candidates_are_what_stood_before_but_for_the_target():
    tokens = torch.tensor([[1, 2, 1, 3, 3]])
    found = previous_tokens(tokens[:, :-1], tokens[:, 1:], 4)
    assert [row.nonzero().flatten().tolist() for row in found[0]] == [[1], [2], [1, 2], [1, 2]]
    documents = torch.tensor([[0, 0, 1, 1]])
    found = previous_tokens(tokens[:, :-1], tokens[:, 1:], 4, documents)
    assert [row.nonzero().flatten().tolist() for row in found[0]] == [[1], [2], [1], [1]]


def test_the_loss_by_hand():
    logits = torch.tensor([[[0.0, 0.0, math.log(2)]]])  # 1/4, 1/4, 1/2
    candidates = torch.tensor([[[True, False, True]]])
    assert float(unlikelihood(logits, candidates)) == pytest.approx(-math.log(3 / 4) - math.log(1 / 2))


@pytest.mark.parametrize("documents", [False, True])
def test_it_is_the_causal_loss_and_the_mean_of_the_terms(documents):
    model = initialise(Transformer(TransformerConfig(vocab=16, width=16, depth=1, heads=2, context=16)), 0)
    data = {"tokens": torch.from_numpy(np.random.default_rng(0).integers(0, 16, (3, 13)))}
    if documents:
        data["document_ids"] = torch.tensor([[0] * 5 + [1] * 8]).repeat(3, 1)
    batch = Batch(data, np.arange(3))
    plain = CausalLM()(model, batch)
    assert torch.equal(Unlikelihood(0.0)(model, batch).loss, plain.loss)
    found = Unlikelihood(0.5)(model, batch)
    more = {"document_ids": data["document_ids"][:, :-1]} if documents else {}
    probabilities = model.head(model(data["tokens"][:, :-1], **more)["hidden"]).softmax(-1).detach()
    total = 0.0
    for row in range(3):
        for t in range(12):
            own = data["document_ids"][row] if documents else torch.zeros(13)
            if own[t + 1] != own[t]:
                continue
            earlier = {int(data["tokens"][row, s]) for s in range(t + 1) if own[s] == own[t]} - {int(data["tokens"][row, t + 1])}
            total -= sum(math.log(1 - float(probabilities[row, t, c])) for c in earlier)
    assert float(found.signals["unlikelihood"]) == pytest.approx(total / plain.weight, rel=1e-4)
    assert float(found.loss.detach()) == pytest.approx(float(plain.loss.detach()) + 0.5 * total / plain.weight, rel=1e-4)
    assert not model.head._forward_hooks
    with pytest.raises(BadInput, match=">= 0"):
        Unlikelihood(-1)


def test_repeated_ngrams_are_those_of_the_dittos_authors_code():
    """ngram_repeat_mask of sequence_penalty_loss.py, run at the commit that the file names; it never looks at a row's last n-gram."""
    golden = json.loads((Path(__file__).parents[1] / "golden" / "ditto.json").read_text())["ngrams"]
    tokens, mask = torch.tensor(golden["tokens"]), torch.tensor(golden["mask"]).bool()
    assert torch.equal(repeated_ngrams(tokens[:, :-1], 3), mask[:, :-1])
    assert repeated_ngrams(tokens, 3)[:, -1].tolist() == [False, True]


def test_what_a_model_repeats_of_itself_is_unlikely():
    model = initialise(Transformer(TransformerConfig(vocab=8, width=16, depth=1, heads=2, context=40)), 0)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 8, (3, 13)))
    found = SequenceUnlikelihood(5, 30, 2)(model, Batch({"tokens": tokens}, np.arange(3)))
    said, total = tokens[:, :5], 0.0
    for _ in range(30):
        said = torch.cat([said, model.head(model(said)["hidden"])[:, -1:].argmax(-1)], 1)
    mask = repeated_ngrams(said[:, 5:], 2)
    probabilities = model.head(model(said[:, :-1])["hidden"]).softmax(-1).detach()
    for row, place in mask.nonzero().tolist():
        total -= math.log(1 - float(probabilities[row, place + 4, said[row, place + 5]]))
    assert 0 < float(found.signals["repeated"]) == pytest.approx(float(mask.float().mean()))
    assert float(found.loss.detach()) == pytest.approx(total / 90, rel=1e-4)
    assert found.weight == 90
    for wrong, told in ((SequenceUnlikelihood(14), "13 tokens of a row"), (SequenceUnlikelihood(5, 60), "at most 41 together")):
        with pytest.raises(BadInput, match=told):
            wrong(model, Batch({"tokens": tokens}, np.arange(3)))
    with pytest.raises(BadInput, match="ngram"):
        SequenceUnlikelihood(ngram=0)


def test_repetition_by_hand():
    assert ngrams([1, 2, 3], 2) == [(1, 2), (2, 3)]
    assert repetition([1, 2, 1, 2, 1], 2) == 0.5  # (1 2) (2 1) (1 2) (2 1)
    assert repetition([1, 2, 3], 4) == 0
    assert distinct([[1, 2], [1, 2]], 2) == 0.5
    assert distinct([], 2) == 0
    assert sentence_repetition(["a", "b", "a", "a"]) == 0.5
    assert sentence_repetition([]) == 0
    with pytest.raises(BadInput, match=">= 1"):
        repetition([1], 0)
