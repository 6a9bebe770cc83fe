import json
import math

import pytest

from etude.errors import BadInput
from etude.evidence.claims import AtLeast, Better, Equivalent, Rate
from etude.evidence.estimate import rule_of
from etude.evidence.statistics import t_interval
from etude.evidence.verdict import audit, check, judge, primary_of


def record(losses, *, flops=None, reference=(), diverged=None):
    seeds = len(next(iter(losses.values())))
    return {
        "seeds": list(range(seeds)),
        "arms": {
            arm: {
                "metrics": {"loss": values},
                "ledger": [{"train": {"flops": f, "tokens": 10}, "prepare": {"flops": 0}} for f in (flops or {}).get(arm, [100] * seeds)],
                "reference": arm in reference,
                "diverged": (diverged or {}).get(arm, [False] * seeds),
            }
            for arm, values in losses.items()
        },
    }


def beats(arm, baseline="old", **changes):
    return Better(**{"text": f"{arm} beats {baseline}", "arm": arm, "baseline": baseline, "metric": "loss", "d": 0.1, **changes})


OLD = [2.0, 2.1, 1.9]
GOOD = [1.0, 1.1, 0.92]


@pytest.mark.parametrize(
    ("interval", "beyond", "within", "at_least"),
    [
        ((0.11, 0.9), "holds", "reversed", "holds"),
        ((0.10, 0.9), "inconclusive", "inconclusive", "holds"),
        ((0.05, 0.9), "inconclusive", "inconclusive", "inconclusive"),
        ((-0.05, 0.05), "no effect", "holds", "no effect"),
        ((-0.10, 0.10), "no effect", "holds", "no effect"),
        ((0.02, 0.08), "no effect", "holds", "no effect"),
        ((-0.08, -0.02), "reversed", "holds", "reversed"),  # before "no effect"
        ((-0.9, -0.2), "reversed", "reversed", "reversed"),
        ((-0.9, 0.9), "inconclusive", "inconclusive", "inconclusive"),
        ((-math.inf, math.inf), "inconclusive", "inconclusive", "inconclusive"),
    ],
)
def test_the_rule_in_its_order(interval, beyond, within, at_least):
    assert rule_of(*interval, 0.1) == beyond
    assert rule_of(*interval, 0.1, "within") == within
    assert rule_of(*interval, 0.1, "at least") == at_least


def test_the_primary_claim_is_judged_at_95_percent_whatever_the_others_do():
    claims = [beats("bad"), beats("new", primary=True), beats("bad")]
    told = judge(record({"old": OLD, "new": GOOD, "bad": [2.0, 2.05, 1.97]}), claims)
    assert [t.primary for t in told] == [False, True, False]
    assert told[1].level == 0.95
    assert told[1].verdict == "holds"
    assert told[1].interval == pytest.approx(t_interval([1.0, 1.0, 0.98]))
    assert (told[1].n, told[1].d, told[1].kind) == (3, 0.1, "Better")
    assert [told[0].level, told[2].level] == pytest.approx([0.975, 0.975])


def test_holm_sets_each_secondary_level_and_it_matters():
    """0.2 is beyond d at 95 % but not at 97.5 %: as the only secondary claim it holds; beside a failing one that is first, not."""
    near = [1.0, 1.0 + 0.035, 1.0 - 0.035]
    data = record({"old": [1.2, 1.2, 1.2], "new": near, "bad": [1.3, 1.1, 1.2]})
    alone = judge(data, [beats("bad", primary=True), beats("new")])
    assert (alone[1].level, alone[1].verdict) == (0.95, "holds")
    pair = judge(data, [beats("bad", primary=True), beats("new"), beats("bad")])
    assert (pair[1].level, pair[1].verdict) == (0.975, "inconclusive")
    first = judge(record({"old": OLD, "new": GOOD, "bad": [2.0, 2.05, 1.97]}), [beats("bad", primary=True), beats("new"), beats("bad")])
    assert [t.level for t in first[1:]] == pytest.approx([0.975, 0.95])  # the first held, so the second is tried at 95 %


def test_a_claim_holds_exactly_where_its_p_is_below_its_level():
    data = record({"old": OLD, "new": GOOD, "mid": [1.7, 1.9, 1.6], "bad": [2.0, 2.05, 1.97]})
    for told in judge(data, [beats("new"), beats("mid"), beats("bad"), beats("mid", "new")]):
        assert (told.verdict == "holds") == (told.p < 1 - told.level)


def test_secondary_claims_that_cannot_be_judged_still_count():
    data = record({"old": OLD, "new": GOOD, "bad": [2.0, math.nan, 2.0]})
    told = judge(data, [beats("new"), beats("new"), beats("bad")])
    assert told[1].level == 0.975
    assert told[2].verdict == "not judged: loss of 'bad' is nan at seed 1"
    assert (told[2].estimate, told[2].interval, told[2].p, told[2].n) == (None, None, None, 0)


def test_unequal_budgets_get_no_verdict_but_keep_their_numbers():
    data = record({"old": OLD, "new": GOOD}, flops={"new": [100, 103.14, 100]})
    (told,) = judge(data, [beats("new")])
    assert told.verdict == "not judged: unequal flops (+3.1 %, 'new' against 'old')"
    assert told.estimate == pytest.approx(0.99333, abs=1e-5)
    assert told.interval is not None
    (less,) = judge(record({"old": OLD, "new": GOOD}, flops={"new": [100, 100, 97]}), [beats("new")])
    assert less.verdict == "not judged: unequal flops (-3.0 %, 'new' against 'old')"


