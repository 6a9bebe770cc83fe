"""Task hinting: shares by hand, what a batch and a row hold, that no test list is trained on, tempered attention, grading, the study."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from etude.data.sources import MixtureSource, TensorSource
from etude.data.stream import DataStream
from etude.data.tasks.hints import HINTS, SortingHints
from etude.engine.ledger import Budget
from etude.engine.metrics import read_metrics
from etude.engine.streams import initialise, numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.learn.supervised import Supervised
from etude.nn.mlp import MLP
from etude.papers.order.task_hinting import STUDY, HintMixture, Lesson, PositionFree, Settings, TaskHinting, share_at, sharpness, weights_of
from etude.papers.order.task_hinting.arms import measured, model_config, spent
from etude.papers.order.task_hinting.data import SORT, Exact, Numbers, data, listed, rows, unseen

SMALL = Settings(largest=16, longest=4, rows=300, width=16, heads=2, context=40, num_test=20)
WORDS = Numbers(16)


# --- the mixture ------------------------------------------------------------------------------------------------------
def test_shares_by_hand():
    assert [share_at(0.5, p) for p in (0.0, 0.3, 1.0)] == [0.5, 0.5, 0.5]
    assert [share_at([0.5, 0.1], p) for p in (0.0, 0.25, 1.0, 1.2)] == pytest.approx([0.5, 0.4, 0.1, 0.1])
    sizes, hints = np.array([30, 10, 60]), np.array([False, True, True])
    assert weights_of(sizes, hints, 0.7) == pytest.approx([0.3, 0.1, 0.6])
    assert weights_of(sizes, ~hints, 0.2) == pytest.approx([0.2, 0.8 / 7, 4.8 / 7])
    assert weights_of(sizes, hints, 0.0).tolist() == [1.0, 0.0, 0.0]


def source(task=8, hints=6, more=0):
    parts = {"task": task, "hints": hints, **({"more": more} if more else {})}
    return MixtureSource({name: TensorSource(x=np.full((n, 3), float(k))) for k, (name, n) in enumerate(parts.items()) if n})


def drawn(sampler, data, stages, seed=0):
    return [sampler.plan(k, data, numpy_rng(seed, "m", k)) for k in range(stages)]


def test_every_batch_holds_the_hints_share_and_the_task_comes_in_one_order_whatever_the_hints():
    plans = drawn(HintMixture(10, share=0.3), source(), 40)
    assert {int((ids >= 8).sum()) for ids in plans} == {3}
    assert len({tuple(ids >= 8) for ids in plans}) > 20  # at other places each time
    alone = np.concatenate(drawn(HintMixture(7, share=0.0), source(hints=0), 40))
    task = np.concatenate([ids[ids < 8] for ids in plans])
    assert task.tolist() == alone.tolist()
    assert sorted(task[:8]) == list(range(8))  # each once before any comes again


def test_a_share_that_is_no_whole_number_of_rows_holds_on_average():
    counts = [int((ids >= 8).sum()) for ids in drawn(HintMixture(10, share=0.33), source(), 200)]
    assert set(counts) == {3, 4}
    assert np.mean(counts) == pytest.approx(3.3, abs=0.15)


def test_hints_are_named_or_all_but_the_first():
    assert HintMixture(4).hints == ()
    named = HintMixture(10, share=0.5, hints=["task"])
    (ids,) = drawn(named, source(hints=6, more=6), 1)
    assert [int((ids < 8).sum()), int(((ids >= 8) & (ids < 14)).sum())] == [5, int((ids >= 14).sum())] or (ids < 8).sum() == 5
    assert named.history == [pytest.approx([0.5, 0.25, 0.25])]


# --- in a run ---------------------------------------------------------------------------------------------------------
def train(data, share, folder=None, resume=False, steps=12, batch=8):
    data.data = None
    labelled = MixtureSource({n: TensorSource(x=p.data["x"], y=np.arange(len(p)) % 2) for n, p in zip(data.domain_names, data.parts, strict=True)})
    trainer = Trainer(
        initialise(MLP(3, (4,), 2), 0), DataStream(labelled, batch, 0), Supervised(), methods=[TaskHinting(share=share)],
        budget=Budget(steps=steps), folder=folder, checkpoint_every=0.25,
    )  # fmt: skip
    return trainer, (lambda: trainer.run(resume=resume))
