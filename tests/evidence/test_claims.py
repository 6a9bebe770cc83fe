import json
import math
import subprocess
import sys

import numpy as np
import pytest

from etude.errors import BadInput
from etude.evidence.claims import AtLeast, Better, Correlates, Equivalent, NotJudged, Rate, Ratio, Trend
from etude.evidence.statistics import t_interval


def record(metrics=None, *, counts=None, curves=None, diverged=None, flops=None, reference=(), seeds=3):
    """metrics: arm -> name -> per seed (and likewise); flops: arm -> amount per seed."""
    arms = {}
    for name in {**(metrics or {}), **(counts or {}), **(curves or {})}:
        arms[name] = {
            "metrics": (metrics or {}).get(name, {}),
            "counts": (counts or {}).get(name, {}),
            "curves": (curves or {}).get(name, {}),
            "ledger": [{"train": {"flops": f}} for f in (flops or {}).get(name, [1e9] * seeds)],
            "reference": name in reference,
            "diverged": (diverged or {}).get(name, [False] * seeds),
        }
    return {"arms": arms, "seeds": list(range(seeds))}


LOSSES = {"new": {"loss": [1.0, 1.2, 1.1]}, "old": {"loss": [1.5, 1.6, 1.7]}}


def better(**changes):
    return Better(**{"text": "New beats old", "arm": "new", "baseline": "old", "metric": "loss", "d": 0.1, **changes})


# Better and Equivalent


def test_better_is_the_mean_paired_difference_as_claimed():
    found = better().estimate(record(LOSSES))
    assert found.n == 3
    assert found.value == pytest.approx(0.5)  # differences 0.5, 0.4, 0.6
    assert found.interval(0.95) == pytest.approx(t_interval([0.5, 0.4, 0.6]))
    assert found.verdict(0.95) == "holds"  # 0.5 - 4.3027 * 0.1 / sqrt(3) = 0.2516
    flipped = better(lower_is_better=False).estimate(record(LOSSES))
    assert flipped.value == pytest.approx(-0.5)
    assert flipped.verdict(0.95) == "reversed"


def test_better_is_paired_by_seed():
    """Seeds that differ much from one another do not blur a difference that is the same in each."""
    rows = {"new": {"loss": [1.0, 5.0, 9.0]}, "old": {"loss": [1.2, 5.2, 9.2]}}
    assert better().estimate(record(rows)).verdict(0.95) == "holds"


def test_better_reads_curves_at_the_smaller_total():
    curves = {"new": {"loss / flops": [[[0, 10], [3.0, 1.0]]] * 3}, "old": {"loss / flops": [[[0, 20], [3.0, 2.0]]] * 3}}
    found = better(metric="", curve="loss / flops").estimate(record(curves=curves))
    assert found.value == pytest.approx(2.5 - 1.0)  # old at x = 10


def test_equal_values_give_a_point_and_no_negative_zero():
    same = {"new": {"loss": [1.0, 2.0, 3.0]}, "old": {"loss": [1.0, 2.0, 3.0]}}
    found = better().estimate(record(same))
    assert found.interval(0.95) == (0.0, 0.0)
    assert math.copysign(1, found.value) == 1
    assert found.verdict(0.95) == "no effect"
    constant = {"new": {"loss": [1.0, 1.0, 1.0]}, "old": {"loss": [2.0, 2.0, 2.0]}}
    assert better().estimate(record(constant)).verdict(0.95) == "holds"


def test_equivalent_holds_inside_and_is_reversed_outside():
    claim = Equivalent(text="New equals old", arm="new", baseline="old", metric="loss", d=1.0)
    assert claim.estimate(record(LOSSES)).verdict(0.95) == "holds"
    narrow = Equivalent(text="New equals old", arm="new", baseline="old", metric="loss", d=0.2)
    assert narrow.estimate(record(LOSSES)).verdict(0.95) == "reversed"  # low 0.2516
    assert Equivalent(text="x", arm="new", baseline="old", metric="loss", d=0.5).estimate(record(LOSSES)).verdict(0.95) == "inconclusive"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1.0, math.nan, 1.0], "loss of 'new' is nan at seed 1"),
        ([1.0, None, 1.0], "loss of 'new' is missing at seed 1"),
        ([1.0, 1.0], "arm 'new' has 2 of 3 seeds"),
    ],
)
def test_what_is_missing_or_not_finite_is_not_judged(values, reason):
    with pytest.raises(NotJudged, match=reason):
        better().estimate(record({**LOSSES, "new": {"loss": values}}))


