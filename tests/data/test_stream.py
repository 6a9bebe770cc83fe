"""The stream: stages, plans, and going on from any place bit for bit."""

import copy

import numpy as np
import pytest
import torch

from etude.data.samplers import OnlineMixture, SamplerBase, Shuffle, WeightedDraw
from etude.data.sources import MixtureSource, TensorSource, WindowSource
from etude.data.stream import DataStream, source_of, stream_of
from etude.engine.checkpoint import pack, unpack
from etude.engine.protocols import Feedback
from etude.engine.streams import numpy_rng
from etude.errors import BadInput


def source(n=10):
    return MixtureSource({"a": TensorSource(x=np.arange(n - 4.0)), "b": TensorSource(x=np.arange(4.0))})


class Harder(SamplerBase):
    """A sampler with state that feedback changes: the samples seen with the largest losses, then the rest."""

    def __init__(self):
        self.losses = np.zeros(10)

    def plan(self, stage, source, rng):
        return np.argsort(-self.losses + 1e-6 * rng.random(10))[: 5 + stage % 3]

    def observe(self, feedback):
        self.losses[feedback.ids] = feedback.losses

    def state_dict(self):
        return {"losses": self.losses.copy()}

    def load_state_dict(self, state):
        self.losses = state["losses"].copy()


def drain(stream, num, start=0):
    """`num` batches with feedback that depends on ids and time."""
    seen = []
    for step in range(start, start + num):
        stage = stream.stage()
        batch = stream.next()
        seen.append((stage.name, batch.ids.tolist(), batch.data["x"].tolist()))
        stream.observe(Feedback(step, batch.ids, np.sin(batch.ids * (step + 1.0)) + 2))
    return seen


@pytest.mark.parametrize(
    "sampler", [lambda: None, Shuffle, Harder, lambda: OnlineMixture(lambda losses: np.nan_to_num(losses, nan=1.0), 6)]
)
@pytest.mark.parametrize("drop_last", [False, True])
def test_goes_on_from_every_place(sampler, drop_last):
    def fresh():
        return DataStream(source(), 4, seed=3, sampler=sampler(), drop_last=drop_last)

    whole = drain(fresh(), 14)
    for place in range(14):
        before = fresh()
        assert drain(before, place) == whole[:place]
        tensors = {}
        saved = copy.deepcopy(unpack(pack(before.state_dict(), tensors), tensors))
        drain(before, 2, place)  # what happens after saving must not reach the state
        after = fresh()
        after.load_state_dict(saved)
        assert drain(after, 14 - place, place) == whole[place:]


def test_an_epoch_shows_everything_once_and_names_its_stage():
    stream = DataStream(source(), 4, seed=0, num_epochs=2)
    seen = drain(stream, 6)
    assert [len(ids) for _, ids, _ in seen] == [4, 4, 2, 4, 4, 2]
    assert [name for name, _, _ in seen] == ["epoch-0"] * 3 + ["epoch-1"] * 3
    for epoch in (seen[:3], seen[3:]):
        assert sorted(i for _, ids, _ in epoch for i in ids) == list(range(10))
    assert stream.stage() is None
    with pytest.raises(StopIteration):
        stream.next()
    dropped = DataStream(source(), 4, seed=0, num_epochs=1, drop_last=True)
    assert [len(ids) for _, ids, _ in drain(dropped, 2)] == [4, 4]
    assert dropped.stage() is None


def test_the_default_order_is_the_named_permutation():
    stream = DataStream(source(), 10, seed=7, name="mine")
    assert stream.next().ids.tolist() == numpy_rng(7, "data", "mine", 0).permutation(10).tolist()
    assert stream.next().ids.tolist() == numpy_rng(7, "data", "mine", 1).permutation(10).tolist()


def test_a_sampler_set_before_the_first_batch_counts():
    stream = DataStream(source(), 4, seed=0)
    stream.set_sampler(WeightedDraw(np.eye(10)[3] + np.eye(10)[5], share=0.2))
    assert sorted(stream.next().ids.tolist()) == [3, 5]


def test_batches_for_a_score():
    stream = DataStream(source(), 4, seed=0)
    assert [b.ids.tolist() for b in stream.batches_of(None, 6)] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    assert [b.ids.tolist() for b in stream.batches_of(np.array([7, 1, 2]), 2)] == [[7, 1], [2]]
    assert stream.position == 0


def test_bad_plans_and_batches():
    class Wrong(SamplerBase):
        def __init__(self, ids):
            self.ids = ids

        def plan(self, stage, source, rng):
            return np.array(self.ids)

    with pytest.raises(BadInput, match="found sample 10, expected numbers from 0 to 9"):
        DataStream(source(), 4, 0, sampler=Wrong([1, 10])).next()
    with pytest.raises(BadInput, match="found sample -1"):
        DataStream(source(), 4, 0, sampler=Wrong([1, -1])).next()
    with pytest.raises(BadInput, match="a plan of 0 samples"):
        DataStream(source(), 4, 0, sampler=Wrong([])).next()
    with pytest.raises(BadInput, match="found 10 samples, expected at least one batch of 11"):
        DataStream(source(), 11, 0, drop_last=True)
    with pytest.raises(BadInput, match="found 40 tokens, expected at least 161, one batch of 16 windows of 10"):
        stream_of(np.zeros(40, dtype=np.uint8), 16, 0, context=10)
    with pytest.raises(BadInput, match="batch_size: found 0"):
        DataStream(source(), 0, 0)


def test_what_a_user_has_becomes_a_stream(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("zwölf Boxkämpfer " * 10, encoding="utf-8")
    text = source_of(path, context=8)
    assert bytes(text.get(np.array([0]))["tokens"][0].tolist()) == "zwölf Boxkämpfer".encode()[:9]
    assert isinstance(source_of(str(path), context=8), WindowSource)
    batch = stream_of((np.zeros((6, 2)), np.arange(6)), 4, 0).next()
    assert batch.data["x"].shape == (4, 2)
    assert stream_of({"x": torch.zeros(6)}, 4, 0).next().data["x"].shape == (4,)
    assert stream_of(torch.arange(100), 4, 0, context=8).next().data["tokens"].shape == (4, 9)

    class Mine:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return torch.full((2,), float(i)), i

    batch = stream_of(Mine(), 3, 0).next()
    assert batch.data["x"][:, 0].tolist() == batch.ids.tolist() == batch.data["y"].tolist()
    ready = DataStream(source(), 4, 0)
    assert stream_of(ready, 4, 0) is ready
    assert source_of(ready.source) is ready.source
    with pytest.raises(BadInput, match="data: found 3, expected"):
        source_of(3)


def test_a_source_that_has_tokens_stays_as_it_is():
    windows = WindowSource(np.arange(100, dtype=np.uint8), 4)
    assert source_of(windows, 8) is windows
    assert len(source_of(windows.tokens, 8)) == 12
