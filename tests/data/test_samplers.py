"""Samplers against counts and hand-made cases."""

import numpy as np
import pytest

from etude.data.samplers import (
    Curriculum,
    FixedMixture,
    OnlineMixture,
    Shuffle,
    WeightedDraw,
    by_loss,
    by_softmax,
    check_weights,
    draw_without_replacement,
    named_weights,
)
from etude.data.sources import DescribedSource, MixtureSource, SubsetSource, TensorSource
from etude.engine.protocols import Feedback
from etude.engine.streams import numpy_rng
from etude.errors import BadInput


def two_domains(a=4, b=8):
    return MixtureSource({"a": TensorSource(x=np.zeros(a)), "b": TensorSource(x=np.zeros(b))})


def test_shuffle_shows_each_sample_once():
    source = TensorSource(x=np.zeros(50))
    assert sorted(Shuffle().plan(0, source, numpy_rng(0, "a"))) == list(range(50))
    drawn = Shuffle(replacement=True).plan(0, source, numpy_rng(0, "a"))
    assert len(drawn) == 50
    assert len(set(drawn.tolist())) < 50


def test_the_first_draw_has_probability_proportional_to_its_weight():
    weights, rng = np.array([1.0, 2.0, 0.0, 5.0]), numpy_rng(0, "draw")
    firsts = np.bincount([draw_without_replacement(weights, 2, rng)[0] for _ in range(8000)], minlength=4) / 8000
    assert firsts == pytest.approx([1 / 8, 2 / 8, 0, 5 / 8], abs=0.02)


def test_the_second_draw_too():
    # P(0 then 1) = 1/8 * 2/7 by hand.
    weights, rng = np.array([1.0, 2.0, 5.0]), numpy_rng(1, "draw")
    pairs = [tuple(draw_without_replacement(weights, 2, rng)) for _ in range(8000)]
    assert pairs.count((0, 1)) / 8000 == pytest.approx(1 / 8 * 2 / 7, abs=0.008)
    assert pairs.count((2, 1)) / 8000 == pytest.approx(5 / 8 * 2 / 3, abs=0.02)


def test_weighted_draws_do_not_repeat():
    plan = WeightedDraw(np.arange(10.0), share=0.5).plan(0, TensorSource(x=np.zeros(10)), numpy_rng(0, "p"))
    assert len(set(plan.tolist())) == 5
    assert 0 not in plan


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -2], "-2 at 1, expected numbers >= 0"),
        ([0, 0], "only zeros"),
        ([1, np.nan], "nan at 1, expected finite"),
        ([np.inf], "inf at 0"),
    ],
)
def test_weights_that_cannot_be(weights, message):
    with pytest.raises(BadInput, match=message):
        check_weights(weights)


def test_fewer_weights_above_zero_than_draws():
    with pytest.raises(BadInput, match="2 above zero, expected at least the 3"):
        draw_without_replacement(np.array([1.0, 0.0, 1.0]), 3, numpy_rng(0, "x"))
    with pytest.raises(BadInput, match="2 weights, expected one for each of 3 samples"):
        WeightedDraw(np.ones(2)).plan(0, TensorSource(x=np.zeros(3)), numpy_rng(0, "x"))
    with pytest.raises(BadInput, match=r"sampler\.share: found 0"):
        WeightedDraw(np.ones(2), share=0)


def test_a_mixture_follows_the_losses():
    source, sampler = two_domains(), OnlineMixture(lambda losses: losses, update_every=400, smoothing=0.5)
    first = sampler.plan(0, source, numpy_rng(0, "m", 0))
    assert sampler.history == [[0.5, 0.5]]
    assert np.mean(source.domains[first]) == pytest.approx(0.5, abs=0.1)
    a, b = np.flatnonzero(source.domains == 0)[:2], np.flatnonzero(source.domains == 1)[:1]
    sampler.observe(Feedback(1, np.concatenate([a, b]), np.array([1.0, 3.0, 6.0])))
    assert sampler.losses.tolist() == [2.0, 6.0]
    sampler.observe(Feedback(2, b, np.array([2.0])))
    assert sampler.losses.tolist() == [2.0, 4.0]
    second = sampler.plan(1, source, numpy_rng(0, "m", 1))
    assert sampler.history[1] == pytest.approx([1 / 3, 2 / 3])
    assert np.mean(source.domains[second]) == pytest.approx(2 / 3, abs=0.1)


