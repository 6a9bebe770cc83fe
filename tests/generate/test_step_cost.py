import pytest
import torch

from etude.engine.flops import FlopCounter
from etude.engine.streams import initialise
from etude.generate.states import Rereading, decoder_of
from etude.generate.step_cost import StepCost, quadratic
from etude.nn.recurrent import RecurrentConfig, RecurrentLM
from etude.nn.transformer import Transformer, TransformerConfig

MODELS = {
    "transformer": lambda: Transformer(TransformerConfig(vocab=9, width=8, depth=2, heads=2, kv_heads=1)),
    "gru": lambda: RecurrentLM(RecurrentConfig(vocab=9, width=8)),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("anew", [False, True])
def test_the_polynomial_equals_the_count(kind, anew):
    model = initialise(MODELS[kind](), 0)
    decoder = Rereading(model) if anew else decoder_of(model)
    cost = StepCost(decoder, model, 40)
    for rows, length in ((1, 1), (3, 7), (2, 40)):
        state = decoder.begin(torch.zeros(rows, length, dtype=torch.int64))
        with FlopCounter() as counter:
            decoder.extend(torch.zeros(rows, 1, dtype=torch.int64), state)
        assert cost.of(rows, length) == counter.total > 0


def test_by_hand():
    # Per token: 2 x (8 x 12 queries-keys-values of 4 + 2 x 2 heads' widths, 8 x 8 out, 3 x 8 x 24 feed-forward), two products with
    # each of 11 positions over the full width of 8, and the head.
    model = initialise(Transformer(TransformerConfig(vocab=9, width=8, depth=2, heads=2, kv_heads=1, hidden=24)), 0)
    layer = 2 * (8 * 16 + 8 * 8 + 3 * 8 * 24) + 2 * 2 * 11 * 8
    assert StepCost(model, model, 40).of(5, 10) == 5 * (2 * layer + 2 * 8 * 9)


def test_a_model_whose_work_depends_on_the_data_has_no_polynomial():
    model = MODELS["transformer"]()
    model.data_dependent_flops = True
    assert StepCost(model, model, 40).of(1, 3) is None


class _Jumping:
    """Costs that no polynomial of degree two describes."""

    def begin(self, tokens):
        return tokens

    def extend(self, tokens, state):
        for _ in range(state.shape[1] % 2 + 1):
            torch.ones(2, 2) @ torch.ones(2, 2)


def test_a_cost_that_fails_the_check_is_not_used():
    assert StepCost(_Jumping(), torch.nn.Linear(1, 1), 41).of(1, 3) is None


def test_quadratic():
    points = [(1, 6), (4, 27), (9, 102)]  # x^2 + 2 x + 3
    assert [quadratic(points, x) for x in (0, 2, 10)] == [3, 11, 123]