def test_tolerance_is_per_claim_and_includes_its_edge():
    data = record({"old": OLD, "new": GOOD}, flops={"new": [102, 98, 102]})
    assert judge(data, [beats("new")])[0].verdict == "holds"
    data = record({"old": OLD, "new": GOOD}, flops={"new": [104, 104, 104]})
    assert judge(data, [beats("new", tolerance=0.05, tolerance_reason="whole layers")])[0].verdict == "holds"
    assert judge(data, [beats("new", equal=("tokens",))])[0].verdict == "holds"
    assert judge(data, [beats("new", equal=("prepare.flops",))])[0].verdict == "holds"
    assert judge(data, [beats("new", equal=("train.flops",))])[0].verdict.startswith("not judged: unequal train.flops (+4.0 %")
    assert judge(data, [beats("new", equal=())])[0].verdict == "holds"


def test_a_smoke_run_is_judged_though_it_spends_unequally_and_says_so():
    """A handful of updates cannot come nearer to each other; what is wrong with the study itself still shows."""
    data = {**record({"old": OLD, "new": GOOD}, flops={"new": [90, 90, 90]}), "scale": "smoke"}
    (told,) = judge(data, [beats("new")])
    assert told.verdict == "holds"
    assert told.note == "unequal flops (-10.0 %, 'new' against 'old'), which would not be judged at another scale"
    assert judge(data | {"scale": "quick"}, [beats("new")])[0].verdict.startswith("not judged: unequal flops")
    assert judge(data, [beats("new", equal=("labels",))])[0].verdict.startswith("not judged: labels of 'old' not in the ledger")


def test_work_that_only_one_arm_does_is_unequal_and_what_nobody_measured_is_not_equal():
    data = record({"old": OLD, "new": GOOD})
    for ledger in data["arms"]["new"]["ledger"]:
        ledger["prepare"] = {"flops": 5}
    assert judge(data, [beats("new", equal=("prepare.flops",))])[0].verdict.startswith("not judged: unequal prepare.flops (+inf %")
    assert judge(data, [beats("new", equal=("labels",))])[0].verdict == "not judged: labels of 'old' not in the ledger of 3 seeds"


def test_audit_of_parameters_beside_the_ledger():
    data = record({"old": OLD, "new": GOOD})
    data["arms"]["old"]["parameters"], data["arms"]["new"]["parameters"] = [100] * 3, [101] * 3
    audit(data, beats("new", equal=("parameters",)))
    data["arms"]["new"]["parameters"] = [110] * 3
    assert judge(data, [beats("new", equal=("parameters",))])[0].verdict.startswith("not judged: unequal parameters (+10.0 %")


def test_fewer_than_three_seeds_are_not_judged():
    (two,) = judge(record({"old": [2.0, 2.0], "new": [1.0, 1.1]}), [beats("new")])
    assert two.verdict == "not judged: 2 seeds, at least 3 needed"
    assert two.estimate == pytest.approx(0.95)
    (one,) = judge(record({"old": [2.0], "new": [1.0]}), [beats("new")])
    assert (one.estimate, one.interval) == (1.0, None)
    json.dumps(one.as_dict(), allow_nan=False)


def test_arms_that_were_not_run_are_not_judged():
    assert judge(record({"old": OLD}), [beats("new")])[0].verdict == "not judged: arm 'new' was not run"


def test_diverged_runs_are_judged_by_their_named_value_and_said():
    (told,) = judge(record({"old": OLD, "new": [1.0, 9.0, 1.0]}, diverged={"new": [False, True, False]}), [beats("new")])
    assert told.verdict == "inconclusive"
    assert told.note == "'new' diverged at seed 1"


def test_reference_arms_enter_no_equal_budget_claim():
    data = record({"old": OLD, "new": GOOD}, reference=("old",))
    with pytest.raises(
        BadInput, match=r"claims\[0\] \(Better\): found reference arm 'old' held equal in flops, expected arms within the budget"
    ):
        judge(data, [beats("new")])
    assert judge(data, [beats("new", equal=())])[0].verdict == "holds"
    assert judge(data, [AtLeast(text="x", arm="old", metric="loss", threshold=1.0)])[0].verdict == "holds"


def test_check_sees_a_whole_study():
    arms = {"old": False, "new": False}
    check([beats("new"), Equivalent(text="x", arm="new", baseline="old", metric="loss", d=0.1)], arms)
    with pytest.raises(BadInput, match=r"claims\[1\] \(Better\): found 'nev', expected a known name; did you mean 'new'"):
        check([beats("new"), beats("nev")], arms)
    with pytest.raises(BadInput, match="claims: found 2 with primary=True, expected one primary claim"):
        check([beats("new", primary=True), beats("new", primary=True)], arms)
    with pytest.raises(BadInput, match="claims: found none, expected at least one"):
        primary_of([])


def test_judging_counts_beside_seeds():
    data = record({"old": OLD, "new": GOOD})
    data["arms"]["new"]["counts"], data["arms"]["old"]["counts"] = {"ok": [[8, 8]] * 3}, {"ok": [[1, 8]] * 3}
    told = judge(data, [beats("new"), Rate(text="More often", arm="new", baseline="old", count="ok", d=0.2)])
    assert (told[1].verdict, told[1].n, told[1].kind) == ("holds", 24, "Rate")
    assert told == judge(data, [beats("new"), Rate(text="More often", arm="new", baseline="old", count="ok", d=0.2)])
    json.dumps([t.as_dict() for t in told], allow_nan=False)