def test_a_mixture_follows_rewards_and_advantages():
    source = two_domains()
    for signal, values, expected in (("reward", [2.0, 0.0, 3.0], [0.25, 0.75]), ("advantage", [-1.0, 1.0, 0.0], [1.0, 0.0])):
        sampler = OnlineMixture(by_loss, update_every=40, signal=signal)
        sampler.plan(0, source, numpy_rng(0, "m", 0))
        a, b = np.flatnonzero(source.domains == 0)[:2], np.flatnonzero(source.domains == 1)[:1]
        sampler.observe(Feedback(1, np.concatenate([a, b]), np.zeros(3), values={signal: np.array(values)}))
        sampler.plan(1, source, numpy_rng(0, "m", 1))
        assert sampler.history[1] == pytest.approx(expected)
    assert by_loss(np.array([0.0, np.nan])).tolist() == [1, 1]
    with pytest.raises(BadInput, match="'advantage', which this run does not measure"):
        sampler.observe(Feedback(2, a, np.zeros(2)))


def test_feedback_may_be_about_an_earlier_stretch_but_not_about_a_stranger():
    source, sampler = two_domains(), OnlineMixture(lambda losses: losses, update_every=2)
    plans = [sampler.plan(stage, source, numpy_rng(0, "m", stage)) for stage in range(3)]
    ids = np.concatenate(plans)
    assert sampler.domains_of(ids).tolist() == source.domains[ids].tolist()
    stranger = next(i for i in range(12) if i not in ids)
    with pytest.raises(BadInput, match="feedback: found a sample that was not drawn lately"):
        sampler.observe(Feedback(1, np.array([stranger]), np.ones(1)))


def test_within_a_domain_all_come_before_one_comes_again():
    source, sampler = two_domains(a=4, b=3), OnlineMixture(lambda losses: losses, update_every=10)
    ids = np.concatenate([sampler.plan(stage, source, numpy_rng(0, "m", stage)) for stage in range(6)])
    for domain, size in ((0, 4), (1, 3)):
        members = [i for i in ids.tolist() if source.domains[i] == domain]
        for start in range(0, len(members) - size + 1, size):
            assert len(set(members[start : start + size])) == size
    other = OnlineMixture(lambda losses: losses, update_every=10).plan(0, source, numpy_rng(1, "m", 0))
    assert ids[:10].tolist() != other.tolist()


def test_with_replacement_samples_are_drawn_evenly_and_come_again():
    source, sampler = two_domains(a=4, b=8), FixedMixture([1.0, 1.0], update_every=6000, replacement=True)
    counts = np.bincount(sampler.plan(0, source, numpy_rng(0, "m")), minlength=12) / 6000
    assert counts == pytest.approx([1 / 8] * 4 + [1 / 16] * 8, abs=0.015)
    plans = [FixedMixture([1.0, 0.0], 4, replacement=True).plan(0, source, numpy_rng(seed, "m")) for seed in range(20)]
    assert any(len(np.unique(plan)) < 4 for plan in plans)  # without replacement four draws are all four
    only_b = FixedMixture([0.0, 1.0], update_every=50, replacement=True).plan(0, source, numpy_rng(0, "m"))
    assert only_b.min() >= 4  # a domain without weight is left out


