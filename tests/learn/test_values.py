"""Value heads, reward models, process values and PPO: by hand, and equal to REINFORCE where it must be."""

import math

import numpy as np
import pytest
import torch
from rollout_toys import Letters, rollouts, tiny

from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.optim import SGD, Several
from etude.engine.protocols import Batch
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.pairs import PairSource
from etude.learn.policy import PolicyConfig, PolicyGradient
from etude.learn.ppo import PPO, value_loss
from etude.learn.values import ActorCritic, BradleyTerry, StepSource, StepValues, ValueModel, last_values, scalar_rewards


def test_a_new_critic_says_zero_and_is_a_copy():
    policy = tiny()
    value = ValueModel.from_policy(policy)
    tokens = torch.tensor([[1, 2, 3]])
    assert value(tokens).tolist() == [[0, 0, 0]]
    assert ValueModel.from_policy(policy, squash=True)(tokens).tolist() == [[0.5, 0.5, 0.5]]
    assert not {p.data_ptr() for p in policy.parameters()} & {p.data_ptr() for p in value.parameters()}
    assert not initialise(value, 3).value_head.weight.any()
    both = ActorCritic(policy, value)
    assert torch.equal(both(tokens)["hidden"], policy(tokens)["hidden"])
    assert both.config is policy.config
    with pytest.raises(BadInput, match=r"ValueModel\.body"):
        ValueModel(torch.nn.Embedding(4, 2), 2)(tokens)


def test_rewards_are_read_at_the_last_own_token():
    values, lengths = torch.arange(10.0).view(2, 5), torch.tensor([3, 5])
    assert last_values(values, lengths).tolist() == [2, 9]
    model = ValueModel.from_policy(tiny())
    torch.nn.init.ones_(model.value_head.weight)
    alone = scalar_rewards(model, {"tokens": torch.tensor([[1, 2, 3]]), "lengths": torch.tensor([3])})
    with_filling = scalar_rewards(model, {"tokens": torch.tensor([[1, 2, 3, 9, 9]]), "lengths": torch.tensor([3])})
    assert torch.allclose(alone, with_filling, atol=1e-6)


class Given(torch.nn.Module):
    """Values by the token itself."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor(values))

    def forward(self, tokens):
        return self.values[tokens]


def test_bradley_terry_by_hand():
    source = PairSource([([0], [1], [2]), ([0], [2], [1, 3])], context=8)
    output = BradleyTerry()(Given([0.0, 2.0, 0.5, -1.0]), Batch(source.get(np.arange(2)), np.arange(2)))
    expected = [math.log1p(math.exp(-1.5)), math.log1p(math.exp(-1.5))]
    assert output.per_sample.tolist() == pytest.approx(expected)
    assert output.signals["accuracy"] == 1
    assert output.weight == 2


def test_process_values_by_hand():
    source = StepSource([("12?", [("3", 0.5), ("45", None), ("6", 1.0)]), ("1?", [("2", 0.0)])], context=16, tokenizer=Letters())
    data = source.get(np.arange(2))
    assert [[i for i, on in enumerate(r) if on] for r in data["value_mask"].tolist()] == [[3, 6], [2]]
    output = StepValues()(Given([0.0] * 3 + [0.2] * 11), Batch(data, np.arange(2)))
    assert output.loss.item() == pytest.approx((0.3**2 + 0.8**2 + 0.0) / 3)
    assert output.per_sample.tolist() == pytest.approx([(0.3**2 + 0.8**2) / 2, 0])
    assert output.weight == 3
    for rows, message in (
        ([("1", [("2", None)])], "row 0: found no step with a value"),
        ([("1", [("", 1.0)])], "row 0, step 0: found no tokens"),
        ([("1", [("2", float("nan"))])], "row 0, step 0: value: found nan"),
        ([("1" * 9, [("2", 1.0)])], "row 0: found 10 tokens, expected at most the context of 8"),
        ([], "row: found no rows"),
    ):
        with pytest.raises(BadInput, match=message):
            StepSource(rows, context=8, tokenizer=Letters())


@pytest.mark.parametrize("kind", ["pairs", "steps"])
def test_both_are_learned_under_the_trainer(kind):
    model = ValueModel.from_policy(tiny(), squash=kind == "steps")
    if kind == "pairs":
        source, objective = PairSource([([1], [2], [3]), ([4], [2, 2], [3, 3])], context=8), BradleyTerry()
    else:
        source, objective = StepSource([([1], [([2], 0.9)]), ([1], [([3], 0.1)])], context=8), StepValues()
    result = Trainer(model, DataStream(source, 2, 0), objective, optimizer=SGD(lr=0.3), budget=Budget(steps=40)).run()
    output = objective(model, Batch(source.get(np.arange(2)), np.arange(2)))
    assert output.loss < (0.3 if kind == "pairs" else 0.02)
    assert result.ledger.total("flops") > 0


def test_the_value_loss_by_hand():
    values, old, returns = torch.tensor([0.5, 1.0, 0.1]), torch.tensor([0.0, 0.9, 0.0]), torch.tensor([1.0, 1.0, -1.0])
    # Clipped to 0.2: (0.8)^2 beats (0.5)^2; within the clip; clipped or not the same.
    assert value_loss(values, old, returns, 0.2).tolist() == pytest.approx([0.32, 0.0, 0.605])


def ppo_data(model):
    data = rollouts(model.policy)
    mask = data["loss_mask"]
    with torch.no_grad():
        data["values"] = model.value(data["tokens"][:, :-1]) * mask
    return data | {"returns": torch.linspace(-1, 1, 4).unsqueeze(1) * mask}


def test_at_ratio_one_ppos_policy_gradient_is_reinforces():
    model = ActorCritic(tiny(), ValueModel.from_policy(tiny()))
    data = ppo_data(model)
    output = PPO()(model, Batch(data, np.arange(4)))
    output.loss.backward()
    found = [p.grad.clone() for p in model.policy.parameters()]
    model.zero_grad()
    PolicyGradient(PolicyConfig(surrogate="log", kl=0.0, mean_over="tokens"))(model, Batch(data, np.arange(4))).loss.backward()
    assert all(torch.allclose(p.grad, f, atol=1e-6) for p, f in zip(model.policy.parameters(), found, strict=True))
    returns = data["returns"][data["loss_mask"]]
    assert output.signals["value_loss"].item() == pytest.approx(0.5 * returns.square().mean().item())
    assert output.signals["explained"].item() == pytest.approx(0, abs=1e-5)
    assert output.weight == data["loss_mask"].sum()


def test_policy_and_value_have_optimizers_of_their_own():
    model = ActorCritic(tiny(), ValueModel.from_policy(tiny()))
    built = Several({"policy": (SGD(), ("policy.",)), "value": (SGD(), ("value.",))}).build(dict(model.named_parameters()))
    owned = {k: {id(p) for g in o.param_groups for p in g["params"]} for k, o in built.items()}
    assert owned["policy.sgd"] == {id(p) for p in model.policy.parameters()}
    assert owned["value.sgd"] == {id(p) for p in model.value.parameters()}


def test_bad_input():
    with pytest.raises(BadInput, match="model: found Transformer, expected an ActorCritic"):
        PPO()(tiny(), Batch(rollouts(tiny()), np.arange(4)))
    with pytest.raises(BadInput, match="rollouts without returns"):
        PPO()(ActorCritic(tiny(), ValueModel.from_policy(tiny())), Batch(rollouts(tiny()), np.arange(4)))
    with pytest.raises(BadInput, match=r"PPO\.value_clip"):
        PPO(value_clip=0)
