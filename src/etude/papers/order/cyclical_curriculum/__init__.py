"""Cyclical curriculum learning: the amount of data an epoch shows swings between a small, easy-leaning part and all of it.

A model trained as usual tells how easy each sample is. A fresh model then trains in short epochs of swinging size; a small one
is drawn without replacement, the easier the likelier, a whole one is a whole epoch as ever. Samples seen are those of T epochs.

    n = sp, sp / alpha, ... up to ep, then times alpha down to sp, ... until the sizes add up to T     here: start, end, factor
    P(i drawn next) = s[i] / sum of s of those left,    s[i] = 1 / l[i]  or  lambda exp(-lambda l[i])      l: loss of sample i

Source: Kesgin and Amasyali 2022, arXiv 2202.05531; authors' code CyclicalCurriculum/Cyclical-Curriculum at 90bfae0
(ChangeDatasize.py, Trains.py, example/cifar.ipynb).
Scaled down: 1,097 digits with 15 % wrong labels and 3,500 MNIST-1D signals instead of 18 image and text sets, networks of
10k parameters. It still tests the claim, which is about which samples are seen how often: equal samples, one network, one start.

    keep = KeepLosses()                                        # scores.KeepLosses: the trained model's loss on every sample
    etude.train(first_model, data, methods=[keep])
    etude.train(model, data, methods=[CyclicalCurriculum(easy_scores(keep.losses))])
    etude.train(model, data, methods=[CyclicalCurriculum()])   # self-paced: no first model
"""

from etude.papers.order.cyclical_curriculum.pacing import Pacing
from etude.papers.order.cyclical_curriculum.sampler import CyclicalCurriculum, PacedDraw
from etude.papers.order.cyclical_curriculum.scores import easy_scores, hard_scores
from etude.papers.order.cyclical_curriculum.study import STUDY, Settings

__all__ = ["STUDY", "CyclicalCurriculum", "PacedDraw", "Pacing", "Settings", "easy_scores", "hard_scores"]
