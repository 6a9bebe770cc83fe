"""Warm starts: taught once, kept, shared, charged by name; a damaged one is taught again."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from etude.data.tokenizers import Characters
from etude.engine.ledger import Ledger
from etude.engine.optim import AdamW, Muon
from etude.engine.protocols import Batch
from etude.errors import BadInput
from etude.learn import warmstart
from etude.learn.finetune import Finetune
from etude.learn.rows import CompletionSource
from etude.learn.warmstart import kept, warm_start
from etude.nn.transformer import TransformerConfig

TOKENIZER = Characters("0123456789+=.")
CONFIG = TransformerConfig(vocab=TOKENIZER.vocab, width=16, depth=1, heads=2, context=16)
ROWS = [(f"{a}+{b}=", str(a + b)) for a in range(6) for b in range(6)]
END = int(TOKENIZER.encode(".")[0])


def base(cache, rows=ROWS, **changes):
    settings = {"name": "sums", "config": CONFIG, "tokenizer": TOKENIZER, "end": END, "steps": 12, "batch_size": 8, "seed": 3}
    return warm_start(rows, cache=cache, **(settings | changes))


def same(one, other):
    a, b = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(a[n], b[n]) for n in a)


def test_it_is_taught_once_and_costs_the_same_from_the_cache(tmp_path, monkeypatch):
    first = base(tmp_path)
    monkeypatch.setattr(warmstart, "_teach", lambda *_: pytest.fail("taught again"))
    again = base(tmp_path, name="other name")
    assert same(first, again)
    assert again.ledger.as_dict() == first.ledger.as_dict()
    assert first.ledger.entries["train"]["steps"] == 12
    assert first.ledger.total("flops") > 0
    spent = Ledger()
    spent.charge("train", tokens=5)
    again.charge(spent)
    assert spent.entries["base:other name"]["tokens"] == first.ledger.total("tokens")
    assert spent.total("tokens") == 5 + first.ledger.total("tokens")


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"steps": 13}, {"lr": 1e-3}, {"rows": ROWS[:-1]}, {"rows": ROWS[::-1]}, {"end": 0}, {"optimizer": Muon()}]
)
def test_whatever_it_depends_on_makes_another(tmp_path, change):
    assert base(tmp_path).key != base(tmp_path, **change).key


def test_an_optimizer_of_ones_own_teaches(tmp_path):
    usual, same_again = base(tmp_path), base(tmp_path, optimizer=AdamW(lr=2e-3, weight_decay=0.01))
    assert same(usual, same_again)
    assert not same(usual, base(tmp_path, optimizer=Muon()))


def loss_of(taught):
    source = CompletionSource(ROWS, context=CONFIG.context, tokenizer=TOKENIZER, end=END)
    ids = np.arange(len(ROWS))
    return Finetune()(taught.model, Batch(source.get(ids), ids)).loss.item()


def test_it_learns(tmp_path):
    assert loss_of(base(tmp_path, steps=150, batch_size=36)) < 0.5 * loss_of(base(tmp_path, steps=1))


def test_a_damaged_one_is_taught_again(tmp_path):
    first = base(tmp_path)
    [file] = tmp_path.glob(f"{first.key}/step-*/tensors.safetensors")
    file.write_bytes(file.read_bytes()[:-7])
    assert same(base(tmp_path), first)
    assert json.loads(next(tmp_path.glob(f"{first.key}/step-*/COMMIT.json")).read_text())


CHILD = """
import sys
sys.path.insert(0, {here!r})
import test_warmstart as t
from etude.learn import warmstart
teach = warmstart._teach
def said(*a):
    print("taught", flush=True)
    return teach(*a)
warmstart._teach = said
t.base(__import__("pathlib").Path({cache!r}))
"""


def test_two_processes_teach_it_once(tmp_path):
    code = CHILD.format(here=str(__import__("pathlib").Path(__file__).parent), cache=str(tmp_path))
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True), range(2)))
    assert sorted(d.stdout for d in done) == ["", "taught\n"]


def test_bad_input(tmp_path):
    with pytest.raises(BadInput, match="row 1.*empty completion"):
        base(tmp_path, rows=[("1+1=", "2"), ("1+2=", "")])
    with pytest.raises(BadInput, match="at least one"):
        base(tmp_path, rows=[])
    with pytest.raises(BadInput, match="steps"):
        base(tmp_path, steps=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="can be written"):
        base(tmp_path / "file")


def test_anything_is_kept_under_what_it_was_made_of(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"weight": torch.arange(3.0), "count": len(calls)}

    key, state = kept({"steps": 3, "what": "values"}, make, cache=tmp_path)
    again, same_state = kept({"what": "values", "steps": 3}, make, cache=tmp_path)
    assert (key, state["count"]) == (again, same_state["count"])
    assert torch.equal(state["weight"], same_state["weight"])
    other, different = kept({"steps": 4, "what": "values"}, make, cache=tmp_path)
    assert other != key
    assert different["count"] == len(calls) == 2
