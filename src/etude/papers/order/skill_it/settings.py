"""Sizes and hyper-parameters of the three studies, for each scale."""

from __future__ import annotations

from dataclasses import dataclass

from etude.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of all three; the defaults are those of addition at cpu scale."""

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
    steps: int = 400
    lr: float = 3e-3
    muon_lr: float = 0.0  # of the hidden matrices, by Muon; 0: AdamW for all
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 0.01
    skew: tuple[float, ...] = (1, 1, 3, 5)  # of the skills, in data as it is found: the random arm
    # Skill-It
    eta: float = 0.5
    window: int = 3  # checks
    update_every: int = 40  # steps
    checks: int = 1  # between two updates of the mixture
    held: int = 64  # samples of each skill that the mixture is steered by
    probes: str = "pairs"  # how the graph is learnt
    probe_steps: int = 80
    margin: float = 0.05  # of the loss, that an edge must take away
    # measuring
    num_test: int = 500  # of each skill
    evaluations: int = 20

    def __post_init__(self) -> None:
        if self.update_every % self.checks or self.steps % (self.update_every // self.checks):
            raise BadInput("settings.update_every", repr(self.update_every), f"a multiple of checks, whose parts divide {self.steps} steps")

    @property
    def stretch(self) -> int:
        """Steps between two checks."""
        return self.update_every // self.checks


@dataclass(frozen=True, kw_only=True)
class AdditionSettings(Settings):
    digits: int = 4  # of both summands; a skill for each digit of the sum from the right, the last carry left out
    pool: int = 30_000  # training pairs, of which every skill asks

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.skew) != self.digits:
            raise BadInput("settings.skew", f"{len(self.skew)} numbers", f"{self.digits}, one a skill")


@dataclass(frozen=True, kw_only=True)
class LegoSettings(Settings):
    variables: int = 4  # of a chain; the skill is which of them is asked
    pool: int = 20_000  # training chains of each skill
    base_skills: int = 2  # first ones, that the base is taught
    base_steps: int = 600
    base_batch: int = 128
    base_lr: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.skew) != self.variables:
            raise BadInput("settings.skew", f"{len(self.skew)} numbers", f"{self.variables}, one a skill")


@dataclass(frozen=True, kw_only=True)
class GenreSettings(Settings):
    """skew is not used: the random arm draws windows as the corpus has them."""

    corpus: str = "brown"
    genres: tuple[str, ...] = ()  # of its domains; all where none is named
