"""Skill-It: draw most of what helps with what is still hard.

Skills are the domains of the data. A graph says which skill helps which; with the present loss of each it sets the mixture:

    p[i] ~ exp(eta * sum_j A[i, j] * L[j])

A is learnt by short runs before the first update, or given; L is measured on samples that are held back from training; both are charged.

    data = MixtureSource({"sums": a, "words": b, "code": c})
    etude.train(model, data, methods=[SkillIt(graph="pairs", eta=0.5, update_every=100, probe_steps=100)])

Targets alone count with `targets=["code"]` (fine-tuning); domains that are only measured are `untrained`. In a recipe: `use = "skill-it"`.
The study draws sums asked digit by digit, LEGO chains from a base that knows their first variables, and genres of a corpus.
Source: Chen et al. 2023, arXiv 2307.14430; authors' code HazyResearch/skill-it at 807b3bf.
Scaled down: networks of 0.1M parameters from scratch instead of 125M pretrained ones, for a few hundred steps. It tests one half of the
claim, how samples are shared out among skills by their losses. The other half, what a graph of skills adds, it could not test: the graphs
learnt at this size had no edge (sums, chains) or every edge (genres).
"""

from etude.papers.order.skill_it.method import SkillIt
from etude.papers.order.skill_it.mixture import by_gains, by_pairs, mixture, windowed
from etude.papers.order.skill_it.study import STUDY

__all__ = ["STUDY", "SkillIt", "by_gains", "by_pairs", "mixture", "windowed"]
