import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace

import numpy as np
import pytest

from etude.errors import BadInput
from etude.recipe.config import load, parse
from etude.screen.report import plan_lines
from etude.screen.screening import Settings, screen
from etude.screen.trial import Phase, arm_name, trainer_of

RECIPE = """
schema = 1
[model]
kind = "mlp"
hidden = [8]
[data]
table = "{table}"
target = "y"
batch = 16
[budget]
steps = 12
"""
FEW = Settings(k=2, seeds=2, rates=(1.0, 4.0), rungs=1, unchecked=True)


@pytest.fixture
def recipe(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    rows = ["a,b,c,y", *(f"{a:.4f},{b:.4f},{c:.4f},{'yes' if a > b else 'no'}" for a, b, c in x)]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.format(table=tmp_path / "t.csv"))
    return path


@pytest.fixture
def add_method(tmp_path):
    """A method file whose effect is known: it makes each update `factor` times as large."""

    def write(name, factor):
        path = tmp_path / f"{name}.py"
        path.write_text(
            "from etude.engine.protocols import Method\n\n\nclass Scale(Method):\n"
            f"    def clipped(self, run):\n        for p in run.model.parameters():\n            p.grad *= {factor}\n"
        )
        return str(path)

    return write


def test_a_screen_end_to_end_then_again_without_training(recipe, tmp_path, add_method):
    harmful = add_method("harmful", -1.0)
    out = tmp_path / "out"
    done = screen(recipe, methods=["stacking", "gradient-noise", "rise", harmful], settings=FEW, out=out, workers=2, quiet=True)
    assert set(done["refused"]) == {"stacking", "rise"}
    assert "transformer" in done["refused"]["stacking"]
    told = {m["name"]: m for m in done["confirm"]["methods"]}
    assert told["harmful"]["estimate"] < -0.05  # it climbs the loss
    assert done["winner"] in (None, "gradient-noise")
    winner = load(out / "winner.toml")
    assert winner.budget.flops == pytest.approx(done["plan"]["flops_a_run"])
    assert tomllib.loads((out / "winner.toml").read_text())["optimizer"]["lr"] == 2e-3 * done["winner_rate"]
    page = (out / "report.html").read_text()
    assert "harmful" in page
    assert page.count("data:image/png") == 2
    times = {p: p.stat().st_mtime_ns for p in out.rglob("runs/*.json")}
    again = screen(recipe, methods=["stacking", "gradient-noise", "rise", harmful], settings=FEW, out=out, workers=2, quiet=True)
    assert again == done
    assert times == {p: p.stat().st_mtime_ns for p in out.rglob("runs/*.json")}


def test_all_runs_spend_the_same_flops_and_the_seeds_are_fresh(recipe, tmp_path):
    out = tmp_path / "out"
    done = screen(recipe, methods=["gradient-noise"], settings=FEW, out=out, workers=1, quiet=True)
    by_phase = {}
    for path in out.rglob("runs/*.json"):
        run = json.loads(path.read_text())
        by_phase.setdefault(path.parts[-4], []).append((run["seed"], run["ledger"]["train"]["flops"]))
    assert {s for s, _ in by_phase["select-1"]} == {100}
    assert {s for s, _ in by_phase["confirm"]} == {0, 1}
    assert len({f for _, f in by_phase["confirm"]}) == 1
    assert by_phase["confirm"][0][1] == pytest.approx(done["plan"]["flops_a_run"], rel=0.1)  # whole updates
    assert by_phase["select-1"][0][1] == pytest.approx(done["plan"]["flops_a_run"] / 2, rel=0.2)


def test_it_is_confirmed_on_the_half_of_what_is_held_out_that_it_was_not_selected_on(recipe, tmp_path):
    out = tmp_path / "out"
    done = screen(recipe, methods=["gradient-noise"], settings=FEW, out=out, workers=1, quiet=True)
    halves = {phase: Phase.read(out / phase / "phase.json").half for phase in ("select-1", "confirm")}
    assert halves == {"select-1": 0, "confirm": 1}
    assert "selected on one half of the held-out samples, confirmed on the other" in (out / "report.html").read_text()
    document = Phase.read(out / "confirm" / "phase.json").recipe(arm_name("baseline", done["confirm"]["rates"]["baseline"]), 0, tmp_path)
    document["run"]["folder"] = str(tmp_path / "again")
    trainer = trainer_of(parse(document, "test"))
    model = trainer.run().model
    (measure,) = trainer.evaluators.values()
    assert done["confirm"]["values"]["baseline"][0] == pytest.approx(measure.half(1)(model)["loss"], rel=1e-6)
    assert measure.half(0)(model)["loss"] != pytest.approx(measure.half(1)(model)["loss"], rel=1e-6)


