"""Micro-batches: a batch in pieces is the same batch, and "auto" finds how large they may be."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toys import Stop, ToyStream, squared, toy_model

from etude.data.sources import WindowSource
from etude.data.stream import DataStream
from etude.engine import memory
from etude.engine.fitting import PeakMemory, estimated, longest_batch, tried
from etude.engine.ledger import Budget
from etude.engine.metrics import read_metrics
from etude.engine.optim import SGD
from etude.engine.protocols import Method, Output
from etude.engine.result import Interrupted
from etude.engine.run import even, mean_of
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.finetune import Finetune
from etude.learn.language import CausalLM
from etude.learn.rows import CompletionSource
from etude.nn.transformer import Transformer, TransformerConfig


def trained(micro_batch=None, source=None, objective=None, **more):
    model = initialise(Transformer(TransformerConfig(vocab=50, width=16, depth=1, heads=2, context=16)), 0)
    data = DataStream(source or WindowSource(torch.arange(2000) * 7 % 50, 16), 10, 0)
    settings = {"optimizer": SGD(lr=0.3), "budget": Budget(steps=4)} | more
    resume = settings.pop("resume", False)
    return Trainer(model, data, objective or CausalLM(), micro_batch=micro_batch, **settings).run(resume=resume)


def rows():
    rng = np.random.default_rng(0)
    return CompletionSource([(rng.integers(50, size=2), rng.integers(50, size=1 + i % 9)) for i in range(40)], context=16)


@pytest.mark.parametrize(("source", "objective"), [(None, None), (rows, Finetune)])
@pytest.mark.parametrize("micro_batch", [1, 4, 9])
def test_a_batch_in_pieces_is_the_same_batch(tmp_path, micro_batch, source, objective):
    told = {"source": source and source(), "objective": objective and objective()}
    whole = trained(folder=tmp_path / "whole", **told)
    pieces = trained(micro_batch, folder=tmp_path / "pieces", **told)
    for a, b in zip(read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "pieces"), strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    assert (tmp_path / "whole" / "order.bin").read_bytes() == (tmp_path / "pieces" / "order.bin").read_bytes()
    for a, b in zip(whole.model.parameters(), pieces.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    amounts = whole.ledger.as_dict()["train"] | {"seconds": 0}
    assert pieces.ledger.as_dict()["train"] | {"seconds": 0} == pytest.approx(amounts, rel=0.05 if objective else 1e-9)
    assert (whole.micro_batch, pieces.micro_batch) == (None, micro_batch)


def test_one_piece_is_bit_for_bit_the_batch():
    for a, b in zip(trained().model.parameters(), trained(10).model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_sampler_is_told_once_of_a_batch():
    seen = {}
    for micro_batch in (None, 3):
        stream = ToyStream(batch=8)
        Trainer(toy_model(), stream, squared, budget=Budget(steps=3), micro_batch=micro_batch).run()
        seen[micro_batch] = stream.seen
    assert len(seen[3]) == len(seen[None]) == 3
    for a, b in zip(seen[None], seen[3], strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.losses == pytest.approx(b.losses, abs=1e-5)


def test_pieces_and_their_mean():
    assert [even(most, 10) for most in (1, 3, 4, 5, 9, 10, 11)] == [1, 3, 4, 5, 5, 10, 10]
    parts = [Output(torch.tensor(2.0), torch.tensor([2.0]), 1.0, {"a": torch.tensor(1.0)}),
             Output(torch.tensor(6.0), torch.tensor([5.0, 7.0]), 3.0, {"a": torch.tensor(5.0)})]  # fmt: skip
    both = mean_of(parts)
    assert (float(both.loss), both.weight, float(both.signals["a"]), both.per_sample.tolist()) == (5.0, 4.0, 4.0, [2.0, 5.0, 7.0])


# --- auto -------------------------------------------------------------------------------------------------------------
def test_auto_takes_what_is_free_and_leaves_no_trace(tmp_path, monkeypatch):
    """With room for all, it is the whole batch, bit for bit; with little, the estimate holds in the run itself."""
    whole, roomy = trained(folder=tmp_path / "whole"), trained("auto", folder=tmp_path / "roomy")
    assert roomy.micro_batch == 10
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), roomy.model.parameters(), strict=True))
    assert read_metrics(tmp_path / "roomy")[0] == {"event": "micro_batch", "rows": 10, "of": 10, "how": "estimated"}
    assert read_metrics(tmp_path / "roomy")[1:] == read_metrics(tmp_path / "whole")
    room = 400_000
    monkeypatch.setattr(memory, "free", lambda device: room)
    tight = trained("auto")
    assert tight.micro_batch in (2, 3, 4, 5)
    model = initialise(Transformer(TransformerConfig(vocab=50, width=16, depth=1, heads=2, context=16)), 0)
    with PeakMemory(model.parameters()) as counter:
        data = DataStream(WindowSource(torch.arange(2000) * 7 % 50, 16), 10, 0)
        Trainer(model, data, CausalLM(), micro_batch=tight.micro_batch, budget=Budget(steps=3)).run()
    assert 0.4 * room < counter.peak < room
    monkeypatch.setattr(memory, "free", lambda device: 40_000)
    with pytest.raises(BadInput, match=r"micro_batch: found a sample that takes more than the 39\.1 KiB of memory that are free"):
        trained("auto")


def test_resuming_keeps_what_was_found(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 400_000)
    found = trained("auto", folder=tmp_path / "whole").micro_batch
    more = {"folder": tmp_path / "parts", "checkpoint_every": 0.25}
    with pytest.raises(Interrupted):
        trained("auto", methods=Stop(at=2), **more)
    monkeypatch.setattr(memory, "free", lambda device: 10**9)
    parts = trained("auto", methods=Stop(at=0), resume=True, **more)
    assert parts.resumed_from == "step-000000002"
    assert parts.micro_batch == found < 10
    assert read_metrics(tmp_path / "parts") == read_metrics(tmp_path / "whole")


@pytest.mark.parametrize(("most", "size", "found"), [(10, 10, 10), (9, 10, 5), (4, 10, 4), (3, 10, 3), (1, 10, 1), (0, 10, 0), (6, 7, 4)])
def test_a_device_is_tried(most, size, found):
    """An allocation that is refused, by this machine's own allocator."""
    attempts = []

    def learn(rows):
        attempts.append(rows)
        torch.empty(8 if rows <= most else 2**60, dtype=torch.uint8)

    assert tried(learn, size) == found
    assert len(attempts) <= 8

    def broken(rows):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        tried(broken, size)


