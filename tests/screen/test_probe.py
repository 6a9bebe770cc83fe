"""A probe begins a whole run and stops it after its first updates; a plan is made of what it saw."""

import json

import pytest

from etude.recipe.config import parse
from etude.recipe.writing import toml
from etude.screen.candidates import BARE, Candidate
from etude.screen.probe import STEPS, Probe, probe
from etude.screen.screening import Settings, screen
from etude.screen.testbeds import testbeds as beds_in
from etude.screen.trial import trainer_of, with_budget


@pytest.fixture
def text(tmp_path):
    """A small recipe on text of two domains, with what rules for settings are told of it."""
    return beds_in(tmp_path / "data")[0]


def skilled(**settings):
    return Candidate(name="skill-it", parts=("skill-it",), methods=({"use": "skill-it", "graph": "alone", "held": 4, **settings},))


def probed(text, made, **budget):
    found = probe(with_budget(made.of(text.document), budget))
    assert isinstance(found, Probe), found
    return found


def test_a_method_that_waits_longer_than_a_probe_begins_and_one_that_waits_longer_than_the_run_does_not(text):
    probed(text, skilled(update_every=3 * STEPS, probe_steps=2), steps=4 * STEPS)
    refused = probe(with_budget(skilled(update_every=3 * STEPS).of(text.document), {"steps": 2 * STEPS}))
    assert "SkillIt.update_every" in refused


def test_what_is_spent_before_the_first_update_is_told_apart(text):
    bare, few, many = probed(text, BARE, steps=100), *(probed(text, skilled(probe_steps=n), steps=100) for n in (2, 6))
    assert bare.begin_flops == 0
    assert few.flops == many.flops == pytest.approx(bare.flops, rel=0.05)
    assert many.begin_flops - few.begin_flops == pytest.approx(2 * 4 * bare.flops, rel=0.05)  # two domains, four updates more of each


@pytest.mark.parametrize("made", [BARE, skilled(probe_steps=3, update_every=30)])
def test_a_whole_run_comes_to_what_the_probe_foretells(text, made):
    found = probed(text, made, steps=60)
    expected = found.whole(60)
    document = with_budget(made.of(text.document), {"steps": 60})
    trainer = trainer_of(parse(document, "test"))
    result = trainer.run()
    ledger = result.ledger
    assert expected.tokens == ledger.total("tokens", ("train",))
    assert expected.flops == pytest.approx(ledger.total("flops"), rel=0.02)
    assert found.updates(expected.flops) == pytest.approx(60)
    assert found.evaluations == len(result.history)
    assert expected.disk == pytest.approx(sum(p.stat().st_size for p in trainer.folder.rglob("*") if p.is_file()), rel=0.25)


def test_the_settings_of_a_rung_are_the_rule_s_for_its_budget(text, tmp_path):
    """With the whole run's settings, what it learns beforehand would take all of the first rung's budget."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(toml(with_budget(text.document, {"steps": 96})))
    few = Settings(k=1, seeds=2, rates=(1.0,), unchecked=True)
    done = screen(recipe, methods=["skill-it"], settings=few, out=tmp_path / "out", workers=1, quiet=True)
    assert not done["refused"]
    assert len(done["confirm"]["values"]["skill-it"]) == 2
    settings = [json.loads((tmp_path / "out" / phase / "phase.json").read_text()) for phase in ("select-1", "select-2", "confirm")]
    assert [told["arms"]["skill-it"][0]["methods"][0]["probe_steps"] for told in settings] == [3, 6, 12]