def test_a_plan_trains_nothing(recipe, tmp_path):
    planned = screen(recipe, methods=["gradient-noise"], settings=FEW, out=tmp_path / "out", plan=True, quiet=True)
    assert [(p["phase"], p["runs"]) for p in planned["phases"]] == [("select 1", 4), ("confirm", 4)]
    assert not list((tmp_path / "out").rglob("runs/*.json"))


def test_a_plan_counts_those_who_may_not_be_dropped_yet(recipe, tmp_path, add_method):
    methods = [add_method("late", 1.0), add_method("later", 2.0), add_method("soon", 3.0)]
    for path in methods[:2]:
        with open(path, "a") as file:
            file.write('\n\nCARD = {"earliest_rung": 1}\n')
    settings = replace(FEW, k=1, rates=(1.0,))
    planned = screen(recipe, methods=methods, settings=settings, out=tmp_path / "out", plan=True, quiet=True)
    done = screen(recipe, methods=methods, settings=settings, out=tmp_path / "out", quiet=True)
    assert {one["name"] for one in done["confirm"]["methods"]} == {"late", "later"}  # two of three wait at the only rung, although k = 1
    assert [(p["phase"], p["runs"]) for p in planned["phases"][:2]] == [("select 1", 4), ("confirm", 6)]


def test_a_plan_without_a_method_says_so(recipe, tmp_path):
    planned = screen(recipe, methods=["stacking"], settings=FEW, out=tmp_path / "out", plan=True, quiet=True)
    said = plan_lines(planned)
    assert said[-1] == "no method applies to this recipe: nothing to run"
    assert any(line.startswith("  not stacking: ") for line in said)
    assert not any("smallest effect" in line for line in said)


def test_a_screen_killed_at_five_moments_ends_with_the_same_leaderboard(recipe, tmp_path):
    """The first kill comes while it probes or starts, the others after one more run or two, and a little later."""
    whole = screen(recipe, methods=["gradient-noise"], settings=FEW, out=tmp_path / "whole", workers=1, quiet=True)
    command = [
        sys.executable, "-m", "etude", "screen", str(recipe), "--methods", "gradient-noise", "--seeds", "2", "--confirm", "2", "--rates",
        "1,4", "--rungs", "1", "--workers", "1", "--out", str(tmp_path / "killed"), "--json", "--unchecked",
    ]  # fmt: skip
    rng, out = random.Random(7), tmp_path / "killed"
    for kill in range(5):
        before = len(list(out.rglob("runs/*.json")))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + 120
        wanted = before + (rng.randint(1, 2) if kill else 0)
        while time.monotonic() < end and process.poll() is None and len(list(out.rglob("runs/*.json"))) < wanted:
            time.sleep(0.01)
        time.sleep(rng.random() * (0.3 if kill else 3))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    for part in ("select", "dropped", "said", "winner"):
        assert done[part] == whole[part]
    assert done["confirm"] == whole["confirm"]


def test_a_planted_effect_is_ranked_first_and_where_nothing_helps_nothing_wins(recipe, tmp_path, add_method):
    """Plain descent at a rate far too low even when doubled: larger updates help. With AdamW, which undoes their size, nothing does."""
    planted, idle, harmful = add_method("planted", 20.0), add_method("idle", 1.0), add_method("harmful", -1.0)
    few = replace(FEW, seeds=4, rates=(1.0, 2.0))
    low = ("optimizer.kind=sgd", "optimizer.lr=0.005", "budget.steps=40")
    done = screen(recipe, overrides=low, methods=[idle, planted, harmful], settings=few, out=tmp_path / "a", workers=2, quiet=True)
    told = {m["name"]: m for m in done["confirm"]["methods"]}
    assert done["winner"] == "planted"
    assert done["confirm"]["methods"][0]["name"] == "planted"
    assert told["idle"]["verdict"] == "no effect"
    assert done["dropped"].keys() == {"harmful"}
    again = add_method("again", 3.0)
    null = screen(recipe, overrides=("budget.steps=40",), methods=[idle, again], settings=few, out=tmp_path / "b", workers=2, quiet=True)
    assert null["winner"] is None
    assert {m["verdict"] for m in null["confirm"]["methods"]} <= {"no effect", "inconclusive"}


