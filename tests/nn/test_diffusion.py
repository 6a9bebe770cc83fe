import math
import re

import pytest
import torch
from torch.nn import functional as F

from etude.engine.streams import generator, initialise
from etude.errors import BadInput
from etude.nn.diffusion import NoiseNet, NoiseNetConfig, time_features


def small(**changes):
    return initialise(NoiseNet(NoiseNetConfig(**({"dims": 2, "width": 8, "num_steps": 10} | changes))), 1)


def test_time_features_by_hand():
    f = time_features(torch.tensor([0, 3]), 4)
    assert f[0].tolist() == [0, 0, 1, 1]
    assert f[1].tolist() == pytest.approx([math.sin(3), math.sin(3e-4), math.cos(3), math.cos(3e-4)], rel=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_the_net_is_the_written_out_equation(tied):
    net = small(tied=tied)
    x, t = torch.randn(5, 2, generator=generator(0, "x")), torch.tensor([0, 3, 3, 9, 1])
    time = F.leaky_relu(net.time(time_features(t, 8)), 0.02)
    h = x @ net.enter.weight.T
    for i in range(3):
        block = net.blocks[0 if tied else i]
        m = F.leaky_relu(F.layer_norm(h, (8,)), 0.02) @ block.first.weight.T + time @ block.time.weight.T + block.time.bias
        h = h + F.leaky_relu(F.layer_norm(m, (8,)), 0.02) @ block.second.weight.T
    expected = F.layer_norm(h, (8,)) @ net.leave.weight.T + net.leave.bias
    assert torch.allclose(net(x, t), expected, atol=1e-6)


def test_looked_up_levels_and_one_level_for_all_equal_levels_by_row():
    net = small(tied=True)
    x, t = torch.randn(30, 2, generator=generator(0, "x")), torch.arange(30) % 10
    rows = torch.cat([net(x[i : i + 5], t[i : i + 5]) for i in range(0, 30, 5)])  # 5 <= 10 levels: not looked up
    assert torch.allclose(net(x, t), rows, atol=1e-6)
    assert torch.allclose(net(x, torch.tensor([4])), net(x, torch.full((30,), 4)), atol=1e-6)


def test_tied_blocks_are_copies_of_one_another_with_one_gradient():
    tied, free = small(tied=True, depth=4), small(depth=4)
    free.load_state_dict({name: tied.state_dict()[re.sub(r"^blocks\.\d+", "blocks.0", name)] for name in free.state_dict()})
    x, t = torch.randn(5, 2, generator=generator(0, "x")), torch.tensor([0, 3, 3, 9, 1])
    assert torch.equal(tied(x, t), free(x, t))
    for net in (tied, free):
        net(x, t).square().mean().backward()
    shared = tied.blocks[0].first.weight.grad
    assert torch.allclose(shared, sum(block.first.weight.grad for block in free.blocks), atol=1e-7)
    assert shared.abs().max() > 0


def test_sizes_of_the_net():
    def count(**changes):
        with torch.device("meta"):
            return sum(p.numel() for p in NoiseNet(NoiseNetConfig(width=128, **changes)).parameters())

    block = 2 * 2 * 128 + 2 * 128 * 128 + 128 * 128 + 128
    around = 2 * 128 + (128 * 128 + 128) + 2 * 128 + (2 * 128 + 2)
    assert count(tied=True) == around + block
    assert count(tied=False) == around + 3 * block


def test_bad_input():
    with pytest.raises(BadInput, match=r"NoiseNetConfig.width: found 7, expected an even number"):
        NoiseNetConfig(width=7)
    with pytest.raises(BadInput, match=r"NoiseNetConfig.depth: found 0, expected a whole number >= 1"):
        NoiseNetConfig(depth=0)
