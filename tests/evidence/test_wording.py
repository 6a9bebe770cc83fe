import math

import pytest

from etude.evidence.wording import HIGHER, amount, claim_effect, effect


def test_amounts():
    assert [amount(v) for v in (0, float("nan"), 12, 1234, 2.5e6, 3e9, 4.56e12, 7e15)] == [
        "–", "–", "12", "1.23k", "2.5M", "3G", "4.56T", "7P",
    ]  # fmt: skip


def test_an_effect_is_said_in_its_own_direction():
    assert effect(0.2, (0.16, 0.241)) == "better by 0.2 [0.16, 0.241]"
    assert effect(-0.1, (-0.25, 0.05)) == "worse by 0.1 [-0.05, 0.25]"
    assert effect(-0.1, None, HIGHER) == "lower by 0.1"
    assert effect(-0.1, (-math.inf, None)) == "worse by 0.1 [?, ∞]"
    assert effect(-5e-17, (-0.238, 0.238)) == "better by 0 [-0.238, 0.238]"


def test_a_factor_below_one_is_turned_upside_down():
    said = ("better by a factor of", "worse by a factor of")
    assert effect(1.96, (0.8, 4.75), said, factor=True) == "better by a factor of 1.96 [0.8, 4.75]"
    assert effect(0.5, (0.0, 0.8), said, factor=True) == "worse by a factor of 2 [1.25, ∞]"


@pytest.mark.parametrize(
    ("kind", "estimate", "said"),
    [
        ("Better", -0.1, "worse by 0.1, 95 % interval [-0.3, 0.2]"),
        ("Equivalent", 0.1, "better by 0.1, 95 % interval [-0.2, 0.3]"),
        ("Rate", 0.1, "better by 0.1, 95 % interval [-0.2, 0.3]"),
        ("AtLeast", -0.1, "short of the threshold by 0.1, 95 % interval [-0.3, 0.2]"),
        ("Trend", 0.1, "as claimed, per level by 0.1, 95 % interval [-0.2, 0.3]"),
        ("Correlates", -0.1, "the other way, correlation 0.1, 95 % interval [-0.3, 0.2]"),
    ],
)
def test_each_type_of_claim_has_its_words(kind, estimate, said):
    claim = {"kind": kind, "estimate": estimate, "interval": [-0.2, 0.3], "level": 0.95}
    assert claim_effect(claim, level=True) == said
    assert claim_effect({"kind": kind, "estimate": None, "interval": None}) == ""
