import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from etude.data.sources import WindowSource
from etude.data.stream import DataStream
from etude.engine.flops import FlopCounter
from etude.engine.ledger import Budget
from etude.engine.streams import generator, initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.language import CausalLM
from etude.nn.transformer import Transformer, TransformerConfig, count_parameters
from etude.papers.architecture.mixture_of_recursions import PAPER, STUDY
from etude.papers.architecture.mixture_of_recursions.generation import Decoder, tokens_per_second
from etude.papers.architecture.mixture_of_recursions.model import RecursiveConfig, RecursiveTransformer
from etude.papers.architecture.mixture_of_recursions.routing import (
    auxiliary_loss,
    balance_loss,
    capacities,
    choose,
    num_kept,
    z_loss,
)

SHAPE = TransformerConfig(vocab=30, width=16, depth=8, heads=2, context=24)


def make(router="expert", num=3, **settings):
    model = initialise(RecursiveTransformer(RecursiveConfig(shape=SHAPE, num_recursions=num, router=router, **settings)), 0)
    for r in model.routers:  # trained routers spread their logits; fresh ones are all near 0
        torch.nn.init.normal_(r.linear.weight, std=2.0, generator=generator(0, "router"))
    return model


def tokens(batch=2, length=24):
    return torch.randint(30, (batch, length), generator=generator(1, "tokens"))


def test_equations_worked_out_by_hand():
    assert capacities(3) == pytest.approx((1, 2 / 3, 1 / 3))
    assert [num_kept(c, 24) for c in capacities(3)] == [24, 16, 8]
    assert num_kept(0.1, 4) == 1  # clamped
    places, targets = choose(torch.tensor([[0.1, 3.0, -1.0, 2.0]]), 2)
    assert places.tolist() == [[1, 3]]
    assert targets.tolist() == [[0, 1, 0, 1]]
    logits = torch.tensor([[0.0, math.log(3)]])
    assert float(auxiliary_loss(logits, torch.tensor([[1.0, 0.0]]))) == pytest.approx((math.log(2) + math.log(4)) / 2)
    uniform = torch.full((1, 4, 2), 0.5)
    assert float(balance_loss(uniform, torch.tensor([[0, 1, 0, 1]]))) == pytest.approx(1.0)
    assert float(balance_loss(uniform, torch.tensor([[0, 0, 0, 0]]))) == pytest.approx(1.0)
    skewed = torch.tensor([[[0.9, 0.1]]])
    assert float(balance_loss(skewed, torch.tensor([[0]]))) == pytest.approx(1.8)
    assert float(z_loss(torch.zeros(1, 1, 4))) == pytest.approx(math.log(4) ** 2)


@torch.no_grad()
def brute_force(model, ids):
    """Expert-choice by a loop over recursions, with masks over full sequences instead of gathered tokens.

    With the shared cache, a block of a later recursion sees the pairs that its first recursion made of all tokens.
    """
    first_pairs = {}

    def run(number, block, y, look, recursion):
        if model.config.cache == "recursion":
            return block(y, tables, look)
        h = block.attention_norm(y)
        queries, own = block.attention.project(h, tables)
        pairs = first_pairs.setdefault(number, own)
        y = y + block.attention.attend(queries, pairs, causal[None, None] if recursion else look)
        return y + block.feed_forward(block.feed_forward_norm(y))

    x, config = model.embedding(ids), model.config
    tables = model_tables(model, ids.shape[1])
    x = model.first[0](x, tables)
    batch, length = ids.shape
    alive = torch.ones(batch, length, dtype=torch.bool)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    for r in range(config.num_recursions):
        logits = model.routers[r](x).squeeze(-1).masked_fill(~alive, -math.inf)
        keep = torch.zeros_like(alive)
        for b in range(batch):
            best = sorted(range(length), key=lambda t, b=b: -float(logits[b, t]))[: int(config.capacities[r] * length + 1e-9)]
            keep[b, best] = True
        look = (causal & keep[:, None, :]) | torch.eye(length, dtype=torch.bool)
        y = x
        for number, block in enumerate(model.shared):
            y = run(number, block, y, look[:, None], r)
        x = x + torch.where(keep, config.alpha * torch.sigmoid(logits), torch.zeros(())).unsqueeze(-1) * y
        alive = keep
    return model.norm(model.last[0](x, tables))


def model_tables(model, length):
    from etude.nn.transformer import rotary

    return rotary(torch.arange(length), model.config.shape)


