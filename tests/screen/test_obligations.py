"""Methods that keep their obligations, and methods made to break each of them."""

import json

import pytest

from etude.cli import main
from etude.errors import BadInput
from etude.papers.catalogue import card
from etude.papers.draft import draft
from etude.screen.certificates import certificate
from etude.screen.obligations import check
from etude.screen.pairs import composable, pairs

CARD = 'slug = "{slug}"\ntitle = "T"\napplies = "recipe"\nslots = ["gradients"]\nuse = "method"\n{more}'

SINNER = """
import torch
from etude.engine.protocols import Method


class Sinner(Method):
    def __init__(self, strength: float = 1.0) -> None:
        self.strength, self.seen, self.size = strength, 0, 0

    def start(self, run):  # work that nobody is charged for
        torch.ones(300, 300) @ torch.ones(300, 300)

    def batch(self, run, batch):  # a batch of 8 is not 8 of 1
        self.size = len(batch)

    def gradients(self, run):  # a state that no checkpoint holds; not neutral at strength 0
        self.seen += 1
        for p in run.model.parameters():
            p.grad *= 1 + 0.1 * (self.seen % 3) + 0.01 * self.size
"""

IDLE = """
from etude.engine.protocols import Method


class Idle(Method):
    def gradients(self, run):
        for p in run.model.parameters():
            p.grad *= 0
"""


@pytest.fixture
def file_of(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))

    def write(slug, code, more):
        (tmp_path / f"{slug}.py").write_text(code)
        (tmp_path / f"{slug}.toml").write_text(CARD.format(slug=slug, more=more))
        return str(tmp_path / f"{slug}.py")

    return write


def test_each_broken_obligation_is_seen(file_of):
    done = check(card(file_of("sinner", SINNER, 'off = ["strength = 0.0"]\n'), to_run=True))
    assert {o.name: o.state for o in done.obligations} == {
        "off": "failed", "flops": "failed", "resume": "failed", "effect": "met", "batch": "failed",
    }  # fmt: skip
    said = {o.name: o.said for o in done.obligations}
    assert said["off"] == "with strength = 0.0 the weights are others"
    assert "last checkpoint" in said["resume"]


def test_without_learning_no_effect_is_found_and_a_card_must_say_what_off_is(file_of):
    done = check(card(file_of("idle", IDLE, ""), to_run=True))
    assert [o.name for o in done.failed] == ["off", "effect"]
    assert "off" in done.obligations[0].said


def test_a_certificate_is_kept_until_the_code_changes(file_of):
    told = []
    path = file_of("noisy", IDLE.replace("*= 0", "*= 0.5"), 'no_limit = "it halves"\n')
    first = certificate(card(path, to_run=True), told.append)
    assert not first.failed
    assert len(told) == 5
    assert certificate(card(path, to_run=True), told.append) == first
    assert len(told) == 5


def test_the_door(file_of, capsys):
    assert main(["check", "gradient-noise", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["met"]
    assert {o["state"] for o in told["obligations"]} == {"met"}
    assert main(["check", "rise"]) == 2
    assert "a program" in capsys.readouterr().err
    assert main(["check"]) == 2
    assert main(["check", "dump", "--all"]) == 2


@pytest.mark.parametrize("slug", [c.slug for c in composable()])
def test_every_method_has_shown_what_a_screen_relies_on(slug):
    assert check(card(slug)).failed == []


def test_pairs_work_or_are_refused_by_name():
    found = [card(slug) for slug in ("cyclical-curriculum", "dump", "task-hinting", "gradient-noise", "stacking", "mixture-of-recursions")]
    some = {
        ("cyclical-curriculum", "dump"), ("gradient-noise", "stacking"), ("stacking", "mixture-of-recursions"), ("dump", "task-hinting"),
    }  # fmt: skip
    done = {(p.first, p.second): p for p in pairs(found, lambda two: (two[0].slug, two[1].slug) in some)}
    assert set(done) == some
    assert done["gradient-noise", "stacking"].outcome == "works"
    assert done["cyclical-curriculum", "dump"].outcome == "conflict"
    assert "sampler" in done["cyclical-curriculum", "dump"].said
    assert done["dump", "task-hinting"].outcome == "conflict"
    assert done["stacking", "mixture-of-recursions"].outcome == "conflict"


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(BadInput, match="a program, which is not a change"):
        check(card("rise"))


def test_a_draft_fails_until_its_card_says_what_off_is(tmp_path):
    module, written, _ = draft("my-idea", tmp_path)
    assert [o.name for o in check(card(str(module), to_run=True)).failed] == ["off"]
    written.write_text(written.read_text().replace("# off =", "off ="))
    assert not check(card(str(module), to_run=True)).failed
