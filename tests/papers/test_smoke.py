"""Every paper that is here runs at smoke scale from the command line, gives the promised JSON, and a second call reuses its runs."""

import json
import subprocess
import sys

import pytest

from etude.papers.catalogue import cards
from etude.papers.loading import load_study

HERE = [card.slug for card in cards() if card.ready and card.origin == "etude"]


def run(slug, out):
    command = [sys.executable, "-m", "etude", "run", slug, "--scale", "smoke", "--json", "--workers", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_five_are_here():
    assert {"stacking", "mixture-of-recursions", "gradient-noise", "mode-interpolation", "cyclical-curriculum"} <= set(HERE)


@pytest.mark.parametrize("slug", HERE)
def test_smoke(slug, tmp_path):
    told, _ = run(slug, tmp_path)
    study = load_study(slug)
    arms = {name for name, arm in study.arms.items() if "smoke" in arm.scales}
    assert {"slug", "scale", "seeds", "arms", "claims", "verdict", "seconds", "provenance"} <= told.keys()
    assert (told["slug"], told["scale"], set(told["arms"])) == (slug, "smoke", arms)
    for arm in told["arms"].values():
        metrics = {name: values for name, values in arm.items() if isinstance(values, list)}
        assert all(len(values) == len(told["seeds"]) for values in metrics.values())
    assert [claim["text"] for claim in told["claims"]] == [claim.text for claim in study.claims]
    for claim in told["claims"]:
        assert claim["verdict"] in ("holds", "reversed", "no effect", "inconclusive") or claim["verdict"].startswith("not judged: ")
    again, _ = run(slug, tmp_path)
    assert {k: v for k, v in again.items() if k not in ("seconds", "provenance")} == {
        k: v for k, v in told.items() if k not in ("seconds", "provenance")
    }
