"""Mode interpolation: a diffusion model is smooth, the truth is not, so it draws samples between neighbouring modes.

Its own predictions give these away. With x0_hat[t] the clean sample predicted at step t of the way back,

    x0_hat[t] = (x_t - sqrt(1 - abar[t]) e_hat) / sqrt(abar[t])        Hal(x) = mean over coordinates of var over a window of t

and samples of high Hal are dropped. A chain of models, each trained on the samples of the one before, then decays more slowly.

Source: Aithal et al. 2024, arXiv 2406.09358; mixtures, detector and recursive training as in the authors' code
(locuslab/diffusion-model-hallucination at 7cd5f358: train_toy_filter.py, toy_data.py, toy_model.py, run.sh).
Scaled down: the 25 modes of the paper in two dimensions, a narrower net and under 1 % of its training. It still tests the claim,
because truth and support are known exactly, and a shorter training hallucinates more, so that there is something to find.

The detector stands alone: `trajectory_variance(draw(model, schedule, shape, rng, record=(0, K)).clean)` for any diffusion model.
"""

from __future__ import annotations

from etude.papers.analysis.mode_interpolation.detector import auroc, keep_lowest, keep_random, removed_at, trajectory_variance
from etude.papers.analysis.mode_interpolation.modes import Modes, grid, off_support
from etude.papers.analysis.mode_interpolation.study import STUDY, Settings

__all__ = [
    "Modes", "STUDY", "Settings", "auroc", "grid", "keep_lowest", "keep_random", "off_support", "removed_at", "trajectory_variance",
]  # fmt: skip
