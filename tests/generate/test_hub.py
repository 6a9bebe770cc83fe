"""A model of the Hub, against a server of its protocol on this machine: fetched once, its commit recorded, then without a network."""

import json
import sys

import pytest
from hf_folders import chat_folder
from hub_server import COMMIT, hub

from etude.cli import main
from etude.errors import BadInput
from etude.generate import hub as ours
from etude.generate.hub import locate

constants = pytest.importorskip("huggingface_hub.constants")

RECIPE = """
schema = 1
[model]
pretrained = "org/tiny"
revision = "v1"
[data]
rows = "r.jsonl"
context = 40
batch = 4
[budget]
steps = 1
[run]
folder = "out"
device = "cpu"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    ours._fetched.cache_clear()
    (tmp_path / "r.toml").write_text(RECIPE)
    with open("r.jsonl", "w") as out:
        for i in range(12):
            out.write(json.dumps({"prompt": f"say {i}", "completion": " fox"}) + "\n")
    yield tmp_path
    ours._fetched.cache_clear()


def point_at(monkeypatch, address):
    """As HF_ENDPOINT does, which the package reads once, on import."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def served(place, monkeypatch):
    folder = chat_folder(place / "served")
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    with hub({"org/tiny": folder}) as (address, asked):
        point_at(monkeypatch, address)
        yield asked


def test_fetched_once_recorded_and_then_without_a_network(place, served, monkeypatch, capsys):
    assert main(["init", "--model", "org/tiny", "--data", "r.jsonl", "--revision", "v1", "--out", "i.toml"]) == 0, capsys.readouterr().err
    assert main(["train", "r.toml"]) == 0, capsys.readouterr().err
    fetched = [line.rpartition("/")[2] for line in served if line.startswith("GET") and "/resolve/" in line]
    assert len(fetched) == len(set(fetched))
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= set(fetched)
    assert not {"pytorch_model.bin", "modeling_tiny.py"} & set(fetched)
    facts = json.loads((place / "out" / "data.json").read_text())["model"]
    assert (facts["name"], facts["commit"]) == ("org/tiny", COMMIT)
    before = len(served)
    ours._fetched.cache_clear()
    assert main(["train", "r.toml", "run.folder=again", "--offline"]) == 0, capsys.readouterr().err
    assert main(["generate", "again", "the", "--max-tokens", "2", "--offline", "--json"]) == 0
    assert main(["init", "--model", "org/tiny", "--data", "r.jsonl", "--revision", "v1", "--out", "j.toml", "--offline"]) == 0
    assert main(["export", "again", "hf", "--offline"]) == 0
    assert len(served) == before
    assert json.loads((place / "again" / "data.json").read_text())["model"]["commit"] == COMMIT
    assert constants.HF_HUB_OFFLINE is False
    ours._fetched.cache_clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("org/tiny", "v1").commit == COMMIT
    assert len(served) == before


def test_what_is_not_there(place, served, capsys):
    with pytest.raises(BadInput, match=r"model\.revision: found 'org/tiny' at 'v9', which the Hub does not have"):
        locate("org/tiny", "v9")
    with pytest.raises(BadInput, match="model: found 'org/none', neither a folder here nor a repository of the Hub"):
        locate("org/none")
    asked = len(served)
    assert main(["train", "r.toml", "--offline"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: r.toml, model.pretrained: found 'org/tiny' at 'v1', no folder here, and not in the Hub's cache")
    assert "expected a folder here, or to fetch it once without --offline and HF_HUB_OFFLINE" in line
    assert line.count("\n") == 1
    assert len(served) == asked


def test_no_network_and_no_cache(place, monkeypatch, capsys):
    point_at(monkeypatch, "http://127.0.0.1:9")  # nothing listens there
    assert main(["train", "r.toml"]) == 2
    line = capsys.readouterr().err
    assert "not in the Hub's cache, and no way to the Hub, expected a folder here, or a network" in line
    assert line.count("\n") == 1


def test_offline_ends_with_its_block(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with ours.offline(False):
        assert constants.HF_HUB_OFFLINE is False
    with ours.offline():
        assert sys.modules["huggingface_hub"].is_offline_mode()
    assert not sys.modules["huggingface_hub"].is_offline_mode()
