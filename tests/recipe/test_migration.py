"""Older recipes are rewritten; nothing that the user had is lost."""

import tomllib

import pytest

from etude.errors import BadInput
from etude.recipe import migration
from etude.recipe.config import load
from etude.recipe.migration import Migration, migrate, migrated

EARLY = '# my run\n\n[data]\ntext = "a.txt"  # mine\n[run]\nfolder = "out"\n'


def written(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


def test_an_early_recipe_gets_its_schema_and_keeps_its_comments(tmp_path):
    path = written(tmp_path, EARLY)
    with pytest.raises(BadInput, match="`etude recipe migrate` adds it"):
        load(path)
    done = migrate(path)
    assert done.kept == tmp_path / "r.schema-0.toml"
    assert done.kept.read_text() == EARLY
    assert path.read_text() == EARLY.replace("[data]", "schema = 1\n[data]")
    assert load(path).data.text == "a.txt"


def test_the_newest_schema_is_left_alone(tmp_path):
    path = written(tmp_path, "schema = 1\n" + EARLY)
    assert migrate(path).kept is None
    assert [p.name for p in tmp_path.glob("*.toml")] == ["r.toml"]


def test_steps_follow_one_another_and_a_changed_table_is_written_anew(tmp_path, monkeypatch):
    def renamed(document):
        return document | {"data": {"text": document["data"]["path"]}}

    monkeypatch.setattr(migration, "MIGRATIONS", {-1: Migration("path is called text", renamed)} | migration.MIGRATIONS)
    old = {"schema": -1, "data": {"path": "a.txt"}}
    assert migrated(old, "r")[0] == {"schema": 1, "data": {"text": "a.txt"}}
    path = written(tmp_path, 'schema = -1\n[data]\npath = "a.txt" # mine\n')
    done = migrate(path)
    assert done.notes == ("path is called text", "schema 0 (no `schema` key) to 1: the key is added")
    assert done.kept is not None
    assert "# mine" in done.kept.read_text()
    assert tomllib.loads(path.read_text()) == {"schema": 1, "data": {"text": "a.txt"}}


def test_nothing_is_written_where_it_cannot_be_done(tmp_path):
    path = written(tmp_path, EARLY)
    (tmp_path / "r.schema-0.toml").write_text("precious")
    with pytest.raises(BadInput, match="a file already"):
        migrate(path)
    assert path.read_text() == EARLY
    assert (tmp_path / "r.schema-0.toml").read_text() == "precious"
    for text, message in (
        ("schema = 7\n", "schema: found 7, expected one of 0, 1"),
        ('schema = "new"\n', "schema: found 'new'"),
        ("[data]\ntxt = 'a'\n", "did you mean 'text'"),
    ):
        other = tmp_path / "o.toml"
        other.write_text(text)
        with pytest.raises(BadInput, match=message):
            migrate(other)
        assert other.read_text() == text
        assert not (tmp_path / "o.schema-0.toml").exists()
