"""DUMP: its equations by hand, what the sampler draws and remembers, that it resumes, and the study's arms."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from rollout_toys import END as TOY_END
from rollout_toys import Copy, Letters, PlainGenerator, tiny
from toys import KillAt, Killed

from etude.data.samplers import FixedMixture
from etude.data.sources import MixtureSource, TensorSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.metrics import read_metrics
from etude.engine.optim import SGD
from etude.engine.protocols import Feedback, Sampling
from etude.engine.schedule import Constant
from etude.engine.streams import initialise, numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.plots import draw
from etude.evidence.study import Job
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import PolicyConfig, PolicyGradient
from etude.learn.problems import Domain, ProblemPool, SingleTurn
from etude.learn.rollouts import Collector
from etude.learn.round import RoundConfig, informative
from etude.learn.supervised import Supervised
from etude.nn.mlp import MLP
from etude.papers.order.dump import STUDY, Bandit, Dump, Settings, arms, ladder, learnability, probabilities, upper_bounds

TINY = STUDY.scales["smoke"].settings


pytestmark = pytest.mark.usefixtures("own_cache")


# --- equations --------------------------------------------------------------------------------------------------------
def test_learnability_is_the_mean_of_the_absolute_advantages():
    windows = [np.array([1.0, -1.0, 0.0, 0.0]), np.array([2.0, -2.0]), np.empty(0)]
    assert learnability(windows).tolist() == [0.5, 2.0, 0.0]
    assert learnability(windows, absolute=False).tolist() == [0.0, 0.0, 0.0]  # what |A| is for


def test_the_bounds_by_hand():
    found = upper_bounds(np.array([0.5, 0.2, 0.0]), np.array([3, 0, 4]))
    assert found == pytest.approx([0.5 + math.sqrt(2 * math.log(8) / 4), 0.2 + math.sqrt(2 * math.log(8)), math.sqrt(2 * math.log(8) / 5)])
    assert upper_bounds(np.array([0.5, 0.2]), np.array([3, 1]), bonus=0.0).tolist() == [0.5, 0.2]
    assert upper_bounds(np.zeros(3), np.zeros(3)).tolist() == [0, 0, 0]  # nothing told yet: all alike


def test_the_softmax_by_hand_and_without_overflow():
    assert probabilities(np.array([0.1, 0.3]), 0.1) == pytest.approx(np.array([1, math.e**2]) / (1 + math.e**2))
    assert probabilities(np.array([1e4, 0.0]), 0.1).tolist() == [1, 0]
    assert probabilities(np.array([5.0, 1.0]), math.inf).tolist() == [0.5, 0.5]
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(BadInput, match="temperature: found .*, expected a number > 0"):
            probabilities(np.zeros(2), temperature)


# --- the sampler ------------------------------------------------------------------------------------------------------
def source(a=4, b=8):
    return MixtureSource({"a": TensorSource(x=np.zeros(a)), "b": TensorSource(x=np.zeros(b))})


def told(ids, advantages):
    return Feedback(1, np.array(ids), np.zeros(len(ids)), values={"advantage": np.array(advantages)})


def test_windows_slide_and_counts_do_not():
    sampler = Bandit(400, window=3)
    sampler.plan(0, source(), numpy_rng(0, "m", 0))
    assert sampler.history == [[0.5, 0.5]]  # starts even
    sampler.observe(told([0, 1, 5], [1.0, -1.0, 0.0]))
    sampler.observe(told([0, 0, 6], [-0.5, 0.25, 0.0]))
    assert [w.tolist() for w in sampler.windows] == [[-1.0, -0.5, 0.25], [0.0, 0.0]]  # a group without variance counts as zeros
    assert sampler.counts.tolist() == [4, 2]
    drawn = sampler.plan(1, source(), numpy_rng(0, "m", 1))
    u = np.array([1.75 / 3 + math.sqrt(2 * math.log(7) / 5), math.sqrt(2 * math.log(7) / 3)])
    shares = np.exp(u / 0.1) / np.exp(u / 0.1).sum()
    assert sampler.history[1] == pytest.approx(shares)
    assert np.mean(source().domains[drawn] == 0) == pytest.approx(shares[0], abs=0.05)


def test_a_report_of_evaluations_is_no_signal():
    sampler = Bandit(10)
    sampler.plan(0, source(), numpy_rng(0, "m"))
    sampler.observe(Feedback(1, np.empty(0, np.int64), np.empty(0), evaluations={"test/reward": 1.0}))
    assert sampler.counts.tolist() == [0, 0]


def test_without_temperature_it_is_an_even_mixture_bit_for_bit():
    bandit, even = Bandit(7, temperature=math.inf), FixedMixture([1.0, 1.0], 7, replacement=True)
    for stage in range(5):
        ids = bandit.plan(stage, source(), numpy_rng(0, "m", stage))
        assert ids.tolist() == even.plan(stage, source(), numpy_rng(0, "m", stage)).tolist()
        bandit.observe(told(ids, np.linspace(-2, 2, 7)))


def test_it_finds_the_distribution_that_teaches_and_leaves_it_when_it_is_mastered():
    """A bandit without a model: what is drawn of domain 1 has advantages until it was drawn 300 times, then domain 2 has."""
    sampler, data = Bandit(20, window=40), MixtureSource({n: TensorSource(x=np.zeros(50)) for n in "abc"})
    drawn, rng = np.zeros(3), numpy_rng(0, "world")
    for stage in range(60):
        domains = data.domains[ids := sampler.plan(stage, data, numpy_rng(0, "m", stage))]
        level = np.where(domains == 1, 0.9 * (drawn[1] < 300), 0.9 * ((domains == 2) & (drawn[1] >= 300)))
        sampler.observe(told(ids, level * rng.choice([-1, 1], 20)))
        drawn += np.bincount(domains, minlength=3)
    shares = np.array(sampler.history)
    assert shares[5:14, 1].mean() > 0.8
    assert shares[-15:, 2].mean() > 0.8
    assert drawn[0] > 20  # the bonus keeps looking


def test_what_the_sampler_refuses():
    with pytest.raises(BadInput, match="samples without domains"):
        Bandit(2).plan(0, TensorSource(x=np.zeros(3)), numpy_rng(0))
    empty = source()
    empty.domains = np.zeros(12, dtype=np.int64)
    with pytest.raises(BadInput, match="domain 'b' without samples"):
        Bandit(2).plan(0, empty, numpy_rng(0))
    empty.domains = np.array([-1] + [0, 1] * 6)[:12]
    with pytest.raises(BadInput, match="a sample without a domain"):
        Bandit(2).plan(0, empty, numpy_rng(0))
    sampler = Bandit(2)
    ids = sampler.plan(0, source(), numpy_rng(0))
    for value in (math.nan, math.inf):
        with pytest.raises(BadInput, match=f"advantage of sample {ids[1]}: found {value}, expected a finite number"):
            sampler.observe(told(ids, [0.0, value]))
    with pytest.raises(BadInput, match="'advantage', which this run does not measure"):
        sampler.observe(Feedback(1, ids, np.zeros(2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "Dump.temperature: found 0.0, expected a number > 0"),
        ({"temperature": -0.1}, "Dump.temperature"),
        ({"window": 0}, "Dump.window: found 0, expected a whole number >= 1"),
        ({"bonus": -1.0}, "Dump.bonus: found -1.0, expected a number >= 0"),
        ({"update_every": 0}, "Dump.update_every: found 0"),
        ({"temprature": 1.0}, "did you mean 'temperature'"),
    ],
)
def test_what_the_method_refuses(settings, message):
    with pytest.raises(BadInput, match=message):
        Dump(**settings)


# --- on one's own work ------------------------------------------------------------------------------------------------
def rollouts(samples=4, keep=None, max_draws=1):
    """Own domains: two levels of a task of one's own, under names of one's own."""
    parts = [
        Domain(name, [Copy().problem(0, i, level) for i in range(6)], lambda: SingleTurn(Copy()))
        for name, level in (("short", 1), ("long", 2))
    ]
    rules = Collector(ProblemPool(parts), Letters(), Sampling(max_tokens=2, stop_tokens=(TOY_END,)), context=32)
    config = RoundConfig(prompts=4, samples=samples, minibatch=4 * samples // 2, max_draws=max_draws)
    return RolloutStream(PlainGenerator, rules, config, seed=0, keep=keep)


def train(stream, method, steps=6, folder=None, resume=False, **more):
    settings = {"optimizer": SGD(lr=0.5), "schedule": Constant(), "budget": Budget(steps=steps), **more}
    return Trainer(tiny(), stream, PolicyGradient(PolicyConfig(kl=0.0)), methods=[method], folder=folder, **settings).run(resume=resume)


def test_under_a_rollout_stream_it_hears_each_rollout_once_and_logs_the_mixture(tmp_path):
    method = Dump()
    train(rollouts(), method, folder=tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run/rollouts.jsonl").read_text().splitlines()]
    assert method.sampler.counts.tolist() == [sum(r["difficulty"] == d for r in log) for d in (1, 2)]
    for domain, window in enumerate(method.sampler.windows):
        assert window == pytest.approx([r["advantage"] for r in log if r["difficulty"] == domain + 1], abs=1e-6)
    rows = [row for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert [row["share/short"] for row in rows[::2]] == [shares[0] for shares in method.sampler.history]
    assert all(row["share/short"] + row["share/long"] == pytest.approx(1) and row["learnability/long"] >= 0 for row in rows)
    assert method.sampler.history[0] == [0.5, 0.5]
    assert method.sampler.history[1] != [0.5, 0.5]  # told after the first batch
    assert len(method.sampler.history) == 3  # a plan a round


def test_redrawn_rounds_are_told_too():
    method = Dump()
    result = train(rollouts(keep=informative, max_draws=3), method, steps=4)
    assert method.sampler.counts.sum() == result.ledger.total("samples", ("generate",))


@pytest.mark.parametrize("at", [2, 3, 5])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, at):
    def run(folder, kill=0, resume=False):
        method = Dump(window=8)
        Trainer(
            tiny(), rollouts(), PolicyGradient(PolicyConfig(kl=0.0)), methods=[method, KillAt(kill)], folder=tmp_path / folder,
            optimizer=SGD(lr=0.5), schedule=Constant(), budget=Budget(steps=8), checkpoint_every=0.125,
        ).run(resume=resume)  # fmt: skip
        return method.sampler

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", kill=at)
    again = run("killed", resume=True)
    assert again.history == whole.history
    assert again.counts.tolist() == whole.counts.tolist()
    assert all(np.array_equal(a, b) for a, b in zip(again.windows, whole.windows, strict=True))
    for name in ("rollouts.jsonl", "metrics.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_switched_off_a_run_is_the_even_mixture_bit_for_bit():
    """A temperature beyond all scores; the weights after training are equal to the last bit."""
    off = train(rollouts(), Dump(temperature=1e300)).model
    even = train(rollouts(), arms.Given(FixedMixture([1.0, 1.0], 4, replacement=True))).model
    assert all(torch.equal(a, b) for a, b in zip(off.parameters(), even.parameters(), strict=True))


def test_groups_of_one_are_refused():
    with pytest.raises(BadInput, match="groups of 1, expected at least 2"):
        rollouts(samples=1)


def test_domains_of_supervised_data_go_by_their_losses():
    rng = numpy_rng(0, "data")
    parts = {n: TensorSource(x=rng.normal(size=(40, 3)).astype(np.float32), y=rng.integers(0, 2, 40)) for n in ("a", "b")}
    method = Dump(signal="loss", update_every=2)
    stream = DataStream(MixtureSource(parts), 8, 0)
    Trainer(initialise(MLP((3, 4, 2)), 0), stream, Supervised(), methods=[method], budget=Budget(steps=10)).run()
    assert method.sampler.counts.sum() == 80
    assert len(method.sampler.history) == 5
    with pytest.raises(BadInput, match="advantages come from a RolloutStream"):
        Trainer(
            initialise(MLP((3, 4, 2)), 0), DataStream(MixtureSource(parts), 8, 0), Supervised(), methods=[Dump()], budget=Budget(steps=10)
        ).run()


# --- the study --------------------------------------------------------------------------------------------------------
def run(name, settings=TINY, seed=5, folder=None):
    return STUDY.arms[name].run(Job(study="dump", arm=name, scale="smoke", seed=seed, settings=settings, folder=folder))


@pytest.mark.parametrize("name", list(STUDY.arms))
def test_arms_spend_alike_and_measure_what_is_claimed(name):
    outcome = run(name)
    assert outcome.ledger["generate"]["samples"] == STUDY.arms[name].planned(TINY)["generate.samples"] == TINY.rollouts
    assert outcome.ledger["train"]["steps"] == TINY.updates
    assert {c.metric for c in STUDY.claims if getattr(c, "metric", "")} <= set(outcome.metrics)
    assert all(np.isfinite(v) for v in outcome.metrics.values())
    shares = np.array([outcome.curves[f"share, level {k} / round"][1] for k in (1, 2)])
    assert shares.shape == (2, TINY.rounds)
    assert shares.sum(0) == pytest.approx(np.ones(TINY.rounds))
    assert outcome.curves["success / rollouts"][0][-1] == TINY.rollouts


def test_the_first_round_is_the_same_in_all_arms_that_start_even(tmp_path):
    firsts = []
    for name in ("uniform", "dump", "no bonus", "signed"):
        run(name, folder=tmp_path / name)
        log = next((tmp_path / name).rglob("rollouts.jsonl")).read_text().splitlines()
        firsts.append([(r["problem"], r["completion"]) for r in map(json.loads, log) if r["round"] == 0])
    assert all(first == firsts[0] for first in firsts)


def test_easy_to_hard_gives_each_level_its_share():
    sampler = arms.EasyToHard(2, stretches=5)
    levels = [int(np.argmax(sampler.history[-1])) for stage in range(6) if len(sampler.plan(stage, source(), numpy_rng(0, stage)))]
    assert levels == [0, 0, 0, 1, 1, 1]


def test_no_problem_of_the_test_is_taught_or_trained_on():
    s = replace(TINY, train_problems=200, num_test=30, demonstrations=(300, 300))
    held = ladder.pool(s, 1, "test", s.num_test, test=True)
    tested = {held[i].prompt for i in range(len(held))}
    trained = ladder.pool(s, 1, "train", s.train_problems)
    assert not tested & {trained[i].prompt for i in range(len(trained))}
    assert not tested & {prompt for prompt, _ in ladder.demonstrations(s, 1)}
    assert list(trained.domain_names) == ["2", "3"]


def test_demonstrations_have_as_many_wrong_letters_as_said():
    s = replace(TINY, demonstrations=(0, 4000))
    rows = ladder.demonstrations(s, 0)
    pairs = [(a, b) for prompt, answer in rows for a, b in zip(prompt.removeprefix("copy "), answer, strict=False)]
    assert np.mean([a != b for a, b in pairs]) == pytest.approx(s.corrupted * 25 / 26, abs=0.015)
    assert all(p == q for p, q in [(prompt[5:-2], answer) for prompt, answer in ladder.demonstrations(replace(s, corrupted=0.0), 0)])


def test_metrics_by_hand():
    rows = [{"share": 0.0, "test/solved/2": 0.0, "test/solved/3": 0.2}, {"share": 0.5, "test/solved/2": 0.5, "test/solved/3": 0.5}]
    rows.append({"share": 1.0, "test/solved/2": 1.0, "test/solved/3": 0.6})
    found = arms.measured(TINY, rows)
    assert found["success"] == pytest.approx(0.8)
    assert found["success before"] == pytest.approx(0.1)
    assert found["area"] == pytest.approx(0.5 * (0.1 + 0.5) / 2 + 0.5 * (0.5 + 0.8) / 2)


def test_the_mixture_is_drawn():
    (plot, *_) = [p for p in STUDY.plots if p.kind == "custom"]
    curve = [([1.0, 2.0], [0.5, 0.6]), ([1.0, 2.0], [0.5, 0.8])]
    other = [(x, [1 - v for v in y]) for x, y in curve]
    arm = {"curves": {"share, level 1 / round": curve, "share, level 2 / round": other}, "metrics": {}, "reference": False}
    record = {"slug": "dump", "size": "s", "seeds": [0, 1], "arms": {"dump": arm}, "verdict": "holds", "scale": "smoke"}
    assert draw(plot, record)[:4] == b"\x89PNG"


def test_claims_and_paper_scale():
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    paper = STUDY.scales["paper"]
    assert set(paper.sources) == {f.name for f in fields(Settings)}
    assert paper.settings.rounds == 2 * 12 * 900 // 128
    with torch.device("meta"):
        model = STUDY.build_paper_model(paper.settings)
    count, _ = STUDY.paper_parameters["Qwen2.5-7B"]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(count, rel=0.01)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samples": 1, "minibatch": 4}, "settings.samples: found 1, expected groups of at least 2"),
        ({"demonstrations": (1,)}, "1 for 2 levels"),
        ({"minibatch": 7}, "settings.minibatch: found 7, expected a divisor of 16 rollouts a round"),
    ],
)
def test_settings_that_cannot_be(changed, message):
    with pytest.raises(BadInput, match=message):
        replace(TINY, **changed)
