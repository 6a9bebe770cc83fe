"""What a method must show before a screen lists it, each on the first small recipe that it applies to (`testbeds`).

    off       switched off it is the baseline bit for bit; one that takes the place of something: its named limit, to 1e-5
    flops     the FLOPs that the ledger was charged are those counted over the whole run, within 2 %
    resume    killed with SIGKILL several times in one run and resumed, it ends in the same bits
    effect    a planted effect is found (the method at the learning rate against a hundredth of it), and none between
              two sets of seeds
    batch     a batch of 8 is 8 of 1, to 1e-4 after a few updates; where the card says why not, that is told

The card says what cannot be seen from outside: `off`, `limit` or `no_limit`, `against`, `whole_batch`.
"""

from __future__ import annotations

import copy
import math
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from etude.engine.flops import FlopCounter
from etude.engine.result import NonFinite, RunResult
from etude.errors import BadInput
from etude.evidence import jobs
from etude.evidence.estimate import HOLDS, REVERSED
from etude.papers.card import Card
from etude.recipe.config import parse
from etude.screen.candidates import BASELINE, Candidate
from etude.screen.confirming import confirm
from etude.screen.kills import kept_exactly
from etude.screen.testbeds import Testbed, placed, testbeds
from etude.screen.trial import trainer_of, with_budget, with_rate

KILLS = 4
SEEDS = 4
FEW = 3
"""Updates after which a batch of 8 and 8 of 1 are compared: later, rounding has grown into another course."""
PLANTED = 0.01
CLOSE, LIMIT, METERED = 1e-4, 1e-5, 0.02
State = Literal["met", "failed", "declared"]


@dataclass(frozen=True, kw_only=True)
class Obligation:
    """state: "declared" is what the card gives a reason for instead of something that could be seen."""

    name: str
    state: State
    said: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a method showed. testbed: where."""

    slug: str
    testbed: str
    obligations: tuple[Obligation, ...]

    @property
    def failed(self) -> list[Obligation]:
        return [o for o in self.obligations if o.state == "failed"]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": not self.failed}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Checked:
        return cls(slug=told["slug"], testbed=told["testbed"], obligations=tuple(Obligation(**o) for o in told["obligations"]))


def check(found: Card, tell: Callable[[str], None] = lambda _: None) -> Checked:
    """Holds one paper's or file's method against its obligations. tell: is told what begins.

    Raises BadInput where there is nothing to check: a program or an analysis, or a method that no testbed can take.
    """
    with tempfile.TemporaryDirectory(prefix="etude-check-") as name, jobs.one_thread():
        folder = Path(name)
        place = placed(found, testbeds(folder))
        if isinstance(place, str):
            raise BadInput(f"check, {found.slug}", place, "a method that can be added to a small recipe of text or of a table")
        bed, made = place
        asked = _Asked(found, bed, made, folder)
        done = []
        for kind, run in (("off", _off), ("flops", _flops), ("resume", _resume), ("effect", _effect), ("batch", _batch)):
            tell(f"{found.slug}: {kind}")
            try:
                state, said = run(asked)
            except (BadInput, NonFinite) as error:
                state, said = "failed", str(error)
            done.append(Obligation(name=kind, state=state, said=said))
    return Checked(slug=found.slug, testbed=bed.name, obligations=tuple(done))


@dataclass(frozen=True)
class _Asked:
    card: Card
    bed: Testbed
    made: Candidate
    folder: Path

    def train(
        self, document: Mapping[str, Any], seed: int = 0, measured: bool = True, begin: Sequence[torch.Tensor] = ()
    ) -> RunResult[Any]:
        """One run; its folder is gone afterwards. begin: the parameters' first values, in their order, instead of its own."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            told = copy.deepcopy(dict(document))
            told["run"] |= {"seed": seed, "folder": str(Path(name) / "run")}
            trainer = trainer_of(parse(told, "check"))
            if not measured:
                trainer.evaluators = {}
            if begin:
                _set(trainer.model, begin)
            return trainer.run()

    def values(self, document: dict[str, Any]) -> list[torch.Tensor]:
        """The parameters that a run begins with, in their order."""
        return [p.detach().clone() for p in trainer_of(parse(document, "check")).model.parameters()]

    def metric(self, result: RunResult[Any]) -> float:
        return next(value for name, value in result.metrics.items() if name.endswith("loss"))


