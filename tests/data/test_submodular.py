"""Subsets by submodular functions: against definitions, naive greedy choice and enumerated optima."""

from __future__ import annotations

import time
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.data.submodular import (
    FacilityLocation,
    GraphCut,
    LogDeterminant,
    budgets,
    cosine_similarities,
    lazy_greedy,
    partitions,
    select_in_partitions,
    stochastic_greedy,
)
from etude.errors import BadInput


def similarities(size: int, seed: int, width: int = 4) -> np.ndarray:
    return cosine_similarities(np.random.default_rng(seed).normal(size=(size, width)))


def facility(s: np.ndarray, chosen: list[int]) -> float:
    return float(sum(max(s[i, j] for j in chosen) for i in range(len(s)))) if chosen else 0.0


def cut(s: np.ndarray, chosen: list[int]) -> float:
    return float(sum(s[i, j] for i in range(len(s)) for j in chosen) - 0.4 * sum(s[i, j] for i in chosen for j in chosen))


def volume(s: np.ndarray, chosen: list[int]) -> float:
    return float(np.linalg.slogdet(s[np.ix_(chosen, chosen)] + np.eye(len(chosen)))[1]) if chosen else 0.0


FUNCTIONS = [(FacilityLocation, facility), (GraphCut, cut), (LogDeterminant, volume)]


@pytest.mark.parametrize(("make", "value"), FUNCTIONS)
@settings(max_examples=25, deadline=None)
@given(size=st.integers(2, 12), seed=st.integers(0, 10_000))
def test_gains_are_differences_of_the_definition_and_lazy_picks_those_of_naive_greedy(make, value, size, seed):
    s = similarities(size, seed)
    found = lazy_greedy(make(s), size)
    chosen: list[int] = []
    for item, gain in zip(found.items, found.gains, strict=True):
        now = value(s, chosen)
        naive = {j: value(s, [*chosen, j]) - now for j in range(size) if j not in chosen}
        assert gain == pytest.approx(naive[item], abs=1e-9)
        assert gain == pytest.approx(max(naive.values()), abs=1e-9)
        chosen.append(int(item))
    assert sorted(chosen) == list(range(size))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), budget=st.integers(1, 6))
def test_facility_location_reaches_its_share_of_the_enumerated_optimum(seed, budget):
    s = similarities(12, seed)
    best = max(facility(s, list(c)) for c in combinations(range(12), budget))
    reached = lazy_greedy(FacilityLocation(s), budget).gains.sum()
    assert (1 - 1 / np.e) * best <= reached <= best + 1e-9


def test_by_hand():
    s = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]])
    found = lazy_greedy(FacilityLocation(s), 3)
    # Totals 2.0, 2.1, 1.3: item 1 first; then item 2 adds 0.8 and item 0 adds 0.1.
    assert found.items.tolist() == [1, 2, 0]
    assert found.gains == pytest.approx([2.1, 0.8, 0.1])


def test_equal_gains_go_to_the_lower_number():
    assert lazy_greedy(FacilityLocation(np.ones((4, 4))), 4).items.tolist() == [0, 1, 2, 3]


def test_drawing_every_candidate_is_greedy_and_drawing_few_comes_near():
    s = similarities(60, 0)
    greedy = lazy_greedy(FacilityLocation(s), 10)
    whole = stochastic_greedy(FacilityLocation(s), 10, np.random.default_rng(0), eps=1e-6)
    assert whole.items.tolist() == greedy.items.tolist()
    some = [stochastic_greedy(FacilityLocation(s), 10, np.random.default_rng(k), eps=0.3) for k in range(20)]
    assert all(len(set(f.items.tolist())) == 10 for f in some)
    assert any(f.items.tolist() != greedy.items.tolist() for f in some)
    assert np.mean([f.gains.sum() for f in some]) >= (1 - 1 / np.e - 0.3) * greedy.gains.sum()


