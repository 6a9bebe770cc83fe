"""Arenas of recipes: who enters, what a run spends, and what comes out on the command line."""

import json

import pytest

from etude.arenas import NAMES
from etude.arenas.arena import Goal, named, study_of
from etude.cli import main
from etude.errors import BadInput
from etude.evidence.study import Job
from etude.papers.catalogue import cards

METHOD = """
from etude.engine.protocols import Method


class Half(Method):
    def gradients(self, run):
        for p in run.model.parameters():
            if p.grad is not None:
                p.grad *= 0.5
"""
CARD = 'slug = "half"\ntitle = "Half"\napplies = "recipe"\nslots = ["gradients"]\nuse = "method"\n'


def outcome(arena, arm, seed=0, folder=None, files=()):
    study = named(arena).study(files)
    job = Job(study=study.slug, arm=arm, scale="smoke", seed=seed, settings=study.scales["smoke"].settings, folder=folder)
    return study.arms[arm].run(job)


@pytest.mark.parametrize("name", NAMES)
def test_every_ready_paper_that_names_an_arena_enters_or_says_why(name):
    ready = {c.slug for c in cards() if c.state == "ready" and name in c.arenas}
    members = named(name).members()
    assert members.keys() == ready
    entered = {slug for slug, how in members.items() if not isinstance(how, str)}
    assert entered
    assert set(named(name).study().arms) == entered | {"baseline", *named(name).controls}
    assert all(how for how in members.values())


def test_a_task_scores_0_at_its_worst_and_1_at_its_best():
    goal = Goal(about="loss", worst=4.0, best=2.0)
    assert [goal.score(v) for v in (4.0, 3.0, 2.0, 5.0)] == [0.0, 0.5, 1.0, -0.5]


def test_runs_spend_alike_and_a_method_without_use_for_a_task_is_the_baseline_there():
    base, cyclical, dump = (outcome("curricula", arm) for arm in ("baseline", "cyclical-curriculum", "dump"))
    flops = [sum(row.get("flops", 0) for row in one.ledger.values()) for one in (base, dump)]
    assert abs(flops[1] / flops[0] - 1) < 0.02
    # 12 updates are less than one cycle of the curriculum, on every task.
    assert cyclical.metrics == base.metrics
    assert dump.metrics["enters"] == 4
    assert dump.metrics["score"] == pytest.approx(sum(v for k, v in dump.metrics.items() if k.startswith("score, ")) / 4)
    assert base.metrics != outcome("curricula", "baseline", seed=1).metrics


def test_what_a_paper_is_told_about_the_data_reaches_it():
    hinted, base = outcome("curricula", "task-hinting"), outcome("curricula", "baseline")
    assert hinted.metrics["enters"] == 1
    assert hinted.metrics["measure, sorting"] != base.metrics["measure, sorting"]
    assert hinted.metrics["measure, sums"] == base.metrics["measure, sums"]


def test_a_killed_run_goes_on_to_the_same_outcome(tmp_path):
    class Killed(Exception):
        pass

    study = named("growth").study()
    settings = study.scales["smoke"].settings
    whole = outcome("growth", "stacking")
    for moment in (0.2, 0.45, 0.9):

        def stop(fraction, metric, moment=moment):
            if fraction >= moment:
                raise Killed

        job = Job(study=study.slug, arm="stacking", scale="smoke", seed=0, settings=settings, folder=tmp_path, progress=stop)
        with pytest.raises(Killed):
            study.arms["stacking"].run(job)
    again = outcome("growth", "stacking", folder=tmp_path)
    assert again.metrics == whole.metrics
    assert again.curves == whole.curves


def test_the_command_ranks_and_a_file_of_ones_own_enters(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half.py").write_text(METHOD)
    (tmp_path / "half.toml").write_text(CARD)
    words = ["arena", "growth", "--scale", "smoke", "--methods", "./half.py", "--workers", "1", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["arm"] for one in told["ranking"]} == {"baseline", "half"}
    assert told["verdict"] == "0 of 1 better than the baseline"  # one seed judges nothing; stacking was left out
    pictures = {p.name for p in (tmp_path / "runs").rglob("*.png")}
    assert any("places" in name for name in pictures)
    assert any("gain" in name for name in pictures)
    assert main([*words[:-1]]) == 0
    said = capsys.readouterr().out
    assert "Ranking over tasks and seeds" in said
    assert "half" in said


def test_a_file_that_only_defines_a_method_enters_and_another_says_why_not(tmp_path):
    for name, text in (("half", METHOD), ("nothing", "x = 1"), ("broken", "import no_such_module")):
        (tmp_path / f"{name}.py").write_text(text)
    assert "half" in named("growth").study([str(tmp_path / "half.py")]).arms
    with pytest.raises(BadInput, match="nothing to add to a recipe"):
        named("growth").study([str(tmp_path / "nothing.py")])
    with pytest.raises(BadInput, match="no_such_module"):
        named("growth").study([str(tmp_path / "broken.py")])


def test_the_list_of_arenas(capsys):
    assert main(["arena", "--json"]) == 0
    told = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(told) == set(NAMES)
    assert "stacking" in told["growth"]["members"]
    assert told["curricula"]["not_entered"]["relift"].startswith("a program")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["arena", "grwth"], "did you mean 'growth'"),
        (["arena", "growth", "--methods", "dump"], "its card does not name this arena"),
        (["arena", "curricula", "--methods", "relift"], "a program"),
        (["arena", "growth", "--methods", "./none.py"], "no such file"),
        (["arena", "growth", "--scale", "huge"], "scale"),
    ],
)
def test_bad_input_is_one_line(words, said, capsys):
    assert main(words) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.err.count("\n") == 1
    assert not told.out


def test_an_arena_is_found_by_its_slug():
    assert study_of("arena-growth").slug == "arena-growth"
    with pytest.raises(BadInput, match="did you mean"):
        study_of("arena-grow")
