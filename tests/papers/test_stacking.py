import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import Stop

from etude.data.sources import WindowSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.protocols import Method
from etude.engine.streams import initialise
from etude.engine.trainer import Interrupted, Trainer
from etude.errors import BadInput
from etude.learn.language import CausalLM
from etude.nn.surgery import layer_sources
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.growth.stacking import PAPER, STUDY, Grow, growth_tokens


@pytest.mark.parametrize(
    ("num_parameters", "tokens", "published"),
    # The authors' table (tongxuluo/prts, README): Llama3-8B, Llama2-7B, -13B, -70B.
    [(8e9, 15e12, 6.58e9), (7e9, 2e12, 11.11e9), (13e9, 2e12, 15.84e9), (70e9, 2e12, 42.48e9)],
)
def test_the_guideline_reproduces_the_published_growth_timing(num_parameters, tokens, published):
    assert growth_tokens(num_parameters, tokens) == pytest.approx(published, rel=1e-3)


def test_the_order_of_layers_is_the_authors():
    golden = json.loads((Path(__file__).parents[1] / "golden" / "stacking.json").read_text())
    assert layer_sources(golden["base"], golden["target"], "stack") == golden["layers"]


def train(methods, folder=None, resume=False, tied=False, steps=12):
    config = TransformerConfig(vocab=32, width=16, depth=2, heads=2, context=16, tied=tied)
    data = np.arange(4000) % 29
    stream = DataStream(WindowSource(data, 16), 4, 0)
    model = initialise(Transformer(config), 0)
    return Trainer(model, stream, CausalLM(), methods=methods, budget=Budget(steps=steps), folder=folder, checkpoint_every=0.25).run(
        resume=resume
    )


def test_growth_happens_once_at_its_share_with_fresh_moments_and_a_new_warm_up():
    seen = []

    class Watch(Method):
        def replaced(self, run, mapping):
            seen.append((run.step, [len(o.state) for o in run.optimizers.values()], {m.how for m in mapping.values()}))

        def updated(self, run):
            seen.append(run.learning_rate)

    result = train([Grow(factor=2, at=0.5), Watch()])
    growth = [entry for entry in seen if isinstance(entry, tuple)]
    assert growth == [(6, [0], {"copy"})]
    assert len(result.model.blocks) == 4
    rates = [entry for entry in seen if not isinstance(entry, tuple)]
    assert rates[5] == pytest.approx(1e-3)  # the base is never decayed
    assert rates[11] < 0.3e-3  # the target decays to a tenth


@pytest.mark.parametrize("tied", [False, True])
def test_stacked_layers_are_base_layers_in_cyclic_order_and_independent(tied):
    kept = {}

    class Before(Method):
        phases = {"updated": 0}

        def updated(self, run):
            if run.step == 6:
                kept.update({n: p.detach().clone() for n, p in run.model.named_parameters()})

        def replaced(self, run, mapping):
            blocks = run.model.blocks
            for i, block in enumerate(blocks):
                for name, p in block.named_parameters():
                    assert torch.equal(p, kept[f"blocks.{i % 2}.{name}"])
            assert len({p.data_ptr() for b in blocks for p in b.parameters()}) == sum(1 for b in blocks for _ in b.parameters())

    train([Before(), Grow(factor=3, at=0.5)], tied=tied)
    assert kept


def test_the_stream_goes_on_past_what_the_base_saw(tmp_path):
    train([Grow(factor=2, at=0.5)], folder=tmp_path / "grown")
    train([], folder=tmp_path / "plain")
    assert (tmp_path / "grown" / "order.bin").read_bytes() == (tmp_path / "plain" / "order.bin").read_bytes()


@pytest.mark.parametrize("operator", ["stack", "interpolate", "random", "zero"])
@pytest.mark.parametrize("stop", [4, 6, 8])
def test_resumed_across_growth_bit_for_bit(tmp_path, operator, stop):
    whole = train([Grow(factor=2, at=0.5, operator=operator), Stop(0)])
    with pytest.raises(Interrupted):
        train([Grow(factor=2, at=0.5, operator=operator), Stop(stop)], folder=tmp_path / "r")
    resumed = train([Grow(factor=2, at=0.5, operator=operator), Stop(0)], folder=tmp_path / "r", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_refuses():
    for bad, message in (({"factor": 1}, ">= 2"), ({"at": 1.0}, "inside it"), ({"operator": "stak"}, "expected stack")):
        with pytest.raises(BadInput, match=message):
            Grow(**bad)


def test_the_paper_scale_has_the_published_size():
    with torch.device("meta"):
        model = STUDY.build_paper_model(PAPER)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1.1e9, rel=0.2)
    assert set(STUDY.scales["paper"].sources) == set(PAPER.__dataclass_fields__)
