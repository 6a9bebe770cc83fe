"""Key recall: pairs of a key and a value, then one of the keys. Prompt: `ab=7 qx=3 tr=9 ; qx=`. Answer: `3`."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

import numpy as np

from etude.data.tasks.answers import whole_number
from etude.data.tasks.family import Family


class KeyRecall(Family):
    """difficulty: how many pairs, with different keys of two letters and values of one digit."""

    name = "key-recall"
    difficulties = tuple(range(1, 33))

    def draw(self, difficulty: int, rng: np.random.Generator) -> tuple[str, str, dict[str, Any]]:
        letters = string.ascii_lowercase
        keys = [letters[n // 26] + letters[n % 26] for n in rng.choice(26 * 26, difficulty, replace=False)]
        values = [int(v) for v in rng.integers(0, 10, difficulty)]
        asked = int(rng.integers(difficulty))
        pairs = " ".join(f"{k}={v}" for k, v in zip(keys, values, strict=True))
        return f"{pairs} ; {keys[asked]}=", str(values[asked]), {"value": values[asked]}

    def right(self, data: Mapping[str, Any], answer: str) -> bool:
        return whole_number(answer) == data["value"]
