import dataclasses

import pytest
import torch

from etude.engine.protocols import Mapped
from etude.engine.streams import initialise
from etude.errors import BadInput
from etude.nn.surgery import OPERATORS, grow_depth, layer_sources
from etude.nn.transformer import Transformer, TransformerConfig

BASE = TransformerConfig(vocab=13, width=16, depth=2, heads=2, hidden=24)
WIDER, OTHER_VOCAB = dataclasses.replace(BASE, depth=4, width=32), dataclasses.replace(BASE, depth=4, vocab=14)


def _base(**changes) -> Transformer:
    model = initialise(Transformer(dataclasses.replace(BASE, **changes)), 5)
    with torch.no_grad():  # as if trained: norms away from one
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())), alpha=0.1)
    return model


def _tokens() -> torch.Tensor:
    return torch.randint(13, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("stack", [0, 1, 0, 1, 0, 1]),
        ("interpolate", [0, 0, 0, 1, 1, 1]),
        ("random", [0, 1, None, None, None, None]),
        ("zero", [0, 1, None, None, None, None]),
    ],
)
def test_layer_order(how, expected):
    assert layer_sources(2, 6, how) == expected
    base = _base()
    grown, mapping = grow_depth(base, 6, how)
    assert len(grown.blocks) == grown.config.depth == 6
    for i, source in enumerate(expected):
        for name, value in grown.blocks[i].named_parameters():
            if source is None:
                assert mapping[f"blocks.{i}.{name}"] == Mapped("new")
            else:
                assert torch.equal(value, base.blocks[source].get_parameter(name))
                assert mapping[f"blocks.{i}.{name}"] == Mapped("copy", (f"blocks.{source}.{name}",))


@pytest.mark.parametrize("how", OPERATORS)
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_outside_the_layers_is_copied_and_the_mapping_is_complete(how, tied):
    base = _base(tied=tied)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    grown, mapping = grow_depth(base, 4, how)
    for name in ("embedding.weight", "norm.weight", "head.weight"):
        assert torch.equal(grown.state_dict()[name], base.state_dict()[name])
    assert grown.head.weight is grown.embedding.weight if tied else grown.head.weight is not grown.embedding.weight
    new, old = dict(grown.named_parameters()), dict(base.named_parameters())
    assert {n for n, m in mapping.items() if m.how != "drop"} == set(new)
    assert set(old) <= {s for m in mapping.values() for s in m.sources} | {n for n, m in mapping.items() if m.how == "drop"}
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())


@pytest.mark.parametrize("how", OPERATORS)
def test_tensors_are_independent(how):
    base = _base()
    grown, _ = grow_depth(base, 4, how)
    memory = [p.untyped_storage().data_ptr() for model in (base, grown) for p in model.parameters()]
    assert len(set(memory)) == len(memory)


def test_zero_computes_what_the_base_did_and_still_learns():
    base = _base()
    grown, _ = grow_depth(base, 6, "zero")
    hidden = grown(_tokens())["hidden"]
    torch.testing.assert_close(hidden, base(_tokens())["hidden"], rtol=0, atol=1e-6)
    hidden.square().sum().backward()
    assert grown.blocks[5].attention.out.weight.grad.abs().max() > 0
    for how in ("stack", "interpolate", "random"):
        other = grow_depth(base, 6, how)[0](_tokens())["hidden"]
        assert (other - base(_tokens())["hidden"]).abs().max() > 1e-3


def test_fresh_layers_are_those_of_a_new_model_under_the_seed():
    grown = grow_depth(_base(), 4, "random", seed=9)[0]
    new = initialise(Transformer(dataclasses.replace(BASE, depth=4)), 9)
    for i in (2, 3):
        for a, b in zip(grown.blocks[i].parameters(), new.blocks[i].parameters(), strict=True):
            assert torch.equal(a, b)
    again = grow_depth(_base(), 4, "random", seed=9)[0]
    other = grow_depth(_base(), 4, "random", seed=10)[0]
    name = "blocks.3.attention.out.weight"
    assert torch.equal(grown.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(grown.get_parameter(name), other.get_parameter(name))


def test_mode_precision_and_frozen_parameters_are_kept():
    base = _base().double().eval()
    base.embedding.weight.requires_grad_(False)
    base.blocks[1].requires_grad_(False)
    grown = grow_depth(base, 4, "stack")[0]
    assert not grown.training
    assert grown.norm.weight.dtype == torch.float64
    assert not grown.embedding.weight.requires_grad
    assert [b.attention.out.weight.requires_grad for b in grown.blocks] == [True, False, True, False]


@pytest.mark.parametrize(
    ("target", "how", "message"),
    [
        (5, "stack", "grow_depth.depth: found 5, expected a multiple of the base's 2 layers, at least 4"),
        (2, "stack", "grow_depth.depth: found 2, expected a multiple of the base's 2 layers, at least 4"),
        (4, "stak", "grow_depth.how: found 'stak', expected a known name; did you mean 'stack'?"),
        (WIDER, "stack", "grow_depth.target.width: found 32, expected 16, as in the model that grows"),
        (OTHER_VOCAB, "zero", "grow_depth.target.vocab: found 14, expected 13, as in the model that grows"),
    ],
)
def test_bad_input(target, how, message):
    with pytest.raises(BadInput) as caught:
        grow_depth(_base(), target, how)
    assert str(caught.value) == message
