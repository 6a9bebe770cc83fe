"""What a model makes of each sample of a stream: its hidden states after some of its blocks, averaged over positions.

Shapes: N samples, B in a batch, T positions, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from etude.engine.protocols import Batch
from etude.engine.run import Run, shapes_of
from etude.errors import BadInput

AT_ONCE = 4
"""Batches of the stream embedded together: without gradients they need less memory than one that is trained on."""


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """A model's blocks: its longest list of modules. Raises BadInput without one."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise BadInput("model", f"a {type(model).__name__} without a list of blocks", "a model with one, such as `blocks`")
    return max(lists, key=len)


def block_at(model: nn.Module, depth: float) -> nn.Module:
    """The block after which a share `depth` of the blocks has been passed, the first at least.

    Raises BadInput for a share outside (0, 1], and as `blocks_of` does.
    """
    if not 0 < depth <= 1:
        raise BadInput("depth", repr(depth), "a share of the model's blocks, above 0 and at most 1")
    blocks = blocks_of(model)
    return blocks[max(1, round(depth * len(blocks))) - 1]


def mean_hidden(run: Run, depth: float = 1.0) -> np.ndarray:
    """[N, D] float32: the present model's hidden states of every sample of the stream's source, after a share `depth` of its blocks,
    averaged over the positions that are no filling; charged as "prepare".

    The run's objective calls the model, so that inputs are what it is trained on; the pass ends at the block, and what lies behind it
    costs nothing. Raises BadInput for a model without blocks, samples of several rows, or rows that hold no tensors yet (prompts).
    """
    block, found = block_at(run.model, depth), []
    batch_size = AT_ONCE * int(getattr(run.stream, "batch_size", 1))
    with run.measuring():
        for batch in run.stream.batches_of(None, batch_size):
            if not any(isinstance(value, Tensor) for value in batch.data.values()):
                raise BadInput("data", "rows without tensors, such as prompts", "what the model reads, or embeddings of one's own")
            batch = batch.to(run.device)
            with run.counted(("embed", *shapes_of(batch.data)), "prepare"):
                hidden = _hidden_after(block, run, batch)
            run.ledger.charge("prepare", tokens=batch.num_tokens, samples=len(batch))
            found.append(mean_over_positions(hidden, batch).cpu().numpy())
    return np.concatenate(found)


class _Reached(Exception):
    """The block has been passed; its output is known."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def _hidden_after(block: nn.Module, run: Run, batch: Batch) -> Tensor:
    def leave(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        raise _Reached(output if isinstance(output, Tensor) else output[0])

    hook = block.register_forward_hook(leave)
    try:
        run.objective_of(batch)(run.model, batch, None)
    except _Reached as reached:
        return reached.hidden
    finally:
        hook.remove()
    raise BadInput("model", f"a {type(block).__name__} that its forward pass does not call", "blocks that are called as modules")


def mean_over_positions(hidden: Tensor, batch: Batch) -> Tensor:
    """hidden [B, T, D] -> [B, D] float32, over the positions of `attention_mask` [B, T], or before `lengths` [B], or all."""
    if hidden.ndim != 3 or len(hidden) != len(batch):
        found = f"hidden states of shape {list(hidden.shape)} for {len(batch)} samples"
        raise BadInput("model", found, "one row of positions a sample: [samples, positions, width]")
    mask, lengths = batch.data.get("attention_mask"), batch.data.get("lengths")
    if mask is None or mask.shape != hidden.shape[:2]:
        if lengths is None:
            return hidden.float().mean(1)
        mask = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    weights = mask.to(torch.float32).unsqueeze(-1)
    return (hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1)
