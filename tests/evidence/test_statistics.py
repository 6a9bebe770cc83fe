import math

import numpy as np
import pytest

from etude.errors import BadInput
from etude.evidence.estimate import rule_of
from etude.evidence.statistics import holm_levels, mean_band, smallest_detectable, t_bounds, t_interval, t_tail

DRAWS = 10_000


def within_error(rate, expected, draws=DRAWS):
    """Four standard deviations of the simulation."""
    return abs(rate - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_t_interval_by_hand():
    # mean 2, sd 1, n 3, t(2 df, 0.975) = 4.302653: half width 4.302653 / sqrt(3) = 2.484138
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    # t(4 df, 0.95) = 2.131847; sd of 0, 0, 0, 0, 5 is sqrt(5): half width 2.131847
    assert t_interval([0, 0, 0, 0, 5], level=0.9) == pytest.approx((1 - 2.131847, 1 + 2.131847), abs=1e-6)


def test_t_interval_at_the_edges():
    assert t_interval([0.1, 0.1, 0.1]) == (0.1, 0.1)
    assert t_interval([4.0]) == (-math.inf, math.inf)
    assert all(math.isnan(end) for end in t_interval([1.0, math.nan, 2.0]))
    assert all(math.isnan(end) for end in t_interval([1.0, math.inf, 2.0]))
    with pytest.raises(BadInput, match="interval: found no values, expected at least one"):
        t_interval([])
    with pytest.raises(BadInput, match=r"interval: level: found 95, expected a number between 0 and 1"):
        t_interval([1.0, 2.0], level=95)


def test_t_bounds_treats_rows_alone():
    rows = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1.0, np.nan, 3.0]])
    low, high = t_bounds(rows)
    for i, row in enumerate(rows):
        assert (low[i], high[i]) == pytest.approx(t_interval(row), nan_ok=True)


def test_tail_agrees_with_the_interval():
    values = [0.3, 0.1, 0.5, 0.2]
    for level in (0.9, 0.95, 0.99):
        low, high = t_interval(values, level)
        assert t_tail(values, low) == pytest.approx((1 - level) / 2, rel=1e-9)
        assert t_tail(values, high) == pytest.approx((1 + level) / 2, rel=1e-9)
    assert t_tail([0.2, 0.2, 0.2], 0.1) == 0.0
    assert t_tail([0.2, 0.2, 0.2], 0.2) == 1.0
    assert t_tail([0.2], 0.1) == 1.0


@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize("effect", [0.0, 0.5, 1.5])
def test_coverage_and_error_rates_of_simulated_seeds(n, effect):
    d = 0.5
    low, high = t_bounds(np.random.default_rng(1000 * n + int(10 * effect)).normal(effect, 1.0, size=(DRAWS, n)))
    assert within_error(((low <= effect) & (effect <= high)).mean(), 0.95)
    verdicts = np.array([rule_of(a, b, d) for a, b in zip(low, high, strict=True)])
    if effect == d:  # the null of "holds" at its edge; and the interval lies below d just as often
        assert within_error((verdicts == "holds").mean(), 0.025)
        assert (verdicts == "no effect").mean() <= 0.025 + 0.0063
    if effect == 0.0:
        assert within_error((verdicts == "reversed").mean(), 0.025)
        assert (verdicts == "holds").mean() <= 0.025
    within = np.array([rule_of(a, b, d, "within") for a, b in zip(low, high, strict=True)])
    if effect >= d:
        assert (within == "holds").mean() <= 0.025 + 0.0063


@pytest.mark.parametrize("n", [3, 5, 8])
def test_the_detectable_effect_is_found_with_its_power(n):
    d, sd = 0.2, 0.7
    effect = smallest_detectable(sd, n, d, power=0.8)
    low, _ = t_bounds(np.random.default_rng(n).normal(effect, sd, size=(DRAWS, n)))
    assert within_error((low > d).mean(), 0.8)


