"""What docs/screening.md tells to do is done here, at smaller sizes."""

import re
import shlex
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from etude.cli import main
from etude.data.cards import card

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "screening.md").read_text(encoding="utf-8")
TEXTS, MODULE, TABLE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ON_TEXT, ON_TABLE = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
TEXT_COMMANDS, TABLE_COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
SMALL = ["--budget", "2e8flops", "--seeds", "2", "--rates", "1", "--rungs", "1", "--confirm", "1", "--unchecked", "--json"]


def test_the_page_can_be_found_and_its_links_lead_somewhere():
    assert "](docs/screening.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_the_table(tmp_path, monkeypatch, capsys):
    if find_spec("sklearn") is None:
        pytest.skip("scikit-learn is not installed")
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MODULE)
    exec(TABLE, {})
    Path("table.toml").write_text(ON_TABLE)
    (line,) = TABLE_COMMANDS.strip().splitlines()
    assert main([*shlex.split(line)[1:], *SMALL, "--budget", "2e7flops"]) == 0, capsys.readouterr().err
    assert Path("runs/table/report.html").is_file()
    assert tomllib.loads(Path("runs/table/winner.toml").read_text())["model"]["use"] == "./mine.py"


def test_the_texts(tmp_path, monkeypatch, capsys):
    if not (card("kjv").here and card("code").here):
        pytest.skip("the texts are not here: etude data get kjv code")
    monkeypatch.chdir(tmp_path)
    exec(TEXTS, {})
    Path("text.toml").write_text(ON_TEXT)
    first, second = TEXT_COMMANDS.strip().splitlines()
    assert main([*shlex.split(first)[1:], "--json", "--unchecked"]) == 0, capsys.readouterr().err
    assert main([*shlex.split(second)[1:], "--plan", "--json", "--unchecked"]) == 0
