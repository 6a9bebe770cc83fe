"""Skill-It: its equations by hand and as its authors' code has them, what is drawn, learnt and charged, and the study's arms."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import KillAt, Killed

from etude.data.sources import MixtureSource, TensorSource
from etude.data.stream import DataStream
from etude.data.tasks.lego import Lego
from etude.engine.ledger import Budget
from etude.engine.metrics import read_metrics
from etude.engine.optim import SGD
from etude.engine.protocols import Method
from etude.engine.schedule import Constant
from etude.engine.streams import initialise, numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.plots import draw
from etude.evidence.study import Job
from etude.learn.supervised import Supervised
from etude.nn.mlp import MLP
from etude.nn.transformer import count_parameters
from etude.papers.order.skill_it import STUDY, SkillIt, by_gains, by_pairs, mixture, windowed
from etude.papers.order.skill_it.arms import PREFIX, Way, drawn, graph_of, measured
from etude.papers.order.skill_it.mixture import HELPS, checked, exchanged
from etude.papers.order.skill_it.sampler import Fixed, skills_of
from etude.papers.order.skill_it.settings import AdditionSettings, GenreSettings, LegoSettings
from etude.papers.order.skill_it.suggest import suggest
from etude.papers.order.skill_it.testbeds import Answers, Words, addition, chains, lego, pairs_of, sums
from etude.papers.suggesting import Facts

TINY = STUDY.scales["smoke"].settings

pytestmark = pytest.mark.usefixtures("own_cache")


# --- equations --------------------------------------------------------------------------------------------------------
def test_the_mixture_by_hand_is_of_rows_not_columns():
    graph = np.array([[1.0, 0.5], [0.0, 1.0]])  # the first skill helps the second
    e = np.exp(2.0 * np.array([0.2 + 0.5 * 0.6, 0.6]))
    assert mixture(graph, np.array([0.2, 0.6]), 2.0) == pytest.approx(e / e.sum())
    assert mixture(np.eye(2), np.array([1e4, 0.0]), 1.0).tolist() == [1, 0]  # no overflow
    assert mixture(graph, np.array([0.2, 0.6]), 0.0).tolist() == [0.5, 0.5]
    assert mixture(np.array([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]]), np.array([1.0, 2.0]), 1.0)[0] == pytest.approx(
        math.exp(4) / (math.exp(4) + math.e + 1)
    )  # three trained on, two measured


def test_the_window_is_summed_and_averaged():
    checks = [np.array([1.0, 2.0]), np.array([3.0, 0.0]), np.array([5.0, 4.0])]
    assert windowed(checks, 2).tolist() == [8, 4]
    assert windowed(checks, 2, mean=True).tolist() == [4, 2]
    assert windowed(checks, 9).tolist() == [9, 6]


def test_weights_are_those_of_the_authors_code():
    """Their trainer ran with a model of one number, on losses that were given to it; what it set is what is told here."""
    golden = json.loads((Path(__file__).parents[1] / "golden" / "skill-it.json").read_text())
    assert [case["name"] for case in golden["cases"]] == ["lego", "addition", "target"]
    for case in golden["cases"]:
        graph = np.array(case["graph"], dtype=np.float64)
        graph[(graph == 1) & ~np.eye(len(graph), dtype=bool)] = HELPS
        targets = slice(None) if case["target"] is None else np.flatnonzero(case["target"])
        graph, losses = graph[:, targets], np.array(case["losses"])[:, targets]
        assert mixture(graph, np.ones(graph.shape[1]), case["eta"]) == pytest.approx(case["shares"][0], abs=1e-12)
        for update, shares in enumerate(case["shares"][1:], 1):
            seen = windowed(list(losses[: 2 * update]), 3, mean=case["target"] is not None)
            assert mixture(graph, seen, case["eta"]) == pytest.approx(shares, abs=1e-12)


def test_graphs_by_hand():
    together = np.array([[9.0, 1.9, 0.5], [0.5, 9.0, 1.0], [1.0, 1.0, 9.0]])  # [half on i, loss of j]
    alone = np.array([1.0, 2.0, 1.0])
    assert by_pairs(alone, together).tolist() == [[1, 0.5, 0.5], [0.5, 1, 0], [0, 0.5, 1]]
    assert by_pairs(alone, together, margin=0.1).tolist() == [[1, 0, 0.5], [0.5, 1, 0], [0, 0.5, 1]]
    gains = by_gains(np.array([2.0, 4.0, 0.0]), np.array([[1.0, 5.0, 0.0], [2.0, 1.0, 0.0]]))
    assert gains.tolist() == [[0.5, 0, 0], [0, 0.75, 0]]


def test_exchanged_rows_are_never_at_home():
    for seed in range(20):
        graph = exchanged(np.arange(16.0).reshape(4, 4), numpy_rng(seed))
        assert sorted(graph[:, 0]) == [0, 4, 8, 12]
        assert (graph[:, 0] != [0, 4, 8, 12]).all()


@pytest.mark.parametrize(
    ("graph", "told"),
    [
        ([[1.0, -0.5], [0.0, 1.0]], "-0.5 in row 0, column 1, expected finite numbers >= 0"),
        ([[1.0, math.nan], [0.0, 1.0]], "nan in row 0, column 1"),
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], r"shape \[2, 3\], expected 2 rows .* of 2 numbers"),
        ([[1.0], [0.0, 1.0]], "rows of numbers"),
        ([[0.0, 0.0], [0.0, 0.0]], "only zeros"),
    ],
)
def test_graphs_that_are_none_are_told(graph, told):
    with pytest.raises(BadInput, match=told):
        checked(graph, 2, 2)


# --- the method on one's own data -------------------------------------------------------------------------------------
def source(sizes=(60, 60, 60)):
    """Three regressions; the first two have one answer, the third is noise that nothing helps."""
    rng, parts = np.random.default_rng(0), {}
    for place, (name, size) in enumerate(zip("abc", sizes, strict=True)):
        x = rng.normal(size=(size, 3)).astype(np.float32)
        y = rng.integers(0, 2, size) if place == 2 else (x[:, 0] > 0).astype(np.int64)
        parts[name] = TensorSource(x=x, y=y)
    return MixtureSource(parts)


def train(method, steps=24, data=None, folder=None, resume=False, more=(), **settings):
    return Trainer(
        initialise(MLP((3, 8, 2)), 0), DataStream(data or source(), 8, 0), Supervised(), optimizer=SGD(lr=0.3), schedule=Constant(),
        methods=[method, *more], budget=settings.pop("budget", Budget(steps=steps)), folder=folder, **settings,
    ).run(resume=resume)  # fmt: skip


class Seen(Method):
    """Ids of all samples that were trained on."""

    def start(self, run):
        self.ids = []

    def batch(self, run, batch):
        self.ids += batch.ids.tolist()
        return batch


def test_the_mixture_follows_the_checks_and_nothing_older_than_the_window(tmp_path):
    graph = [[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    method, seen = SkillIt(graph=graph, eta=1.0, window=3, update_every=4, checks=2, held=10), Seen()
    train(method, steps=24, folder=tmp_path / "run", more=[seen])
    sampler = method.sampler
    assert len(sampler.losses) == 11  # after every second step, but not behind the last
    first = mixture(np.array(graph), np.ones(3), 1.0)
    for stretch, shares in enumerate(sampler.history):
        done = stretch // 2 * 2  # checks before the last update
        expected = mixture(np.array(graph), windowed(sampler.losses[:done], 3), 1.0) if done else first
        assert shares == pytest.approx(expected)
    assert not set(seen.ids) & set(method.skills.held.tolist())
    rows = list(read_metrics(tmp_path / "run"))
    assert [r["share/a"] for r in rows if "share/a" in r][::2] == [h[0] for h in sampler.history]
    assert len([r for r in rows if "skill_loss/b" in r]) == 11


def test_the_checks_are_the_models_losses_on_what_is_held_back_and_are_charged():
    data, method = source(), SkillIt(graph="identity", update_every=4, held=10)
    result = train(method, steps=8, data=data)
    assert result.ledger.entries["prepare"]["samples"] == 30
    held = {name: method.skills.held[method.skills.of == k] for k, name in enumerate("abc")}
    assert [len(ids) for ids in held.values()] == [10, 10, 10]
    for k, ids in enumerate(held.values()):
        assert (data.domains[ids] == k).all()
    again = train(SkillIt(graph="identity", update_every=4, held=10), steps=4, data=data)  # the model at the check
    for k, ids in enumerate(held.values()):
        rows = data.get(ids)
        told = torch.nn.functional.cross_entropy(again.model(rows["x"]), rows["y"])
        assert method.sampler.losses[0][k] == pytest.approx(float(told.detach()), rel=1e-5)


def test_switched_off_a_run_is_the_even_mixture_bit_for_bit():
    off = train(SkillIt(graph="identity", eta=0.0, update_every=4, held=10))

    class Even(Method):
        slots = ("sampler",)

        def start(self, run):
            skills = skills_of(run.stream.source, 10, run.numpy_rng("skill-it", "held"))
            run.set_sampler(Fixed(skills, 32, [1.0, 1.0, 1.0]))

    even = train(Even())
    assert all(torch.equal(a, b) for a, b in zip(off.model.parameters(), even.model.parameters(), strict=True))
    on = train(SkillIt(graph="identity", eta=3.0, update_every=4, held=10))
    assert not all(torch.equal(a, b) for a, b in zip(on.model.parameters(), even.model.parameters(), strict=True))


def test_targets_and_untrained_skills_give_a_graph_that_is_not_square():
    rows = [[1.0], [0.5]]
    method, seen = SkillIt(graph=rows, targets=["c"], untrained=["c"], update_every=4, held=10, eta=0.7), Seen()
    train(method, more=[seen])
    assert (source().domains[np.array(seen.ids)] != 2).all()
    shares = mixture(np.array(rows), windowed(method.sampler.losses[:-1], 3, mean=True), 0.7)
    assert method.sampler.history[-2][2] == 0
    losses = method.sampler.losses[: len(method.sampler.history) - 1]
    shares = mixture(np.array(rows), windowed(losses, 3, mean=True), 0.7)
    assert method.sampler.history[-1] == pytest.approx([*shares, 0.0])


def test_a_graph_is_learnt_by_short_runs_that_are_charged_and_leave_the_run_as_it_was(tmp_path):
    method = SkillIt(graph="alone", probe_steps=30, update_every=4, held=20)
    result = train(method, steps=4, folder=tmp_path / "run")
    graph = method.sampler.graph
    assert graph.shape == (3, 3)
    assert graph[0, 0] > 0.2
    assert graph[1, 1] > 0.2
    assert min(graph[0, 1], graph[1, 0]) > 0.2  # one answer: each teaches the other
    assert graph[:2, 2].max() < 0.1  # noise
    spent = result.ledger.entries["prepare"]
    assert spent["samples"] == 3 * 30 * 8 + (3 + 1) * 60  # three runs, measured at their ends, the first at its beginning too
    assert spent["flops"] > 0
    given = train(SkillIt(graph=graph.tolist(), update_every=4, held=20), steps=4)
    assert all(torch.equal(a, b) for a, b in zip(result.model.parameters(), given.model.parameters(), strict=True))
    logged = next(r for r in read_metrics(tmp_path / "run") if "graph/a/b" in r)
    assert logged["graph/a/b"] == pytest.approx(graph[0, 1])


def test_pairs_take_a_run_for_each_skill_and_each_two():
    method = SkillIt(graph="pairs", probe_steps=5, update_every=4, held=10)
    result = train(method, steps=4)
    assert result.ledger.entries["prepare"]["samples"] == 6 * 5 * 8 + (6 + 1) * 30
    assert np.diag(method.sampler.graph).tolist() == [1, 1, 1]
    assert set(np.unique(method.sampler.graph)) <= {0.0, HELPS, 1.0}


@pytest.mark.parametrize("at", [3, 4, 9])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, at):
    def run(folder, kill=0, resume=False):
        method = SkillIt(graph="alone", probe_steps=3, update_every=4, checks=2, held=5, eta=2.0)
        result = train(method, steps=16, folder=tmp_path / folder, resume=resume, more=[KillAt(kill)], checkpoint_every=1 / 16)
        return result, method.sampler

    whole, sampler = run("whole")
    with pytest.raises(Killed):
        run("killed", kill=at)
    again, resumed = run("killed", resume=True)
    assert resumed.history == sampler.history
    assert np.array_equal(resumed.losses, sampler.losses)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))
    spent = [{k: v for k, v in r.ledger.entries["prepare"].items() if k != "seconds"} for r in (again, whole)]
    assert spent[0] == spent[1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"graph": "pair"}, "did you mean 'pairs'"),
        ({"graph": [[1.0, 0.0], [0.0, 1.0]]}, "3 rows"),
        ({"graph": [[1.0, 0.0, -1.0]] * 3}, "-1 in row 0, column 2"),
        ({"graph": "identity", "eta": -1.0}, "SkillIt.eta: found -1.0"),
        ({"graph": "identity", "window": 0}, "SkillIt.window: found 0"),
        ({"graph": "identity", "update_every": 6, "checks": 4}, "a multiple of checks"),
        ({"graph": "identity", "update_every": 25}, "SkillIt.update_every: found 25, expected at most 24, the run's updates"),
        ({"graph": "identity", "held": 60}, "skill 'a' with 60 samples, expected at least 61"),
        ({"graph": "identity", "targets": ["d"]}, "targets: found 'd'"),
        ({"graph": "identity", "untrained": ["a", "b", "c"]}, "at least one that is trained on"),
        ({"graph": "pairs", "targets": ["c"]}, "other skills are measured than trained on"),
        ({"graph": "alone", "probe_steps": 0}, "SkillIt.probe_steps: found 0"),
    ],
)
def test_what_the_method_refuses(settings, told):
    with pytest.raises(BadInput, match=told):
        train(SkillIt(**{"update_every": 4, "held": 10, **settings}))


def test_data_and_losses_that_it_refuses():
    with pytest.raises(BadInput, match="samples without domains"):
        train(SkillIt(graph="identity"), data=TensorSource(x=np.zeros((9, 3), np.float32), y=np.zeros(9, np.int64)))
    skills = skills_of(source(), 10, numpy_rng(0))
    with pytest.raises(BadInput, match=rf"loss of sample {skills.held[12]} \(skill 'b'\): found nan"):
        skills.means(np.where(np.arange(30) == 12, np.nan, 1.0))
    with pytest.raises(BadInput, match="spend the whole budget"):
        train(SkillIt(graph="alone", probe_steps=50, update_every=4, held=10), budget=Budget(samples=600))


def test_what_is_suggested_for_a_recipe():
    facts = Facts(recipe={}, samples=6_000, steps=400, epochs=1, domains=4)
    told = suggest(facts)
    SkillIt(**told)  # type: ignore[arg-type]
    assert told["probe_steps"] * facts.domains <= facts.steps / 4
    assert "fewer than two" in suggest(replace(facts, domains=1))
    assert "rollouts" in suggest(replace(facts, verified=True))


# --- the study --------------------------------------------------------------------------------------------------------
def test_sums_ask_for_digits():
    rows = sums(np.array([[1234, 8999]]), 4, 2)
    assert rows.tolist() == [[31, 22, 13, 4, 38, 29, 19, 9, 42, 2]]  # 10,233: its third digit from the right
    assert [int(sums(np.array([[1234, 8999]]), 4, k)[0, -1]) for k in range(4)] == [3, 3, 2, 0]
    s = TINY.addition
    train_pairs, test = pairs_of(s, 3)
    together = {tuple(p) for p in np.concatenate([train_pairs, test]).tolist()}
    assert len(together) == len(train_pairs) + len(test) == s.pool + s.num_test


def test_chains_are_told_apart_and_lose_only_their_signs():
    family = Lego(3)
    prompt, answer, _ = family.draw(2, numpy_rng(1))
    said = Words().decode(Words().encode(prompt + answer))
    assert said == " ".join(w for w in (prompt + answer).split() if w not in (",", ".", "="))
    avoid: set[str] = set()
    s = replace(TINY.lego, pool=150)
    parts = [chains(s, 0, name, k, s.pool, avoid) for name in ("test", "train", "base") for k in range(3)]
    assert len(avoid) == sum(map(len, parts)) == 9 * 150


@torch.no_grad()
def test_answers_are_counted_by_skill():
    bed = addition(TINY.addition, 0)
    model = bed.model
    found = Answers({"a": sums(np.array([[1, 2], [3, 4]]), 2, 0), "b": sums(np.array([[5, 5]]), 2, 1)})(model)
    assert found["accuracy"] == pytest.approx((found["accuracy/a"] + found["accuracy/b"]) / 2)
    row = sums(np.array([[5, 5]]), 2, 1)
    logits = model.head(model(row[:, :-1])["hidden"])[0, -1]
    assert found["loss/b"] == pytest.approx(float(-logits.log_softmax(-1)[1]), rel=1e-5)
    assert found["accuracy/b"] == float(logits.argmax() == 1)


def test_the_base_of_chains_is_charged_and_taught_its_first_variables_only():
    bed = lego(TINY.lego, 0)
    assert bed.ledger.entries["base:lego base"]["samples"] == TINY.lego.base_steps * TINY.lego.base_batch
    assert list(bed.source.domain_names) == ["variable 1", "variable 2", "variable 3"]


def test_arms_without_the_method_draw_as_they_say():
    s, bed = TINY.addition, addition(TINY.addition, 0)
    skills = skills_of(bed.source, s.held, numpy_rng(0))

    def shares(kind):
        sampler = drawn(s, Way(kind=kind), bed, skills, s.steps)
        for stage in range(s.steps // s.stretch):
            ids = sampler.plan(stage, bed.source, numpy_rng(0, stage))
            assert not set(ids.tolist()) & set(skills.held.tolist())
        return sampler.history

    assert shares("natural") == [[0.25, 0.75]] * 6
    assert shares("steeper") == [pytest.approx([1 / 3, 2 / 3])] * 6
    assert shares("even") == [[0.5, 0.5]] * 6
    assert [h[0] for h in shares("in order")] == [1, 1, 0, 0.5, 0.5, 0.5]
    assert [h[0] for h in shares("in reverse")] == [0, 0, 1, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", [n for n in STUDY.arms if "longer" not in n])
def test_arms_spend_alike_and_measure_what_is_claimed(name):
    arm = STUDY.arms[name]
    outcome = arm.run(Job(study="skill-it", arm=name, scale="smoke", seed=5, settings=TINY))
    assert outcome.ledger["train"]["samples"] == arm.planned(TINY)["train.samples"]
    told = {c.metric for c in STUDY.claims if name in c.arms_named and c.metric}
    assert told | set(arm.instead or ("area", "accuracy")) <= set(outcome.metrics)
    assert {c.curve for c in STUDY.claims if name in c.arms_named and getattr(c, "curve", "")} <= set(outcome.curves)
    assert all(np.isfinite(v) for v in outcome.metrics.values())
    mixed = np.array([y for key, (_, y) in outcome.curves.items() if "share, " in key])
    assert mixed.sum(0) == pytest.approx(np.ones(mixed.shape[1]))


def test_the_graph_is_learnt_once_and_charged_to_each_that_uses_it():
    s = TINY.addition
    graph, spent = graph_of("addition", s, 5)
    assert spent.total("samples") == 3 * s.probe_steps * s.batch + 4 * 2 * s.held
    outcomes = {
        n: STUDY.arms[n].run(Job(study="", arm=n, scale="smoke", seed=5, settings=TINY)) for n in ("skill-it", "stratified, longer")
    }
    checks = (s.steps // s.stretch - 1) * s.held * 2
    assert outcomes["skill-it"].ledger["prepare"]["samples"] == spent.total("samples") + checks
    assert outcomes["skill-it"].metrics["graph, row 1, column 2"] == graph[0, 1]
    totals = [sum(row.get("samples", 0) for row in o.ledger.values()) for o in outcomes.values()]
    assert totals[1] == pytest.approx(totals[0], abs=s.batch)
    assert "share, digit 1 / steps" in outcomes["skill-it"].curves


def test_metrics_by_hand():
    rows = [{"share": s, "test/accuracy": a, "test/accuracy/digit 1": a, "test/loss": 1.0} for s, a in ((0, 0.0), (0.5, 0.5), (1, 0.7))]
    found = measured(rows)
    assert found["accuracy"] == found["accuracy, digit 1"] == 0.7
    assert found["area"] == pytest.approx(0.5 * 0.25 + 0.5 * 0.6)


def test_the_mixture_and_the_graph_are_drawn():
    curve = [([0.0, 2.0], [0.5, 0.6]), ([0.0, 2.0], [0.5, 0.8])]
    graph = {f"LEGO graph, row {i}, column {j}": [1.0, 0.5] for i in (1, 2) for j in (1, 2)}
    arm = {"curves": {f"LEGO share, variable {k} / steps": curve for k in (1, 2)}, "metrics": graph, "reference": False}
    record = {"slug": "skill-it", "size": "s", "seeds": [0, 1], "arms": {"LEGO skill-it": arm}, "verdict": "holds", "scale": "smoke"}
    titled = {plot.title: plot for plot in STUDY.plots}
    for title in ("What is drawn over time: LEGO skill-it", "Which skill helps which: LEGO skill-it"):
        assert draw(titled[title], record)[:4] == b"\x89PNG"


def test_claims_and_paper_scale():
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    paper = STUDY.scales["paper"]
    beds = {"addition": AdditionSettings, "lego": LegoSettings, "genres": GenreSettings}
    assert set(paper.sources) == {f"{bed}.{f.name}" for bed, kind in beds.items() for f in fields(kind)}
    assert set(PREFIX) == set(beds)
    for bed in beds:
        s = getattr(paper.settings, bed)
        assert s.steps % s.update_every == 0
    with torch.device("meta"):
        model = STUDY.build_paper_model(paper.settings)
    ((count, _),) = STUDY.paper_parameters.values()
    assert count_parameters(model) + 2_048 * 768 == pytest.approx(count, rel=0.01)


def test_settings_that_do_not_fit_are_told():
    with pytest.raises(BadInput, match="settings, skew: found 3 numbers, expected 4"):
        AdditionSettings(skew=(1, 1, 1))
    with pytest.raises(BadInput, match="settings, update_every: found 70"):
        AdditionSettings(update_every=70)