def _off(asked: _Asked) -> tuple[State, str]:
    card, document = asked.card, asked.bed.document
    if card.no_limit:
        return "declared", card.no_limit
    lines = card.off or card.limit
    if not lines:
        return (
            "failed",
            "the card has no settings that switch it off (off) or make it a known model (limit), nor says why (no_limit)",
        )
    settings = tomllib.loads("\n".join(lines))
    off = asked.made.set(settings)
    against = Candidate(name=BASELINE, changes=tomllib.loads("\n".join(card.against)))
    said = f"with {', '.join(lines)}"
    bare = asked.train(against.of(document))
    if card.off:
        switched = asked.train(off.of(document))
        same = _weights(bare).keys() == _weights(switched).keys() and all(
            torch.equal(t, _weights(switched)[n]) for n, t in _weights(bare).items()
        )
        return ("met", f"{said} the weights are the baseline's, bit for bit") if same else ("failed", f"{said} the weights are others")
    # Another architecture calls its parameters otherwise and so draws others: both begin from the known model's.
    switched = asked.train(off.of(document), begin=asked.values(against.of(document)))
    apart = max(abs(a - b) / abs(b) for a, b in zip(_losses(switched), _losses(bare), strict=True))
    return ("met" if apart <= LIMIT else "failed"), f"{said} its losses are the known model's to {apart:.1g} (allowed {LIMIT:g})"


def _flops(asked: _Asked) -> tuple[State, str]:
    with FlopCounter() as counter:
        result = asked.train(asked.made.of(asked.bed.document), measured=False)
    metered = result.ledger.total("flops")
    apart = abs(metered - counter.total) / counter.total
    return ("met" if apart <= METERED else "failed"), f"charged {metered:.6g}, counted {counter.total:.6g}"


def _resume(asked: _Asked) -> tuple[State, str]:
    folder = asked.folder / "kills"
    folder.mkdir()
    differs = kept_exactly(asked.made.of(asked.bed.document), folder, KILLS, f"check, {asked.card.slug}")
    return ("failed", f"after {KILLS} kills {differs} is another") if differs else ("met", f"{KILLS} kills in one run, equal bits")


def _effect(asked: _Asked) -> tuple[State, str]:
    document = asked.made.of(asked.bed.document)

    def losses(one: Mapping[str, Any], seeds: Sequence[int]) -> list[float]:
        return [asked.metric(asked.train(one, seed)) for seed in seeds]

    first = losses(document, range(SEEDS))
    others = losses(document, range(SEEDS, 2 * SEEDS))
    planted = losses(with_rate(document, PLANTED), range(SEEDS))
    if not all(map(math.isfinite, [*first, *others, *planted])):
        return "failed", "a loss that is not finite"
    found = confirm({BASELINE: planted, "method": first}, BASELINE, d=0.01)[0]
    null = confirm({BASELINE: others, "method": first}, BASELINE, d=0.01, level=0.99)[0]
    said = f"planted {found.verdict} ({found.estimate:+.3g}), null {null.verdict} ({null.estimate:+.3g})"
    well = found.verdict in (HOLDS, REVERSED) and null.verdict not in (HOLDS, REVERSED)
    return ("met" if well else "failed"), said


def _batch(asked: _Asked) -> tuple[State, str]:
    if asked.card.whole_batch:
        return "declared", asked.card.whole_batch
    # Plain descent: Adam's first steps make a rate of any rounding difference.
    document = {**asked.made.of(asked.bed.document), "optimizer": {"kind": "sgd", "lr": 0.1}}
    whole = with_budget(document, {"steps": FEW})
    ones = copy.deepcopy(whole)
    ones["run"]["accumulate"], ones["data"]["batch"] = whole["data"]["batch"], 1
    a, b = (_weights(asked.train(one)) for one in (whole, ones))
    apart = max(float((t - b[n]).abs().max() / t.abs().max().clamp_min(1e-12)) for n, t in a.items() if t.is_floating_point())
    size = whole["data"]["batch"]
    return ("met" if apart <= CLOSE else "failed"), f"a batch of {size} and {size} of 1 differ by {apart:.1g} (allowed {CLOSE:g})"


def _set(model: torch.nn.Module, values: Sequence[torch.Tensor]) -> None:
    own = list(model.parameters())
    if [p.shape for p in own] != [v.shape for v in values]:
        raise BadInput("limit", "parameters of other shapes than the known model's", "the same, in the same order")
    with torch.no_grad():
        for parameter, value in zip(own, values, strict=True):
            parameter.copy_(value)


def _weights(result: RunResult[Any]) -> dict[str, torch.Tensor]:
    return result.model.state_dict()


def _losses(result: RunResult[Any]) -> list[float]:
    return [value for row in result.history for name, value in row.items() if name.endswith("loss")]
