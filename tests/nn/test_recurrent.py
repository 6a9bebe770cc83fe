import pytest
import torch

from etude.engine.streams import initialise
from etude.errors import BadInput
from etude.nn.recurrent import RecurrentClassifier, RecurrentConfig, RecurrentLM

CELLS = ("gru", "lstm", "elman")


def _model(cell: str, depth: int = 2) -> RecurrentLM:
    return initialise(RecurrentLM(RecurrentConfig(cell=cell, width=12, depth=depth, vocab=7)), 0)


def _tokens(*shape: int) -> torch.Tensor:
    return torch.randint(7, shape, generator=torch.Generator().manual_seed(0))


def _step(cell: str, x, h, c, weights):
    """One step of one layer, from the equations of torch's documentation."""
    w, u, b, d = weights
    if cell == "elman":
        return torch.tanh(w @ x + b + u @ h + d), c
    if cell == "gru":
        (wr, wz, wn), (ur, uz, un) = (w @ x + b).chunk(3), (u @ h + d).chunk(3)
        r, z = torch.sigmoid(wr + ur), torch.sigmoid(wz + uz)
        return (1 - z) * torch.tanh(wn + r * un) + z * h, c
    i, f, g, o = (w @ x + b + u @ h + d).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@pytest.mark.parametrize("cell", CELLS)
def test_hidden_states_by_hand(cell):
    model, tokens = _model(cell), _tokens(1, 4)
    weights = [[model.recurrent.get_parameter(f"{n}_l{i}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")] for i in range(2)]
    state = [(torch.zeros(12), torch.zeros(12)) for _ in range(2)]
    for t in range(4):
        x = model.embedding.weight[tokens[0, t]]
        for layer in range(2):
            state[layer] = _step(cell, x, *state[layer], weights[layer])
            x = state[layer][0]
    out = model(tokens)
    torch.testing.assert_close(out["hidden"][0, -1], x, rtol=0, atol=1e-6)
    assert model.head(out["hidden"]).shape == (1, 4, 7)


@pytest.mark.parametrize("cell", CELLS)
def test_state_carries_on(cell):
    model, tokens = _model(cell), _tokens(2, 9)
    first = model(tokens[:, :5])
    second = model(tokens[:, 5:], state=first["state"])
    torch.testing.assert_close(torch.cat((first["hidden"], second["hidden"]), 1), model(tokens)["hidden"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_memory_is_empty_where_a_document_starts(cell):
    model, tokens = _model(cell), _tokens(2, 9)
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 2, 3, 3]])
    hidden = model(tokens, ids)["hidden"]
    alone = [model(tokens[:1, :3]), model(tokens[:1, 3:]), model(tokens[1:, :6]), model(tokens[1:, 6:7]), model(tokens[1:, 7:])]
    a, b, c, d, e = (out["hidden"] for out in alone)
    torch.testing.assert_close(hidden[:1], torch.cat((a, b), 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(hidden[1:], torch.cat((c, d, e), 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_classifier_reads_the_last_step(cell):
    model = initialise(RecurrentClassifier(RecurrentConfig(cell=cell, width=8), inputs=1, classes=3), 0)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    logits = model(x)
    assert logits.shape == (4, 3)
    torch.testing.assert_close(logits, model(x.unsqueeze(-1)))
    torch.testing.assert_close(logits, model.out(model.recurrent(x.unsqueeze(-1))[0][:, 5]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "gruu"}, "RecurrentConfig.cell: found 'gruu', expected a known name; did you mean 'gru'?"),
        ({"width": 0}, "RecurrentConfig.width: found 0, expected a whole number >= 1"),
        ({"dropout": 1.0, "depth": 2}, "RecurrentConfig.dropout: found 1.0, expected a number from 0 to under 1"),
        ({"dropout": 0.1}, "RecurrentConfig.dropout: found 0.1, expected 0 with one layer: dropout stands between layers"),
    ],
)
def test_bad_config(change, message):
    with pytest.raises(BadInput) as caught:
        RecurrentConfig(**change)
    assert str(caught.value) == message


def test_bad_width_of_input():
    with pytest.raises(BadInput, match="RecurrentClassifier input: found 2 numbers a step, expected 1"):
        RecurrentClassifier(RecurrentConfig())(torch.zeros(1, 3, 2))
