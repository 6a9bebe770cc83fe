"""Embeddings of samples by the model in training: which block, which positions, what they cost."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from etude.data.sources import TensorSource, WindowSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.protocols import Batch, Method
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.embeddings import block_at, blocks_of, mean_hidden, mean_over_positions
from etude.learn.language import CausalLM
from etude.learn.supervised import Supervised
from etude.nn.mlp import MLP
from etude.nn.transformer import Transformer, TransformerConfig

TOKENS = np.random.default_rng(0).integers(0, 50, 16 * 30 + 1)
CONFIG = TransformerConfig(vocab=50, width=16, depth=4, heads=2, context=16)


class Look(Method):
    def __init__(self, depth):
        self.depth = depth

    def start(self, run):
        self.before = {name: dict(row) for name, row in run.ledger.entries.items()}
        self.found = mean_hidden(run, self.depth)
        self.charged = dict(run.ledger.entries["prepare"])
        self.training = run.model.training


def looked(model, source, depth, objective=None, batch_size=3):
    look = Look(depth)
    Trainer(model, DataStream(source, batch_size, 0), objective or CausalLM(), methods=[look], budget=Budget(steps=1)).run()
    return look


@torch.no_grad()
def after(model, tokens, blocks):
    """The hidden states after some blocks, block by block, as the model's own forward goes."""
    states = []
    hooks = [b.register_forward_hook(lambda m, i, o: states.append(o)) for b in model.blocks]
    model(tokens[:, :-1])
    for hook in hooks:
        hook.remove()
    return states[blocks - 1]


@pytest.mark.parametrize(("depth", "blocks"), [(0.01, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_the_mean_is_of_the_states_after_that_share_of_the_blocks(depth, blocks):
    source = WindowSource(TOKENS, 16)
    model = initialise(Transformer(CONFIG), 0)
    expected = after(model, source.get(np.arange(len(source)))["tokens"], blocks).mean(1)
    look = looked(model, source, depth)
    assert look.found.shape == (30, 16)
    assert look.found == pytest.approx(expected.numpy(), abs=1e-6)


def test_it_costs_the_blocks_that_it_passes_and_no_more():
    costs = {d: looked(initialise(Transformer(CONFIG), 0), WindowSource(TOKENS, 16), d).charged for d in (0.25, 0.5, 1.0)}
    assert costs[0.5]["flops"] == 2 * costs[0.25]["flops"]
    assert costs[1.0]["flops"] == 4 * costs[0.25]["flops"]
    assert (costs[1.0]["samples"], costs[1.0]["tokens"]) == (30, 480)


def test_filling_is_left_out():
    tokens = torch.from_numpy(TOKENS[:45].reshape(3, 15))
    lengths = torch.tensor([15, 9, 4])
    model = initialise(Transformer(CONFIG), 0)
    states = after(model, tokens, 4)
    look = looked(model, TensorSource(tokens=tokens, lengths=lengths), 1.0)
    for row, length in enumerate([14, 9, 4]):  # the last token is predicted, never read
        assert look.found[row] == pytest.approx(states[row, :length].mean(0).numpy(), abs=1e-6)


def test_a_mask_on_the_left_counts_too():
    hidden = torch.arange(6.0).reshape(1, 3, 2)
    batch = Batch({"attention_mask": torch.tensor([[0, 1, 1]]), "lengths": torch.tensor([2])}, np.zeros(1, dtype=np.int64))
    assert mean_over_positions(hidden, batch).tolist() == [[3.0, 4.0]]


def test_the_blocks_of_a_transformers_model_are_found():
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes))
    assert blocks_of(model) is model.model.layers
    assert block_at(model, 0.67) is model.model.layers[1]


class Pair(nn.Module):
    """Two blocks, of which the second is never called."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 4)])

    def forward(self, x):
        return self.blocks[0](x)


LABELLED = TensorSource(x=torch.zeros(6, 3), y=torch.zeros(6, dtype=torch.int64))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: block_at(Transformer(CONFIG), 1.1), "depth: found 1.1, expected a share"),
        (lambda: block_at(Transformer(CONFIG), 0.0), "depth: found 0.0"),
        (lambda: looked(nn.Linear(3, 4), LABELLED, 1.0, Supervised()), "Linear without a list of blocks"),
        (lambda: looked(MLP((3, 8, 4)), LABELLED, 1.0, Supervised()), "without a list of blocks|one row of positions"),
        (lambda: looked(Pair(), LABELLED, 1.0, Supervised()), "does not call"),
        (lambda: looked(Pair(), LABELLED, 0.5, Supervised()), r"shape \[6, 4\] for 6 samples, expected one row of positions"),
    ],
)
def test_what_cannot_be_embedded_is_told(call, told):
    with pytest.raises(BadInput, match=told):
        call()


def test_rows_that_nothing_has_collated_are_told():
    class Prompts(DataStream):
        def batches_of(self, ids, batch_size):
            yield Batch({"rows": [{"prompt": "?"}]}, np.zeros(1, dtype=np.int64))  # as a trainer's rows of GRPO are

    look = Look(1.0)
    with pytest.raises(BadInput, match="data: found rows without tensors"):
        Trainer(Transformer(CONFIG), Prompts(WindowSource(TOKENS, 16), 3, 0), CausalLM(), methods=[look], budget=Budget(steps=1)).run()
