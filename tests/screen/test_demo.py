import dataclasses

import pytest

from etude.errors import BadInput
from etude.evidence.study import Job
from etude.screen.demo import METHODS, Settings, demo, study_of


def test_every_arm_trains_to_the_same_flops():
    study = study_of("sample")
    settings = dataclasses.replace(Settings(), width=16, depth=2, context=16, batch=4, flops=3e7)
    totals = {}
    for name, arm in study.arms.items():
        outcome = arm.run(Job(study="demo", arm=name, scale="quick", seed=1, settings=settings))
        totals[name] = outcome.ledger["train"]["flops"]
        assert outcome.metrics["held-out loss"] < 5.6
    assert set(totals) == {"baseline", *METHODS}
    assert max(totals.values()) / min(totals.values()) < 1.2  # a few steps long here; the claim's own tolerance is 2 %


@pytest.mark.parametrize(("content", "message"), [("", "empty"), ("too short " * 5, "of 10 kB or more")])
def test_a_text_that_will_not_do_is_refused_before_anything_runs(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_text(content)
    with pytest.raises(BadInput, match=message):
        demo(str(path), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