def test_unknown_metrics_propose_the_nearest():
    with pytest.raises(BadInput, match="claim: metrics of arm 'new': found 'los', expected a known name; did you mean 'loss'"):
        better(metric="los").estimate(record(LOSSES))
    with pytest.raises(NotJudged, match="arm 'newest' was not run"):
        better(arm="newest").estimate(record(LOSSES))


# Ratio


def ratio(**changes):
    return Ratio(**{"text": "New is faster", "arm": "new", "baseline": "old", "d": 0.1, **changes})


def test_ratio_of_metrics_is_a_geometric_mean():
    rows = {"new": {"loss": [1.0, 1.0, 1.0]}, "old": {"loss": [2.0, 4.0, 8.0]}}
    found = ratio(metric="loss").estimate(record(rows))
    assert found.value == pytest.approx(4.0)
    low, high = t_interval(np.log([2.0, 4.0, 8.0]))
    assert found.interval(0.95) == pytest.approx((math.exp(low), math.exp(high)))
    assert ratio(metric="loss", lower_is_better=False).estimate(record(rows)).value == pytest.approx(0.25)
    with pytest.raises(NotJudged, match="loss has values not above 0"):
        ratio(metric="loss").estimate(record({**rows, "new": {"loss": [1.0, 0.0, 1.0]}}))


def test_ratio_d_is_a_share_above_one():
    rows = {"new": {"loss": [1.0, 1.0, 1.0]}, "old": {"loss": [1.2, 1.2, 1.2]}}
    assert ratio(metric="loss", d=0.19).estimate(record(rows)).verdict(0.95) == "holds"
    assert ratio(metric="loss", d=0.21).estimate(record(rows)).verdict(0.95) == "no effect"
    rows["old"]["loss"] = [1 / 1.2] * 3
    assert ratio(metric="loss", d=0.21).estimate(record(rows)).verdict(0.95) == "reversed"  # before "no effect", by the rule's order


def speed(new, old, **changes):
    curves = {"new": {"loss / flops": new}, "old": {"loss / flops": old}}
    return ratio(curve="loss / flops").estimate(record(curves=curves, **changes))


OLD = [[[10, 20, 40], [4.0, 3.0, 2.0]]] * 3


def test_speed_up_is_first_reach_over_first_reach():
    new = [[[10, 20, 40], [4.0, 2.0, 1.0]], [[10, 20, 40], [4.0, 3.0, 2.0]], [[10, 20, 40], [4.0, 3.0, 1.0]]]
    found = speed(new, OLD)  # reaches 2.0 at 20, 40 and 30
    assert found.value == pytest.approx((40 / 20 * 40 / 40 * 40 / 30) ** (1 / 3))


def test_a_noisy_baseline_does_not_make_equal_arms_differ():
    noisy = [[[10, 20, 30, 40], [4.0, 2.5, 2.2, 2.5]]] * 3  # its last value 2.5 was first reached at 20
    assert speed(noisy, noisy).value == pytest.approx(1.0)


def test_a_censored_speed_up_never_holds():
    fast = [[10, 20, 40], [2.0, 1.5, 1.0]]
    never = [[10, 20, 40], [4.0, 3.0, 2.5]]
    found = speed([fast, fast, never], OLD)
    assert found.notes == ("never reached in 1 of 3 seeds",)
    assert found.interval(0.95)[0] == 0.0
    assert found.verdict(0.95) == "inconclusive"
    assert found.p() == 1.0
    # two to four times slower at least, in every seed
    late = [[[10, 20, 40], [4.0, 2.5, 2.0]]] * 3
    slow = [[[10, x], [4.0, 2.5]] for x in (100, 120, 160)]
    assert speed(slow, late).verdict(0.95) == "reversed"


def test_a_diverged_arm_counts_as_censored_not_as_fast():
    short = [[10, 11], [4.0, math.nan]]
    found = speed([short] * 3, OLD, diverged={"new": [True] * 3})
    assert found.value == pytest.approx(1.0)  # bound: not before the baseline's end
    assert found.verdict(0.95) == "inconclusive"


