"""LoRA layers: what they compute, which layers get them, and that everything else stays where it was."""

import copy

import pytest
import torch
from torch import nn
from toys import Stop

from etude.data.sources import WindowSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.result import Interrupted
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.generate.states import decoder_of
from etude.learn.language import CausalLM
from etude.learn.logprobs import frozen_copy
from etude.nn.lora import LoRALinear, base_state, lora, lora_layers, merge_lora
from etude.nn.mlp import MLP
from etude.nn.transformer import Transformer, TransformerConfig

TOKENS = torch.randint(0, 50, (3, 16), generator=torch.Generator().manual_seed(0))


def transformer(seed=0, **sizes):
    return initialise(Transformer(TransformerConfig(**{"vocab": 50, "width": 16, "depth": 2, "heads": 4, "context": 16} | sizes)), seed)


def stirred(model):
    """LoRA layers away from zero, as training leaves them."""
    for number, (_, layer) in enumerate(lora_layers(model)):
        nn.init.normal_(layer.lora_B.weight, std=0.2, generator=torch.Generator().manual_seed(number))
    return model


def logits(model):
    return model.head(model(TOKENS)["hidden"])


def test_a_layer_by_hand():
    base = nn.Linear(2, 2)
    layer = LoRALinear(base, r=1, alpha=3.0, dropout=0.0)
    with torch.no_grad():
        base.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        base.bias.copy_(torch.tensor([0.5, -0.5]))
        layer.lora_A.weight.copy_(torch.tensor([[1.0, -1.0]]))
        layer.lora_B.weight.copy_(torch.tensor([[2.0], [1.0]]))
    # W x + b = [5.5, 10.5] at x = [1, 2]; A x = -1, B A x = [-2, -1], times 3
    assert layer(torch.tensor([[1.0, 2.0]])).tolist() == [[-0.5, 7.5]]
    assert layer.weight.tolist() == [[7.0, -4.0], [6.0, 1.0]]


def test_it_begins_at_the_model_and_merges_to_one():
    plain = transformer()
    model = lora(copy.deepcopy(plain), r=4)
    assert torch.equal(logits(model), logits(plain))
    assert [n for n, _ in lora_layers(model)][:2] == ["blocks.0.attention.query_key_value", "blocks.0.attention.out"]
    assert len(list(lora_layers(model))) == 8
    assert all(("lora_" in n) == p.requires_grad for n, p in model.named_parameters())
    assert all(torch.equal(v, plain.state_dict()[n]) for n, v in base_state(model).items())
    assert base_state(model).keys() == plain.state_dict().keys()
    trained = logits(stirred(model))
    assert not torch.allclose(trained, logits(plain), atol=1e-2)
    merged = merge_lora(model)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert torch.allclose(logits(merged), trained, atol=1e-5)
    assert all(p.requires_grad for p in merged.parameters())


def test_what_slices_a_weight_and_what_decodes_sees_the_layers():
    model = stirred(lora(transformer(), r=4))
    block, tables = model.blocks[0], model.rotary(torch.arange(16))
    x = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))
    queries, kept = block.attention.project(x, tables)
    assert torch.allclose(block.attention.queries(x, tables), queries, atol=1e-5)
    assert kept.keys.shape == (3, 4, 16, 4)
    decoder = decoder_of(model)
    state = decoder.begin(TOKENS[:, :5])
    steps = torch.cat([decoder.extend(TOKENS[:, i : i + 1], state) for i in range(5, 16)], 1)
    assert torch.allclose(steps, logits(model)[:, 5:], atol=1e-4)


def test_initial_values_belong_to_the_layer_and_the_seed():
    def drawn(seed, targets="all-linear"):
        model, state = transformer(), torch.get_rng_state()
        lora(model, r=4, seed=seed, targets=targets)
        assert torch.equal(torch.get_rng_state(), state)
        return {name: layer.lora_A.weight for name, layer in lora_layers(model)}

    one, two, some, other = drawn(0), drawn(0), drawn(0, ["out"]), drawn(1)
    assert all(torch.equal(one[n], two[n]) and not torch.equal(one[n], other[n]) for n in one)
    assert list(some) == ["blocks.0.attention.out", "blocks.1.attention.out"]
    assert all(torch.equal(one[n], some[n]) for n in some)
    assert not torch.equal(one["blocks.0.attention.out"], one["blocks.1.attention.out"])
    assert one["blocks.0.attention.out"].abs().max() <= 16**-0.5  # torch's bound for 16 inputs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ["query_key_valu"]}, r"lora\.targets: found 'query_key_valu', which is at the end of no layer's name, expected "
         r"'query_key_value'\? Linear layers are down, gate_up, out, query_key_value"),
        ({"targets": ["value"]}, "found 'value', which is at the end of no layer's name"),  # ends of names, not of words
        ({"targets": ["attention"]}, r"found 'attention', a Attention, expected .*layers"),
        ({"targets": ["head"]}, r"found 'head', a Head"),
        ({"targets": "out"}, r"found 'out', expected 'all-linear' or a list"),
        ({"targets": []}, "an empty list"),
        ({"r": 0}, r"lora\.r: found 0"),
        ({"alpha": 0.0}, r"lora\.alpha: found 0\.0"),
        ({"dropout": 1.0}, r"lora\.dropout: found 1\.0"),
    ],
)  # fmt: skip
def test_bad_input(settings, message):
    with pytest.raises(BadInput, match=message):
        lora(transformer(), **settings)


def test_twice_and_without_linear_layers():
    with pytest.raises(BadInput, match="has LoRA layers already"):
        lora(lora(transformer()))
    with pytest.raises(BadInput, match="'all-linear' for a Embedding, which has no linear layer"):
        lora(nn.Embedding(3, 3))
    tied = nn.Sequential(nn.Embedding(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(BadInput, match="'1', whose weight is that of '0' too"):
        lora(tied, targets=["1"])


def test_the_base_is_neither_trained_nor_copied():
    model = lora(transformer(), r=4)
    base = {n: v.clone() for n, v in base_state(model).items()}
    reference = frozen_copy(model)
    assert reference.embedding.weight is model.embedding.weight
    data = WindowSource(torch.arange(400) % 50, 16)
    trainer = Trainer(model, DataStream(data, 8, 0), CausalLM(), optimizer=AdamW(lr=1e-2), budget=Budget(steps=5))
    result = trainer.run()
    assert all(torch.equal(v, base[n]) for n, v in base_state(model).items())
    assert all(p.grad is None for n, p in model.named_parameters() if "lora_" not in n)
    assert result.ledger.total("flops") > 0
    assert not torch.allclose(logits(model), logits(reference), atol=1e-3)
    assert torch.equal(logits(reference), logits(lora(transformer(), r=4)))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path, dropout):
    def run(place, stop=0, resume=False):
        data = WindowSource(torch.arange(400) % 50, 16)
        return Trainer(
            lora(transformer(), r=4, dropout=dropout), DataStream(data, 8, 0), CausalLM(), optimizer=AdamW(lr=1e-2), budget=Budget(steps=6),
            methods=Stop(at=stop), folder=place, checkpoint_every=1 / 6,
        ).run(resume=resume)  # fmt: skip

    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", stop=3)
    parts = run(tmp_path / "parts", resume=True)
    assert parts.resumed_from == "step-000000003"
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), parts.model.state_dict().values(), strict=True))


def test_any_module_takes_them():
    model = lora(initialise(MLP((3, 8, 2)), 0), r=2)
    assert len(list(lora_layers(model))) == 2
    assert model(torch.ones(1, 3)).shape == (1, 2)
