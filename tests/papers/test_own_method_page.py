"""What docs/own-method.md tells to do is done here, word for word."""

import copy
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import etude
from etude.cli import main
from etude.errors import BadInput
from etude.papers.loading import load_study, method

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own-method.md").read_text(encoding="utf-8")
FILE, USE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder of someone who has saved the file."""
    (tmp_path / "input_noise.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_is_short_and_can_be_found():
    assert len(PAGE.splitlines()) < 150
    assert "](docs/own-method.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_the_file_runs_as_a_study(here, capsys):
    assert main(["run", "./input_noise.py", "--scale", "smoke", "--json", "--workers", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["slug"], told["scale"], list(told["arms"])) == ("input-noise", "smoke", ["plain", "noisy"])
    assert told["arms"]["plain"]["accuracy"] != told["arms"]["noisy"]["accuracy"]
    assert told["arms"]["plain"]["ledger"][0]["train"]["samples"] == told["arms"]["noisy"]["ledger"][0]["train"]["samples"] == 1000
    assert (here / "runs" / "input-noise" / "smoke" / "plots" / "test-accuracy-over-updates.png").is_file()
    assert main(["show", "./input_noise.py"]) == 0
    assert "A small data set lasts longer" in capsys.readouterr().out


def test_the_method_is_its_equation_and_off_at_zero(here):
    noise = method("./input_noise.py")
    x = torch.rand(3, 4)
    noisy = sys.modules[noise.__module__].noisy
    assert torch.equal(noisy(x, torch.ones(3, 4), 0.5), x + 0.5)
    y, model = torch.arange(3) % 2, torch.nn.Linear(4, 2)
    off, on, plain = (
        etude.train(copy.deepcopy(model), (x, y), methods=methods, epochs=2, seed=1, quiet=True).model.weight
        for methods in ([noise(sd=0.0)], [noise(sd=0.5)], [])
    )
    assert torch.equal(off, plain)
    assert not torch.equal(on, plain)
    with pytest.raises(BadInput, match=r"InputNoise.sd: found -1.0, expected a number >= 0"):
        noise(sd=-1.0)


def test_it_is_used_in_a_run_of_ones_own(here, capsys):
    exec(compile(USE, "page", "exec"), {})
    assert re.fullmatch(r"\d+ updates\n", capsys.readouterr().out)
    recipe = """schema = 1
data.table = "table.csv"
data.target = "y"
model = { kind = "mlp", hidden = [4] }
budget.samples = 200
run.folder = "run"
[[methods]]
use = "./input_noise.py"
sd = 0.1
"""
    (here / "table.csv").write_text("a,b,y\n" + "".join(f"{i % 7},{i % 5},{'yes' if i % 2 else 'no'}\n" for i in range(60)))
    (here / "recipe.toml").write_text(recipe)
    assert main(["train", "recipe.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] > 0


def test_a_record_of_ones_own_is_registered_first(here, monkeypatch, capsys):
    cpu = '        "cpu": Scale(settings=Settings(samples=400, hidden=16), seeds=3, size="tiny"),\n    },\n    claims='
    (here / "input_noise.py").write_text(FILE.replace("    },\n    claims=", cpu, 1))
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    (here / "evidence").mkdir()
    monkeypatch.setenv("ETUDE_EVIDENCE", str(here / "evidence"))
    run = ["run", "./input_noise.py", "--scale", "cpu", "--workers", "1"]
    assert main(run) == 2
    assert "no registration" in capsys.readouterr().err
    assert main([*run, "--register"]) == 0
    subprocess.run([*git, "add", "evidence"], check=True)
    subprocess.run([*git, "commit", "-qm", "registered"], check=True)
    assert main(run) == 0
    assert (here / "evidence" / "records" / "input-noise.json").is_file()
    assert len((here / "evidence" / "attempts" / "input-noise.jsonl").read_text().splitlines()) == 2


def test_the_entry_point_is_the_sample_packages():
    declared = tomllib.loads(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])["project"]["entry-points"]
    sample = tomllib.loads((ROOT / "tests" / "sample_package" / "pyproject.toml").read_text())["project"]["entry-points"]
    assert declared.keys() == sample.keys() == {"etude.papers"}
    assert list(declared["etude.papers"]) == ["input-noise"]


def test_the_page_names_every_event_of_a_step(here):
    from etude.engine.protocols import SLOTS, Method

    said = re.search(r"It overrides events \((.*?),\s+in the order", PAGE, re.DOTALL)[1]
    events = re.findall(r"`(\w+)`", said)
    assert all(callable(getattr(Method, event)) for event in events)
    assert set(re.search(r"`slots` \((.*?)\)", PAGE, re.DOTALL)[1].split(", ")) == set(SLOTS)
    assert load_study("./input_noise.py").slug == "input-noise"