# Trend, AtLeast, Correlates


def test_trend_is_the_slope_per_level():
    rows = {"a": {"loss": [3.0, 3.5, 3.0]}, "b": {"loss": [2.0, 2.5, 2.1]}, "c": {"loss": [1.0, 1.5, 1.1]}}
    claim = Trend(text="Loss falls with depth", arms=("a", "b", "c"), metric="loss", rising=False, d=0.5)
    found = claim.estimate(record(rows))
    assert found.sample.values == pytest.approx((1.0, 1.0, 0.95))
    assert found.verdict(0.95) == "holds"
    spaced = Trend(text="x", arms=("a", "b", "c"), metric="loss", levels=(1, 2, 4), d=0.5)
    # seed 0: 3, 2, 1 at -4/3, -1/3, 5/3: (-4 - 2/3 + 5/3) / (42/9) = -3 / 4.6667
    assert spaced.estimate(record(rows)).sample.values[0] == pytest.approx(-3 / (42 / 9))
    with pytest.raises(BadInput, match=r"Trend.levels: found \(1, 2, 2\), expected numbers in rising order"):
        Trend(text="x", arms=("a", "b", "c"), metric="loss", levels=(1, 2, 2), d=0.5)
    with pytest.raises(BadInput, match="Trend.arms: .* expected at least 3 different arms, in order"):
        Trend(text="x", arms=("a", "b"), metric="loss", d=0.5)


def test_at_least_asks_the_whole_interval():
    rows = {"new": {"accuracy": [0.9, 0.92, 0.94]}}
    interval = t_interval([0.9, 0.92, 0.94])
    for threshold, verdict in ((interval[0] - 1e-6, "holds"), (interval[0] + 1e-6, "inconclusive"), (0.99, "reversed")):
        assert AtLeast(text="x", arm="new", metric="accuracy", threshold=threshold).estimate(record(rows)).verdict(0.95) == verdict
    assert AtLeast(text="x", arm="new", metric="accuracy", threshold=0.99, at_most=True).estimate(record(rows)).verdict(0.95) == "holds"
    exact = {"new": {"same": [1.0, 1.0, 1.0]}}
    assert AtLeast(text="x", arm="new", metric="same", threshold=1.0).estimate(record(exact)).verdict(0.95) == "holds"


def test_correlation_is_taken_inside_each_seed():
    rows = {
        "a": {"x": [1, 10, 1], "y": [1, 11, 4]}, "b": {"x": [2, 20, 2], "y": [2, 12, 3]},
        "c": {"x": [3, 30, 3], "y": [3, 13, 2]}, "d": {"x": [4, 40, 4], "y": [9, 14, 5]},
    }  # fmt: skip
    claim = Correlates(text="x", arms=("a", "b", "c", "d"), metric="x", against="y", d=0.3)
    found = claim.estimate(record(rows))
    # seed 2: ranks 1 2 3 4 against 3 2 1 4: 1 - 6 * 8 / 60 = 0.2
    assert found.sample.values == pytest.approx((1.0, 1.0, 0.2))
    assert found.interval(0.95)[1] == 1.0  # cut at what a correlation can be
    pearson = Correlates(text="x", arms=("a", "b", "c", "d"), metric="x", against="y", d=0.3, method="pearson")
    assert pearson.estimate(record(rows)).sample.values[0] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 2, 3, 9])[0, 1])
    with pytest.raises(NotJudged, match="one side does not vary at seed 0"):
        claim.estimate(record({**rows, **{k: {"x": [1, 1, 1], "y": rows[k]["y"]} for k in "abcd"}}))


def test_correlation_of_the_points_of_a_curve():
    points = {"new": {"score / loss": [[[3, 1, 2, 4], [6, 2, 4, 8]]] * 3}}
    claim = Correlates(text="x", arms=("new",), curve="score / loss", d=0.9, positive=True)
    assert claim.estimate(record(curves=points)).verdict(0.95) == "holds"
    with pytest.raises(BadInput, match=r"Correlates.arms: found \('a', 'b'\), expected the one arm whose curve is meant"):
        Correlates(text="x", arms=("a", "b"), curve="score / loss", d=0.5)


# Rate


def rate(**changes):
    return Rate(**{"text": "Noise trains more often", "arm": "new", "count": "trained", "baseline": "old", "d": 0.1, **changes})


