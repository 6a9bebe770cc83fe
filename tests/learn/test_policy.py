"""Policy gradients: each equation by hand, GRPO's expected gradient by enumeration, equal settings equal."""

import itertools
import math

import numpy as np
import pytest
import torch
from plain_stream import Unsampled
from rollout_toys import Table, rollouts, tiny

from etude.engine.ledger import Budget
from etude.engine.optim import SGD
from etude.engine.protocols import Batch, Stage
from etude.engine.schedule import Constant
from etude.engine.streams import generator
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.advantages import group_advantages
from etude.learn.logprobs import token_logprobs
from etude.learn.policy import DAPO, GRPO, REINFORCE, PolicyConfig, PolicyGradient, dr_grpo, k3, mean_over, relift, surrogate
from etude.learn.rows import Row, filled


def test_the_surrogates_by_hand():
    ratio = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 2.0]])
    behaviour = torch.full((1, 5), -1.0)
    logprobs = behaviour + ratio.log()
    assert surrogate(logprobs, behaviour, advantages, "clip", 0.2, 0.2)[0].tolist() == pytest.approx([1.2, -1.5, 0.5, -0.8, 2.2])
    assert surrogate(logprobs, behaviour, advantages, "clip", 0.2, 0.28)[0].tolist() == pytest.approx([1.28, -1.5, 0.5, -0.8, 2.2])
    assert surrogate(logprobs, behaviour, advantages, "ratio", 0.2, 0.2)[0].tolist() == pytest.approx([1.5, -1.5, 0.5, -0.5, 2.2])
    assert torch.equal(surrogate(logprobs, behaviour, advantages, "log", 0.2, 0.2), logprobs * advantages)


def test_k3_by_hand_and_its_expectation_is_the_kl():
    assert k3(torch.tensor(-1.0), torch.tensor(-1.5)).item() == pytest.approx(math.exp(-0.5) + 0.5 - 1)
    pi, q = torch.log_softmax(torch.randn(2, 9, generator=generator(0, "kl"), dtype=torch.float64), 1)
    assert (k3(pi, q) >= 0).all()
    assert (pi.exp() * k3(pi, q)).sum().item() == pytest.approx((pi.exp() * (pi - q)).sum().item())


def test_the_kls_gradient_by_hand():
    logprob = torch.tensor(-1.0, requires_grad=True)
    k3(logprob, torch.tensor(-1.5)).backward()
    assert logprob.grad.item() == pytest.approx(1 - math.exp(-0.5))  # downwards: the policy is above its reference here


def test_the_three_means_by_hand():
    values, mask = torch.tensor([[1.0, 2.0, 3.0], [6.0, 0.0, 0.0]]), torch.tensor([[True, True, True], [True, False, False]])
    assert [float(x) for x in mean_over(values, mask, "tokens", 1)] == [3.0, 4]
    assert [float(x) for x in mean_over(values, mask, "rows", 1)] == [4.0, 2]
    assert [float(x) for x in mean_over(values, mask, "length", 10)] == pytest.approx([0.6, 2])


# --- enumeration ------------------------------------------------------------------------------------------------------
V, LENGTH = 3, 2
LOGITS = torch.randn(V, V, generator=generator(0, "table"), dtype=torch.float64)
COMPLETIONS = list(itertools.product(range(V), repeat=LENGTH))
REWARD = dict(zip(COMPLETIONS, torch.rand(len(COMPLETIONS), generator=generator(0, "reward"), dtype=torch.float64).tolist(), strict=True))


def probability(y):
    p = LOGITS.softmax(1)
    return float(p[0, y[0]] * p[y[0], y[1]])


def score_function(y):
    """d log p(y) / d logits, from the softmax's derivative."""
    p, grad = LOGITS.softmax(1), torch.zeros(V, V, dtype=torch.float64)
    for state, token in zip((0, y[0]), y, strict=True):
        grad[state] -= p[state]
        grad[state, token] += 1
    return grad


def true_gradient():
    """Of the expected reward."""
    return sum(probability(y) * REWARD[y] * score_function(y) for y in COMPLETIONS)


