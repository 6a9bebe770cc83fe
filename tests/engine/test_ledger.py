import pytest

from etude.engine.ledger import Budget, Ledger
from etude.errors import BadInput


def test_a_budget_counts_over_all_categories_or_in_one():
    ledger = Ledger()
    ledger.charge("train", samples=30, tokens=300)
    ledger.charge("prepare", samples=12)
    assert Budget(samples=84).spent(ledger) == 42
    assert Budget(samples=84).share(ledger) == 0.5
    assert Budget(weights={"train.samples": 1.0}, limit=60).share(ledger) == 0.5
    assert Budget(weights={"train.samples": 1.0, "prepare.samples": 0.5}, limit=60).spent(ledger) == 36
    assert Budget(weights={"judge.samples": 1.0}, limit=60).spent(ledger) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [("train.sample", "did you mean"), ("tran.samples", "did you mean 'train.samples'"), ("train.", "found 'train.'")],
)
def test_a_budget_refuses_unknown_names(name, message):
    with pytest.raises(BadInput, match=message):
        Budget(weights={name: 1.0}, limit=1)
