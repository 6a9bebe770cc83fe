import tomllib

import pytest

from etude.errors import BadInput
from etude.recipe.config import dump, load, parse

GOOD = """
schema = 1
[data]
text = "a.txt"
[budget]
steps = 5
[[methods]]
use = "stacking"
factor = 2
"""


def written(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


def test_a_recipe_goes_to_toml_and_back(tmp_path):
    recipe = load(written(tmp_path, GOOD), ("optimizer.lr=0.01", "run.folder=elsewhere", "methods.0.at=0.3", "model.kind=gru"))
    assert recipe.optimizer.lr == 0.01
    assert recipe.run.folder == "elsewhere"
    assert recipe.methods[0].settings == {"factor": 2, "at": 0.3}
    assert recipe.model.kind == "gru"
    assert parse(tomllib.loads(dump(recipe))) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.lrr=1", "r.toml, optimizer.lrr: found an unknown key, expected a known one; did you mean 'lr'?"),
        ("modle.width=3", "did you mean 'model'"),
        ("model.widht=3", "r.toml, model.widht: found an unknown key, expected a known one; did you mean 'width'?"),
        ("optimizer.lr=-1", "r.toml, optimizer.lr: found -1, expected greater than 0"),
        ("model.width=wide", "r.toml, model.width: found 'wide'"),
        ("model.kind=mamba", "expected transformer, gru, lstm or elman"),
        ("schedule.kind=sine", "r.toml, schedule.kind: found 'sine'"),
        ("budget.tokens=10", "budget: found tokens and steps"),
        ("data.corpus=kjv", "data: found both text and corpus"),
        ("schema=2", "r.toml, schema: found 2"),
        ("methods.3.at=1", "no entry 3"),
        ("budget.steps.x=1", "budget.steps.x"),
        ("nothing", "no key=value"),
    ],
)
def test_what_is_wrong_is_named_with_place_found_and_expected(tmp_path, change, message):
    with pytest.raises(BadInput) as caught:
        load(written(tmp_path, GOOD), (change,))
    assert message in str(caught.value)


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="TOML that does not parse"):
        load(written(tmp_path, "schema = ["))
    with pytest.raises(BadInput, match="schema: found nothing"):
        load(written(tmp_path, "x = 1"))
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="cannot be read"):
        load(tmp_path / "b.toml")
