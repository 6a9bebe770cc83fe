"""Every order of a user's rows with everything that can be predicted of them: trained, and resumed to the same bits."""

import json
import shutil
from itertools import product

import numpy as np
import pytest
import torch

from etude.engine.metrics import read_metrics
from etude.papers.loading import load_methods, load_models
from etude.recipe.build import build
from etude.recipe.config import parse

DOMAINS = ("letters", "notes")
ORDERS = {
    "shuffle": ({"kind": "shuffle"}, None, []),
    "replacement": ({"kind": "shuffle", "replacement": True}, None, []),
    "weighted": ({"kind": "weighted", "weights": {"letters": 1, "notes": 2}, "share": 0.5}, None, []),
    "mixture": ({"kind": "mixture", "weights": {"letters": 1, "notes": 2}, "update_every": 8}, None, []),
    "online": ({"kind": "online", "update_every": 8}, None, []),
    "softmax": ({"kind": "online", "weigh": "softmax", "temperature": 0.5, "update_every": 8}, None, []),
    "given": ({"kind": "curriculum", "over": 3, "update_every": 4}, "level", []),
    "length": ({"kind": "curriculum", "over": 3, "update_every": 4, "hardest_first": True}, "length", []),
    "scorer": ({"kind": "curriculum", "over": 3, "update_every": 4, "power": 1}, "./hard.py:words", []),
    "loss": ({"kind": "curriculum", "by": "loss", "over": 3, "update_every": 4, "measure_every": 2}, None, []),
    "bandit": ({"kind": "shuffle"}, None, [{"use": "dump", "signal": "loss", "update_every": 2}]),
    "cyclical": ({"kind": "shuffle"}, None, [{"use": "cyclical-curriculum", "pacing": "grow"}]),
    "easiness": ({"kind": "shuffle"}, "level", [{"use": "cyclical-curriculum", "scores": "data.easiness"}]),
}
OBJECTIVES = {
    "causal": {"kind": "causal"},
    "prefix": {"kind": "prefix"},
    "spans": {"kind": "spans", "ratio": 0.3, "mean_span": 2},
    "holes": {"kind": "spans", "two_way": True},
    "middle": {"kind": "infilling", "order": "psm"},
    "suffix": {"kind": "infilling", "order": "both"},
    "masked": {"kind": "masked", "ratio": 0.3},
    "unlikely": {"kind": "unlikelihood", "alpha": 0.5},
}
SEVERAL = {name: OBJECTIVES[name] for name in ("causal", "spans", "masked")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    with open(folder / "mine.jsonl", "w") as out:
        for i in range(40):
            words = ["sea", "sky", "stone", "river", "light"][: 2 + i % 4]
            text = " ".join(words[int(k)] for k in rng.integers(len(words), size=12 + i % 5))
            out.write(json.dumps({"text": text, "source": DOMAINS[i % 2], "level": 1 + i % 4}) + "\n")
    (folder / "hard.py").write_text("def words(text, level=0):\n    return len(set(text.split())) + level\n")
    return folder


@pytest.mark.parametrize(("order", "objective"), list(product(ORDERS, [*OBJECTIVES, "several"])))
def test_it_trains_and_resumes_to_the_same_bits(place, monkeypatch, tmp_path, order, objective):
    monkeypatch.chdir(place)
    sampler, difficulty, methods = ORDERS[order]
    sampler, learnt = dict(sampler), {"objective": OBJECTIVES.get(objective)}
    if objective == "several":
        learnt = {"objectives": SEVERAL}
        if "weights" in sampler:
            sampler["weights"] = {f"{d}/{o}": w for d, w in sampler["weights"].items() for o in SEVERAL}
    document = {
        "schema": 1,
        "model": {"width": 8, "depth": 1, "heads": 2},
        "data": {"rows": "mine.jsonl", "domain": "source", "context": 40, "batch": 4, "held_out": 0.1}
        | ({"difficulty": difficulty} if difficulty else {}),
        "sampler": sampler,
        "methods": methods,
        "budget": {"limit": 6, "weights": {"steps": 1}},
        "run": {"folder": str(tmp_path / "run"), "device": "cpu", "checkpoint_every": 0.5, "evaluate_every": 1},
    } | learnt

    def trained(resume):
        trainer = build(parse(document), load_methods, load_models)
        result = trainer.run(resume=resume)
        return result, {name: value.clone() for name, value in result.model.state_dict().items()}, read_metrics(tmp_path / "run")

    whole, weights, metrics = trained(False)
    assert whole.steps == 6
    assert all(np.isfinite(v) for v in whole.metrics.values())
    shutil.rmtree(max((tmp_path / "run" / "checkpoints").glob("step-*")))
    again, others, logged = trained(True)
    assert again.resumed_from == "step-000000003"
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    assert again.metrics == whole.metrics
    assert logged == metrics
    told = {key for line in metrics for key in line}
    if order in ("mixture", "online", "softmax", "bandit"):
        assert {f"share/{d}" + ("/causal" if objective == "several" else "") for d in DOMAINS} <= told
    if sampler["kind"] == "curriculum":
        shares = [line["curriculum/share"] for line in metrics if "curriculum/share" in line]
        assert shares == sorted(shares)
        assert shares[0] == 0.25
        assert shares[-1] == 1
    ledger = whole.ledger.as_dict()
    assert ("prepare" in ledger) == (order in ("scorer", "loss", "cyclical"))
    if order == "scorer":
        assert ledger["prepare"]["calls"] == 40
    if order in ("loss", "cyclical"):
        assert ledger["prepare"]["flops"] > 0
        assert ledger["prepare"]["seconds"] > 0
