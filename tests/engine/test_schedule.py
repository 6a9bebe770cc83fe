import math

import pytest

from etude.engine.schedule import Constant, Cosine, Infinite, Linear, WarmupStableDecay
from etude.errors import BadInput

ALL = [Constant(warmup=0.1), Linear(warmup=0.1), Cosine(warmup=0.1), WarmupStableDecay(warmup=0.1, decay=0.2), Infinite(warmup=0.1)]


@pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)
def test_warms_up_linearly_to_one_and_never_leaves_the_unit_interval(schedule):
    assert schedule(0.0) == 0
    assert schedule(0.05) == pytest.approx(0.5)
    assert schedule(0.1) == pytest.approx(1.0)
    assert all(0 <= schedule(i / 100) <= 1 for i in range(101))


def test_values_worked_out_by_hand():
    assert Linear(final=0.2)(0.5) == pytest.approx(0.6)
    assert Cosine(final=0.1)(0.5) == pytest.approx(0.55)
    assert Cosine(final=0.1)(1.0) == pytest.approx(0.1)
    wsd = WarmupStableDecay(decay=0.2)
    assert (wsd(0.5), wsd(0.9), wsd(1.0)) == (1.0, pytest.approx(0.5), 0.0)


def test_infinite_is_continuous_where_its_parts_meet():
    schedule = Infinite(warmup=0.1, cooldown=0.4, constant=0.5, anneal=0.2, final=0.05)
    for joint in (0.1, 0.4, 0.8):
        assert schedule(joint - 1e-7) == pytest.approx(schedule(joint + 1e-7), abs=1e-4)
    assert schedule(0.6) == 0.5
    assert schedule(0.9) == pytest.approx(0.5 * math.sqrt(0.1))
    assert schedule(1.0) == pytest.approx(0.05)


def test_refuses_impossible_shares():
    with pytest.raises(BadInput, match="schedule.warmup: found 1.5"):
        Cosine(warmup=1.5)
    with pytest.raises(BadInput, match="at most 1"):
        WarmupStableDecay(warmup=0.5, decay=0.6)
    with pytest.raises(BadInput, match="warmup <= cooldown"):
        Infinite(warmup=0.5, cooldown=0.2)