def test_rate_pairs_single_trials_by_seed():
    new, old = [[1, 1]] * 9 + [[0, 1]], [[0, 1]] * 9 + [[1, 1]]
    found = rate().estimate(record(counts={"new": {"trained": new}, "old": {"trained": old}}, seeds=10))
    assert (found.sample.only_arm, found.sample.only_baseline, found.n) == (9, 1, 10)
    assert found.value == pytest.approx(0.8)
    spared = rate(lower_is_better=True).estimate(record(counts={"new": {"trained": old}, "old": {"trained": new}}, seeds=10))
    assert spared.interval(0.95) == found.interval(0.95)


def test_rate_pools_restarts():
    found = rate().estimate(record(counts={"new": {"trained": [[9, 10]] * 3}, "old": {"trained": [[2, 10], [1, 10], [0, 10]]}}))
    assert found.value == pytest.approx(27 / 30 - 3 / 30)
    assert found.n == 30
    assert found.verdict(0.95) == "holds"
    assert found.p() < 0.05


def test_a_diverged_restart_is_a_failure_whichever_way_the_count_points():
    counts = {"new": {"trained": [[1, 1]] * 5}, "old": {"trained": [[0, 1]] * 5}}
    lost = {"new": [True, False, False, False, False]}
    assert rate().estimate(record(counts=counts, diverged=lost, seeds=5)).value == pytest.approx(4 / 5)
    swapped = {"new": {"trained": [[0, 1]] * 5}, "old": {"trained": [[1, 1]] * 5}}
    assert rate(lower_is_better=True).estimate(record(counts=swapped, diverged=lost, seeds=5)).value == pytest.approx(4 / 5)


def test_rate_against_a_threshold_is_exact():
    claim = rate(baseline="", threshold=0.5, d=0.0 + 1e-9)
    found = claim.estimate(record(counts={"new": {"trained": [[10, 10]]}}, seeds=1))
    assert found.interval(0.95) == pytest.approx((0.025**0.1 - 0.5, 0.5))
    assert found.verdict(0.95) == "holds"
    assert found.p() == pytest.approx(2 * 0.5**10, rel=1e-6)
    fewer = rate(baseline="", threshold=0.5, lower_is_better=True).estimate(record(counts={"new": {"trained": [[0, 10]]}}, seeds=1))
    assert fewer.value == pytest.approx(0.5)


def test_impossible_counts_name_their_place():
    with pytest.raises(BadInput, match=r"record: counts 'trained' of 'new' at seed 0: found \[3, 2\], expected \[successes, trials\]"):
        rate().estimate(record(counts={"new": {"trained": [[3, 2]] * 3}, "old": {"trained": [[0, 2]] * 3}}))


# What every claim refuses


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: better(d=0.0), "Better.d: found 0.0, expected a number > 0"),
        (lambda: better(d=math.nan), "Better.d: found nan"),
        (lambda: better(text=" "), "Better.text: found nothing, expected one sentence"),
        (lambda: better(tolerance=0.06), "Better.tolerance: found 0.06, expected a share from 0 to 0.05"),
        (lambda: better(tolerance=0.04), "Better.tolerance_reason: found nothing, expected the reason"),
        (lambda: better(equal="flops"), "Better.equal: found 'flops', expected a tuple of quantities"),
        (lambda: better(curve="loss / flops"), "Better: found metric='loss', curve='loss / flops', expected exactly one"),
        (lambda: AtLeast(text="x", arm="a", metric="m", threshold=0.1, d=-0.1), "AtLeast.d: found -0.1, expected a number >= 0"),
        (lambda: AtLeast(text="x", arm="a", metric="m", threshold=math.inf), "AtLeast.threshold: found inf"),
        (lambda: rate(threshold=0.5), "Rate.threshold: found 0.5, expected either a baseline or a threshold"),
        (lambda: rate(baseline=""), "Rate.threshold: found -1.0, expected a baseline, or a share from 0 to 1"),
    ],
)
def test_claims_that_make_no_sense_are_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def test_claims_are_plain_data():
    data = better(tolerance=0.04, tolerance_reason="whole layers").as_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["type"] == "Better"
    assert data["equal"] == ["flops"]


def test_claims_are_there_without_what_only_ranks_need():
    code = "import sys, etude.evidence.claims; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
