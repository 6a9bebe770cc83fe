import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.screen.confirming import confirm, winner_of
from etude.screen.halving import Rung, ladder, select, survivors

HALF = Rung(share=0.5, keep=1, rates=1)


def test_the_worse_go_and_each_keeps_its_best_rates():
    results = {("base", 1.0): [3.0], ("base", 2.0): [2.9], ("a", 1.0): [2.5], ("a", 2.0): [2.7], ("b", 1.0): [3.2], ("b", 2.0): [2.8]}
    kept, dropped = survivors(results, HALF, 0, {}, "base")
    assert kept == {"base": [2.0], "a": [1.0]}
    assert dropped == {"b": "rung 1: -0.1 against the baseline"}
    kept, _ = survivors(results, Rung(share=0.5, keep=2, rates=2), 0, {}, "base")
    assert kept == {"base": [2.0, 1.0], "a": [1.0, 2.0], "b": [2.0, 1.0]}


def test_who_pays_late_is_not_dropped_early():
    results = {("base", 1.0): [3.0], ("late", 1.0): [9.0], ("good", 1.0): [2.0], ("better", 1.0): [1.0]}
    kept, dropped = survivors(results, Rung(share=0.5, keep=2, rates=1), 0, {"late": 1}, "base")
    assert set(kept) == {"base", "late", "better"}
    assert set(dropped) == {"good"}
    kept, _ = survivors(results, Rung(share=0.5, keep=2, rates=1), 1, {"late": 1}, "base")
    assert set(kept) == {"base", "good", "better"}


def test_a_diverged_rate_counts_as_the_worst_and_a_diverged_method_goes():
    results = {("base", 1.0): [3.0], ("a", 1.0): [math.inf], ("a", 2.0): [2.0], ("b", 1.0): [math.inf], ("b", 2.0): [math.nan]}
    kept, dropped = survivors(results, Rung(share=0.5, keep=2, rates=2), 0, {}, "base")
    assert kept["a"] == [2.0, 1.0]
    assert dropped == {"b": "rung 1: diverged"}


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
def test_a_ladder_falls_to_k_with_one_rate(candidates, rates, k, rungs):
    made = ladder(candidates, rates, k, rungs)
    assert [r.share for r in made] == [2.0 ** (i - rungs) for i in range(rungs)]
    assert made[-1].keep == min(k, candidates)
    assert made[-1].rates == 1
    keeps = [candidates, *(r.keep for r in made)]
    assert keeps == sorted(keeps, reverse=True)


def test_selection_finds_the_planted_method_and_says_where_a_rate_is_at_the_edge():
    def measure(number, arms, share):
        return {arm: [2 - share - (arm[0] == "good") * 0.3 + 0.1 * abs(math.log2(arm[1])) * (arm[0] != "edge")] for arm in arms}

    found = select(["x", "good", "edge", "y"], (0.5, 1.0, 2.0), ladder(4, 3, 2), {}, "base", measure)
    assert list(found.rates) == ["base", "good", "x"]  # ties go to the earlier name
    assert found.rates["base"] == 1.0
    assert set(found.dropped) == {"edge", "y"}
    assert len(found.history) == 2


def test_confirmation_is_paired_and_holm_corrected():
    base = [3.0, 3.5, 4.0, 2.5]
    values = {
        "base": base,
        "good": [v - 0.5 - 0.01 * i for i, v in enumerate(base)],
        "same": [v + 0.001 * (-1) ** i for i, v in enumerate(base)],
    }
    good, same = confirm(values, "base", d=0.1)
    assert (good.name, good.verdict, same.verdict) == ("good", "holds", "no effect")
    assert good.estimate == pytest.approx(0.515)
    assert good.level == pytest.approx(0.975)  # the smallest p of two
    assert same.level == pytest.approx(0.95)
    low, high = good.interval
    assert low < 0.515 < high


def test_higher_may_be_better_and_a_diverged_run_is_not_judged():
    values = {"base": [0.1, 0.2, 0.3], "up": [0.5, 0.6, 0.72], "gone": [0.5, -math.inf, 0.7]}
    up, gone = confirm(values, "base", d=0.05, lower_is_better=False)
    assert up.verdict == "holds"
    assert gone.verdict == "not judged: 'gone' diverged at seed 1"
    assert gone.estimate is None


def test_who_diverged_is_named_with_its_seeds_and_so_is_the_baseline():
    values = {"base": [0.1, math.inf, 0.3, 0.2], "a": [0.2, 0.1, math.nan, math.inf], "b": [0.1, 0.2, 0.2, 0.1]}
    told = {c.name: c.verdict for c in confirm(values, "base", d=0.05, seeds=[8, 9, 10, 11])}
    assert told == {
        "a": "not judged: 'a' diverged at seeds 10 and 11; 'base' diverged at seed 9",
        "b": "not judged: 'base' diverged at seed 9",
    }


def test_who_did_not_spend_what_the_baseline_did_gets_no_verdict_and_does_not_win():
    base = [3.0, 3.5, 4.0, 2.5]
    values = {"base": base} | {name: [v - by - 0.01 * i for i, v in enumerate(base)] for name, by in (("dear", 0.9), ("good", 0.5))}
    good, dear = confirm(values, "base", d=0.1, unequal={"dear": "unequal flops"})
    assert (good.name, good.verdict, dear.verdict) == ("good", "holds", "not judged: unequal flops")
    assert dear.estimate == pytest.approx(0.915)
    assert winner_of([good, dear], [], "", "good") is good
    both, alone = confirm(
        {"base": base, "both": values["good"], "alone": values["dear"]}, "base", d=0.1, unequal={"alone": "unequal flops"}
    )
    assert winner_of([good], [both, alone], "both", "alone") is both


def test_without_any_effect_a_family_errs_as_rarely_as_it_says():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        base = rng.normal(size=5)
        values = {"base": base} | {name: base + 0.05 * rng.normal(size=5) for name in "abc"}
        wrong += any(c.holds for c in confirm(values, "base", d=1e-9))
    assert wrong / 400 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
