import itertools

import numpy as np
import pytest

from etude.errors import BadInput
from etude.evidence import derived, records, report
from etude.evidence.claims import Better, Entrant
from etude.evidence.places import Place
from etude.evidence.ranking import improvement, interquartile_mean, ranking
from etude.evidence.statistics import holm_levels, t_interval
from etude.evidence.study import Study
from etude.evidence.verdict import judge, primary_of

# [tasks, runs]; what rliable 1.2.0 gives for them: aggregate_iqm of each, probability_of_improvement of the second over the first.
ONE = np.array([[2.04, -2.56, 0.42, -0.57], [-0.45, -0.22, -2.02, -0.23], [-0.87, 3.32, 0.23, -0.35], [-0.28, -0.67, -1.06, -0.39],
                [0.48, -0.24, 0.96, -0.2]]).T  # fmt: skip
OTHER = np.array([[2.04, 1.85, 0.85, -0.21], [0.12, 0.84, 2.24, 0.03], [0.06, 1.3, -0.59, 0.01], [1.18, 0.88, 0.39, 0.97],
                  [-2.53, 1.32, -0.66, -1.37]]).T  # fmt: skip


def test_interquartile_means_and_the_probability_of_improvement_are_those_of_rliable():
    assert interquartile_mean(ONE.reshape(-1)) == pytest.approx(-0.27, abs=1e-12)
    assert interquartile_mean(OTHER.reshape(-1)) == pytest.approx(0.533, abs=1e-12)
    assert improvement(OTHER, ONE) == pytest.approx(0.695, abs=1e-12)


def test_improvement_counts_pairs_of_a_task_with_ties_half():
    pairs = [
        np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(ours, theirs)]) for ours, theirs in zip(OTHER, ONE, strict=True)
    ]
    assert improvement(OTHER, ONE) == pytest.approx(np.mean(pairs), abs=1e-15)
    assert improvement(ONE, ONE) == 0.5


TASKS = ("score, a", "score, b")


def made(shift, seeds=5, flops=100.0):
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.05, (2, seeds))
    arms = {"baseline": base} | {name: base + by + rng.normal(0, 0.001, base.shape) for name, by in shift.items()}
    return {
        "seeds": list(range(seeds)), "baseline": "baseline", "headline": "score", "size": "small", "paper_size": "", "scale": "cpu",
        "arms": {
            name: {
                "metrics": dict(zip(TASKS, values.tolist(), strict=True)), "curves": {}, "counts": {}, "reference": False,
                "ledger": [{"train": {"flops": flops * (1.1 if name == "costly" else 1)}}] * seeds, "diverged": [False] * seeds,
            }
            for name, values in arms.items()
        },
    }  # fmt: skip


def entrants(names):
    return [Entrant(text=f"{n} is better", arm=n, baseline="baseline", metrics=TASKS, d=0.01) for n in names]


def test_a_ranking_has_the_better_arms_first_and_intervals_around_them():
    record = made({"good": 0.3, "bad": -0.3, "same": 0.0})
    told = ranking(record, ["bad", "same", "good"], "baseline", TASKS)
    assert next(one.arm for one in told) == "good"
    assert told[-1].arm == "bad"
    assert {one.arm: one.improvement for one in told}["good"] == 1.0
    assert {one.arm: one.improvement for one in told}["baseline"] is None
    assert {one.arm: one.iqm for one in told}["good"] == pytest.approx(0.3, abs=0.05)
    for one in told:
        assert one.interval[0] <= one.iqm <= one.interval[1]
        assert one.tasks == pytest.approx({name: np.mean(record["arms"][one.arm]["metrics"][name]) for name in TASKS})
    assert told == ranking(record, ["bad", "same", "good"], "baseline", TASKS)  # the same draws again


