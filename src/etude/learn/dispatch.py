"""Several objectives over one data set, mixed as domains are: whatever mixes data, fixed, by loss or by reward, mixes objectives.

source = ObjectiveSource(windows, ["causal", "spans"])                      # every window once for each objective
objective = Dispatched({"causal": CausalLM(), "spans": SpanCorruption(marks)})
DataStream(source, 16, seed, sampler=FixedMixture([0.5, 0.5]))              # or OnlineMixture, or a paper's
Sometimes(SequenceUnlikelihood(50, 100), rate=0.5)                          # or, without marks, a coin for each update
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.engine.protocols import Batch, Graded, Labelled, Objective, Output, Source, Varying
from etude.engine.streams import numpy_rng
from etude.errors import BadInput, one_of
from etude.learn.language import CausalLM


class ObjectiveSource:
    """A source's samples once for each objective: sample i under objective k has the number k N + i and belongs to domain k.

    get(ids) adds "objective" [B], the number k. names: of the objectives, in `Dispatched`'s order. within: of a source with domains, each
    pair is a domain, "DOMAIN/OBJECTIVE", instead. A sample's difficulty is the same under each.
    """

    def __init__(self, source: Source, names: Sequence[str], *, within: bool = False) -> None:
        if not names or len(set(names)) < len(names):
            raise BadInput("objectives", f"names {list(names)}", "at least one, all different")
        self.source, self.size = source, len(source)
        self.domain_names: Sequence[str] = tuple(names)
        self.domains = np.repeat(np.arange(len(names)), self.size)
        if within and isinstance(source, Labelled):
            self.domain_names = tuple(f"{domain}/{name}" for domain in source.domain_names for name in names)
            self.domains += np.tile(np.asarray(source.domains) * len(names), len(names))
        if isinstance(source, Graded):
            self.difficulty = np.tile(source.difficulty, len(names))

    def __len__(self) -> int:
        return len(self.domains)

    def get(self, ids: np.ndarray) -> dict[str, Tensor]:
        ids = np.asarray(ids)
        return {**self.source.get(ids % self.size), "objective": torch.from_numpy(ids // self.size)}


class Dispatched:
    """Each sample's loss by the objective that its "objective" [B] names; the mean over all items (targets) of all of them.

    The loss of each is a signal "loss/NAME". Raises BadInput for a batch that names none.
    """

    def __init__(self, objectives: Mapping[str, Objective]) -> None:
        if not objectives:
            raise BadInput("objectives", "none", "at least one")
        self.names, self.parts = tuple(objectives), tuple(objectives.values())

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        total, weight, signals = None, 0.0, {}
        per_sample = torch.full((len(batch),), torch.nan)
        for k, rows in self._rows(batch):
            part = replace(batch, data={n: v[rows] for n, v in batch.data.items() if n != "objective"}, ids=batch.ids[rows.cpu().numpy()])
            output = self.parts[k](model, part)
            total = output.loss * output.weight if total is None else total + output.loss * output.weight
            weight += output.weight
            signals |= {f"{n}/{self.names[k]}": v for n, v in output.signals.items()} | {f"loss/{self.names[k]}": output.loss.detach()}
            if output.per_sample is not None:
                per_sample = per_sample.to(output.per_sample)
                per_sample[rows] = output.per_sample
        assert total is not None
        return Output(total / weight, per_sample, weight, signals)

    def work_of(self, batch: Batch) -> Hashable:
        """How many samples each objective has, and what its own work depends on."""
        found = []
        for k, rows in self._rows(batch):
            part, own = self.parts[k], None
            if isinstance(part, Varying):
                own = part.work_of(replace(batch, data={n: v[rows] for n, v in batch.data.items()}, ids=batch.ids[rows.cpu().numpy()]))
            found.append((k, len(rows), own))
        return tuple(found)

    def _rows(self, batch: Batch) -> list[tuple[int, Tensor]]:
        which = batch.data.get("objective")
        if which is None:
            raise BadInput("data", "samples that name no objective", "an ObjectiveSource")
        numbers = which.unique().tolist()
        if numbers[-1] >= len(self.parts):
            raise one_of("objective", str(numbers[-1]), [str(k) for k in range(len(self.parts))])
        return [(k, (which == k).nonzero().squeeze(1)) for k in numbers]


class Sometimes:
    """`objective` in a share `rate` of the updates, `otherwise` (by default next-token prediction) in the rest.

    One coin an update, for all its micro-batches. rate 0 is `otherwise` itself, bit for bit; scores for samplers, which no update
    asks for, are always its. Raises BadInput for a rate outside [0, 1].
    """

    def __init__(self, objective: Objective, rate: float, otherwise: Objective | None = None) -> None:
        if not 0 <= rate <= 1:
            raise BadInput("rate", repr(rate), "a share of the updates, 0 to 1")
        self.objective, self.rate, self.otherwise = objective, rate, otherwise or CausalLM()

    def of(self, batch: Batch) -> Objective:
        """Which of the two the batch's update is trained by."""
        return self.objective if batch.key and numpy_rng(batch.key, "coin").random() < self.rate else self.otherwise

    def __call__(self, model: nn.Module, batch: Batch, carried: Any = None) -> Output:
        return self.of(batch)(model, batch, carried)

    def work_of(self, batch: Batch) -> Hashable:
        chosen = self.of(batch)
        return chosen is self.objective, chosen.work_of(batch) if isinstance(chosen, Varying) else None
