"""INGENIOUS: pre-training on a quarter of the data, drawn anew again and again, likelier what covers the rest.

Samples are embedded by the model itself, compared inside random parts of the data, and put in an order by facility location; what each
adds to the coverage when its turn comes is its importance. Subsets are drawn by importance, never cut off at the top.

    g(e | S) = f(S + e) - f(S),   f(S) = sum_i max_{j in S} cos(i, j)          p[e] ~ 1 + g + g^2 / 2

    etude.train(model, data, methods=[Ingenious(share=0.25)])                  # or use = "ingenious" in a recipe
    Ingenious(embeddings=vectors)                                              # [N, D] of one's own, or a .npy file
    ranking = ranked(vectors, partition_size=2_000, rng=rng)                   # alone: samples with their gains
    chosen = drawn(ranking, share=0.25, temperature=1.0, rng=rng)

Source: Renduchintala et al. 2023, arXiv 2305.06677; authors' code Efficient-AI/ingenious at 932ddde.
Scaled down: 0.1M parameters on windows of 64 characters instead of BERT on 41.5 million, half of the pool near copies of 2 % of it. It
still tests the claim, which is about what a subset drawn by coverage is worth beside one drawn evenly, at equal updates.
"""

from etude.papers.order.ingenious.importance import drawn, ranked, taylor_softmax
from etude.papers.order.ingenious.sampler import ImportanceDraw, Ingenious, SubsetDraw
from etude.papers.order.ingenious.settings import Settings
from etude.papers.order.ingenious.study import STUDY

__all__ = ["STUDY", "ImportanceDraw", "Ingenious", "Settings", "SubsetDraw", "drawn", "ranked", "taylor_softmax"]
