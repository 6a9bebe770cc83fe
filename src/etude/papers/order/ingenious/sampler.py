"""Subsets as a sampler, and the method that embeds, ranks and draws them."""

from __future__ import annotations

import hashlib
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from etude.data.samplers import SamplerBase, Shuffle
from etude.data.submodular import Selection, budgets, checked_embeddings
from etude.engine.protocols import Method, Source, Stage
from etude.engine.run import Run
from etude.errors import BadInput
from etude.learn.embeddings import block_at, mean_hidden
from etude.papers.order.ingenious.importance import check_partition, drawn, ranked, similarity_flops, taylor_softmax

HIDDEN = "hidden"


class SubsetDraw(SamplerBase):
    """First `warm_start` passes over all samples, then subsets of ceil(`share` x N), each shown `passes` times in shuffled orders.

    A stage is the warm start, or one subset; subclasses say which samples it holds. A share of 1 is the default shuffle, bit for bit.
    Raises BadInput for a share outside (0, 1], passes not above 0, or a warm start below 0.
    """

    def __init__(self, share: float, warm_start: float, passes: float) -> None:
        if not 0 < share <= 1:
            raise BadInput("share", repr(share), "a part of the samples: above 0 and at most 1")
        if not 0 <= warm_start < math.inf:
            raise BadInput("warm_start", repr(warm_start), "a number >= 0")
        if not 0 < passes < math.inf:
            raise BadInput("passes", repr(passes), "a number > 0")
        self.share, self.warm_start, self.passes = share, warm_start, passes

    def number(self, stage: int) -> int:
        """Of the subset that a stage shows, counted from 0; -1 for the warm start."""
        return stage - (self.warm_start > 0)

    def size(self, source: Source) -> int:
        """Of a subset."""
        return budgets([len(source)], self.share)[0]

    def subset(self, number: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        """The samples of subset `number`, different ones."""
        raise NotImplementedError

    def plan(self, stage: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        if self.share == 1:
            return Shuffle().plan(stage, source, rng)
        number = self.number(stage)
        if number < 0:
            return repeated(np.arange(len(source)), self.warm_start, rng)
        return repeated(self.subset(number, source, rng), self.passes, rng)


def repeated(ids: np.ndarray, passes: float, rng: np.random.Generator) -> np.ndarray:
    """`passes` times as many as there are, in one shuffled order after another; at least one."""
    length = max(1, round(passes * len(ids)))
    return np.concatenate([rng.permutation(ids) for _ in range(-(-length // len(ids)))])[:length]


class ImportanceDraw(SubsetDraw):
    """Subsets drawn by importance, anew for each, from a ranking that is given every `update_every` subsets."""

    def __init__(self, share: float, warm_start: float, passes: float, update_every: int, temperature: float) -> None:
        super().__init__(share, warm_start, passes)
        if update_every < 1:
            raise BadInput("update_every", repr(update_every), "a whole number >= 1")
        taylor_softmax(np.zeros(1), temperature)
        self.update_every, self.temperature = update_every, temperature
        self.ranking: list[Selection] = []

    def due(self, stage: int) -> bool:
        """Whether a new ranking is wanted before the stage."""
        number = self.number(stage)
        return self.share < 1 and number >= 0 and (number % self.update_every == 0 or not self.ranking)

    def subset(self, number: int, source: Source, rng: np.random.Generator) -> np.ndarray:
        ranked_ones = sum(len(part.items) for part in self.ranking)
        if ranked_ones != len(source):
            raise BadInput("embeddings", f"{ranked_ones} of them", f"one for each of {len(source)} samples")
        return drawn(self.ranking, self.share, self.temperature, rng)

    def state_dict(self) -> dict[str, Any]:
        return {"items": [part.items.copy() for part in self.ranking], "gains": [part.gains.copy() for part in self.ranking]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pairs = zip(state["items"], state["gains"], strict=True)
        self.ranking = [Selection(np.array(items), np.array(gains)) for items, gains in pairs]


class Ingenious(Method):
    """Training on a part of the data that is drawn anew, again and again, likelier where it covers the rest of the data.

    share:          of the samples, in a subset. 1: the baseline, bit for bit, and nothing is embedded.
    warm_start:     passes over all samples first, so that the model has something to say about them.
    passes:         over a subset, before the next is drawn.
    update_every:   subsets drawn from one ranking; then samples are embedded and ranked again by the present model.
    partition_size: most samples in one of the random parts in which they are compared: its square is kept in memory, 8 bytes each.
    depth:          share of the model's blocks after which its hidden states are taken.
    temperature:    of the importance; infinite: subsets are drawn evenly.
    eps:            of the stochastic greedy choice: each is the best of about ln(1 / eps).
    embeddings:     "hidden" (mean over positions of the present model's hidden states), or vectors of one's own, [N, D] or a .npy file
                    of them, one a sample; then no model is asked, and `depth` is not used.
    What embedding and ranking cost is charged as "prepare": tokens, FLOPs and seconds. A stage is one subset: budgets in tokens or FLOPs
    count what was prepared too; `Budget(weights={"train.samples": 1.0}, limit=...)` counts training alone.
    Raises BadInput for settings out of range, and vectors that are not finite or not one a sample.
    """

    slots = ("sampler",)
    sharded = False  # embedding leaves a forward pass at a block, and what was gathered for it would stay

    def __init__(
        self,
        share: float = 0.25,  # paper
        *,
        warm_start: float = 1.0,  # paper: one epoch
        passes: float = 2.5,  # paper: 25,000 updates of 1,024 samples on a quarter of 41.5 million
        update_every: int = 5,  # paper: 125,000 updates
        partition_size: int = 2_000,  # paper: 1,500 parts of 27,700; here one takes 32 MB
        depth: float = 0.75,  # paper: 9 of 12 layers
        temperature: float = 1.0,  # authors' code
        eps: float = 0.01,  # submodlib's default
        embeddings: Any = HIDDEN,
    ) -> None:
        self.sampler = ImportanceDraw(share, warm_start, passes, update_every, temperature)
        check_partition(partition_size)
        if not 0 < depth <= 1:
            raise BadInput("depth", repr(depth), "a share of the model's blocks, above 0 and at most 1")
        if not 0 < eps < 1:
            raise BadInput("eps", repr(eps), "a number between 0 and 1")
        self.partition_size, self.depth, self.eps = partition_size, depth, eps
        self.vectors = given(embeddings)
        self.identity = "" if self.vectors is None else hashlib.blake2b(self.vectors.tobytes(), digest_size=8).hexdigest()

    def start(self, run: Run) -> None:
        if self.vectors is None and self.sampler.share < 1:
            block_at(run.model, self.depth)
        run.set_sampler(self.sampler)

    def stage_start(self, run: Run, stage: Stage) -> None:
        if not self.sampler.due(stage.index):
            return
        begun = time.perf_counter()
        vectors = mean_hidden(run, self.depth) if self.vectors is None else self.vectors
        self.sampler.ranking = ranked(vectors, self.partition_size, run.numpy_rng("ranking", stage.index), self.eps)
        if run.count_flops:
            run.ledger.charge("prepare", flops=similarity_flops(self.sampler.ranking, vectors.shape[1]))
        run.ledger.charge("prepare", seconds=time.perf_counter() - begun)


def given(embeddings: Any) -> np.ndarray | None:
    """Vectors of one's own, checked; None for the model's hidden states. Raises BadInput for neither."""
    if isinstance(embeddings, str) and embeddings == HIDDEN:
        return None
    if isinstance(embeddings, (str, Path)):
        path = Path(embeddings)
        if path.suffix != ".npy":
            raise BadInput("embeddings", f"'{embeddings}'", f"'{HIDDEN}', or a .npy file of vectors")
        try:
            embeddings = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BadInput("embeddings", f"{path}, which cannot be read ({error})", "a .npy file of numbers, one row a sample") from error
    return checked_embeddings(embeddings)
