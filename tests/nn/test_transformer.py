import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from etude.engine.streams import initialise
from etude.errors import BadInput
from etude.nn.transformer import (
    Attention,
    Block,
    KeysValues,
    Transformer,
    TransformerConfig,
    count_parameters,
    document_mask,
    rotary,
    rotate,
)

SMALL = TransformerConfig(vocab=11, width=16, depth=2, heads=4, kv_heads=2, hidden=12, context=16)


def _tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(SMALL.vocab, shape, generator=torch.Generator().manual_seed(seed))


def _double(config: TransformerConfig = SMALL, seed: int = 0) -> Transformer:
    return initialise(Transformer(config), seed).double()


def _by_hand(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """Every head, position and rotation in loops; tokens [T] -> hidden [T, D]."""
    c = model.config
    E, H, G = c.head_width, c.heads, c.num_kv_heads

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + c.norm_eps).sqrt() * weight

    def turn(vector, position):
        out = vector.clone()
        for i in range(E // 2):
            angle = position * c.rope_base ** (-2 * i / E)
            a, b = vector[2 * i], vector[2 * i + 1]
            out[2 * i] = a * math.cos(angle) - b * math.sin(angle)
            out[2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    x = model.embedding.weight[tokens]
    for block in model.blocks:
        rows = norm(x, block.attention_norm.weight) @ block.attention.query_key_value.weight.T
        mixed = torch.zeros_like(x)
        for t in range(len(tokens)):
            for h in range(H):
                g = h // (H // G)
                query = turn(rows[t, h * E : (h + 1) * E], t)
                scores = torch.stack([query @ turn(rows[s, (H + g) * E : (H + g + 1) * E], s) for s in range(t + 1)]) / E**0.5
                values = torch.stack([rows[s, (H + G + g) * E : (H + G + g + 1) * E] for s in range(t + 1)])
                mixed[t, h * E : (h + 1) * E] = scores.softmax(0) @ values
        x = x + mixed @ block.attention.out.weight.T
        both = norm(x, block.feed_forward_norm.weight) @ block.feed_forward.gate_up.weight.T
        gate, up = both[:, : c.num_hidden], both[:, c.num_hidden :]
        x = x + (gate * torch.sigmoid(gate) * up) @ block.feed_forward.down.weight.T
    return norm(x, model.norm.weight)


def test_forward_is_the_equations():
    model, tokens = _double(), _tokens(5)
    hidden = model(tokens[None])["hidden"][0]
    torch.testing.assert_close(hidden, _by_hand(model, tokens), rtol=0, atol=1e-9)
    torch.testing.assert_close(model.head(hidden), hidden @ model.embedding.weight.T)


def test_no_position_sees_the_future():
    model, tokens = _double(), _tokens(1, 8)
    other = tokens.clone()
    other[0, 5:] = (other[0, 5:] + 1) % SMALL.vocab
    first, second = model(tokens)["hidden"], model(other)["hidden"]
    assert torch.equal(first[:, :5], second[:, :5])
    assert (first[:, 5:] - second[:, 5:]).abs().amin() > 0


def test_documents_do_not_see_each_other():
    model, tokens = _double(), _tokens(2, 9)
    ids = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [3, 3, 3, 3, 3, 3, 3, 3, 3]])
    packed = model(tokens, ids)["hidden"]
    torch.testing.assert_close(packed[:1, :4], model(tokens[:1, :4])["hidden"])
    # Rotary attention sees distances only: the second document is as if it stood alone at position 0.
    torch.testing.assert_close(packed[:1, 4:], model(tokens[:1, 4:])["hidden"])
    torch.testing.assert_close(packed[1:], model(tokens[1:])["hidden"])


def test_document_mask():
    mask = document_mask(torch.tensor([[0, 0, 1]]))
    assert mask.tolist() == [[[[True, False, False], [True, True, False], [False, False, True]]]]


def test_positions_are_relative_and_may_differ_by_sequence():
    model, tokens = _double(), _tokens(2, 6)
    plain = model(tokens)["hidden"]
    shifted = model(tokens, positions=torch.arange(6) + torch.tensor([[0], [40]]))["hidden"]
    torch.testing.assert_close(shifted, plain)
    stretched = model(tokens, positions=torch.arange(6) * 2)["hidden"]
    assert (stretched - plain).abs().max() > 1e-4


