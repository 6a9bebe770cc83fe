"""Sizes and hyper-parameters of the three testbeds, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class BedSettings:
    """Of all three testbeds; the defaults are those of addition at cpu scale."""

    vocab: int = 44
    width: int = 64
    depth: int = 2
    heads: int = 4
    hidden: int | None = None
    context: int = 12  # tokens
    tied: bool = False  # the head to the embedding
    init_std: float = 0.125  # 1 / sqrt(width): with 0.02 nothing was learnt in 600 steps
    # training
    batch: int = 128
    steps: int = 500
    lr: float = 3e-3  # of AdamW, for all but the hidden matrices
    muon_lr: float = 1e-2  # of Muon, for the hidden matrices; 0: AdamW for all
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 0.01
    skew: tuple[float, ...] = (1, 1, 3, 5)  # of the skills, in data as it is found: the random arm
    # Skill-It
    eta: float = 0.5
    window: int = 3  # checks
    update_every: int = 50  # steps
    checks: int = 5  # between two updates of the mixture
    held: int = 64  # samples of each skill that the mixture is steered by
    probes: str = "pairs"  # how the graph is learnt
    probe_steps: int = 80
    margin: float = 0.05  # of the loss, that an edge must take away
    # measuring
    num_test: int = 500  # of each skill
    evaluations: int = 20

    def __post_init__(self) -> None:
        if self.update_every % self.checks or self.steps % self.stretch:
            expected = f"a multiple of checks ({self.checks}), whose parts divide {self.steps} steps"
            raise BadInput("settings, update_every", repr(self.update_every), expected)

    @property
    def stretch(self) -> int:
        """Steps between two checks."""
        return self.update_every // self.checks


@dataclass(frozen=True, kw_only=True)
class AdditionSettings(BedSettings):
    digits: int = 4  # of both summands; a skill for each digit of the sum from the right, the last carry left out
    pool: int = 30_000  # training pairs, of which every skill asks

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_skew(self.skew, self.digits)


@dataclass(frozen=True, kw_only=True)
class LegoSettings(BedSettings):
    vocab: int = 30
    depth: int = 3
    context: int = 16
    steps: int = 400
    skew: tuple[float, ...] = (1, 3, 5)
    variables: int = 3  # of a chain; the skill is which of them is asked
    pool: int = 20_000  # training chains of each skill
    base_skills: int = 2  # first ones, that the base is taught
    base_steps: int = 800
    base_batch: int = 128
    base_lr: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_skew(self.skew, self.variables)


@dataclass(frozen=True, kw_only=True)
class GenreSettings(BedSettings):
    """skew is not used: the random arm draws windows as the corpus has them."""

    vocab: int = 256
    context: int = 64
    batch: int = 16
    steps: int = 400
    skew: tuple[float, ...] = ()
    eta: float = 0.2
    update_every: int = 40
    checks: int = 1
    probes: str = "alone"
    probe_steps: int = 40
    held: int = 32
    num_test: int = 60
    evaluations: int = 8
    corpus: str = "brown"
    genres: tuple[str, ...] = ("reportage", "religion", "learned", "science fiction", "romance", "humour")  # all where none is named


def _check_skew(skew: tuple[float, ...], skills: int) -> None:
    if len(skew) != skills:
        raise BadInput("settings, skew", f"{len(skew)} numbers", f"{skills}, one a skill")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The study's: a testbed each."""

    addition: AdditionSettings
    lego: LegoSettings
    genres: GenreSettings
