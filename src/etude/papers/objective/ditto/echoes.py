"""Rows that are there to be copied: a stretch of random tokens, again and again.

A large language model's induction heads find what followed the last time that a token stood there, which takes two layers and far more
training than two cores have time for. Where a token comes with the one before it (`TransformerConfig.shifted`) one layer does and it is
learnt soon. Rows that say a stretch of random tokens again and again, by which Olsson et al. 2022, arXiv 2209.11895, also measure such
heads, are a reason to learn it: windows of 160 tokens of running text are hardly one. No sentence of a text is among them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from etude.data.sources import WindowSource
from etude.engine.streams import numpy_rng


class Echoes:
    """A source's windows, a share of them replaced by a stretch of 8 to 59 random tokens, again and again. Which, the seed says.

    The tokens are drawn one by one from the text, so that they are as frequent as there.
    """

    def __init__(self, source: WindowSource, share: float, seed: int) -> None:
        self.source, self.share, self.seed = source, share, seed

    def __len__(self) -> int:
        return len(self.source)

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        data, text = self.source.get(ids), self.source.tokens
        for row, number in enumerate(ids.tolist()):
            rng = numpy_rng(self.seed, "echo", number)
            if rng.random() < self.share:
                stretch = text[rng.integers(len(text), size=rng.integers(8, 60))].astype(np.int64)
                data["tokens"][row] = torch.from_numpy(np.resize(stretch, data["tokens"].shape[1]))
        return data
