"""Task hinting: a transformer that also practises a part of the task carries it over to longer inputs.

Every batch holds rows of the task and rows of a hint, a smaller question about the same kind of input, each named by its first word:

    sort 5 2 9: 2 5 9          successor 5 2 9: 2 5          count 5 2 9: 9 2          fill 5 2 9: 2 _ 9 5

Loss: the next token's, on answers alone (after the number asked about, in a hint). The hints' share of a batch is `share`; tests never
hold a hint. The successor (the smallest number of the list above the one named; of numbers that come twice, the next that is larger) is
what sorting does at each step, whatever the length. A switch of its own makes attention sharper with length: scores times
s(n) = 1 + b ln n over n tokens, b learnt (`PositionFree(config, tempered=True)`).

    rows = MixtureSource({"task": task_rows, "hints": hint_rows})            # or [data.domains.NAME] in a recipe
    etude.train(model, rows, methods=[TaskHinting(share=0.5)])               # share=[0.5, 0.0]: less and less over the run

Source: Awasthi and Gupta 2023, arXiv 2310.00726; no authors' code was found.
Scaled down: 0.2M parameters instead of a network of width 1,024, lists of 2 to 8 instead of up to 20. It tests what the same rows of the
task come to on longer lists with and without hints beside them, but not where the paper does: its network sorts next to no longer list
without hints, ours two in five of four times the length, which leaves a hint less to mend.
"""

from etude.papers.order.task_hinting.arms import Lesson
from etude.papers.order.task_hinting.model import PositionFree, sharpness
from etude.papers.order.task_hinting.sampler import HintMixture, TaskHinting, share_at, weights_of
from etude.papers.order.task_hinting.settings import Settings
from etude.papers.order.task_hinting.study import STUDY

__all__ = ["STUDY", "HintMixture", "Lesson", "PositionFree", "Settings", "TaskHinting", "share_at", "sharpness", "weights_of"]
