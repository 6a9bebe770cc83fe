"""Every recipe of the guide runs as it stands, on small data of the kind that it names."""

import json
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hf_folders import chat_folder

from etude.papers.loading import load_methods, load_models
from etude.recipe.config import load
from etude.recipe.train import train_recipe

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide"


def ran(name, tmp_path, *changes):
    overrides = (f"run.folder={tmp_path}/run", "run.device=cpu", "run.evaluate_every=1", *changes)
    summary = train_recipe(GUIDE / name, resolve=load_methods, models=load_models, overrides=overrides, quiet=True)
    assert all(math.isfinite(value) for value in summary["metrics"].values())
    assert load(tmp_path / "run" / "recipe.toml") == load(GUIDE / name, overrides)
    return summary, json.loads((tmp_path / "run" / "data.json").read_text())


def test_no_recipe_of_the_guide_is_left_out():
    assert {p.name for p in GUIDE.glob("*.toml")} == {"recipe.toml", "table.toml", "images.toml", "mixture.toml", "rows.toml"}


def test_a_text(tmp_path):
    (tmp_path / "mine.txt").write_text("the cat sat on the mat; the dog ran to the sea.\n" * 400)
    summary, data = ran("recipe.toml", tmp_path, f"data.text={tmp_path}/mine.txt", "budget.tokens=16000", "model.width=16")
    assert list(summary["metrics"]) == ["held-out/loss"]
    assert data["vocab"] == 256


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_a_table(tmp_path, suffix):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)) * [3, 0.1] + [100, 0]
    species = np.where(x[:, 0] > 100, "tall", "small")
    path = tmp_path / f"mine.{suffix}"
    if suffix == "csv":
        path.write_text("length,width,species\n" + "".join(f"{a},{b},{s}\n" for (a, b), s in zip(x, species, strict=True)))
    else:
        np.savez(path, length=x[:, 0], width=x[:, 1], species=species)
    summary, data = ran("table.toml", tmp_path, f"data.table={path}", "budget.samples=4000")
    assert summary["metrics"]["held-out/accuracy"] > 0.9
    assert (data["classes"], data["features"], data["rows"]) == (["small", "tall"], ["length", "width"], 240)
    assert abs(data["mean"][0] - 100) < 1


def test_images(tmp_path):
    summary, _ = ran("images.toml", tmp_path, "budget.samples=3000")
    assert 0.3 < summary["metrics"]["held-out/accuracy"] <= 1
    assert summary["ledger"]["train"]["samples"] >= 2984


def test_a_mixture(tmp_path):
    for name, words in (("letters", "dear sir, i write to you of the"), ("notes", "12 34; 56 78; 90")):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"{words} {i}" * (1 + i % 3) for i in range(400)))
    changes = [f"data.domains.{n}.text={tmp_path}/{n}.txt" for n in ("letters", "notes")]
    summary, data = ran("mixture.toml", tmp_path, *changes, "budget.limit=6000", "data.vocab=300")
    assert set(summary["metrics"]) == {"held-out/loss", "domains/letters", "domains/notes"}
    assert data["vocab"] == 300
    assert set(data["sources"]) == {"letters", "notes"}
    assert tomllib.loads((tmp_path / "run" / "recipe.toml").read_text())["run"]["clip"] == "none"


def test_rows(tmp_path):
    chat_folder(tmp_path / "model")
    lines = [{"prompt": f"{i} and {i}?", "completion": f" {2 * i}"} for i in range(40)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    changes = [f"model.pretrained={tmp_path}/model", f"data.rows={tmp_path}/mine.jsonl", "data.context=64", "budget.samples=24"]
    summary, data = ran("rows.toml", tmp_path, *changes)
    assert list(summary["metrics"]) == ["held-out/loss"]
    assert (data["rows"]["kind"], data["samples"], data["held_out_samples"]) == ("completion", 38, 2)
