import re
from pathlib import Path

import numpy as np
import pytest
import torch

import etude
from etude.data.tokenizers import load as load_tokenizer
from etude.engine import checkpoint
from etude.engine.protocols import Method
from etude.errors import BadInput
from etude.learn.supervised import Supervised
from etude.recipe.build import build, method_of
from etude.recipe.config import load
from etude.recipe.tables import MethodTable
from etude.recipe.train import train_recipe

ROOT = Path(__file__).resolve().parents[2]
TEXT = "the cat sat on the mat; the dog ran to the sea.\n" * 60


class Shrink(Method):
    """For the tests: scales gradients."""

    def __init__(self, factor: float = 1.0):
        self.factor = factor

    def gradients(self, run):
        for p in run.named_parameters().values():
            p.grad *= self.factor


def resolve(slug):
    return {"shrink": {"Shrink": Shrink}, "two": {"A": Shrink, "B": Shrink}, "none": {}}[slug]


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    path = tmp_path / "r.toml"
    path.write_text(
        f'schema = 1\n[data]\ntext = "{tmp_path}/a.txt"\ncontext = 16\nbatch = 4\n[model]\nwidth = 8\ndepth = 1\nheads = 2\n'
        f'[budget]\nsteps = 6\n[run]\nfolder = "{tmp_path}/run"\ndevice = "cpu"\n[[methods]]\nuse = "shrink"\n'
    )
    return path


@pytest.mark.parametrize("model", ["transformer", "gru", "lstm", "elman"])
@pytest.mark.parametrize("tokenizer", ["byte", "character", "bpe"])
def test_every_model_trains_on_every_tokenizer(recipe, tmp_path, model, tokenizer):
    changes = (f"model.kind={model}", f"data.tokenizer={tokenizer}", "data.vocab=300")
    summary = train_recipe(recipe, resolve=resolve, overrides=changes, quiet=True)
    assert summary["steps"] == 6
    assert np.isfinite(summary["metrics"]["held-out/loss"])
    kept = load_tokenizer(tmp_path / "run" / "tokenizer.json")
    assert kept.decode(kept.encode("the cat")) == "the cat"
    assert load(tmp_path / "run" / "recipe.toml").data.tokenizer == tokenizer


def test_a_run_is_not_overwritten_and_a_finished_one_resumes_to_its_end(recipe, tmp_path):
    train_recipe(recipe, resolve=resolve, quiet=True)
    with pytest.raises(BadInput, match="a run already"):
        train_recipe(recipe, resolve=resolve, quiet=True)
    again = train_recipe(recipe, resolve=resolve, resume=True, quiet=True)
    assert again["steps"] == 6
    assert again["resumed_from"] == "step-000000006"
    with pytest.raises(BadInput, match=r"command line: found model.width = 16, expected model.width = 8, as in .*run/recipe.toml"):
        train_recipe(recipe, resolve=resolve, overrides=("model.width=16",), resume=True, quiet=True)
    for file in (tmp_path / "run" / "checkpoints").glob("*/tensors.safetensors"):
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(BadInput, match="does not match its checksum"):
        train_recipe(recipe, resolve=resolve, resume=True, quiet=True)


def test_methods_are_named_checked_and_built():
    assert method_of(MethodTable(use="shrink", factor=0.5), 0, resolve).factor == 0.5
    assert isinstance(method_of(MethodTable(use="two:B"), 0, resolve), Shrink)
    for table, message in (
        (MethodTable(use="two"), "one of two:A, two:B"),
        (MethodTable(use="two:C"), "one of A, B"),
        (MethodTable(use="none"), "no method to add"),
        (MethodTable(use="shrink", fator=2), "did you mean 'factor'"),
    ):
        with pytest.raises(BadInput, match=message):
            method_of(table, 0, resolve)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"abc\x00def" * 10, "binary data"),
        (b"good text \xff bad" * 50, "not UTF-8"),
        (b"short", "at least one window"),
        (b"a" * 80, "at least one"),
    ],
)
def test_bad_texts_are_refused_before_anything_is_written(recipe, tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        build(load(recipe), resolve)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(BadInput, match="no such file"):
        build(load(recipe), resolve)
    assert not (tmp_path / "run").exists()


def test_python_use_on_any_module_and_data(tmp_path):
    x = torch.randn(120, 5)
    y = (x[:, 0] > 0).long()
    model = torch.nn.Linear(5, 2)
    result = etude.train(model, (x, y), methods=[Shrink(0.5)], epochs=2, quiet=True, folder=tmp_path / "r", device="cpu")
    assert result.model is model
    assert result.ledger.total("samples") >= 240
    assert checkpoint.latest(tmp_path / "r" / "checkpoints")
    real = etude.train(torch.nn.Linear(5, 1), (x, x.sum(1)), epochs=1, quiet=True, device="cpu")
    assert real.steps == 4
    with pytest.raises(BadInput, match="both budget and epochs"):
        etude.train(model, (x, y), budget=etude.Budget(steps=1), epochs=1)
    with pytest.raises(BadInput, match=r"etude.train, data: found \[1, 2, 3\], expected"):
        etude.train(model, [1, 2, 3])


def test_nan_in_the_data_is_refused_where_the_loss_is_ours(tmp_path):
    x, y = torch.randn(20, 4), torch.arange(20) % 2
    x[3, 1] = torch.nan
    with pytest.raises(BadInput, match="^etude.train, data.x: found NaN or infinity in row 3 "):
        etude.train(torch.nn.Linear(4, 2), (x, y), quiet=True)
    imputing = torch.nn.Sequential(Imputed(), torch.nn.Linear(4, 2))
    assert etude.train(imputing, (x, y), objective=Supervised(), epochs=1, quiet=True).steps == 1


class Imputed(torch.nn.Module):
    """For the tests: a missing value is zero."""

    def forward(self, x):
        return x.nan_to_num()


def test_the_readme_snippet_runs():
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(snippet.strip().splitlines()) <= 10
    spaces: dict = {}
    exec(compile(snippet, "README.md", "exec"), spaces)  # our own text
    assert spaces["result"].steps > 0