def test_bad_mixtures():
    with pytest.raises(BadInput, match="samples without domains"):
        OnlineMixture(np.ones_like).plan(0, TensorSource(x=np.zeros(3)), numpy_rng(0, "x"))
    sampler = OnlineMixture(lambda losses: np.ones(3))
    sampler.plan(0, two_domains(), numpy_rng(0, "x"))
    sampler.observe(Feedback(1, sampler.shown[:1, 0], np.ones(1)))
    with pytest.raises(BadInput, match=r"shape \(3,\), expected one for each of 2 domains"):
        sampler.plan(1, two_domains(), numpy_rng(0, "x"))
    with pytest.raises(BadInput, match="update_every: found 0"):
        OnlineMixture(np.ones_like, update_every=0)


def test_a_fixed_mixture_keeps_its_proportions():
    source = MixtureSource({"a": TensorSource(x=np.arange(50.0)), "b": TensorSource(x=np.arange(20.0))})
    sampler = FixedMixture(np.array([1.0, 3.0]), update_every=4000)
    for stage in range(2):
        ids = sampler.plan(stage, source, numpy_rng(0, stage))
        assert abs((source.domains[ids] == 1).mean() - 0.75) < 0.03
        sampler.observe(Feedback(1, ids, np.where(source.domains[ids] == 1, 9.0, 1.0)))
    assert sampler.history == [[0.25, 0.75]] * 2


def test_weights_that_follow_losses():
    losses = np.array([1.0, np.nan, 3.0])
    assert by_loss(losses).tolist() == [1.0, 2.0, 3.0]
    assert np.allclose(by_softmax(losses, 0.5), np.exp([-4.0, -2.0, 0.0]))
    start = OnlineMixture(by_loss, 1000, initial=np.array([1.0, 0.0]))
    source = MixtureSource({"a": TensorSource(x=np.arange(5.0)), "b": TensorSource(x=np.arange(5.0))})
    assert start.plan(0, source, numpy_rng(0)).max() < 5


def test_weights_by_name():
    assert named_weights({"b": 3, "a": 1}, ("a", "b", "c")).tolist() == [1, 3, 0]
    sampler = FixedMixture({"b": 1}, update_every=6)
    assert sampler.plan(0, two_domains(), numpy_rng(0)).min() >= 4
    assert sampler.report() == {"share/a": 0.0, "share/b": 1.0}
    for weights, message in (
        ({"d": 1}, r"sampler\.weights\.d: found 'd', expected one of a, b"),
        ({"a": -1}, r"sampler\.weights\.a: found -1, expected a number >= 0"),
        ({"a": 0}, "only zeros"),
    ):
        with pytest.raises(BadInput, match=message):
            FixedMixture(weights).plan(0, two_domains(), numpy_rng(0))


def test_a_domain_without_samples_is_named_whatever_is_drawn():
    source = DescribedSource(TensorSource(x=np.zeros(4)), domains=[0, 0, 1, 1], names=("a", "b", "none"))
    with pytest.raises(BadInput, match="a weight for 'none', expected none, as it has no samples"):
        FixedMixture([1, 1, 1e-9], update_every=2).plan(0, source, numpy_rng(0))
    assert len(FixedMixture([1, 1, 0], update_every=2).plan(0, source, numpy_rng(0))) == 2


def graded(*numbers):
    return DescribedSource(TensorSource(x=np.zeros(len(numbers))), difficulty=numbers)


