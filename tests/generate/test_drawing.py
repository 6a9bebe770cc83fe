import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude.engine.protocols import Sampling
from etude.errors import BadInput
from etude.generate.drawing import CHUNK, Uniforms, check, draw, kept_tokens

PROBABILITIES = torch.tensor([[0.1, 0.4, 0.2, 0.3]])


def _draw(u: float, **sampling):
    return draw(PROBABILITIES.log(), Sampling(**sampling), torch.tensor([u], dtype=torch.float64))


@pytest.mark.parametrize(
    ("u", "token"), [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.4999, 1), (0.5001, 2), (0.6999, 2), (0.7001, 3), (1 - 2**-33, 3)]
)
def test_inverting_the_running_sum_by_hand(u, token):
    drawn = _draw(u)
    assert drawn.tokens.tolist() == [token]
    assert drawn.logprobs.item() == pytest.approx(math.log(PROBABILITIES[0, token]), abs=1e-6)
    assert drawn.kept is None


def test_temperature_by_hand():
    # Squared and divided by their sum: 1, 16, 4, 9 of 30.
    drawn = _draw(17.5 / 30, temperature=0.5)
    assert drawn.tokens.tolist() == [2]
    assert drawn.logprobs.item() == pytest.approx(math.log(4 / 30), abs=1e-6)


def test_logits_in_half_precision_lose_no_more():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    u = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for sampling in (Sampling(temperature=0.7, top_p=0.9), Sampling(temperature=0)):
        half, whole = draw(logits, sampling, u), draw(logits.float(), sampling, u)
        assert torch.equal(half.tokens, whole.tokens)
        assert torch.equal(half.logprobs, whole.logprobs)


def test_greedy_is_the_likeliest_with_its_log_probability_at_one():
    for uniforms in (None, torch.zeros(1, dtype=torch.float64)):
        drawn = draw(PROBABILITIES.log(), Sampling(temperature=0), uniforms)
        assert drawn.tokens.tolist() == [1]
        assert drawn.logprobs.item() == pytest.approx(math.log(0.4), abs=1e-6)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (1, 1.0, [1]), (2, 1.0, [1, 3]), (9, 1.0, [0, 1, 2, 3]), (0, 0.39, [1]), (0, 0.41, [1, 3]), (0, 0.71, [1, 2, 3]),
        (0, 0.91, [0, 1, 2, 3]), (0, 1.0, [0, 1, 2, 3]), (3, 0.78, [1, 2, 3]), (3, 0.77, [1, 3]), (0, 1e-9, [1]),
    ],
)  # fmt: skip
def test_cuts_by_hand(top_k, top_p, kept):
    # After top_k = 3 the shares are 4/9, 3/9, 2/9, so that the first two hold 0.777...
    assert kept_tokens(PROBABILITIES.log(), top_k, top_p).nonzero()[:, 1].tolist() == kept


def test_equal_tokens_are_cut_by_id():
    assert kept_tokens(torch.zeros(1, 5), 2, 1.0).nonzero()[:, 1].tolist() == [0, 1]


def test_a_cut_draw_stays_inside_and_its_log_probability_is_the_full_softmaxs():
    drawn = _draw(0.6, top_k=2)  # 4/7 for token 1, then token 3
    assert drawn.tokens.tolist() == [3]
    assert drawn.logprobs.item() == pytest.approx(math.log(0.3), abs=1e-6)
    assert drawn.kept.tolist() == [[False, True, False, True]]


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    for u in (0.0, 0.4999, 0.5, 0.999999, 1 - 2**-33):
        token = draw(logits, Sampling(), torch.tensor([u], dtype=torch.float64)).tokens.item()
        assert token == (1 if u < 0.5 else 3)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=9), st.floats(0.2, 3), st.integers(0, 9), st.floats(0.05, 1), st.floats(0, 1 - 2**-33)
)
def test_drawn_tokens_are_kept_and_kept_sets_are_minimal(logits, temperature, top_k, top_p, u):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    row = torch.tensor([logits])
    drawn = draw(row, sampling, torch.tensor([u], dtype=torch.float64))
    full = (row.double() / temperature).softmax(-1)[0]
    assert drawn.logprobs.item() == pytest.approx(full[drawn.tokens.item()].log().item(), abs=1e-4)
    if drawn.kept is None:
        return
    kept = drawn.kept[0]
    assert kept[drawn.tokens.item()]
    if not kept.all():
        assert full[kept].min() >= full[~kept].max() - 1e-7
    pool = full.sort(descending=True).values[: top_k or None]
    assert int(kept.sum()) <= len(pool)
    share = full[kept].sort(descending=True).values / pool.sum()
    assert share.sum() >= top_p - 1e-6
    assert len(share) == 1 or share[:-1].sum() < top_p + 1e-6


def test_draws_follow_the_distribution():
    uniforms = Uniforms(0, [(0, i) for i in range(4000)])
    logits = PROBABILITIES.log().expand(4000, -1)
    counts = draw(logits, Sampling(), uniforms.at(0)).tokens.bincount(minlength=4) / 4000
    assert (counts - PROBABILITIES[0]).abs().max() < 0.03  # four standard deviations


def test_numbers_belong_to_a_sample():
    several, alone = Uniforms(7, [(0, 0), (5, 1), (5, 2)]), Uniforms(7, [(5, 1)])
    for position in (0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 2):
        numbers = several.at(position)
        assert numbers[1] == alone.at(position)[0]
        assert len(set(numbers.tolist())) == 3
        assert ((numbers >= 0) & (numbers < 1)).all()
    assert Uniforms(8, [(5, 1)]).at(0)[0] != alone._drawn[0, 0]
    assert np.isclose(Uniforms(0, [(i, 0) for i in range(500)]).at(3).mean(), 0.5, atol=0.06)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -0.1}, "Sampling.temperature: found -0.1, expected a number >= 0"),
        ({"temperature": math.nan}, "Sampling.temperature: found nan, expected a number >= 0"),
        ({"top_k": -1}, "Sampling.top_k: found -1, expected a whole number >= 0"),
        ({"top_p": 0.0}, "Sampling.top_p: found 0.0, expected a number over 0, at most 1"),
        ({"max_tokens": 0}, "Sampling.max_tokens: found 0, expected a whole number >= 1"),
        ({"stop_strings": ("",)}, "Sampling.stop_strings: found an empty text, expected texts of at least one character"),
    ],
)
def test_sampling_out_of_range(change, message):
    with pytest.raises(BadInput) as caught:
        check(Sampling(**change))
    assert str(caught.value) == message
