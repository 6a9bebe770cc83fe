"""CodeGen2's made language: its walks, and what counts as a fill there."""

import numpy as np
import pytest
import torch
from torch import nn

from etude.learn.corruption import SPARE_BYTES, Marks
from etude.papers.objective.codegen2 import STUDY
from etude.papers.objective.codegen2.chain import ChainFilling, chain

SMOKE = STUDY.scales["smoke"].settings
MARKS = Marks.of(SPARE_BYTES)


def test_a_walk_keeps_to_its_language_and_splits_are_walks_of_their_own():
    parts = {split: chain(SMOKE, 3, split) for split in ("train", "test")}
    follows = {split: {(a, b) for a, b in zip(p[:-1].tolist(), p[1:].tolist(), strict=True)} for split, p in parts.items()}
    assert follows["train"] == follows["test"]
    counts = np.bincount([a for a, _ in follows["train"]])
    assert len(counts) > 0.9 * SMOKE.letters
    assert set(counts.tolist()) <= {0, SMOKE.followers}  # a letter that none is followed by never comes
    assert not np.array_equal(parts["train"][:100], parts["test"][:100])
    assert set(zip(chain(SMOKE, 4, "test")[:-1].tolist(), chain(SMOKE, 4, "test")[1:].tolist(), strict=True)) != follows["test"]


class Knows(nn.Module):
    """Says what the last tokens of a prompt name, then the end of the span or, if it says `twice`, the same again."""

    def __init__(self, answers, twice):
        super().__init__()
        self.answers, self.twice, self.embedding = answers, twice, nn.Embedding(256, 1)

    def forward(self, tokens):
        hidden = torch.zeros(*tokens.shape, 256)
        for row, read in enumerate(tokens.tolist()):
            for prompt, answer in self.answers.items():
                if tuple(read[: len(prompt)]) == prompt:
                    hidden[row, len(prompt) - 1, answer] = hidden[row, len(prompt), answer if self.twice else MARKS.end_of_span] = 20
        return {"hidden": hidden}

    def head(self, hidden):
        return hidden


@pytest.mark.parametrize(("how", "twice", "exact"), [("spans", False, 1.0), ("spans", True, 0.0), ("left", True, 1.0)])
def test_a_hole_in_a_chain_is_filled_by_its_letter_alone(how, twice, exact):
    measure = ChainFilling(SMOKE, 3, "test", how)
    side = SMOKE.chain_context // 3
    assert {len(p) for p in measure.prompts} == {side if how == "left" else 2 * side + 4}
    answers = {tuple(p.tolist()): int(m[0]) for p, m in zip(measure.prompts, measure.middles, strict=True)}
    found = measure(Knows(answers, twice))
    assert found["chain exact"] == exact
    assert found["chain loss"] < 0.01