def batch_of(completions, advantages):
    data = filled([Row(np.array([0, *y]), np.array([True] * len(y))) for y in completions])
    mask = data["loss_mask"]
    logprobs = token_logprobs(Table(LOGITS), data["tokens"], mask).logprobs.detach()
    more = {"logprobs": logprobs, "advantages": advantages.unsqueeze(1) * mask, "temperature": torch.ones(len(completions))}
    return Batch(data | more, np.arange(len(completions)))


def expected_gradient(config, **settings):
    """Of the loss, over every possible group of two."""
    total = torch.zeros(V, V, dtype=torch.float64)
    for group in itertools.product(COMPLETIONS, repeat=2):
        rewards = torch.tensor([REWARD[y] for y in group], dtype=torch.float64)
        advantages, _ = group_advantages(rewards, np.zeros(2), 2, **settings)
        model = Table(LOGITS)
        PolicyGradient(config)(model, batch_of(group, advantages)).loss.backward()
        total += math.prod(probability(y) for y in group) * model.table.grad
    return total


def test_leave_one_out_is_unbiased():
    config = PolicyConfig(surrogate="log", mean_over="length", kl=0.0)
    found = expected_gradient(config, baseline="leave-one-out", by_std=False)
    assert torch.allclose(found, -true_gradient(), atol=1e-9)


@pytest.mark.parametrize("config", [dr_grpo(LENGTH), relift(LENGTH)])
def test_the_groups_own_mean_shrinks_the_gradient_by_one_in_n(config):
    """A = r - mean with the sample itself in the mean: (1 - 1/n) of the true gradient, over the fixed length."""
    config = PolicyConfig(surrogate=config.surrogate, mean_over="length", max_tokens=LENGTH, kl=0.0)
    assert torch.allclose(expected_gradient(config, by_std=False), -true_gradient() * (1 - 1 / 2) / LENGTH, atol=1e-9)


def test_grpo_with_deviations_against_the_definition():
    total = torch.zeros(V, V, dtype=torch.float64)
    for group in itertools.product(COMPLETIONS, repeat=2):
        rewards = np.array([REWARD[y] for y in group])
        deviation = rewards.std(ddof=1)
        for y, reward in zip(group, rewards, strict=True):
            advantage = 0 if not deviation else (reward - rewards.mean()) / (deviation + 1e-6)
            total += math.prod(probability(z) for z in group) * advantage * score_function(y) / LENGTH / 2
    found = expected_gradient(PolicyConfig(kl=0.0))
    assert torch.allclose(found, -total, atol=1e-9)
    assert total.abs().max() > 0.01


def test_the_entropy_bonus_by_its_derivative():
    """dH / dlogit_v = -p_v (log p_v + H), at the two states that the row passes."""
    model = Table(LOGITS)
    output = PolicyGradient(PolicyConfig(kl=0.0, entropy=0.1, mean_over="tokens"))(model, batch_of([(1, 2)], torch.zeros(1)))
    output.loss.backward()
    p = LOGITS.softmax(1)
    spread = -(p * p.log()).sum(1, keepdim=True)
    expected = 0.1 * p * (p.log() + spread) / 2
    expected[2] = 0
    assert torch.allclose(model.table.grad, expected, atol=1e-9)
    assert output.signals["entropy"].item() == pytest.approx(spread[:2].mean().item())
    assert output.signals["zero_advantage"] == 1


# --- equal settings ---------------------------------------------------------------------------------------------------
def gradient(model, data, config):
    model.zero_grad()
    output = PolicyGradient(config)(model, Batch(data, np.arange(4)))
    output.loss.backward()
    return [p.grad.clone() for p in model.parameters()], output


def test_at_ratio_one_the_surrogates_have_one_gradient():
    model = tiny()
    data = rollouts(model)
    found = {how: gradient(model, data, PolicyConfig(surrogate=how, kl=0.0, mean_over="tokens")) for how in ("log", "ratio", "clip")}
    for how in ("ratio", "clip"):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found["log"][0], found[how][0], strict=True))
    signals = found["clip"][1].signals
    assert signals["ratio"].item() == pytest.approx(1, abs=1e-5)
    assert signals["ratio_deviation"].item() < 1e-5
    assert signals["clip_share"] == 0


