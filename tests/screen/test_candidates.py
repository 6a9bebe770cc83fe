from importlib.util import find_spec

import pytest

from etude.errors import BadInput
from etude.papers.catalogue import card, cards
from etude.papers.loading import load_module
from etude.papers.suggesting import Facts
from etude.recipe.config import parse
from etude.recipe.writing import plain
from etude.screen.candidates import Candidate, candidate, chosen, combined
from etude.screen.trial import with_rate


def facts(document=None, **more):
    told = {"samples": 100, "steps": 100.0, "epochs": 8.0} | more
    return Facts(recipe=plain(parse({"schema": 1, "data": {"corpus": "sample"}, **(document or {})})), **told)


def test_every_ready_paper_is_a_candidate_or_has_a_reason():
    for one in cards():
        if one.state == "ready":
            found = candidate(one, facts())
            assert isinstance(found, Candidate) or len(found) > 20, one.slug


def test_stacking_begins_shallow_so_that_both_end_alike():
    found = candidate(card("stacking"), facts({"model": {"depth": 8}}))
    assert found.changes == {"model.depth": 2}
    assert found.methods == ({"use": "stacking", "factor": 4, "at": 0.15},)
    assert found.of(facts({"model": {"depth": 8}}).recipe)["model"]["depth"] == 2
    assert "model.depth = 3" in candidate(card("stacking"), facts({"model": {"depth": 3}}))


@pytest.mark.parametrize(
    ("slug", "document", "more", "reason"),
    [
        ("cyclical-curriculum", {}, {"epochs": 0.5}, "2.25 passes over the data, found 0.5"),
        ("dump", {}, {}, "needs data of several domains, found none"),
        ("rise", {}, {}, "a program"),
        ("mixture-of-recursions", {"model": {"kind": "gru"}}, {}, "model.kind = 'transformer'"),
        ("ditto", {}, {}, "a short tuning of a trained model"),
        ("stacking", {"methods": [{"use": "stacking", "factor": 2}]}, {}, "it is in the recipe already"),
    ],
)
def test_what_does_not_apply_says_why(slug, document, more, reason):
    assert reason in candidate(card(slug), facts(document, **more))


def test_every_method_and_architecture_has_a_rule_for_its_settings():
    for one in cards():
        if one.state == "ready" and one.use and one.origin == "etude":
            module = load_module(one)
            assert hasattr(module, "suggest") or find_spec(f"{module.__name__}.suggest"), one.slug


def test_an_architecture_takes_the_shape_of_the_recipe():
    found = candidate(card("mixture-of-recursions"), facts({"model": {"depth": 8, "width": 48}}))
    made = found.of(facts().recipe)["model"]
    assert made["use"] == "mixture-of-recursions"
    assert made["num_recursions"] == 3
    assert made["shape"]["width"] == 48


def test_two_that_change_the_same_key_do_not_go_together():
    stacking = candidate(card("stacking"), facts({"model": {"depth": 8}}))
    recursions = candidate(card("mixture-of-recursions"), facts({"model": {"depth": 8}}))
    noise = candidate(card("gradient-noise"), facts())
    assert combined([stacking, recursions]) == "stacking and mixture-of-recursions both change model"
    both = combined([stacking, noise])
    assert both.name == "stacking + gradient-noise"
    assert [m["use"] for m in both.methods] == ["stacking", "gradient-noise"]


def test_every_learning_rate_of_a_recipe_is_multiplied():
    document = facts({"optimizer": {"kind": "muon", "lr": 0.02}}).recipe
    changed = with_rate(document, 0.5)["optimizer"]
    assert changed["lr"] == 0.01
    assert changed["rest"]["lr"] == document["optimizer"]["rest"]["lr"] / 2
    assert document["optimizer"]["lr"] == 0.02


def test_names_that_are_not_there():
    with pytest.raises(BadInput, match="stacking"):
        chosen(["stackin"], None)
    with pytest.raises(BadInput, match="planned"):
        chosen(["climb"], None)
    with pytest.raises(BadInput, match="growth"):
        chosen(None, "grow")
    assert {c.slug for c in chosen(None, "growth")} == {"stacking"}
