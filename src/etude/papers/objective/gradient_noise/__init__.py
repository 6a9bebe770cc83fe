"""Gradient noise: Gaussian noise of falling variance on every gradient, so that a very deep net leaves a poor start.

Nothing else of the training changes. At update t (from 0, over the whole run, never anew in an epoch), after clipping:

    g <- g + N(0, s[t]), independently per weight        s[t] = eta / (1 + t) ** gamma        s is the variance, gamma = 0.55

Source: Neelakantan et al. 2015, arXiv 1511.06807, section 3 (eta from {0.01, 0.3, 1.0}) and section 4.1 (20 hidden layers of
50 rectified units, plain gradient descent, zero and other starts).
Scaled down: 8 x 8 digits instead of 28 x 28, the same 20 hidden layers of 50. It still tests the claim, because that is about
depth and start: a net whose weights are all zero has no gradient but at its last bias, whatever the pictures. In place of the
networks that multiply binary numbers (the abstract's 7,000 restarts) a small recurrent net learns the parity of bit strings: like them it
succeeds from some starts only, and what is counted is from how many.

    etude.train(model, data, methods=[GradientNoise(eta=0.01)])
    optimizer = noisy(torch.optim.Adam(model.parameters()), eta=0.01)      # in a loop of one's own
"""

from etude.papers.objective.gradient_noise.noise import GradientNoise, add_noise, mean_variance, noise_variance, noisy
from etude.papers.objective.gradient_noise.study import CPU, PAPER, SOURCES, STUDY, Settings, set_start

__all__ = [
    "CPU", "PAPER", "SOURCES", "STUDY", "GradientNoise", "Settings", "add_noise", "mean_variance", "noise_variance", "noisy", "set_start",
]  # fmt: skip