def test_a_set_of_copies_is_covered_by_one_of_each():
    rng = np.random.default_rng(0)
    originals = rng.normal(size=(10, 16))
    copies = np.repeat(originals, 7, axis=0) + 1e-3 * rng.normal(size=(70, 16))
    chosen = lazy_greedy(FacilityLocation(cosine_similarities(copies)), 10).items
    assert sorted(chosen // 7) == list(range(10))


@settings(max_examples=50, deadline=None)
@given(size=st.integers(2, 400), parts=st.integers(1, 40), share=st.floats(0.001, 1), seed=st.integers(0, 99))
def test_parts_hold_every_item_once_and_budgets_add_up(size, parts, share, seed):
    if parts > size // 2:
        with pytest.raises(BadInput, match="two items at least"):
            partitions(size, parts, np.random.default_rng(seed))
        return
    members = partitions(size, parts, np.random.default_rng(seed))
    assert sorted(np.concatenate(members)) == list(range(size))
    counts = budgets([len(p) for p in members], share)
    assert sum(counts) == int(np.ceil(round(share * size, 9)))
    assert all(0 <= c <= len(p) for c, p in zip(counts, members, strict=True))


def test_selection_in_parts_is_greedy_choice_inside_each():
    embeddings = np.random.default_rng(0).normal(size=(90, 8))
    found = select_in_partitions(embeddings, 0.2, 4, np.random.default_rng(1))
    members = partitions(90, 4, np.random.default_rng(1))
    assert sum(len(f.items) for f in found) == 18
    for part, selection in zip(members, found, strict=True):
        alone = lazy_greedy(FacilityLocation(cosine_similarities(embeddings[part])), len(selection.items))
        assert part[alone.items].tolist() == selection.items.tolist()


def test_100_000_items_are_chosen_from_in_time_and_memory_and_well_in_each_part():
    """What no greedy choice can be further from the optimum than, without enumerating: f(S) + the K largest gains that are left."""
    embeddings = np.random.default_rng(0).normal(size=(100_000, 16))
    tracemalloc.start()
    begun = time.process_time()
    found = select_in_partitions(embeddings, 0.01, 200, np.random.default_rng(1))
    seconds, (_, peak) = time.process_time() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 120
    assert peak < 2e9
    members = partitions(100_000, 200, np.random.default_rng(1))
    assert [len(f.items) for f in found] == [5] * 200
    for part, selection in list(zip(members, found, strict=True))[::20]:
        function = FacilityLocation(cosine_similarities(embeddings[part]))
        places = np.searchsorted(np.sort(part), selection.items)
        chosen = np.argsort(part)[places]
        for item in chosen:
            function.add(int(item))
        left = np.sort(function.gains(np.setdiff1d(np.arange(len(part)), chosen)))
        reached = selection.gains.sum()
        assert reached == pytest.approx(function.served.sum(), rel=1e-9)
        assert reached >= (1 - 1 / np.e) * (reached + left[-5:].sum())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: lazy_greedy(FacilityLocation(np.eye(3)), 4), "4 of 3 items"),
        (lambda: lazy_greedy(FacilityLocation(np.eye(3)), 0), "0 of 3 items"),
        (lambda: FacilityLocation(np.array([[1, -0.1], [-0.1, 1]])), ">= 0"),
        (lambda: FacilityLocation(np.array([[1, 0.2], [0.1, 1]])), "symmetric"),
        (lambda: FacilityLocation(np.ones((2, 3))), "square"),
        (lambda: cosine_similarities(np.array([[1.0, np.nan], [1, 2]])), "row 0"),
        (lambda: cosine_similarities(np.array([[1.0, 2], [0, 0]])), "row 1"),
        (lambda: budgets([4, 4], 1.5), "at most 1"),
        (lambda: stochastic_greedy(FacilityLocation(np.eye(3)), 1, np.random.default_rng(0), eps=1), "between 0 and 1"),
    ],
)
def test_what_cannot_be_chosen_from_is_told(call, told):
    with pytest.raises(BadInput, match=told):
        call()
