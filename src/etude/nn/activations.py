"""Activation checkpointing (Chen et al., arXiv 1604.06174): a block keeps its inputs alone and is computed again in the backward pass.

The numbers are the same bit for bit, draws such as dropout's included; memory falls from every block's insides to one block's, for about
a third more operations (half, beside LoRA), which the ledger counts.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from etude.errors import BadInput
from etude.nn.transformer import Block

M = TypeVar("M", bound=nn.Module)


def checkpoint_activations(model: M) -> M:
    """Switches it on for every block of a transformer, own or pretrained, in the model itself. Returns it.

    A model with a method `checkpoint_activations` does it itself. Raises BadInput for a model without such blocks.
    """
    itself = getattr(model, "checkpoint_activations", None)
    if callable(itself):
        itself()
        return model
    blocks = [m for m in model.modules() if isinstance(m, Block) and type(m).forward is Block.forward]
    if not blocks:
        expected = "a transformer or a pretrained model, whose blocks can be computed again"
        raise BadInput("activation_checkpointing", f"it for a {type(model).__name__}", expected)
    for block in blocks:
        block.checkpointing = True
    return model
