"""The language-model objective against numbers worked out by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from etude.data.packing import PackedSource
from etude.data.sources import WindowSource
from etude.data.tokens import TokenCorpus
from etude.engine.protocols import Batch
from etude.engine.streams import generator
from etude.errors import BadInput
from etude.learn.language import CausalLM, HeldOutLoss, PerDomainLoss


class Bigram(nn.Module):
    """Logits are a table's row: what comes next depends on the present token alone. Plain logits or a dict with a head."""

    def __init__(self, table, *, parts=False, auxiliary=None):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.as_tensor(table, dtype=torch.float32), freeze=False)
        self.head, self.parts, self.auxiliary = nn.Identity(), parts, auxiliary
        self.seen = []

    def forward(self, tokens, document_ids=None):
        self.seen.append(document_ids)
        logits = self.embedding(tokens)
        if not self.parts:
            return logits
        result = {"hidden": logits, "signals": {"depth": torch.tensor(3.0)}}
        return result if self.auxiliary is None else {**result, "auxiliary": self.auxiliary}


# Row 0 gives its successor 1 three quarters; row 1 is even.
TABLE = [[0.0, math.log(3)], [0.0, 0.0]]


def batch_of(**data):
    data = {k: torch.tensor(v) for k, v in data.items()}
    return Batch(data, np.arange(len(data["tokens"])))


@pytest.mark.parametrize("parts", [False, True])
def test_by_hand(parts):
    output = CausalLM()(Bigram(TABLE, parts=parts), batch_of(tokens=[[0, 1, 0], [1, 1, 1]]))
    first = (-math.log(3 / 4) + math.log(2)) / 2
    assert output.per_sample.tolist() == pytest.approx([first, math.log(2)])
    assert output.loss.item() == pytest.approx((first + math.log(2)) / 2)
    assert output.weight == 4
    assert not output.per_sample.requires_grad
    output.loss.backward()


def test_the_mask_says_which_targets_count():
    batch = batch_of(tokens=[[0, 1, 0], [1, 1, 1]], loss_mask=[[True, False], [False, False]])
    output = CausalLM()(Bigram(TABLE), batch)
    assert output.loss.item() == pytest.approx(-math.log(3 / 4))
    assert output.per_sample.tolist() == pytest.approx([-math.log(3 / 4), 0])
    assert output.weight == 1
    with pytest.raises(BadInput, match="a batch whose loss mask leaves nothing"):
        CausalLM()(Bigram(TABLE), batch_of(tokens=[[0, 1]], loss_mask=[[False]]))


def test_documents_reach_the_model_and_their_borders_do_not_count():
    model = Bigram(TABLE)
    output = CausalLM()(model, batch_of(tokens=[[0, 1, 0, 1]], document_ids=[[0, 0, 1, 1]]))
    assert output.loss.item() == pytest.approx(-math.log(3 / 4))
    assert output.weight == 2
    assert model.seen[0].tolist() == [[0, 0, 1]]
    CausalLM()(model, batch_of(tokens=[[0, 1]]))
    assert model.seen[1] is None


def test_auxiliary_is_added_and_signals_passed_on():
    model = Bigram(TABLE, parts=True, auxiliary=torch.tensor(0.25))
    output = CausalLM()(model, batch_of(tokens=[[1, 1]]))
    assert output.loss.item() == pytest.approx(math.log(2) + 0.25)
    assert output.per_sample.tolist() == pytest.approx([math.log(2)])
    assert {k: v.item() for k, v in output.signals.items()} == {"depth": 3, "auxiliary": 0.25}
    source = WindowSource(np.ones(9, dtype=np.uint8), 2)
    assert HeldOutLoss(source)(model)["loss"] == pytest.approx(math.log(2))


def random_model(vocab=5):
    return Bigram(torch.randn(vocab, vocab, generator=generator(0, "table")))


def test_loss_is_the_weighted_mean_of_the_samples():
    tokens = torch.randint(5, (6, 9), generator=generator(0, "tokens"))
    mask = torch.rand(6, 8, generator=generator(0, "mask")) > 0.4
    output = CausalLM()(random_model(), Batch({"tokens": tokens, "loss_mask": mask}, np.arange(6)))
    weights = mask.sum(1)
    assert output.loss.item() == pytest.approx(float((output.per_sample * weights).sum() / weights.sum()), rel=1e-6)
    halves = [CausalLM()(random_model(), Batch({"tokens": tokens[s], "loss_mask": mask[s]}, np.arange(3))) for s in (slice(3), slice(3, 6))]
    together = sum(h.loss.item() * h.weight for h in halves) / sum(h.weight for h in halves)
    assert output.loss.item() == pytest.approx(together, rel=1e-6)


def test_held_out_loss_does_not_depend_on_the_batch_size():
    tokens = torch.randint(5, (200,), generator=generator(0, "held")).numpy()
    packed = PackedSource(TokenCorpus(tokens, [0, 3, 50, 61, 140, 200], vocab=5), 12)
    for source in (WindowSource(tokens, 7), packed):
        losses = [HeldOutLoss(source, batch_size=b)(random_model())["loss"] for b in (1, 3, 64)]
        assert max(losses) - min(losses) < 1e-6
    # Packing predicts each token but the documents' first: brute force over the documents.
    table = torch.log_softmax(random_model().embedding.weight.detach().double(), 1).numpy()
    edges = [0, 3, 50, 61, 140, 200]
    each = [-table[tokens[i - 1], tokens[i]] for a, b in itertools.pairwise(edges) for i in range(a + 1, b)]
    assert HeldOutLoss(packed)(random_model())["loss"] == pytest.approx(np.mean(each), abs=1e-6)


def test_a_limit_is_spread_over_the_source():
    # The second half's text costs nothing under this table, the first half's ln 2.
    table = [[0.0, 0.0, -99.0], [0.0, 0.0, -99.0], [-99.0, -99.0, 99.0]]
    tokens = np.concatenate([np.zeros(100, dtype=np.int64), np.full(101, 2)])
    source = WindowSource(tokens, 10)
    assert HeldOutLoss(source, limit=2)(Bigram(table))["loss"] == pytest.approx(math.log(2) / 2)
    parts = PerDomainLoss({"a": WindowSource(tokens[:100], 9), "b": WindowSource(tokens[100:], 10)})
    assert parts(Bigram(table)) == pytest.approx({"a": math.log(2), "b": 0}, abs=1e-6)
    with pytest.raises(BadInput, match="limit"):
        HeldOutLoss(source, limit=0)


def test_tokens_that_the_model_does_not_know():
    with pytest.raises(BadInput, match="data: found token 2, expected ids below the model's vocabulary of 2"):
        CausalLM()(Bigram(TABLE), batch_of(tokens=[[0, 2, 1]]))
    with pytest.raises(BadInput, match="found token 7"):  # as a target alone
        CausalLM()(Bigram(TABLE), batch_of(tokens=[[0, 1, 7]]))
    with pytest.raises(BadInput, match="found token -3"):
        CausalLM()(Bigram(TABLE), batch_of(tokens=[[-3, 1, 1]]))


def test_an_output_that_is_no_logits():
    with pytest.raises(BadInput, match=r"an output of shape \(1, 2\), expected logits \(1, 2\) by vocabulary"):
        CausalLM()(nn.Flatten(), batch_of(tokens=[[0, 1, 1]]))
