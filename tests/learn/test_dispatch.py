"""Several objectives in one run: each sample by its own, mixed by any mixture, resumed to the same bits."""

import numpy as np
import pytest
import torch

from etude.data.samplers import FixedMixture, OnlineMixture
from etude.data.sources import WindowSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.protocols import Batch
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.corruption import Marks, MaskedLM, SpanCorruption
from etude.learn.dispatch import Dispatched, ObjectiveSource, Sometimes
from etude.learn.language import CausalLM
from etude.learn.unlikelihood import SequenceUnlikelihood, Unlikelihood
from etude.nn.transformer import Transformer, TransformerConfig

MARKS = Marks(spans=tuple(range(40, 56)), separator=60, end_of_text=61, end_of_span=62)
OBJECTIVES = {"causal": CausalLM(), "spans": SpanCorruption(MARKS, prefix=True), "masked": MaskedLM(63, 40), "unlikely": Unlikelihood(0.5)}


def windows():
    return WindowSource(np.random.default_rng(0).integers(0, 40, 1_300).astype(np.uint8), 24)


def model():
    return initialise(Transformer(TransformerConfig(vocab=64, width=16, depth=1, heads=2, context=32)), 0)


def test_every_sample_stands_once_under_each_objective():
    source = ObjectiveSource(windows(), list(OBJECTIVES))
    assert len(source) == 4 * len(windows())
    data = source.get(np.array([3, 3 + len(windows()), 3 + 3 * len(windows())]))
    assert data["objective"].tolist() == [0, 1, 3]
    assert torch.equal(data["tokens"][0], data["tokens"][2])
    assert source.domains[3 + len(windows())] == 1


def test_the_loss_is_the_mean_over_all_targets_of_all_objectives():
    source, net = ObjectiveSource(windows(), list(OBJECTIVES)), model()
    ids = np.array([0, len(windows()) + 1, 2, 2 * len(windows()) + 5])
    batch = Batch(source.get(ids), ids, key=3)
    output = Dispatched(OBJECTIVES)(net, batch)
    parts = []
    for rows, name in (([0, 2], "causal"), ([1], "spans"), ([3], "masked")):
        part = Batch({"tokens": batch.data["tokens"][rows]}, ids[rows], key=3)
        parts.append(OBJECTIVES[name](net, part))
        assert float(output.signals[f"loss/{name}"]) == pytest.approx(float(parts[-1].loss.detach()))
        assert output.per_sample[rows].tolist() == pytest.approx(parts[-1].per_sample.tolist())
    weight = sum(p.weight for p in parts)
    assert output.weight == weight
    assert float(output.loss.detach()) == pytest.approx(sum(float(p.loss.detach()) * p.weight for p in parts) / weight)


def test_one_objective_alone_is_itself():
    source, net = ObjectiveSource(windows(), ["causal"]), model()
    ids = np.arange(4)
    assert torch.equal(
        Dispatched({"causal": CausalLM()})(net, Batch(source.get(ids), ids)).loss, CausalLM()(net, Batch(windows().get(ids), ids)).loss
    )


@pytest.mark.parametrize(
    "sampler",
    [
        lambda: FixedMixture([0.4, 0.3, 0.2, 0.1], update_every=16),
        lambda: OnlineMixture(lambda losses: np.nan_to_num(losses, nan=1.0), update_every=16),
    ],
    ids=["fixed", "online"],
)
def test_any_mixture_mixes_objectives_and_resumes_to_the_same_bits(sampler, tmp_path):
    def trainer(folder, steps):
        source = ObjectiveSource(windows(), list(OBJECTIVES))
        return Trainer(
            model(), DataStream(source, 8, 0, sampler=sampler()), Dispatched(OBJECTIVES), budget=Budget(steps=steps), folder=folder,
            checkpoint_every=0.25,
        )  # fmt: skip

    whole = trainer(tmp_path / "whole", 12).run()

    class Killed(Exception):
        pass

    def stop(share, loss):
        if share > 0.6:
            raise Killed

    broken = trainer(tmp_path / "broken", 12)
    broken.progress = stop
    with pytest.raises(Killed):
        broken.run()
    resumed = trainer(tmp_path / "broken", 12).run(resume=True)
    for (name, a), (_, b) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert whole.ledger.as_dict()["train"]["flops"] == resumed.ledger.as_dict()["train"]["flops"]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Dispatched({}), "at least one"),
        (lambda: ObjectiveSource(windows(), ["a", "a"]), "all different"),
        (lambda: Dispatched(OBJECTIVES)(model(), Batch(windows().get(np.arange(2)), np.arange(2))), "an ObjectiveSource"),
        (
            lambda: Dispatched({"causal": CausalLM()})(
                model(), Batch(windows().get(np.arange(1)) | {"objective": torch.tensor([1])}, np.arange(1))
            ),
            "objective",
        ),
    ],
)
def test_what_names_no_objective_is_told(call, told):
    with pytest.raises(BadInput, match=told):
        call()


def trained(objective, **more):
    stream = DataStream(windows(), 8, 0, drop_last=True)
    return Trainer(model(), stream, objective, budget=Budget(steps=12), **more).run()


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


def test_a_coin_for_each_update_decides_between_two_objectives():
    told = []

    def noted(name, objective):
        def call(model, batch, carried=None):
            told.append((batch.key, name))
            return objective(model, batch, carried)

        return call

    trained(Sometimes(noted("spans", OBJECTIVES["spans"]), 0.5, noted("causal", CausalLM())), micro_batch=2)
    assert len(told) == 12 * 4
    assert len(set(told)) == 12  # all pieces of an update alike
    assert {name for _, name in told} == {"spans", "causal"}
    assert torch.equal(weights(trained(Sometimes(OBJECTIVES["spans"], 0.0))), weights(trained(CausalLM())))
    assert torch.equal(weights(trained(Sometimes(OBJECTIVES["spans"], 1.0))), weights(trained(OBJECTIVES["spans"])))
    with pytest.raises(BadInput, match="a share of the updates"):
        Sometimes(CausalLM(), 1.5)


def test_the_work_of_both_objectives_is_counted():
    continued = SequenceUnlikelihood(4, 8)
    mixed, low, high = (trained(o).ledger.as_dict()["train"]["flops"] for o in (Sometimes(continued, 0.5), CausalLM(), continued))
    steps = round(12 * (mixed - low) / (high - low))
    assert 0 < steps < 12
    assert mixed == low + steps * (high - low) / 12