def test_the_estimate_by_hand():
    # 100 bytes whatever is computed, 50 a sample
    assert [estimated([150, 200], 8, room) for room in (149, 150, 299, 300, 499, 500, 10_000)] == [0, 1, 3, 4, 4, 8, 8]
    assert [estimated([150], 1, room) for room in (149, 150)] == [0, 1]


def test_peaks_by_hand():
    x, layer = torch.zeros(1000, 10), nn.Linear(10, 10)
    with PeakMemory([x, *layer.parameters()]) as counter:
        y = x + 1
        z = y.view(-1)[5:]  # a view holds what it looks at
        del y
        assert counter.now == counter.peak == 40_000
        z.add_(1)
        x.add_(1)
        del z
        assert (counter.now, counter.peak) == (0, 40_000)
        layer(x).sum().backward()
        assert counter.now == 440  # the gradients


def test_the_longest_samples_are_tried():
    source = rows()
    batch, size = longest_batch(DataStream(source, 10, 0))
    lengths = sorted((len(row.tokens) for row in source.rows), reverse=True)[:10]
    assert (batch.data["lengths"].tolist(), size) == (lengths, 10)
    few, _ = longest_batch(DataStream(CompletionSource(source.rows[:3], context=16), 10, 0))
    assert len(few) == 10


class Watch(Method):
    def loss(self, run, batch, output): ...


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"micro_batch": 0}, r"micro_batch: found 0, expected a whole number >= 1"),
        ({"micro_batch": "most"}, r"micro_batch: found 'most'"),
        ({"micro_batch": 2, "methods": Watch()}, r"micro_batch: found it beside Watch, which looks at each batch's loss pass"),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(BadInput, match=message):
        trained(**settings)


def test_what_needs_the_whole_batch_is_refused():
    mixing = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    with pytest.raises(BadInput, match="micro_batch: found it for a model with BatchNorm1d"):
        Trainer(mixing, ToyStream(), squared, budget=Budget(steps=1), micro_batch=2)
    with pytest.raises(BadInput, match="micro_batch: found 'auto' for a ToyStream, whose batches are not known beforehand"):
        Trainer(toy_model(), ToyStream(), squared, budget=Budget(steps=1), micro_batch="auto").run()


def test_a_state_carried_from_batch_to_batch_is_refused():
    def remembering(model, batch, carried=None):
        return replace(squared(model, batch), carried=torch.zeros(len(batch)))

    with pytest.raises(BadInput, match="micro_batch: found an objective that carries a state from batch to batch, expected none"):
        Trainer(toy_model(), ToyStream(), remembering, budget=Budget(steps=1), micro_batch=2).run()