def test_a_curriculum_by_hand():
    # c(k)^2 = 1/16 + k (15/16) / 5: 1/16, 4/16, 7/16, ... of 8 samples: 2, 4, ceil(5.29) = 6, ...
    source, sampler = graded(5, 1, 7, 3, 8, 2, 6, 4), Curriculum(start=0.25, over=5, update_every=4)
    assert [sampler.share(k) for k in (0, 1, 5, 9)] == pytest.approx([0.25, 0.5, 1, 1])
    inside = [{1, 5}, {1, 5, 3, 7}, {1, 5, 3, 7, 0, 6}]
    for stage, allowed in enumerate(inside):
        ids = sampler.plan(stage, source, numpy_rng(0, stage))
        assert len(ids) == 4
        assert set(ids.tolist()) <= allowed
        assert len(set(ids.tolist())) == min(4, len(allowed))
    assert [h[1] for h in sampler.history] == [2, 4, 6]
    assert sampler.history[0] == [0.25, 2, 1.5]
    hard = Curriculum(start=0.25, update_every=2, hardest_first=True)
    assert set(hard.plan(0, source, numpy_rng(0)).tolist()) == {2, 4}
    assert hard.report() == {"curriculum/share": 0.25, "curriculum/hardest": 7.0, "curriculum/mean": 7.5}
    line = Curriculum(start=0.2, over=4, power=1)
    assert [line.share(k) for k in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])


def test_what_is_as_difficult_comes_in_together():
    ids = Curriculum(start=0.1, update_every=40).plan(0, graded(1, 2, 1, 1, 2, 3), numpy_rng(0))
    assert set(ids.tolist()) == {0, 2, 3}


def test_a_curriculum_by_losses_measures_until_all_are_in():
    sampler = Curriculum(measured=True, over=4, measure_every=2, update_every=2)
    assert [sampler.wants(k) is not None for k in range(6)] == [True, False, True, False, False, False]
    sampler.receive(sampler.wants(0), np.array([3.0, 1.0, 2.0, 4.0]))
    assert set(sampler.plan(0, TensorSource(x=np.zeros(4)), numpy_rng(0)).tolist()) == {1}
    with pytest.raises(BadInput, match=r"sampler\.difficulty: found nan of sample 1, expected finite numbers"):
        sampler.receive(sampler.wants(2), np.array([1.0, np.nan]))


def test_a_curriculum_remembers_what_it_went_by():
    sampler = Curriculum(update_every=2)
    sampler.plan(0, graded(1, 2, 3), numpy_rng(0))
    other = Curriculum(update_every=2)
    other.load_state_dict(sampler.state_dict())
    other.plan(1, graded(1, 2, 3), numpy_rng(1))
    assert len(other.history) == 2
    assert len(sampler.history) == 1
    with pytest.raises(BadInput, match="other numbers than the run began with"):
        other.plan(2, graded(1, 2, 4), numpy_rng(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Curriculum(start=0), "sampler.start: found 0"),
        (lambda: Curriculum(over=0), "sampler.over: found 0"),
        (lambda: Curriculum(power=0), "sampler.power: found 0"),
        (lambda: Curriculum([1.0, float("inf")]), "inf of sample 1"),
        (lambda: Curriculum([1.0], measured=True), "it beside measured losses"),
        (lambda: Curriculum([1.0]).plan(0, graded(1, 2), numpy_rng(0)), "1 numbers, expected one for each of 2 samples"),
        (lambda: Curriculum().plan(0, two_domains(), numpy_rng(0)), "samples without a difficulty"),
        (lambda: DescribedSource(two_domains(), difficulty=[1, 2]), "2 of them, expected one for each of 12 samples"),
    ],
)
def test_bad_curricula(call, message):
    with pytest.raises(BadInput, match=message):
        call()


def test_what_is_told_of_samples_comes_along():
    source = DescribedSource(TensorSource(x=np.arange(4.0)), domains=["b", "a", "b", "c"], difficulty=[4, 3, 2, 1])
    assert source.domain_names == ("b", "a", "c")
    assert source.domains.tolist() == [0, 1, 0, 2]
    part = SubsetSource(source, [3, 0])
    assert part.domains.tolist() == [2, 0]
    assert part.difficulty.tolist() == [1, 4]
    assert MixtureSource({"x": source, "y": part}).difficulty.tolist() == [4, 3, 2, 1, 1, 4]
    assert not hasattr(MixtureSource({"x": source, "y": TensorSource(x=np.zeros(1))}), "difficulty")
    assert not hasattr(DescribedSource(source, difficulty=[1, 2, 3, 4]), "domains")
