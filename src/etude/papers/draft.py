"""A new paper's first files: a module that already runs, its test, and (outside etude) its card."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from string import Template

from etude.errors import BadInput, reason
from etude.papers.card import Card, module_name
from etude.papers.catalogue import cards

_MODULE = Template('''\
"""$title

$claim

    g <- g - strength mean(g)        g: the gradient of each parameter, before clipping

The equation is a placeholder: put the paper's here, in its symbols, and say which of ours is which.
Source: $source. Scaled down: what was made smaller, and why the claim is still tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from etude.data.sources import TensorSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.protocols import Method
from etude.engine.run import Run
from etude.engine.streams import generator, initialise
from etude.engine.trainer import NonFinite, Trainer
from etude.errors import BadInput
from etude.evidence.claims import Better
from etude.evidence.study import Arm, Job, Outcome, Plot, Scale, Study
from etude.learn.supervised import Accuracy, Supervised


def centre(gradient: Tensor, strength: float) -> Tensor:
    """The equation and nothing else. gradient: any shape. strength: 0 leaves it as it is, 1 makes its mean zero."""
    return gradient - strength * gradient.mean()


class $name(Method):
    """Applies `centre` to every gradient. strength 0 is the baseline, bit for bit."""

    def __init__(self, strength: float) -> None:
        if not 0 <= strength <= 1:
            raise BadInput("$slug.strength", repr(strength), "a number from 0 to 1")
        self.strength = strength

    def gradients(self, run: Run) -> None:
        for parameter in run.named_parameters().values():
            if parameter.grad is not None:
                parameter.grad.copy_(centre(parameter.grad, self.strength))


@dataclass(frozen=True, kw_only=True)
class Settings:
    num_samples: int
    steps: int
    width: int = 16
    batch_size: int = 32
    strength: float = 1.0  # dimensionless; where the value comes from


def rings(num_samples: int, seed: int, part: str) -> tuple[Tensor, Tensor]:
    """Points of two noisy rings, x [N, 2] and the ring's number y [N]: data that needs no download."""
    rng = generator(seed, "rings", part)
    y = torch.randint(2, (num_samples,), generator=rng)
    angle = torch.rand(num_samples, generator=rng) * 2 * torch.pi
    radius = 1.0 + y + 0.3 * torch.randn(num_samples, generator=rng)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), y


def arm(with_method: bool):
    def run(job: Job) -> Outcome:
        s: Settings = job.settings
        x, y = rings(s.num_samples, job.seed, "train")
        model = nn.Sequential(nn.Linear(2, s.width), nn.ReLU(), nn.Linear(s.width, 2))
        trainer = Trainer(
            initialise(model, job.seed),
            DataStream(TensorSource(x=x, y=y), s.batch_size, job.seed),
            Supervised(),
            optimizer=AdamW(lr=0.01),
            methods=[$name(s.strength)] if with_method else [],
            budget=Budget(steps=s.steps),
            seed=job.seed,
            evaluators={"held-out": Accuracy(*rings(1000, job.seed, "held-out"))},
            evaluate_every=0.1,
            progress=lambda share, loss: job.progress(share, loss),
        )
        try:
            result = trainer.run()
        except NonFinite:
            return Outcome(metrics={"accuracy": 0.5}, ledger={}, diverged=True)
        return Outcome(
            metrics={"accuracy": result.metrics["held-out/accuracy"]},
            curves={"held-out accuracy / flops": result.curve("held-out/accuracy", "flops")},
            ledger=result.ledger.as_dict(),
            parameters=result.parameters,
        )

    return run