def test_detectable_effect_at_the_edges():
    assert smallest_detectable(0.0, 5, 0.1) == 0.1
    assert smallest_detectable(1.0, 1) == math.inf
    assert smallest_detectable(1.0, 5) > smallest_detectable(1.0, 8) > smallest_detectable(0.5, 8)
    assert smallest_detectable(1.0, 5, power=0.9) > smallest_detectable(1.0, 5)
    with pytest.raises(BadInput, match="sd: found -1, expected a number >= 0"):
        smallest_detectable(-1, 5)
    with pytest.raises(BadInput, match="power: found 80, expected a number between 0 and 1"):
        smallest_detectable(1, 5, power=80)


def test_holm_levels_by_hand():
    # alpha 0.05 of three: 0.05/3, then 0.05/2, then 0.05
    assert holm_levels([0.001, 0.2, 0.02]) == pytest.approx([1 - 0.05 / 3, 0.95, 1 - 0.05 / 2])
    # the smallest fails: all keep its level, although 0.03 would pass 0.05
    assert holm_levels([0.03, 0.02, 0.04]) == pytest.approx([1 - 0.05 / 3] * 3)
    # stopped in the middle
    assert holm_levels([0.04, 0.001, 0.03, 1.0]) == pytest.approx([1 - 0.05 / 3, 1 - 0.05 / 4, 1 - 0.05 / 3, 1 - 0.05 / 3])
    assert holm_levels([0.5]) == pytest.approx([0.95])
    assert holm_levels([]) == []
    with pytest.raises(BadInput, match=r"Holm: p\[1\]: found nan, expected a number from 0 to 1"):
        holm_levels([0.1, math.nan])


def test_holm_keeps_the_familywise_error():
    """Three claims, each at the edge of its null: at least one false "holds" in at most 5 % of studies, and nearly that."""
    draws, d = 2000, 0.3
    values = np.random.default_rng(3).normal(d, 1.0, size=(draws, 3, 5))
    wrong = 0
    for study in values:
        levels = holm_levels([min(1.0, 2 * t_tail(v, d)) for v in study])
        wrong += any(t_interval(v, level)[0] > d for v, level in zip(study, levels, strict=True))
    # only one side of each two-sided level can err here: 2.5 % in all
    assert within_error(wrong / draws, 1 - (1 - 0.05 / 6) ** 3, draws)


def test_mean_band_on_shared_xs():
    x, mean, low, high = mean_band([([0, 1], [1.0, 4.0]), ([0, 1], [2.0, 4.0]), ([0, 1], [3.0, 4.0])])
    assert x.tolist() == [0, 1]
    assert mean.tolist() == [2.0, 4.0]
    assert (low[0], high[0]) == pytest.approx(t_interval([1.0, 2.0, 3.0]))
    assert (low[1], high[1]) == (4.0, 4.0)


def test_mean_band_interpolates_over_the_common_range():
    x, mean, _, _ = mean_band([([0, 10], [0.0, 10.0]), ([2, 6, 12], [4.0, 8.0, 14.0])], points=5)
    assert x.tolist() == [2, 4, 6, 8, 10]
    assert mean == pytest.approx(x + 1)  # y = x and y = x + 2


def test_mean_band_of_one_seed_has_no_band_and_bad_curves_are_refused():
    _, mean, low, high = mean_band([([0, 1], [1.0, 2.0])])
    assert mean.tolist() == [1.0, 2.0]
    assert np.isnan(low).all()
    assert np.isnan(high).all()
    with pytest.raises(BadInput, match="curves: found none, expected one a seed"):
        mean_band([])
    with pytest.raises(BadInput, match=r"curves\[1\]: found 2 xs and 1 ys, expected as many of each"):
        mean_band([([0, 1], [1, 2]), ([0, 1], [1])])
    with pytest.raises(BadInput, match=r"curves\[0\]: found xs that fall, expected xs in rising order"):
        mean_band([([1, 0], [1, 2])])
    with pytest.raises(BadInput, match="curves: found ranges of x that do not overlap"):
        mean_band([([0, 1], [1, 2]), ([2, 3], [1, 2])])
