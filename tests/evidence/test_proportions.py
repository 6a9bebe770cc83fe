import numpy as np
import pytest
from scipy import stats

from etude.errors import BadInput
from etude.evidence import coverage
from etude.evidence import proportions as pr


def test_clopper_pearson_against_its_closed_ends_and_published_values():
    assert pr.clopper_pearson(0, 10) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert pr.clopper_pearson(10, 10) == pytest.approx((0.025**0.1, 1.0))
    assert pr.clopper_pearson(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)  # Newcombe 1998, 17:857, table I


@pytest.mark.parametrize(("k", "n"), [(1, 5), (3, 8), (7, 8)])
def test_clopper_pearson_puts_half_the_error_in_each_tail(k, n):
    low, high = pr.clopper_pearson(k, n, 0.9)
    assert stats.binom.sf(k - 1, n, low) == pytest.approx(0.05)
    assert stats.binom.cdf(k, n, high) == pytest.approx(0.05)
    assert pr.proportion_tail(k, n, 0.3) == pytest.approx(stats.binom.sf(k - 1, n, 0.3))


def test_newcombe_published_examples():
    # Newcombe 1998, 17:873, table II, method 10
    assert pr.newcombe(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert pr.newcombe(9, 10, 3, 10) == pytest.approx((0.1705, 0.8090), abs=5e-5)
    assert pr.newcombe(10, 10, 0, 10) == pytest.approx((0.6075, 1.0), abs=5e-5)


def test_paired_newcombe_without_correlation_is_the_one_of_two_samples():
    # 4, 4, 4, 4: ad = bc, so phi = 0; margins 8 of 16 twice
    assert pr.paired_newcombe(4, 4, 4, 4) == pytest.approx(pr.newcombe(8, 16, 8, 16))
    # an empty margin has no correlation either
    assert pr.paired_newcombe(0, 5, 0, 0) == pytest.approx(pr.newcombe(5, 5, 0, 5))


def test_paired_newcombe_by_hand():
    # cells 6, 3, 1, 10 of 20: cross = 57, less 10 = 47; margins 9 * 11 * 7 * 13 = 9009; phi = 0.495174
    phi = 47 / np.sqrt(9009)
    (l1, u1), (l2, u2) = (stats.binomtest(k, 20).proportion_ci(method="wilson") for k in (9, 7))
    low = 0.1 - np.sqrt((0.45 - l1) ** 2 - 2 * phi * (0.45 - l1) * (u2 - 0.35) + (u2 - 0.35) ** 2)
    high = 0.1 + np.sqrt((u1 - 0.45) ** 2 - 2 * phi * (u1 - 0.45) * (0.35 - l2) + (0.35 - l2) ** 2)
    assert pr.paired_newcombe(6, 3, 1, 10) == pytest.approx((low, high), abs=1e-9)


def test_exact_differences_have_their_closed_form_at_the_extreme_table():
    # only the extreme table ranks as high; its probability is largest at p1 = (1 + delta) / 2, p2 = (1 - delta) / 2
    assert pr.exact_difference(10, 10, 0, 10) == pytest.approx((2 * 0.025 ** (1 / 20) - 1, 1.0), abs=1e-6)
    assert pr.exact_paired_difference(10, 0, 10) == pytest.approx((2 * 0.025 ** (1 / 10) - 1, 1.0), abs=1e-6)


@pytest.mark.parametrize("table", [(4, 5, 1, 4), (3, 5, 3, 4), (1, 5, 3, 4)])
def test_exact_lower_limit_by_brute_force(table):
    x1, n1, x2, n2 = table
    low, _ = pr.exact_difference(x1, n1, x2, n2)

    def rank(i, j):  # monotone: the best of all tables that this one is at least as far as
        return max(pr.newcombe(a, n1, b, n2)[0] for a in range(i + 1) for b in range(j, n2 + 1))

    ahead = [(i, j) for i in range(n1 + 1) for j in range(n2 + 1) if rank(i, j) >= rank(x1, x2) - 1e-12]

    def tail(delta):
        p2 = np.linspace(max(0, -delta), min(1, 1 - delta), 2001)
        return max(sum(stats.binom.pmf(i, n1, p2 + delta) * stats.binom.pmf(j, n2, p2) for i, j in ahead))

    assert tail(low) == pytest.approx(0.025, abs=1e-4)
    assert tail(low - 0.02) < 0.025 < tail(low + 0.02)


@pytest.mark.parametrize("table", [(4, 1, 6), (2, 0, 5), (1, 3, 6)])
def test_exact_paired_lower_limit_by_brute_force(table):
    b, c, n = table
    low, _ = pr.exact_paired_difference(b, c, n)
    thresholds = pr._thresholds(b, c, n, n, True)
    ahead = [(i, j) for i in range(n + 1) for j in range(n + 1 - i) if i >= thresholds[j]]
    assert (b, c) in ahead

    def tail(delta):
        best = 0.0
        for p2 in np.linspace(max(0, -delta), (1 - delta) / 2, 201):
            cells = np.array([p2 + delta, p2, max(1 - delta - 2 * p2, 0.0)])
            tables = [[i, j, n - i - j] for i, j in ahead]
            best = max(best, stats.multinomial.pmf(tables, n, cells / cells.sum()).sum())
        return best

    assert tail(low) == pytest.approx(0.025, abs=1e-4)
    assert tail(low - 0.01) < 0.025 < tail(low + 0.01)


def test_swapping_the_arms_mirrors_the_intervals_and_levels_nest():
    low, high = pr.exact_difference(7, 9, 2, 6)
    assert pr.exact_difference(2, 6, 7, 9) == pytest.approx((-high, -low))
    low, high = pr.exact_paired_difference(5, 2, 9)
    assert pr.exact_paired_difference(2, 5, 9) == pytest.approx((-high, -low))
    wide = pr.exact_paired_difference(5, 2, 9, 0.99)
    assert wide[0] < low < 3 / 9 < high < wide[1]


def test_tails_agree_with_the_limits():
    low, high = pr.exact_difference(7, 10, 2, 10, 0.975)
    assert pr.exact_difference_tail(7, 10, 2, 10, low) == pytest.approx(0.0125, rel=1e-6)
    assert pr.exact_difference_tail(2, 10, 7, 10, -high) == pytest.approx(0.0125, rel=1e-6)
    low, _ = pr.exact_paired_difference(6, 1, 10)
    assert pr.exact_paired_difference_tail(6, 1, 10, low) == pytest.approx(0.025, rel=1e-6)
    assert pr.exact_difference_tail(0, 5, 5, 5, 0.0) == 1.0


def test_equal_counts_at_the_ends_say_little():
    assert pr.exact_difference(5, 5, 5, 5) == pytest.approx((-pr.exact_difference(0, 5, 0, 5)[1], pr.exact_difference(0, 5, 0, 5)[1]))
    low, high = pr.exact_paired_difference(0, 0, 5)
    assert low < -0.3
    assert high > 0.3


@pytest.mark.parametrize("n", [3, 5, 8])
def test_enumerated_coverage_is_never_below_the_level(n):
    assert coverage.one_proportion(n, pr.clopper_pearson).lowest >= 0.95
    two = coverage.table_of_limits(n, n, lambda i, j: pr.exact_difference(i, n, j, n))
    assert coverage.two_proportions(n, n, two, coverage.GRID[::2]).lowest >= 0.95


@pytest.mark.parametrize("n", [3, 5, 8])
def test_enumerated_coverage_of_pairs_is_never_below_the_level(n):
    pairs = coverage.table_of_limits(n, n, lambda i, j: pr.exact_paired_difference(i, j, n), paired=True)
    assert coverage.paired_proportions(n, pairs).lowest >= 0.95


def test_enumerated_coverage_of_unequal_samples_and_of_a_level_of_holm():
    limits = coverage.table_of_limits(4, 9, lambda i, j: pr.exact_difference(i, 4, j, 9, 0.975))
    assert coverage.two_proportions(4, 9, limits).lowest >= 0.975


def test_plain_newcombe_is_why_the_exact_ones_exist():
    plain = coverage.table_of_limits(5, 5, lambda i, j: pr.newcombe(i, 5, j, 5))
    assert coverage.two_proportions(5, 5, plain).lowest < 0.85


def test_enumeration_agrees_with_a_sum_written_out():
    # interval [0, 0.5] for 0 or 1 of 2, [0.5, 1] for 2: at p = 0.2 it holds the truth with 1 - 0.04
    found = coverage.one_proportion(2, lambda k, n: (0.0, 0.5) if k < 2 else (0.5, 1.0), np.array([0.2]))
    assert found.lowest == pytest.approx(0.96)
    always = coverage.table_of_limits(3, 2, lambda i, j: (-1.0, 1.0))
    assert coverage.two_proportions(3, 2, always, np.array([0.1, 0.7])).lowest == pytest.approx(1.0)
    assert coverage.paired_tables(3, lambda a, b, c, d: (-1.0, 1.0), 0.25).lowest == pytest.approx(1.0)


def test_impossible_counts_are_refused():
    with pytest.raises(BadInput, match="proportion: successes: found 6, expected a whole number from 0 to 5"):
        pr.clopper_pearson(6, 5)
    with pytest.raises(BadInput, match="sample 2: trials: found 0, expected a whole number >= 1"):
        pr.exact_difference(1, 2, 0, 0)
    with pytest.raises(BadInput, match="pairs: successes: found 7, expected a whole number from 0 to 5"):
        pr.exact_paired_difference(4, 3, 5)
    with pytest.raises(BadInput, match="trials: found 2000, expected at most 1000 an arm; average items inside a seed instead"):
        pr.exact_difference(1, 2000, 1, 10)
    with pytest.raises(BadInput, match="proportion: level: found 95, expected a number between 0 and 1"):
        pr.clopper_pearson(1, 2, 95)
