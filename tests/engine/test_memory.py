import re

import numpy as np
import pytest
import torch
from torch import nn
from toys import ToyStream, squared, toy_model

from etude.engine import memory
from etude.engine.ledger import Budget
from etude.engine.trainer import Trainer
from etude.errors import BadInput

CPU = torch.device("cpu")


def test_a_model_is_refused_before_anything_of_it_is_allocated():
    made = []

    def make(width):
        made.append(torch.empty(0).device.type)
        return nn.Linear(width, width)

    # 2e6 ** 2 weights and 2e6 biases, 16 bytes each: 58.2 TiB.
    with pytest.raises(BadInput, match="model: found 4,000,002,000,000 parameters, which take at least 58.2 TiB to train") as refused:
        memory.sized(lambda: make(2_000_000), "model", CPU, bytes_each=16)
    assert made == ["meta"]
    assert re.fullmatch(r"a smaller model: [\d.,]+ [MGT]iB of memory are free", refused.value.expected)
    assert memory.sized(lambda: make(3), "model", CPU).weight.device == CPU


def test_a_model_that_cannot_be_built_on_paper_is_built_and_its_refused_tensor_told():
    class Stubborn(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.scale = float(torch.ones(1).sum())  # no number can be read on "meta"
            self.weight = nn.Parameter(torch.empty(width, width))

    assert memory.sized(lambda: Stubborn(3), "model", CPU).scale == 1.0
    with pytest.raises(BadInput, match="found a tensor of 14.6 TiB, expected a smaller model"):
        memory.sized(lambda: Stubborn(2_000_000), "model", CPU)


@pytest.mark.parametrize("shape", [(2_000_000, 2_000_000), (10**10, 10**10), (10**20,)])
def test_what_torch_refuses_during_a_run_is_one_line(shape):
    def hungry(model, batch, carried=None):
        torch.empty(shape)
        return squared(model, batch, carried)

    with pytest.raises(BadInput, match="^memory: found a tensor of .*, expected a smaller batch, context or model: .* are free$"):
        Trainer(toy_model(), ToyStream(), hungry, budget=Budget(steps=1)).run()


def test_other_errors_stay_what_they_are():
    with pytest.raises(MemoryError) as asked:
        np.ones(2 * 10**14)
    assert memory.refusal(asked.value) == "1.42 PiB"
    assert memory.refusal(RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ...")) == "20.00 MiB"
    assert memory.refusal(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    with pytest.raises(RuntimeError, match="mine"):
        memory.sized(lambda: (_ for _ in ()).throw(RuntimeError("mine")), "model", CPU)


def test_sizes_in_words():
    assert [memory.size(n) for n in (0, 1023, 1024, 1536, 200 * 2**20, 2**80)] == [
        "0 bytes", "1,023 bytes", "1.0 KiB", "1.5 KiB", "200 MiB", "1,048,576 EiB",
    ]  # fmt: skip
    room = memory.free(CPU)
    assert room is None or room > 2**20
