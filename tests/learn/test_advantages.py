"""Advantages: by hand, by a naive loop, by brute force."""

import numpy as np
import pytest
import torch

from etude.engine.streams import generator
from etude.errors import BadInput
from etude.learn.advantages import Overlong, Unfinished, check_groups, gae, group_advantages, whitened
from etude.learn.estimators import GeneralisedAdvantages, GroupAdvantages

PROMPTS = np.array([7, 3, 7, 3])
REWARDS = torch.tensor([1.0, 0.0, 0.0, 4.0])


def test_by_hand_whatever_the_order():
    def found(**settings):
        return group_advantages(REWARDS, PROMPTS, 2, **settings)[0].tolist()

    assert found(by_std=False) == [0.5, -2, -0.5, 2]
    assert found(baseline="none", by_std=False) == REWARDS.tolist()
    assert found(baseline="batch", by_std=False) == [-0.25, -1.25, -1.25, 2.75]
    assert found(baseline="leave-one-out", by_std=False) == [1, -4, -1, 4]
    deviations = [0.5**0.5, 8**0.5]  # of {1, 0} and {0, 4}, divisor 1
    assert found(eps=0) == pytest.approx([0.5 / deviations[0], -2 / deviations[1], -0.5 / deviations[0], 2 / deviations[1]])


@pytest.mark.parametrize("baseline", ["none", "batch", "group", "leave-one-out"])
def test_equal_rewards_are_not_blown_up_by_a_deviation_that_is_none(baseline):
    prompts = np.repeat([0, 1], 4)
    alike, zero = group_advantages(torch.ones(8), prompts, 4, baseline=baseline)
    assert alike.tolist() == [1.0 if baseline == "none" else 0.0] * 8
    assert bool(zero.all())
    mixed, zero = group_advantages(torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 1]), prompts, 4, baseline=baseline)
    assert mixed[:4].tolist() == [{"none": 1.0, "batch": 0.25}.get(baseline, 0.0)] * 4
    assert float(mixed.abs().max()) < 3
    assert zero.tolist() == [True] * 4 + [False] * 4


def test_leave_one_out_is_the_mean_of_the_others():
    rewards = torch.rand(10, generator=generator(0, "r"), dtype=torch.float64)
    found, _ = group_advantages(rewards, np.repeat([0, 1], 5), 5, baseline="leave-one-out", by_std=False)
    for i in range(10):
        others = [float(rewards[j]) for j in range(i // 5 * 5, i // 5 * 5 + 5) if j != i]
        assert found[i].item() == pytest.approx(float(rewards[i]) - np.mean(others))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3])
@pytest.mark.parametrize("settings", [{}, {"by_std": False}, {"baseline": "leave-one-out"}])
def test_equal_rewards_teach_exactly_nothing_and_are_marked(value, settings):
    rewards = torch.tensor([value] * 7 + [0.0] * 6 + [1.0])
    found, zero = group_advantages(rewards, np.repeat([0, 1], 7), 7, **settings)
    assert found[:7].tolist() == [0] * 7
    assert zero.tolist() == [True] * 7 + [False] * 7
    assert found[7:].abs().min() > 0


def test_groups_are_asserted():
    check_groups(PROMPTS, 2)
    with pytest.raises(BadInput, match="prompt 3: found 1 rollouts, expected the 2 of its group"):
        check_groups(np.array([7, 3, 7, 7]), 2)
    with pytest.raises(BadInput, match="prompt 7: found 2 rollouts, expected the 4"):
        check_groups(np.array([7, 7, 9, 9, 9, 9]), 4)
    with pytest.raises(BadInput, match="prompt 3: reward: found nan"):
        group_advantages(torch.tensor([1.0, float("nan"), 0, 0]), PROMPTS, 2)
    with pytest.raises(BadInput, match="groups of 1"):
        GroupAdvantages().check(1)
    GroupAdvantages(baseline="none", by_std=False).check(1)
    with pytest.raises(BadInput, match=r"GroupAdvantages\.baseline"):
        GroupAdvantages(baseline="groups")


def naive(rewards, values, gamma, lam):
    """The double sum of the definition."""
    n = len(rewards)
    nexts = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * nexts[t] - values[t] for t in range(n)]
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(n - t)) for t in range(n)]


def test_gae_against_a_naive_loop_with_gaps():
    rng = generator(0, "gae")
    rewards, values = (torch.randn(5, 12, generator=rng, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(5, 12, generator=rng) > 0.4
    found, returns = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    for row in range(5):
        on = mask[row]
        expected = naive(rewards[row][on].tolist(), values[row][on].tolist(), 0.9, 0.8)
        assert found[row][on].tolist() == pytest.approx(expected)
        assert returns[row][on].tolist() == pytest.approx([a + v for a, v in zip(expected, values[row][on].tolist(), strict=True)])
    assert not found[~mask].any()
    assert not returns[~mask].any()


def test_gae_at_its_limits():
    rewards, values, mask = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.5, 0.7]]), torch.ones(1, 3, dtype=torch.bool)
    assert torch.allclose(gae(rewards, values, mask, gamma=1, lam=1)[0], 1 - values)  # the return less the value
    assert torch.allclose(gae(rewards, values, mask, gamma=1, lam=0)[0], torch.tensor([[0.3, 0.2, 0.3]]))  # one step


def test_whitening():
    values, mask = torch.randn(4, 6, generator=generator(0, "w")) * 3 + 2, torch.rand(4, 6, generator=generator(0, "m")) > 0.3
    found = whitened(values, mask)
    assert found[mask].mean().item() == pytest.approx(0, abs=1e-6)
    assert found[mask].var(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    assert not found[~mask].any()
    assert torch.allclose(whitened(values, mask, centre=False)[mask], values[mask] / values[mask].std(unbiased=False))


def test_length_shaping_by_hand():
    overlong = Overlong(max_tokens=20, margin=4)
    assert [overlong(n, "length", 1.0) for n in (10, 16, 17, 19, 20, 25)] == [0, 0, -0.25, -0.75, -1, -1]
    assert [Unfinished()(5, f, 10.0) for f in ("stop", "length", "context")] == [0, -20, -20]  # -10 in the place of the 10
    with pytest.raises(BadInput, match=r"Overlong\.margin"):
        Overlong(max_tokens=4, margin=5)


def test_the_kl_in_the_reward():
    mask = torch.tensor([[False, True, True]])
    data = {
        "loss_mask": mask, "step_rewards": torch.tensor([[0.0, 0.0, 10.0]]), "values": torch.tensor([[9.0, 1.0, 2.0]]) * mask,
        "logprobs": torch.tensor([[0.0, -1.0, -2.0]]), "reference": torch.tensor([[0.0, -1.5, -1.0]]),
    }  # fmt: skip
    GeneralisedAdvantages(kl=0.1, lam=1, whiten=False)(data, np.array([0]), 1)
    # Penalties 0.1 (-1 + 1.5) and 0.1 (-2 + 1): returns 10 + 0.1 and 10 + 0.1 - 0.05.
    assert data["returns"][0].tolist() == pytest.approx([0, 10.05, 10.1])
    assert data["advantages"][0].tolist() == pytest.approx([0, 9.05, 8.1])
    assert data["kl_reward"].item() == pytest.approx(0.05)
    for bad in ({"gamma": 1.1}, {"lam": -0.1}, {"kl": -1}):
        with pytest.raises(BadInput, match="GeneralisedAdvantages"):
            GeneralisedAdvantages(**bad)