@pytest.mark.parametrize(("num", "cache"), [(2, "recursion"), (3, "recursion"), (3, "shared")])
def test_gathered_computation_equals_masked_brute_force(num, cache):
    model, ids = make(num=num, cache=cache), tokens()
    model.routing = "top-k"
    found = model.eval()(ids)["hidden"]
    assert torch.allclose(found, brute_force(model, ids), atol=1e-5)


def test_routing_equals_the_authors_code():
    golden = json.loads((Path(__file__).parents[1] / "golden" / "mixture-of-recursions.json").read_text())

    class Routed(RecursiveTransformer):
        def _run(self, blocks, y, gathered, places, *rest):
            kept.append(places.tolist())
            return y + 0.3 * torch.tanh(y).cumsum(1) + places.unsqueeze(-1) / 10

    model, kept = Routed(RecursiveConfig(shape=SHAPE)).double().train(), []
    for router, told in zip(model.routers, golden["recursions"], strict=True):
        router.linear.weight = torch.nn.Parameter(torch.tensor([told["router"]], dtype=torch.float64))
    x = torch.tensor(golden["x"], dtype=torch.float64)
    with torch.no_grad():
        hidden, auxiliary, _ = model._expert(x, torch.zeros(x.shape[1], 1), None)
    assert kept == [told["kept"] for told in golden["recursions"]]
    assert torch.allclose(hidden, torch.tensor(golden["recursions"][-1]["hidden"], dtype=torch.float64), atol=1e-12)
    assert float(auxiliary) == pytest.approx(0.001 * sum(told["auxiliary"] for told in golden["recursions"]))


def test_dropped_tokens_cost_nothing_attention_included():
    ids = tokens(4, 24)
    counts = {}
    for router in ("none", "random"):
        model = make(router)
        with FlopCounter() as counter, torch.no_grad():
            model(ids)
        counts[router] = counter.total
    with FlopCounter() as counter, torch.no_grad():
        Transformer(SHAPE)(ids)
    assert counts["none"] == counter.total
    # Linear parts: 2 own + 2 x (1 + 2/3 + 1/3) = 6 of 8 layers; attention falls with the square.
    linear = 2 * 4 * 24 * sum(p.numel() for n, p in model.shared[0].named_parameters() if p.ndim == 2)
    attention = 4 * 4 * 24 * 24 * 16
    expected = linear * 6 + attention * (2 + 2 * (1 + 4 / 9 + 1 / 9))
    assert counts["random"] == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
def test_token_choice_equals_masked_brute_force():
    model, ids = make("token").eval(), tokens()
    x, config = model.embedding(ids), model.config
    tables = model_tables(model, ids.shape[1])
    x = model.first[0](x, tables)
    shares = model.routers[0](x).softmax(-1)
    weight, depth = shares.max(-1)
    assert len(depth.unique()) == 3
    for r in range(config.num_recursions):
        keep = depth >= r
        look = (torch.ones(24, 24, dtype=torch.bool).tril() & keep[:, None, :]) | torch.eye(24, dtype=torch.bool)
        y = x
        for block in model.shared:
            y = block(y, tables, look[:, None])
        x = x + torch.where(keep, config.alpha * weight, torch.zeros(())).unsqueeze(-1) * y
    assert torch.allclose(model(ids)["hidden"], model.norm(model.last[0](x, tables)), atol=1e-5)


@torch.no_grad()
def test_the_shared_cache_saves_the_later_recursions_keys_and_values():
    counts = {}
    for cache in ("recursion", "shared"):
        model = make(cache=cache)
        model.routing = "top-k"
        with FlopCounter() as counter:
            model.eval()(tokens(4, 24))
        counts[cache] = counter.total
    kept, width = 4 * (16 + 8), SHAPE.width  # of 24 tokens in four sequences, at recursions 2 and 3
    projections = 2 * kept * width * 2 * width * 2  # keys and values, two blocks
    attention = 2 * 4 * 4 * width * ((16 * 24 + 8 * 24) - (16**2 + 8**2))  # queries look at all 24, in two blocks
    assert counts["recursion"] - counts["shared"] == projections - attention


def test_the_router_gets_its_gradient_through_the_gate():
    model, ids = make(auxiliary=0.0), tokens()
    hidden = model.train()(ids)["hidden"]
    F.cross_entropy(model.head(hidden).flatten(0, 1), ids.flatten()).backward()
    assert all(float(r.linear.weight.grad.abs().sum()) > 0 for r in model.routers)


@pytest.mark.parametrize("cache", ["recursion", "shared"])
@pytest.mark.parametrize("router", ["expert", "token"])
def test_threshold_routing_sees_no_later_token(router, cache):
    model, ids = make(router, cache=cache).eval(), tokens()
    whole = model(ids)["hidden"]
    for cut in (1, 7, 15):
        assert torch.allclose(model(ids[:, :cut])["hidden"], whole[:, :cut], atol=1e-5)