SPENDER = """
from etude.engine.protocols import Method


class Spender(Method):
    def clipped(self, run):
        for p in run.model.parameters():
            p.grad *= 20.0

    def {event}(self, run):
        if {when}:
            run.ledger.charge("prepare", flops={share} * run.budget.limit)
"""


def test_who_spends_more_or_less_than_its_budget_is_told_and_does_not_win(recipe, tmp_path, add_method):
    """They help as the planted effect above does, which holds."""
    over, under = tmp_path / "over.py", tmp_path / "under.py"
    over.write_text(SPENDER.format(event="stop", when="True", share=0.1))
    # The update after which less than half of its own cost is left is the last.
    under.write_text(SPENDER.format(event="updated", when="0.49 < run.share < 0.53", share=0.35))
    few = Settings(k=2, seeds=3, rates=(1.0,), rungs=1, unchecked=True)
    low = ("optimizer.kind=sgd", "optimizer.lr=0.005", "budget.steps=40")
    done = screen(recipe, overrides=low, methods=[str(over), str(under)], settings=few, out=tmp_path / "a", workers=1, quiet=True)
    told = {m["name"]: m for m in done["confirm"]["methods"]}
    assert told["over"]["estimate"] > 0.02
    assert told["over"]["verdict"] == "not judged: unequal flops (+10.0 %, 'over' against 'baseline')"
    assert told["under"]["verdict"].startswith("not judged: unequal flops (-1")
    assert done["winner"] is None
    assert done["combinations"] == []
    off = {(one["phase"], one["arm"], one["seed"]) for one in done["spending"]}
    assert off == {("select, rung 1 of 1", arm, 100) for arm in ("over", "under")} | {
        ("confirm", arm, seed) for arm in ("over", "under") for seed in range(3)
    }
    page = (tmp_path / "a" / "report.html").read_text()
    assert "confirm: over went at most 10.0% over its budget at seeds 0, 1 and 2" in page
    assert "confirm: under went at most 1" in page
    assert json.loads((tmp_path / "a" / "report.json").read_text())["spending"] == done["spending"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"budget": "12"}, "1e12flops or 200000tokens"),
        ({"overrides": ("budget.seconds=5",)}, "recipe's budget in seconds"),
        ({"methods": ["nothing-such"]}, "nothing-such"),
        ({"settings": Settings(metric="loss")}, "held-out/loss"),
        ({"workers": 0}, "at least 1"),
        ({"methods": ["gradient-noise"], "family": "order"}, "one of the two"),
        ({"proxy": ("model.hiden=4",)}, "^(?!.*expected a recipe).*model.hiden: found an unknown key"),
        ({"proxy": ("model.hidden=narrow",)}, "model.hidden"),
    ],
)
def test_what_cannot_be_screened_is_refused(recipe, tmp_path, more, message):
    with pytest.raises(BadInput, match=message):
        screen(recipe, out=tmp_path / "out", quiet=True, **more)


def test_a_wrong_name_is_told_before_anything_is_probed(recipe, tmp_path):
    for more in ({"methods": ["nothing-such"]}, {"family": "ordre"}):
        with pytest.raises(BadInput):
            screen(recipe, out=tmp_path / "out", quiet=True, **more)
    assert not (tmp_path / "out").exists()


def test_long_work_is_asked_about(recipe, tmp_path):
    with pytest.raises(BadInput, match="--yes"):
        screen(recipe, methods=["gradient-noise"], budget="1e18flops", settings=FEW, out=tmp_path / "out", quiet=True)


@pytest.mark.parametrize(("name", "value"), [("k", 0), ("seeds", 1), ("rungs", 0), ("rates", (1.0, 1.0)), ("rates", (0.0,)), ("d", 0.0)])
def test_settings_that_make_no_sense(name, value):
    with pytest.raises(BadInput, match=f"screen, {name}"):
        Settings(**{name: value})
