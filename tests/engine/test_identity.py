"""Resuming another run is refused, by the name of what differs; the same run in another process is not."""

import numpy as np
import pytest
from toys import Stop, squared, toy_model

from etude.data.sources import TensorSource
from etude.data.stream import DataStream
from etude.engine.identity import describe, settings_of
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW, Muon
from etude.engine.protocols import Method
from etude.engine.schedule import Cosine
from etude.engine.trainer import Interrupted, Trainer
from etude.errors import BadInput
from etude.learn.supervised import Supervised

X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)


class Holds(Method):
    def __init__(self, after):
        self.after, self.seen = after, []


def matrices(name, parameter):
    return parameter.ndim == 2


def run(folder, resume=False, stop=2, **changes):
    given = {"x": X, "batch": 8, "seed": 0, "objective": squared, "after": Cosine(), "optimizer": AdamW()} | changes
    stream = DataStream(TensorSource(x=given["x"], y=Y[: len(given["x"])]), given["batch"], given["seed"])
    return Trainer(
        toy_model(), stream, given["objective"], optimizer=given["optimizer"], budget=Budget(steps=8), folder=folder,
        methods=[Holds(given["after"]), Stop(stop)],
    ).run(resume=resume)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"x": X + 1}, "data"),
        ({"x": X[:30]}, "data"),
        ({"batch": 4}, "data"),
        ({"seed": 1}, "data"),
        ({"objective": Supervised()}, "objective"),
        ({"after": Cosine(final=0.9)}, "set of methods"),
        ({"optimizer": Muon(is_hidden=matrices)}, "optimizer"),
    ],
)
def test_another_run_is_refused_by_what_differs(tmp_path, changes, named):
    with pytest.raises(Interrupted):
        run(tmp_path / "r")
    before = sorted(p.name for p in (tmp_path / "r" / "checkpoints").iterdir())
    with pytest.raises(BadInput, match=f"a run of another {named}"):
        run(tmp_path / "r", resume=True, stop=0, **changes)
    assert sorted(p.name for p in (tmp_path / "r" / "checkpoints").iterdir()) == before
    assert run(tmp_path / "r", resume=True, stop=0).steps == 8


def test_a_description_holds_no_address():
    told = [str(describe(value)) for value in (Muon(is_hidden=matrices), Supervised(), lambda share: 1.0, TensorSource, {"a": Cosine()})]
    assert not any("0x" in text for text in told)
    assert "matrices" in told[0]
    assert describe(Cosine(final=0.1)) != describe(Cosine(final=0.2))


def test_what_a_method_collects_is_not_a_setting():
    method = Holds(Cosine())
    before = settings_of(method)
    method.seen.append(3)
    assert settings_of(method) == before
    assert "seen" not in before
