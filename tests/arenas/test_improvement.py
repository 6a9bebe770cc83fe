"""The arena of improvement: who enters and why not, the work, what a run spends, and that it is the same after a kill."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import Killed

from etude.arenas import programs
from etude.arenas.arena import BASELINE, files_of
from etude.arenas.improvement import ARENA
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence import fingerprint
from etude.evidence.study import Job
from etude.papers import loading
from etude.papers.catalogue import card
from etude.papers.entering import Improved
from etude.papers.loading import load_study

MEMBERS = ("dump", "relift", "rest-mcts", "sharpening", "tulu3")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("ETUDE_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def task(**more):
    """Copies of two and three letters, of which a base of two seconds makes some."""
    one = ARENA.scales["smoke"].settings.tasks["paths"]
    told = {
        "family": "copying", "levels": (2, 3), "taught": (250, 1_000), "updates": 220, "width": 32, "heads": 4, "context": 20,
        "max_tokens": 5, "problems": 60, "demonstrated": 20, "held_out": 20, "flops": 5e9, "slips": 0.1,
    }  # fmt: skip
    return replace(one, **{**told, **more})


def settings(**more):
    return programs.Settings(tasks={"copying": task(**more)})


@pytest.fixture(scope="module")
def work(own_cache):
    return programs.work_of(task(), 1)


def job(folder=None, **more):
    return Job(study=ARENA.slug, arm="one", scale="smoke", seed=1, settings=settings(**more), folder=folder)


# --- who enters -------------------------------------------------------------------------------------------------------
def test_papers_that_can_do_the_work_enter_and_the_others_say_why_not():
    found = ARENA.members()
    assert {name for name, how in found.items() if not isinstance(how, str)} == set(MEMBERS)
    assert "over five turns" in found["rise"]
    assert "diffusion model" in found["mode-interpolation"]
    assert "written" in found["backtracking"]


def test_a_study_of_them_has_a_baseline_a_control_and_a_claim_for_each():
    study = ARENA.study()
    assert set(study.arms) == {BASELINE, "grpo", *MEMBERS}
    assert {claim.arm for claim in study.claims} == {"grpo", *MEMBERS}
    for scale in study.scales.values():
        budgets = {arm.planned(scale.settings)["flops"] for arm in study.arms.values()}
        assert len(budgets) == 1
        assert tuple(scale.settings.tasks) == tuple(ARENA.goals)


def test_a_package_without_the_file_says_so_and_one_that_names_something_else_is_refused(monkeypatch):
    assert "does not say how" in loading.entry(card("stacking"), "improvement")
    assert "does not say how" in loading.entry(card("tulu3"), "recursion")
    from etude.papers.improvement.sharpening import arena

    monkeypatch.setattr(arena, "improvement", 3)
    with pytest.raises(BadInput, match=r"sharpening\.arena, improvement: found 3.*a function of the work"):
        ARENA.study()


def test_how_a_paper_does_other_work_is_no_part_of_its_record_and_is_part_of_the_arenas():
    files = fingerprint.paper_files(load_study("tulu3"))
    assert "improvement/tulu3/chain.py" in files
    assert "improvement/tulu3/arena.py" not in files
    assert any(path.name == "arena.py" for path in files_of(card("tulu3"), "improvement"))
    assert not any(path.name == "arena.py" for path in files_of(card("dump"), "curricula"))


# --- the work ---------------------------------------------------------------------------------------------------------
def test_no_problem_held_out_is_taught_or_learned_from():
    for name, one in ARENA.scales["cpu"].settings.tasks.items():
        one = replace(one, taught=tuple(200 for _ in one.levels), problems=100, demonstrated=30, held_out=40)
        held = programs.pool_of(one, 7, "held out", 40, held_out=True)
        asked = {"".join(sorted(held[i].prompt)) for i in range(len(held))}
        assert len(asked) == len(held) == 40 * len(one.levels), name
        pool = programs.pool_of(one, 7, "pool", 100)
        learned = [prompt for prompt, _ in programs.taught(one, 7)] + [pool[i].prompt for i in range(len(pool))]
        assert not asked & {"".join(sorted(prompt)) for prompt in learned}, name


def test_the_base_is_taught_slips_and_what_is_demonstrated_is_right():
    one = ARENA.scales["cpu"].settings.tasks["sorting"]
    one = replace(one, taught=(400, 0, 0), slips=0.5)
    rows = programs.taught(one, 3)
    right = np.mean([answer == " ".join(map(str, sorted(map(int, prompt[5:-2].split())))) for prompt, answer in rows])
    assert 0.4 < right < 0.6
    made = programs.work_of(task(), 1)
    assert all(made.right(number, answer) for number, answer in made.demonstrations.items())
    assert len(made.demonstrations) == 40
    assert [p.difficulty for p in made.problems()][:: len(made.pool) - 1] == [2, 3]


@pytest.mark.parametrize(("text", "letters"), [("12+3", "0123456789+-*"), ("abc", "abcdefghijklmnopqrstuvwxyz"), ("7 81", "0123456789 ")])
def test_a_slip_changes_one_letter_for_another_of_its_kind(text, letters):
    rng = np.random.default_rng(0)
    for _ in range(50):
        wrong = programs.slip(text, rng)
        changed = [(a, b) for a, b in zip(text, wrong, strict=True) if a != b]
        assert len(changed) == 1
        assert set(wrong) <= set(letters)
        assert changed[0][0].isdigit() == changed[0][1].isdigit()


def test_a_task_without_a_number_for_each_level_is_refused():
    with pytest.raises(BadInput, match=r"task\.taught: found 1 numbers, expected one for each of 2 levels"):
        task(taught=(3,))
    with pytest.raises(BadInput, match=r"task\.demonstrated: found 61, expected 1 to the 60 problems of a level"):
        task(demonstrated=61)


# --- runs -------------------------------------------------------------------------------------------------------------
def test_the_base_solves_some_of_what_is_held_out(work):
    told = programs.solved(task(), work.base, work.seed)
    assert 0.05 < told["sampled"] < 0.95
    assert told["greedy"] > told["sampled"]
    assert told["greedy"] == pytest.approx((told["level 2"] + told["level 3"]) / 2, abs=0.05)


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_spends_the_flops_and_does_the_same_again(name, work):
    how = loading.entry(card(name), "improvement")
    assert not isinstance(how, str)
    before = {key: value.clone() for key, value in work.base.state_dict().items()}
    first, again = how(work), how(work)
    assert first.ledger.total("flops") == pytest.approx(work.flops, rel=0.1)  # of few and large updates
    assert same(first, again)
    assert all(torch.equal(value, before[key]) for key, value in work.base.state_dict().items())
    assert any(not torch.equal(value, before[key]) for key, value in first.model.state_dict().items() if key in before)


@pytest.mark.parametrize(("name", "at"), [("relift", 9), ("rest-mcts", 80), ("tulu3", 30)])  # a stream with rollouts, a loop, a chain
def test_a_killed_run_goes_on_to_the_same_outcome(name, at, tmp_path, monkeypatch):
    arm = ARENA.study().arms[name]
    straight = arm.run(job(tmp_path / "straight"))
    real, updates = Trainer._update, [0]

    def until_killed(self, run):
        updates[0] += 1
        if updates[0] == at:
            raise Killed
        return real(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", until_killed)
        with pytest.raises(Killed):
            arm.run(job(tmp_path / "killed"))
    resumed = arm.run(job(tmp_path / "killed"))
    assert resumed.metrics == straight.metrics
    assert counted(resumed.ledger) == counted(straight.ledger)


def test_an_outcome_tells_each_tasks_measure_the_bases_and_what_was_spent():
    outcome = ARENA.study().arms[BASELINE].run(job())
    told = outcome.metrics
    assert told["score"] == told["score, copying"] == told["measure, copying"]
    assert 0 <= told["base, copying"] <= 1
    assert told["spent, copying"] == pytest.approx(1, abs=0.05)
    assert told["spent, copying"] == sum(row.get("flops", 0) for row in outcome.ledger.values()) / 5e9


def same(one: Improved, other: Improved) -> bool:
    states = one.model.state_dict(), other.model.state_dict()
    equal = all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    return equal and dict(one.told) == dict(other.told) and counted(one.ledger.as_dict()) == counted(other.ledger.as_dict())


def counted(ledger):
    return {category: {k: v for k, v in row.items() if k != "seconds"} for category, row in ledger.items()}
