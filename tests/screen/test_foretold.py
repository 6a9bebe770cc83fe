"""`etude train RECIPE --plan`: what a run will take, from its first updates."""

import json

import pytest

from etude.cli import main
from etude.recipe.writing import toml
from etude.screen.testbeds import testbeds as beds_in
from etude.screen.trial import with_budget


@pytest.fixture
def recipe(tmp_path):
    def write(bed, **budget):
        path = tmp_path / "recipe.toml"
        path.write_text(toml(with_budget(beds_in(tmp_path / "data")[bed].document, budget)))
        return path

    return write


def test_a_plan_is_what_the_run_comes_to_and_leaves_nothing(recipe, tmp_path, capsys):
    path = recipe(0, tokens=4000)
    assert main(["train", str(path), "--plan", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "data" / "run").exists()
    assert main(["run", str(path), "--plan", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    counts = ("arms", "runs", "updates", "tokens", "flops", "device", "parameters", "detectable")
    assert [again[key] for key in counts] == [told[key] for key in counts]
    assert main(["train", str(path), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert told["updates"] == done["steps"] == 31
    assert told["tokens"] == pytest.approx(done["ledger"]["train"]["tokens"], rel=0.01)
    assert told["flops"] == pytest.approx(done["ledger"]["train"]["flops"], rel=0.01)
    assert told["parameters"] == done["parameters"]
    assert told["memory"] > 1e7


@pytest.mark.parametrize("budget", [{"steps": 50}, {"samples": 400}, {"weights": {"tokens": 1.0, "samples": 2.0}, "limit": 7200.0}])
def test_any_budget_is_counted_in_updates(recipe, budget, capsys):
    assert main(["train", str(recipe(0, **budget)), "--plan"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("recipe.toml: 1 arm, 1 run of 50 updates, 6.4k tokens or samples, ")
    assert "on cpu, from its first 20 updates" in said
    assert "one run shows no effect" in said


def test_what_cannot_begin_is_refused_as_the_run_would_be(recipe, capsys):
    path = str(recipe(1, steps=50))
    assert main(["train", path, "--plan", "data.target=nothing"]) == 2
    assert "nothing" in capsys.readouterr().err
    assert main(["run", path]) == 2
    assert f"a recipe is run by etude train {path}" in capsys.readouterr().err
