"""The lines that apply a paper's method: in a recipe, in Python, in a trainer of transformers or TRL. From its card alone."""

from __future__ import annotations

import json
import tomllib

from etude.papers.card import Card

_FITS = {"sampler", "schedule", "gradients", "surgery"}
_DOES_NOT_FIT = {"objective", "optimizer_step", "model"}
DOMAINS = "domains"
"""What a card `needs` whose method weighs domains."""


def lines(card: Card) -> dict[str, str]:
    """{"recipe": ..., "python": ..., "trainer": ...}, each the text to write; without "trainer" where its slots do not allow it.

    Of a method that lies in the data alone there is only "python". Empty for a paper that is a program, an analysis, or not here yet.
    `model`, `data` and `trainer` are the reader's own.
    """
    if not card.ready or not card.use:
        return {"python": card.python} if card.ready and card.python else {}
    name = card.word
    settings = "".join(f"\n{line}" for line in card.settings)
    if card.use == "model":
        return {"recipe": f'[model]\nuse = "{name}"{settings}', "python": card.python}
    given = tomllib.loads("\n".join(card.settings))
    made = f'etude.method("{name}")({", ".join(f"{k}={_python(v)}" for k, v in given.items())})'
    domains = DOMAINS in card.needs
    about = '# over data with domains: [data.domains.NAME], a corpus that has some, or rows with data.domain = "FIELD"\n' if domains else ""
    told = {
        "recipe": f'{about}[[methods]]\nuse = "{name}"{settings}',
        "python": ("# data: a source with domains, such as MixtureSource\n" if domains else "")
        + f"etude.train(model, data, methods=[{made}])",
    }
    if _FITS & set(card.slots) and not _DOES_NOT_FIT & set(card.slots):
        column = ', domains="source")  # a column of the training rows' if domains else ")"
        told["trainer"] = f"etude.adapt.hf(trainer, [{made}]{column}"
    return told


def _python(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
