"""Activation checkpointing changes memory and operations, and no number."""

import copy

import pytest
import torch

from etude.engine.flops import FlopCounter
from etude.engine.streams import global_streams, initialise
from etude.errors import BadInput
from etude.nn.activations import checkpoint_activations
from etude.nn.lora import lora
from etude.nn.recurrent import RecurrentConfig, RecurrentLM
from etude.nn.transformer import Transformer, TransformerConfig

TOKENS = torch.randint(0, 50, (3, 16), generator=torch.Generator().manual_seed(0))


def transformer():
    return initialise(Transformer(TransformerConfig(vocab=50, width=16, depth=3, heads=4, kv_heads=2, context=16)), 0)


def learnt(model, autocast=False):
    """Loss, gradients, bytes kept for the backward pass beside the weights, operations."""
    weights, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    documents = torch.tensor([[0] * 6 + [1] * 10]).expand(3, 16)
    with global_streams(5), torch.autocast("cpu", torch.bfloat16, enabled=autocast), FlopCounter() as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model.head(model.train()(TOKENS, document_ids=documents)["hidden"]).float()
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
        held = sum(size for size, _ in kept.values())
        loss.backward()
    return loss, {n: p.grad for n, p in model.named_parameters()}, held, counter.total


def check_equal(plain, other, autocast=False):
    loss, grads, held, operations = learnt(plain, autocast)
    again, same, less, more = learnt(other, autocast)
    assert torch.equal(loss, again)
    assert all((g is None and same[n] is None) or torch.equal(g, same[n]) for n, g in grads.items())
    assert less < 0.7 * held
    assert operations < more < 1.5 * operations


@pytest.mark.parametrize("autocast", [False, True])
def test_own_models(autocast):
    check_equal(transformer(), checkpoint_activations(transformer()), autocast)


def test_lora_and_its_dropout():
    check_equal(lora(transformer(), r=4, dropout=0.4), checkpoint_activations(lora(transformer(), r=4, dropout=0.4)))


@pytest.mark.parametrize("adapted", [False, True])
def test_pretrained_models(tmp_path, adapted):
    transformers = pytest.importorskip("transformers")
    from etude.generate.pretrained import Pretrained

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40}
    config = transformers.Qwen3Config(vocab_size=50, max_position_embeddings=16, head_dim=4, attention_dropout=0.3, **sizes)
    torch.manual_seed(0)
    model = Pretrained(transformers.Qwen3ForCausalLM(config))
    if adapted:
        lora(model, r=4, dropout=0.4)
    check_equal(model, checkpoint_activations(copy.deepcopy(model)))


def test_nothing_is_kept_where_nothing_is_learnt():
    model = checkpoint_activations(transformer())
    with torch.no_grad():
        assert torch.equal(model(TOKENS)["hidden"], transformer()(TOKENS)["hidden"])


def test_a_model_without_blocks():
    with pytest.raises(BadInput, match="activation_checkpointing: found it for a RecurrentLM, expected a transformer"):
        checkpoint_activations(RecurrentLM(RecurrentConfig(vocab=50, width=8)))
