import math

import pytest

from etude.evidence.matched import matched_effects, signs_differ


def record_of(**arms):
    """arms: name -> {quantity: [(xs, ys) per seed]}."""

    def told(name, curves):
        return {"reference": name == "ceiling", "curves": {f"loss / {quantity}": list(pairs) for quantity, pairs in curves.items()}}

    return {"baseline": "plain", "headline": "loss", "arms": {name: told(name, curves) for name, curves in arms.items()}}


def test_read_at_the_smaller_total_by_interpolation():
    plain = [([1.0, 2.0, 4.0], [3.0, 2.0, 1.0])] * 2
    fast = [([1.0, 3.0], [2.0, 0.5]), ([1.0, 3.0], [2.0, 0.7])]
    effect = matched_effects(record_of(plain={"flops": plain}, fast={"flops": fast}))["flops"]["fast"]
    # plain at 3: half-way between 2 and 1
    assert effect["estimate"] == pytest.approx(((0.5 - 1.5) + (0.7 - 1.5)) / 2)
    assert (effect["at"], effect["n"], effect["mid_schedule"], effect["measure"]) == (3.0, 2, "plain", "loss")
    half = 12.706204736 * 0.1  # t quantile for one degree of freedom; sd of (-1.0, -0.8) over sqrt(2)
    assert effect["interval"] == pytest.approx([-0.9 - half, -0.9 + half])


def test_totals_within_two_percent_count_as_equal():
    plain, fast = [([1.0, 100.0], [3.0, 1.0])], [([1.0, 101.5], [3.0, 0.5])]
    effect = matched_effects(record_of(plain={"flops": plain}, fast={"flops": fast}))["flops"]["fast"]
    assert effect["estimate"] == -0.5
    assert effect["mid_schedule"] == ""
    assert effect["interval"] == [-math.inf, math.inf]


def test_reference_arms_and_arms_without_curves_are_left_out():
    curve = [([1.0, 2.0], [3.0, 1.0])]
    told = matched_effects(record_of(plain={"flops": curve}, fast={"seconds": curve}, ceiling={"flops": curve}))
    assert told == {}
    assert matched_effects(record_of(fast={"flops": curve})) == {}


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (([5.0, 9.0], [3.0, 1.0]), "'fast' begins after the end of 'plain' in 1 of 3 seeds"),
        (([0.2, 0.5], [3.0, 1.0]), "'plain' begins after the end of 'fast' in 1 of 3 seeds"),
        (([], []), "no curve in 1 of 3 seeds"),
        (([1.0, 2.0], [3.0, math.nan]), "a curve is not finite where it is read"),
    ],
)
def test_no_estimate_from_a_selection_of_the_seeds(second, reason):
    plain = [([1.0, 2.0], [3.0, 1.0])] * 3
    fast = [([1.0, 3.0], [2.0, 0.5]), second, ([1.0, 3.0], [2.0, 0.7])]
    told = matched_effects(record_of(plain={"flops": plain, "seconds": plain}, fast={"flops": fast, "seconds": plain}))
    nothing = {"estimate": None, "interval": None, "at": None, "n": 0, "mid_schedule": ""}
    assert told["flops"]["fast"] == {"measure": "loss", **nothing, "reason": reason}
    assert signs_differ(told, ["fast"]) == []


def test_signs():
    plain = {"flops": [([1.0, 4.0], [2.0, 1.0])], "seconds": [([1.0, 4.0], [2.0, 1.0])]}
    slow = {"flops": [([1.0, 4.0], [2.0, 0.8])], "seconds": [([2.0, 8.0], [2.0, 0.8])]}
    matched = matched_effects(record_of(plain=plain, slow=slow))
    # at 4 s: 2 - 1.2 / 3 = 1.6 against 1
    said = "the signs differ for slow: loss lower by 0.2 at equal FLOPs, higher by 0.6 at equal wall time"
    assert signs_differ(matched, ["plain", "slow"]) == [said]
    assert signs_differ(matched, ["plain"]) == []
