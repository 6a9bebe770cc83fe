"""The equations of sharpening: what is rewarded, when enough was drawn, what is regressed on, how sharp a model is.

    self-reward   r(x, y) = log pi_base(y | x), over the whole sequence, its end token included                       eq. 2
    coverage      C = E_x[1 / pi_base(y*(x) | x)],  y*(x) = argmax_y pi_base(y | x)                                   eq. 6
    sharpened     (e, d): pi(y*(x) | x) >= 1 - d on all but a share e of the prompts                                  definition 3.1
    adaptive N    inf {k: 1 / max_{j <= k} pi_base(y_j | x) <= k / mu},  mu = ln(2 / d)                               eq. 10, theorem D.1
    RLHF          argmax E_pi[r] - b KL(pi || pi_base), which is proportional to pi_base^(1 + 1 / b)                  eq. 3
    regression    (b log[pi/pi_base](y) - b log[pi/pi_base](y') - [r(y) - r(y')])^2, + a log pi(y') with exploration  eq. 8, algorithm 1

Source: Huang et al. 2024, arXiv 2412.01951. As printed, algorithm 1 has the square with the other sign; its proof (appendix J.2.2)
minimises the sum of both, as here.
Shapes: N samples, P prompts, Y responses, B pairs. Log-probabilities are in nats.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from etude.engine.protocols import Completion, Generator, Sampling
from etude.errors import BadInput
from etude.learn.pairs import CHOSEN, REJECTED
from etude.learn.preference import PairLogprobs


def likelihood(samples: Sequence[Completion]) -> list[float]:
    """log pi_base of each finished sample [N]. Raises BadInput for one without log-probabilities or without its end token."""
    return [_sequence(number, sample) for number, sample in enumerate(samples)]


def mean_likelihood(samples: Sequence[Completion]) -> list[float]:
    """The same per token (appendix A.2): does not favour short answers. Another target, whose maximum is not y*."""
    return [score / len(sample.tokens) for score, sample in zip(likelihood(samples), samples, strict=True)]


def majority(samples: Sequence[Completion]) -> list[float]:
    """How many of the samples give a sample's answer (appendix A.2)."""
    likelihood(samples)  # the same samples are refused
    counts = Counter(sample.text for sample in samples)
    return [float(counts[sample.text]) for sample in samples]


SELF_REWARDS: Mapping[str, Callable[[Sequence[Completion]], list[float]]] = {
    "likelihood": likelihood,
    "mean likelihood": mean_likelihood,
    "majority": majority,
}


def _sequence(number: int, sample: Completion) -> float:
    if sample.logprobs is None:
        raise BadInput(f"sample {number}", "no log-probabilities", "those of the model that drew it: they are the reward")
    if sample.finish != "stop":
        raise BadInput(
            f"sample {number}", f"unfinished after {len(sample.tokens)} tokens", "one with its end token: only whole sequences compare"
        )
    return float(np.asarray(sample.logprobs, dtype=np.float64).sum())


def check_base(generator: Generator, sampling: Sampling) -> None:
    """Raises BadInput for a generator without log-probabilities, and for any sampling but the base model's own distribution."""
    if "logprobs" not in generator.capabilities:
        raise BadInput("generator", "one without log-probabilities", "one whose capabilities include logprobs: they are the reward")
    if sampling.temperature != 1 or sampling.top_p != 1 or sampling.top_k:
        found = f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}, top_k {sampling.top_k}"
        raise BadInput("sampling", found, "temperature 1 and nothing cut off: samples of pi_base itself")


def enough(num_samples: int, best: float, mu: float) -> bool:
    """Whether adaptive sampling stops: 1 / max pi_base <= num_samples / mu. best: the highest log pi_base among the samples so far."""
    if not mu > 0:
        raise BadInput("mu", repr(mu), "a number > 0")
    return -best <= math.log(num_samples / mu)


def stopping_parameter(delta: float) -> float:
    """mu = ln(2 / delta), for 1 - delta of the mass on y* (theorem D.1)."""
    if not 0 < delta < 1:
        raise BadInput("delta", repr(delta), "a share between 0 and 1")
    return math.log(2 / delta)


def coverage(modes: np.ndarray) -> float:
    """C from log pi_base(y* | x) of each prompt [P]. At least 1."""
    return float(np.exp(-np.asarray(modes, dtype=np.float64)).mean())


def sharpened(mass: np.ndarray, delta: float = 0.5) -> float:
    """Share of prompts with pi(y* | x) >= 1 - delta, from mass [P]. Above half of the mass greedy decoding finds y* (proposition 3.1)."""
    return float((np.asarray(mass) >= 1 - delta).mean())


def tempered(base: np.ndarray, beta: float) -> np.ndarray:
    """The optimum of KL-regularised sharpening over enumerated responses: log pi_base [..., Y] -> log of it, to the power 1 + 1 / beta."""
    _above_zero(beta)
    scaled = (1 + 1 / beta) * np.asarray(base, dtype=np.float64)
    return scaled - np.logaddexp.reduce(scaled, axis=-1, keepdims=True)


def _above_zero(beta: float) -> None:
    if not 0 < beta < float("inf"):
        raise BadInput("beta", repr(beta), "a number > 0: without the KL nothing but y* is left")


@dataclass(frozen=True, kw_only=True)
class SelfRewardRegression:
    """The pair loss of RLHF-sharpening, for `Preference`: (y, y') stand where it has (chosen, rejected), the reference is pi_base.

    beta: b, weight of the KL. optimism: a, on y' drawn from pi_base, so that what the base seldom draws gains; 0: no exploration.
    """

    beta: float
    optimism: float = 0.0
    needs_reference = True

    def __post_init__(self) -> None:
        _above_zero(self.beta)
        if not 0 <= self.optimism < float("inf"):
            raise BadInput("optimism", repr(self.optimism), "a number >= 0")

    def rewards(self, pairs: PairLogprobs) -> Tensor:
        return self.beta * pairs.log_ratios

    def __call__(self, pairs: PairLogprobs) -> Tensor:
        implied = self.beta * pairs.margin
        assert pairs.reference is not None  # `margin` has refused it
        residual = implied - (pairs.reference[:, CHOSEN] - pairs.reference[:, REJECTED])
        loss = residual.square()
        return loss + self.optimism * pairs.policy[:, REJECTED] if self.optimism else loss
