"""Each row's loss, against the mean that the model itself gives."""

import pytest
import torch

from etude.adapt.losses import outputs_of, predicts_next, row_losses, weighted_part
from etude.errors import BadInput

transformers = pytest.importorskip("transformers")
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 20}


def case(kind):
    """A model and a batch of three rows with labels."""
    torch.manual_seed(0)
    tokens = torch.randint(1, 20, (3, 6))
    some = torch.where(torch.rand(3, 6) < 0.5, tokens, -100)
    if kind == "next token":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)), tokens, some
    if kind == "masked token":
        return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)), tokens, some
    labels = 4 if kind == "class" else 1
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, num_labels=labels))
    return model, tokens, torch.tensor([3, 0, 1]) if kind == "class" else torch.tensor([0.5, -1.0, 2.0])


@pytest.mark.parametrize("kind", ["next token", "masked token", "class", "number"])
def test_rows_add_up_to_the_models_own_loss(kind):
    model, tokens, labels = case(kind)
    model.eval()
    with outputs_of(model) as seen:
        whole = model(input_ids=tokens, labels=labels).loss
    sums, counts = row_losses(seen[0], labels, predicts_next(model))
    assert len(seen) == 1
    assert torch.allclose(sums.sum() / counts.sum(), whole, atol=1e-6)
    for row in range(3):
        one = model(input_ids=tokens[row : row + 1], labels=labels[row : row + 1]).loss
        assert torch.allclose(sums[row] / counts[row], one, atol=1e-5)
    model(input_ids=tokens)
    assert len(seen) == 1  # nothing is kept outside the block


def test_weights_add_what_they_should():
    sums = torch.tensor([2.0, 4.0, 6.0], requires_grad=True)
    loss = sums.sum() / 6 + weighted_part(torch.tensor([0.0, 1.0, 2.0]), sums, 6.0)
    assert float(loss.detach()) == pytest.approx((0 * 2 + 1 * 4 + 2 * 6) / 6)
    loss.backward()
    assert sums.grad.tolist() == pytest.approx([0, 1 / 6, 2 / 6])
    assert float(weighted_part(torch.ones(3), sums, 6.0).detach()) == 0


def test_what_has_no_loss_of_its_own_is_named():
    with pytest.raises(BadInput, match="each sample's loss: found no labels"):
        row_losses({"logits": torch.zeros(2, 3)}, None, False)
    with pytest.raises(BadInput, match="an output without logits"):
        row_losses({"loss": torch.zeros(())}, torch.zeros(2), False)
    with pytest.raises(BadInput, match=r"logits \(2, 3\) for labels \(2, 3\)"):
        row_losses({"logits": torch.zeros(2, 3)}, torch.zeros(2, 3), False)