def test_an_unmoved_policy_pays_no_kl():
    model = tiny()
    data = rollouts(model)
    with_kl = gradient(model, data | {"reference": data["logprobs"]}, GRPO)
    without = gradient(model, data, PolicyConfig(kl=0.0))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(with_kl[0], without[0], strict=True))
    assert with_kl[1].signals["kl"].item() == pytest.approx(0, abs=1e-6)


def test_the_signals_and_the_loss_away_from_ratio_one():
    model = Table(LOGITS)
    batch = batch_of([(1, 2), (0, 0)], torch.tensor([1.0, -2.0], dtype=torch.float64))
    batch.data["logprobs"] = batch.data["logprobs"] - torch.tensor([[0.5, 0.0] + [0.0] * 6, [-0.5, 0.5] + [0.0] * 6])
    batch.data["reference"] = batch.data["logprobs"] + 0.3 * batch.data["loss_mask"]
    output = PolicyGradient(PolicyConfig(kl=0.1))(model, batch)
    ratios = np.array([[math.exp(0.5), 1], [math.exp(-0.5), math.exp(0.5)]])
    paid = np.minimum(ratios * [[1], [-2]], ratios.clip(0.8, 1.2) * [[1], [-2]])
    difference = np.array([[-0.5, 0], [0.5, -0.5]]) + 0.3
    penalty = np.exp(difference) - difference - 1
    assert output.loss.item() == pytest.approx(-(paid - 0.1 * penalty).mean())
    assert output.per_sample.tolist() == pytest.approx((-(paid - 0.1 * penalty).mean(1)).tolist())
    signals = {k: v.item() for k, v in output.signals.items()}
    assert signals["ratio"] == pytest.approx(ratios.mean())
    assert signals["ratio_deviation"] == pytest.approx(math.exp(0.5) - 1)
    assert signals["clip_share"] == 0.5  # the first token, and the third; the fourth moved the paying way's other side
    assert signals["kl"] == pytest.approx(penalty.mean())
    assert signals["advantage"] == 1.5
    assert signals["zero_advantage"] == 0


class Once(Unsampled):
    def __init__(self, batches):
        self.batches = iter(batches)

    def stage(self):
        return Stage("all", 0)

    def next(self):
        return next(self.batches)


@pytest.mark.parametrize("over", ["tokens", "rows", "length"])
def test_micro_batches_of_unequal_length_add_up(over):
    data = rollouts(tiny())
    data["reference"] = data["logprobs"] - 0.1 * data["loss_mask"]
    after = []
    for splits in ([[0, 1, 2, 3]], [[1], [0, 2, 3]]):
        model = tiny()
        batches = [Batch({k: v[i] for k, v in data.items()}, np.array(i)) for i in splits]
        objective = PolicyGradient(PolicyConfig(mean_over=over, max_tokens=9, entropy=0.01))
        Trainer(model, Once(batches), objective, optimizer=SGD(lr=1.0), schedule=Constant(), clip=None, budget=Budget(steps=1),
                accumulate=len(splits)).run()  # fmt: skip
        after.append([p.detach() for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*after, strict=True))


def test_named_settings_and_bad_input():
    assert (DAPO.clip_high, DAPO.mean_over, DAPO.kl) == (0.28, "tokens", 0)
    assert REINFORCE.surrogate == "log"
    assert (relift(8).surrogate, relift(8).mean_over, relift(8).max_tokens, relift(8).kl) == ("ratio", "length", 8, 0)
    with pytest.raises(BadInput, match=r"PolicyConfig\.kl: found 0.04 without a reference"):
        gradient(tiny(), rollouts(tiny()), GRPO)
    for wrong in ({"surrogate": "clipped"}, {"mean_over": "token"}, {"kl": -1}, {"clip_low": float("nan")}, {"max_tokens": 0}):
        with pytest.raises(BadInput, match=f"PolicyConfig.{next(iter(wrong))}"):
            PolicyConfig(**wrong)