def test_rotation_by_hand():
    config = TransformerConfig(width=4, heads=1, rope_base=100.0)
    rows = torch.tensor([[[1.0, 0, 1, 0, 0, 1, 0, 1, 5, 6, 7, 8]]])  # query, key, value
    turned = rotate(rows, rotary(torch.tensor([3]), config))[0, 0]
    c, s, d, z = math.cos(3), math.sin(3), math.cos(0.3), math.sin(0.3)
    torch.testing.assert_close(turned, torch.tensor([c, s, d, z, -s, c, -z, d, 5, 6, 7, 8]))
    half = rotate(rows.bfloat16(), rotary(torch.tensor([3]), config))
    assert half.dtype == torch.bfloat16
    assert half[0, 0, 8:].tolist() == [5, 6, 7, 8]


def test_block_on_gathered_tokens_equals_attention_among_them_alone():
    model = _double()
    x = torch.randn(2, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kept = torch.tensor([[0, 2, 3, 7], [1, 4, 5, 6]])
    gathered = x.gather(1, kept[..., None].expand(-1, -1, 16))
    alone = model.blocks[0](gathered, model.rotary(kept))
    among = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    for b in range(2):
        for i in kept[b].tolist():
            among[b, 0, i, [j for j in kept[b].tolist() if j <= i]] = True
    among |= torch.eye(8, dtype=torch.bool)
    whole = model.blocks[0](x, model.rotary(torch.arange(8)), among)
    torch.testing.assert_close(alone, whole.gather(1, kept[..., None].expand(-1, -1, 16)))


def test_given_keys_and_values_equal_a_whole_forward():
    attention = initialise(Attention(SMALL), 0).double()
    x = torch.randn(2, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = attention(x, rotary(torch.arange(6), SMALL, torch.float64))
    old = attention.project(x[:, :4], rotary(torch.arange(4), SMALL, torch.float64))[1]
    tables = rotary(torch.arange(4, 6), SMALL, torch.float64)
    new = attention.project(x[:, 4:], tables)[1]
    both = KeysValues(torch.cat((old.keys, new.keys), 2), torch.cat((old.values, new.values), 2))
    mask = torch.arange(6)[None, :] <= torch.arange(4, 6)[:, None]
    torch.testing.assert_close(attention(x[:, 4:], tables, mask[None, None], both), whole[:, 4:])
    torch.testing.assert_close(attention.queries(x[:, 4:], tables), attention.project(x[:, 4:], tables)[0])
    last = attention(x[:, 5:], rotary(torch.tensor([5]), SMALL, torch.float64), None, both, is_causal=False)
    torch.testing.assert_close(last, whole[:, 5:])


def test_a_token_comes_with_a_map_of_the_one_before_in_its_row_and_document():
    model, tokens = _double(dataclasses.replace(SMALL, shifted=True)), _tokens(2, 9)
    assert model.shift is not None
    x, seen = model.embedding(tokens), []
    before = torch.cat([torch.zeros(2, 1, 16), x[:, :-1] @ model.shift.weight.T], 1)
    handle = model.blocks[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    whole = model(tokens)["hidden"]
    handle.remove()
    torch.testing.assert_close(seen[0], x + before)
    ids = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [3, 3, 3, 3, 3, 3, 3, 3, 3]])
    packed = model(tokens, ids)["hidden"]
    torch.testing.assert_close(packed[:1, 4:], model(tokens[:1, 4:])["hidden"])
    torch.testing.assert_close(packed[1:], whole[1:])
    both = model(tokens, prefix=torch.ones(2, 9, dtype=torch.bool))["hidden"]
    assert (both[:, 0] - whole[:, 0]).abs().max() > 1e-4


def test_without_the_map_a_model_is_what_it_was():
    plain, shifted = (initialise(Transformer(dataclasses.replace(SMALL, shifted=on)), 0) for on in (False, True))
    assert set(shifted.state_dict()) - set(plain.state_dict()) == {"shift.weight"}
    assert all(torch.equal(value, shifted.state_dict()[name]) for name, value in plain.state_dict().items())
    shifted.shift = None
    assert torch.equal(plain(_tokens(2, 5))["hidden"], shifted(_tokens(2, 5))["hidden"])


def test_one_batch_of_8_equals_8_of_1():
    model, tokens = initialise(Transformer(dataclasses.replace(SMALL, width=32)), 0), _tokens(8, 128)
    single = torch.cat([model(tokens[i : i + 1])["hidden"] for i in range(8)])
    torch.testing.assert_close(model(tokens)["hidden"], single, rtol=0, atol=1e-4)


def test_gradients():
    model = _double(dataclasses.replace(SMALL, depth=1, tied=False))
    tokens = _tokens(1, 4)

    def loss(*values):
        named = dict(zip((n for n, _ in model.named_parameters()), values, strict=True))
        return torch.func.functional_call(model, named, (tokens,))["hidden"].square().sum()

    assert torch.autograd.gradcheck(loss, tuple(model.parameters()), fast_mode=True)


def test_initial_values():
    config = TransformerConfig(width=64, depth=8, tied=False)
    model = initialise(Transformer(config), 3)
    for name, value in model.named_parameters():
        if name.endswith("norm.weight"):
            assert value.eq(1).all()
        else:
            std = 0.02 / 4 if name.endswith(("attention.out.weight", "down.weight")) else 0.02
            assert value.std().item() == pytest.approx(std, rel=0.05), name
            assert abs(value.mean().item()) < std / 10, name
    again = initialise(Transformer(config), 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    deeper = initialise(Transformer(dataclasses.replace(config, depth=9)), 3)
    assert torch.equal(deeper.embedding.weight, model.embedding.weight)
    assert torch.equal(deeper.blocks[7].feed_forward.gate_up.weight, model.blocks[7].feed_forward.gate_up.weight)


@pytest.mark.parametrize(("tied", "kv_heads"), [(True, None), (False, 2)])
def test_parameter_count(tied, kv_heads):
    config = TransformerConfig(vocab=100, width=32, depth=3, heads=4, kv_heads=kv_heads, hidden=48, tied=tied)
    block = 32 * (32 + 2 * 8 * (kv_heads or 4)) + 32 * 32 + 3 * 32 * 48 + 2 * 32
    body = 3 * block + 32
    model = Transformer(config)
    assert count_parameters(model) == body + 100 * 32 * (1 if tied else 2)
    assert count_parameters(model, embeddings=False) == body + (0 if tied else 100 * 32)


def test_paper_scale_on_the_meta_device():
    # TinyLlama 1.1B, as published: 1,100,048,384 parameters.
    with torch.device("meta"):
        model = Transformer(TransformerConfig(vocab=32000, width=2048, depth=22, heads=32, kv_heads=4, hidden=5632, tied=False))
    assert count_parameters(model) == 1_100_048_384
    assert Block(SMALL).attention.out.weight.device.type == "cpu"


def test_default_hidden_keeps_the_parameters_of_a_plain_feed_forward_part():
    assert TransformerConfig(width=96).num_hidden == 256
    assert TransformerConfig(width=64).num_hidden == 176


def test_learns():
    model = initialise(Transformer(dataclasses.replace(SMALL, width=32)), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = _tokens(4, 9)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(model.head(model(tokens[:, :-1])["hidden"]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(SMALL.vocab), abs=0.1)
    assert losses[-1] < 0.5


UNEVEN = "expected a width that the heads divide into even parts"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "TransformerConfig.width and heads: found 16 and 3, " + UNEVEN),
        (
            {"heads": 16, "kv_heads": None},
            "TransformerConfig.width and heads: found 16 and 16, " + UNEVEN,
        ),
        ({"kv_heads": 3}, "TransformerConfig.kv_heads: found 3, expected a divisor of heads (4)"),
        ({"depth": 0}, "TransformerConfig.depth: found 0, expected a whole number >= 1"),
        ({"vocab": 2.5}, "TransformerConfig.vocab: found 2.5, expected a whole number"),
        ({"rope_base": -1.0}, "TransformerConfig.rope_base: found -1.0, expected a number > 0"),
        ({"init_std": float("nan")}, "TransformerConfig.init_std: found nan, expected a finite number"),
    ],
)
def test_bad_config(change, message):
    with pytest.raises(BadInput) as caught:
        dataclasses.replace(SMALL, **change)
    assert str(caught.value) == message
