import numpy as np
import pytest
import torch
from torch import nn

from etude.engine.ledger import Ledger
from etude.engine.streams import initialise
from etude.errors import BadInput
from etude.generate.search import Evaluate, Question, Step
from etude.learn.state_values import StateValues
from etude.learn.values import ValueModel
from etude.nn.transformer import Transformer, TransformerConfig


class Counting(nn.Module):
    """The value at a token is a thousandth of the sum of all tokens up to it, less a half."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.001))
        self.shapes = []

    def forward(self, tokens):
        self.shapes.append(tuple(tokens.shape))
        return tokens.cumsum(1) * self.scale - 0.5


def requests():
    path = (Step(tokens=(100, 200)), Step(tokens=(300,)))
    return [
        Evaluate(Question("a", np.array([10, 20])), ((), path[:1], path)),
        Evaluate(Question("b", np.array([900])), (path[1:], (Step(tokens=(800,) * 30),))),
    ]


def test_the_value_at_the_last_token_within_its_range():
    model = Counting().train()
    ledger = Ledger()
    values = StateValues(model, lambda q: q.prompt, context=20, ledger=ledger)(requests())
    assert values[0] == pytest.approx([0.0, 0.0, 0.13])  # 30 and 330 are below a half, 630
    assert values[1] == pytest.approx([0.7, 1.0])  # 1200; the last is cut to 20 tokens and to 1
    assert model.training
    assert {k: v for k, v in ledger.entries["judge"].items() if k != "seconds"} == {
        "calls": 5,
        "prompt_tokens": 2 + 4 + 5 + 2 + 20,
        "flops": ledger.entries["judge"]["flops"],
    }
    free = StateValues(model, lambda q: q.prompt, context=20, low=-1.0, high=30.0)(requests())
    assert free[0] == pytest.approx([-0.47, -0.17, 0.13])


def test_a_real_model_values_a_state_the_same_in_any_company_and_flops_are_counted_once_a_shape():
    body = initialise(Transformer(TransformerConfig(vocab=16, width=16, depth=2, heads=2, context=32)), 0)
    model = ValueModel(body, 16, squash=True)
    nn.init.normal_(model.value_head.weight)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 16, n) for n in (3, 9, 20, 9, 1, 32)]
    ledger = Ledger()
    values = StateValues(model, lambda q: q.prompt, context=32, ledger=ledger)
    together = values.of(rows)
    assert together == pytest.approx([values.of([row])[0] for row in rows], abs=1e-5)
    assert together.std() > 0.01
    flops = ledger.entries["judge"]["flops"]
    values.of(rows)
    assert ledger.entries["judge"]["flops"] > flops
    assert ledger.entries["judge"]["calls"] == 18
    with pytest.raises(BadInput, match="low < high"):
        StateValues(model, lambda q: q.prompt, context=32, low=1.0, high=0.0)