def test_the_interval_of_a_gain_has_the_chance_of_both_means_in_it():
    record = made({"steady": 0.0}, seeds=8)
    for name in TASKS:
        record["arms"]["steady"]["metrics"][name] = [0.5] * 8  # no chance of its own: what is left is the baseline's mean
    steady = next(one for one in ranking(record, ["steady"], "baseline", TASKS) if one.arm == "steady")
    base = np.array([record["arms"]["baseline"]["metrics"][name] for name in TASKS])
    spread = float(np.sqrt((base.var(axis=1) / 8).mean()))  # of a task's mean
    assert steady.interval[1] - steady.interval[0] > 2 * spread


def test_a_task_of_another_level_counts_as_much():
    record = made({"good": 0.0})
    for arm in record["arms"].values():
        arm["metrics"]["score, b"] = [value + 0.4 for value in arm["metrics"]["score, b"]]
    record["arms"]["good"]["metrics"]["score, a"] = [value + 0.2 for value in record["arms"]["baseline"]["metrics"]["score, a"]]
    record["arms"]["good"]["metrics"]["score, b"] = [value + 0.2 for value in record["arms"]["baseline"]["metrics"]["score, b"]]
    good = next(one for one in ranking(record, ["good"], "baseline", TASKS) if one.arm == "good")
    base = np.array([record["arms"]["baseline"]["metrics"][name] for name in TASKS])
    assert good.iqm == pytest.approx(0.2 + interquartile_mean((base - base.mean(axis=1, keepdims=True)).reshape(-1)), abs=1e-12)


def test_without_the_baseline_nothing_is_ranked():
    record = made({"good": 0.3})
    del record["arms"]["baseline"]
    assert ranking(record, ["good"], "baseline", TASKS) == []


def test_an_arm_that_was_not_run_is_left_out():
    record = made({"good": 0.3})
    assert [one.arm for one in ranking(record, ["good", "absent"], "baseline", TASKS)] == ["good", "baseline"]


def test_entrants_are_one_family_without_a_primary_claim():
    record, claims = made({"good": 0.3, "bad": -0.3, "same": 0.0}), entrants(["good", "bad", "same"])
    judged = judge(record, claims)
    assert primary_of(claims) is None
    assert not any(one.primary for one in judged)
    assert [one.level for one in judged] == holm_levels([one.p or 0.0 for one in judged])
    gains = np.subtract([record["arms"]["good"]["metrics"][t] for t in TASKS], [record["arms"]["baseline"]["metrics"][t] for t in TASKS])
    assert judged[0].interval == pytest.approx(t_interval(gains.mean(axis=0), judged[0].level))
    assert [one.verdict for one in judged] == ["holds", "reversed", "no effect"]
    assert records.verdicts(record | {"matched": {}}, claims)["verdict"] == "1 of 3 better than the baseline, 1 worse"


def test_an_entrant_that_spends_more_is_not_judged():
    record = made({"costly": 0.3})
    assert judge(record, entrants(["costly"]))[0].verdict.startswith("not judged: unequal flops")


def test_a_changed_ranking_is_found():
    record, claims = made({"good": 0.3}), entrants(["good"])
    record |= records.judged(record, claims)

    study = Study(slug="x", arms={}, scales={}, claims=claims, baseline="baseline", headline="score")
    assert derived.differences(study, record) == []
    record["ranking"][0]["iqm"] += 0.1
    assert derived.differences(study, record) == ["the ranking on record is not that of its values"]


def test_the_table_of_verdicts_has_a_row_for_a_ranking(tmp_path):
    record, claims = made({"good": 0.3}), entrants(["good"])
    record |= {"schema": records.SCHEMA, "slug": "arena-x", **records.judged(record, claims)}
    place = Place(tmp_path)
    records.write(place.record("arena-x"), record)
    row = report.verdict_table(place).splitlines()[2]
    assert "Which is better than the baseline over a, b?" in row
    assert row.index("good +0.3") < row.index("baseline +0.0")


def test_entrants_stand_alone():
    other = Better(text="t", arm="good", baseline="baseline", metric="score, a", d=0.1)
    with pytest.raises(BadInput, match="entrants alone"):
        primary_of([*entrants(["good"]), other])
    with pytest.raises(BadInput, match="a tuple of metrics"):
        Entrant(text="t", arm="a", baseline="b", metrics=(), d=0.1)