STUDY = Study(
    slug="$slug",
    arms={"baseline": Arm(run=arm(False), about="plain training"), "method": Arm(run=arm(True), about="centred gradients")},
    scales={
        "smoke": Scale(settings=Settings(num_samples=200, steps=20), seeds=3, size="82 parameters / 640 samples"),
        "quick": Scale(settings=Settings(num_samples=500, steps=300), seeds=5, size="82 parameters / 9,600 samples"),
    },
    claims=[
        Better(
            text="The method classifies more held-out points rightly",
            arm="method",
            baseline="baseline",
            metric="accuracy",
            lower_is_better=False,
            d=0.01,
            equal=("flops",),
        )
    ],
    baseline="baseline",
    headline="accuracy",
    lower_is_better=False,
    plots=[Plot(title="Held-out accuracy", kind="curve", curve="held-out accuracy / flops")],
)
''')

_TEST = Template('''\
"""$title: the equation by hand, the method switched off, bad input, and a smoke run."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
$path_import
import pytest
import torch

from etude.errors import BadInput
from etude.evidence.study import Job, Outcome
from etude.papers.catalogue import load_methods, load_study

PAPER = $reference


def outcome(arm: str, **changes: float) -> Outcome:
    study = load_study(PAPER)
    settings = replace(study.scales["smoke"].settings, **changes)
    return study.arms[arm].run(Job(study=study.slug, arm=arm, scale="smoke", seed=7, settings=settings))


def test_equation_by_hand() -> None:
    module = import_module(load_methods(PAPER)["$name"].__module__)
    assert module.centre(torch.tensor([1.0, -2.0]), 0.5).tolist() == [1.25, -1.75]


def test_switched_off_is_the_baseline() -> None:
    assert outcome("method", strength=0.0).curves == outcome("baseline").curves


def test_bad_input() -> None:
    with pytest.raises(BadInput, match=r"strength: found 2, expected a number from 0 to 1"):
        load_methods(PAPER)["$name"](2)


@pytest.mark.parametrize("arm", load_study(PAPER).arms)
def test_smoke(arm: str) -> None:
    assert 0 <= outcome(arm).metrics["accuracy"] <= 1
''')


def draft(slug: str, folder: Path | None = None) -> list[Path]:
    """Writes the first files of a paper and returns their paths.

    For a planned paper of etude, in a source checkout and without `folder`, the module goes beside its card and the test to
    tests/papers. Otherwise module, card and test go to `folder` (default: here), ready for `etude run ./MODULE.py`.
    Raises BadInput for a slug that is none or whose paper is ready, and rather than overwrite a file.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.]*(-[a-z0-9.]+)*", slug):
        raise BadInput("slug", f"'{slug}'", "lower-case words and numbers joined by hyphens, such as skill-it")
    known = next((c for c in cards() if c.slug == slug), None)
    if known is not None and known.ready:
        raise BadInput("slug", f"'{slug}', whose paper is there already", "a planned paper or a new slug")
    package = Path(__file__).parent
    checkout = next((p for p in package.parents if (p / "pyproject.toml").is_file() and (p / "tests").is_dir()), None)
    name = module_name(slug)
    if known is not None and folder is None and checkout is not None:
        module, test = package / known.family / f"{name}.py", checkout / "tests" / "papers" / f"test_{name}.py"
        return _write({module: _module(known), test: _test(known, None)})
    folder = folder or Path()
    found = known or Card(slug=slug, title=slug.replace("-", " ").capitalize(), claim="What the method does better, and by how much.")
    files = {folder / f"{name}.py": _module(found), folder / f"{name}.toml": _card(found), folder / f"test_{name}.py": _test(found, name)}
    return _write(files)


def _write(files: dict[Path, str]) -> list[Path]:
    for path in files:  # all are looked at before one is written
        if path.exists():
            raise BadInput(str(path), "a file that is there already", "a free name, or another folder with --to")
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise BadInput(str(path), reason(error), "a folder that can be written") from error
    return list(files)


def _class_name(slug: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in module_name(slug).split("_"))


def _module(card: Card) -> str:
    source = f"arXiv {card.arxiv}" if card.arxiv else "the paper, its section"
    claim = textwrap.fill(card.claim, 130)
    title = card.title if card.title.endswith((".", "?", "!")) else f"{card.title}."
    return _MODULE.substitute(title=title, claim=claim, source=source, slug=card.slug, name=_class_name(card.slug))


def _test(card: Card, beside: str | None) -> str:
    reference = f'"{card.slug}"' if beside is None else f'str(Path(__file__).parent / "{beside}.py")'
    return _TEST.substitute(
        title=card.slug,
        name=_class_name(card.slug),
        reference=reference,
        path_import="" if beside is None else "from pathlib import Path\n",
    )


def _card(card: Card) -> str:
    def line(key: str, value: object) -> str:
        return f"{key} = {json.dumps(value, ensure_ascii=False)}\n"  # strings and lists of strings read the same in TOML

    head = line("slug", card.slug) + line("title", card.title) + line("applies", "recipe") + line("slots", ["gradients", "evidence"])
    return (
        head
        + line("arenas", [])
        + line("claim", card.claim)
        + line("tags", [])
        + line("use", "method")
        + line("settings", ["strength = 1.0"])
        + "# `etude check` fails until the card says which settings switch the method off (or limit, or no_limit):\n"
        + '# off = ["strength = 0.0"]\n'
    )