def test_top_k_routing_does_see_later_tokens():
    model, ids = make().eval(), tokens()
    model.routing = "top-k"
    assert not torch.allclose(model(ids[:, :9])["hidden"], model(ids)["hidden"][:, :9], atol=1e-4)


@pytest.mark.parametrize(
    ("router", "cache"), [("expert", "recursion"), ("expert", "shared"), ("token", "recursion"), ("none", "recursion")]
)
def test_cached_decoding_equals_the_full_forward(router, cache):
    model, ids = make(router, cache=cache).eval(), tokens(1, 20)
    assert_decodes_as_it_forwards(model, ids)
    assert tokens_per_second(model, ids[0, :4], 3, 0) > 0


def test_cached_decoding_of_the_plain_transformer_and_of_lots():
    assert_decodes_as_it_forwards(initialise(Transformer(SHAPE), 0).eval(), tokens(1, 20))
    with pytest.raises(BadInput, match="the router none, expert or token"):
        Decoder(make("random"))


@torch.no_grad()
def assert_decodes_as_it_forwards(model, ids):
    decoder = Decoder(model)
    stepwise = torch.stack([decoder.step(int(t)) for t in ids[0]])
    assert torch.allclose(stepwise, model.head(model(ids)["hidden"])[0], atol=1e-4)


def test_documents_do_not_see_each_other():
    model, ids = make().eval(), tokens(1, 20)
    documents = torch.tensor([[0] * 9 + [1] * 11])
    together = model(ids, document_ids=documents)["hidden"]
    assert torch.allclose(together[:, :9], model(ids[:, :9])["hidden"], atol=1e-5)
    changed = ids.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 30
    assert torch.allclose(model(changed, document_ids=documents)["hidden"][:, 9:], together[:, 9:], atol=1e-5)


@pytest.mark.parametrize(("sharing", "order"), [("cycle", [[0, 1]] * 4), ("sequence", [[0, 0], [0, 0], [1, 1], [1, 1]])])
def test_sharing_orders(sharing, order):
    model = make("none", num=4, sharing=sharing)
    assert model.order() == order
    assert count_parameters(model) < count_parameters(Transformer(SHAPE))


def test_one_recursion_of_everything_is_the_plain_transformer():
    # The substitutive method's limit: N = 1, no router.
    recursive, plain = make("none", num=1), Transformer(SHAPE)
    values = recursive.state_dict()
    names = {"first.0.": "blocks.0.", "last.0.": "blocks.7."} | {f"shared.{i}.": f"blocks.{i + 1}." for i in range(6)}
    for old, new in names.items():
        values = {(new + k.removeprefix(old) if k.startswith(old) else k): v for k, v in values.items()}
    plain.load_state_dict(values)
    ids = tokens()
    assert torch.allclose(plain(ids)["hidden"], recursive(ids)["hidden"], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_recursions": 4}, "a divisor of the 6 shared layers"),
        ({"shares": (1.0, 0.5)}, "one for each of 3"),
        ({"shares": (1.0, 0.5, 0.6)}, "at most 0.5"),
        ({"shares": (1.0, 0.5, 0.0)}, "above 0"),
        ({"shares": (0.9, 0.5, 0.1), "cache": "shared"}, "first capacity of 1"),
        ({"router": "oracle"}, "one of expert"),
        ({"threshold": 1.0}, "between 0 and 1"),
        ({"shape": replace(SHAPE, shifted=True)}, "shape.shifted"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(BadInput, match=message):
        RecursiveConfig(**{"shape": SHAPE} | settings)


@pytest.mark.parametrize("router", ["expert", "token", "random"])
def test_trains_and_counts_what_it_computes(router):
    stream = DataStream(WindowSource(np.arange(3000) % 29, 24), 4, 0)
    result = Trainer(make(router), stream, CausalLM(), budget=Budget(steps=6)).run()
    assert result.steps == 6
    assert result.ledger.total("flops") > 0


def test_the_paper_scale_has_the_published_size():
    with torch.device("meta"):
        model = STUDY.build_paper_model(PAPER)
        half = RecursiveTransformer(PAPER.recursive(2, "expert"))
    assert count_parameters(model, embeddings=False) == pytest.approx(315e6, rel=0.01)
    assert count_parameters(half, embeddings=False) == pytest.approx(167e6, rel=0.01)
    assert set(STUDY.scales["paper"].sources) == set(PAPER.__dataclass_fields__)
