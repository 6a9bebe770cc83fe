"""What docs/fine-tuning.md tells to do is done here, word for word."""

import re
import shlex
import tomllib
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import etude
from etude.cli import main
from etude.generate.pretrained import pretrained
from etude.recipe.config import parse

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "fine-tuning.md").read_text(encoding="utf-8")
MAKE, READ, THIN, HARD, SCORE, ADAPT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS, WITH_LORA, ORDERED, PAID = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
SEVERAL, MEASURED = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks so
def test_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(MAKE, {})
    for line in COMMANDS.strip().splitlines():
        assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert shown.count("assistant\n[[And ") == 3
    assert shown.count("<|im_end|>]]\n") == 3
    exec(READ, {})
    assert "<|im_start|>assistant\n" in capsys.readouterr().out
    ours = etude.train(
        pretrained("trained"), etude.rows("verses.jsonl", tokenizer="trained", context=256), budget=etude.Budget(steps=1), quiet=True
    )
    assert ours.steps == 1
    for line in WITH_LORA.strip().splitlines():
        assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    assert len(list((tmp_path / "adapter").glob("adapter_*"))) == 2
    if find_spec("peft") is not None:
        exec(THIN, {})
    Path("hard.py").write_text(HARD)
    for line in ORDERED.strip().splitlines():
        assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    assert '"share/and": 0.75' in Path("runs/mixed/metrics.jsonl").read_text()
    assert '"curriculum/share": 0.25' in Path("runs/ordered/metrics.jsonl").read_text()
    assert "hard.py:letters" in Path("runs/scored/data.json").read_text()
    Path("score.py").write_text(SCORE)
    for line in PAID.strip().splitlines():
        assert main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
    assert "[[...]]" in capsys.readouterr().out
    assert len(Path("runs/verses-grpo/rollouts.jsonl").read_text().splitlines()) >= 64
    recipe = Path("verses.toml").read_text()
    Path("measured.toml").write_text(
        re.sub(
            r"\[evaluate\].*?(?=\n\[)", MEASURED.replace(', "lm_eval:own_task"', "").split("[evaluate.lm_eval]")[0], recipe, flags=re.DOTALL
        )
    )
    assert main(["train", "measured.toml", "budget.samples=8", "run.folder=measured"]) == 0, capsys.readouterr().err
    assert "verifier solved" in capsys.readouterr().out
    parse(tomllib.loads(recipe) | tomllib.loads(MEASURED))


def test_the_trainer_that_one_has(tmp_path, monkeypatch):
    for package in ("accelerate", "datasets", "trl"):
        pytest.importorskip(package, reason="the page's last example needs trl")
    monkeypatch.chdir(tmp_path)
    exec(MAKE, {})
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # TRL's own
        exec(ADAPT, names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 8
    assert trainer._etude.run.step == 8
    assert (tmp_path / "adapted" / "checkpoint-8" / "etude").is_dir()


def test_several_objectives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text('{"text": "the cat sat on the mat; the dog ran to the sea, as it may."}\n' * 80)
    data = '[data]\nrows = "mine.jsonl"\nbatch = 8\ncontext = 64\n[budget]\nsteps = 4\n[run]\nfolder = "run"\ndevice = "cpu"\n'
    Path("r.toml").write_text(f"schema = 1\n[model]\nwidth = 16\ndepth = 1\n{data}{SEVERAL}")
    assert main(["train", "r.toml"]) == 0
    assert '"held-out/holes"' in Path("run/metrics.jsonl").read_text()


def test_an_order_in_the_trainer_that_one_has(tmp_path, monkeypatch):
    for package in ("accelerate", "datasets", "trl"):
        pytest.importorskip(package, reason="the page's last example needs trl")
    monkeypatch.chdir(tmp_path)
    exec(MAKE, {})
    for told, given in (
        ("curriculum/share", 'sampler=Curriculum(update_every=16), difficulty="words"'),
        ("share/and", 'sampler=FixedMixture({"and": 3, "other": 1}, update_every=16), domains="opening"'),
    ):
        assert given.split(", d")[0].removeprefix("sampler=") in " ".join(PAGE.split())
        lines = ADAPT.replace('[etude.method("cyclical-curriculum")(), etude.method("gradient-noise")(eta=1e-6)]', given)
        lines = lines.replace('"save_steps": 4', '"save_steps": 8, "logging_steps": 1')
        names: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # TRL's own
            exec(f"from etude.data.samplers import Curriculum, FixedMixture\n{lines}", names)
        assert any(told in row for row in names["trainer"].state.log_history)


def test_it_can_be_found():
    assert "](docs/fine-tuning.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
