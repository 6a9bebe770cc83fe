"""What is trained on and measured: sums asked digit by digit, LEGO chains asked variable by variable, genres of a corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.data.corpora import corpus
from etude.data.sources import MixtureSource, SubsetSource, TensorSource, WindowSource
from etude.data.tasks.lego import Lego
from etude.engine.device import device_of
from etude.engine.ledger import Ledger
from etude.engine.optim import AdamW, Muon
from etude.engine.protocols import Evaluator, Metrics
from etude.engine.streams import initialise, numpy_rng
from etude.errors import one_of
from etude.learn.language import PerDomainLoss
from etude.learn.warmstart import warm_start
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.order.skill_it.settings import AdditionSettings, BedSettings, GenreSettings, LegoSettings, Settings

LEGO_WORDS = (*"abcdefghijklmnopqrstuvwxyz", "val", "not", "0", "1")
LEGO_IDS = {word: i for i, word in enumerate(LEGO_WORDS)}


@dataclass(frozen=True, kw_only=True)
class Testbed:
    """Of one seed. natural: shares of the skills in data as it is found, [K]. ledger: what making the model cost, by category."""

    model: Transformer
    source: MixtureSource
    evaluator: Evaluator
    natural: np.ndarray
    ledger: Ledger = field(default_factory=Ledger)


class Answers:
    """{"accuracy/SKILL", "loss/SKILL"} of the last token of each skill's rows [N, T + 1], and both means over skills."""

    def __init__(self, rows: dict[str, Tensor]) -> None:
        self.rows = rows

    def __call__(self, model: nn.Module) -> Metrics:
        found: Metrics = {}
        for name, tokens in self.rows.items():
            tokens = tokens.to(device_of(model))
            logits = model.head(model(tokens[:, :-1])["hidden"][:, -1:])[:, 0]  # type: ignore[operator]
            found[f"accuracy/{name}"] = float((logits.argmax(-1) == tokens[:, -1]).double().mean())
            found[f"loss/{name}"] = float(nn.functional.cross_entropy(logits.double(), tokens[:, -1]))
        for what in ("accuracy", "loss"):
            found[what] = float(np.mean([found[f"{what}/{name}"] for name in self.rows]))
        return found


def answered(rows: Tensor) -> TensorSource:
    """Rows whose last token alone is learnt."""
    mask = torch.zeros(len(rows), rows.shape[1] - 1, dtype=torch.bool)
    mask[:, -1] = True
    return TensorSource(tokens=rows, loss_mask=mask)


def model_config(s: BedSettings) -> TransformerConfig:
    return TransformerConfig(
        vocab=s.vocab, width=s.width, depth=s.depth, heads=s.heads, hidden=s.hidden, context=s.context,
        tied=s.tied, init_std=s.init_std,
    )  # fmt: skip


def paper_model(s: Settings) -> Transformer:
    """Of addition, as of all three."""
    return Transformer(model_config(s.addition))


# --- addition -----------------------------------------------------------------------------------------------------------
def sums(pairs: np.ndarray, digits: int, place: int) -> Tensor:
    """Rows [N, 2 digits + 2]: both summands, which place from the right is asked for, and the digit of a + b there. pairs: [N, 2].

    A digit's token tells its place too, 10 * place + digit, as positions in a rotary model are relative.
    """
    places = np.arange(digits - 1, -1, -1)
    a, b = (pairs[:, k, None] // 10**places % 10 + 10 * places for k in (0, 1))
    asked = np.full((len(pairs), 1), 10 * digits + place)
    answer = pairs.sum(1) // 10**place % 10
    return torch.from_numpy(np.concatenate([a, b, asked, answer[:, None]], axis=1).astype(np.int64))


def pairs_of(s: AdditionSettings, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and test pairs, all different: [pool, 2], [num_test, 2]."""
    drawn = numpy_rng(seed, "pairs").integers(0, 10**s.digits, (2 * (s.pool + s.num_test), 2))
    _, first = np.unique(drawn, axis=0, return_index=True)
    kept = drawn[np.sort(first)]
    return kept[s.num_test : s.num_test + s.pool], kept[: s.num_test]


def addition(s: AdditionSettings, seed: int) -> Testbed:
    train, test = pairs_of(s, seed)
    names = [f"digit {k + 1}" for k in range(s.digits)]
    return Testbed(
        model=initialise(Transformer(model_config(s)), seed),
        source=MixtureSource({name: answered(sums(train, s.digits, k)) for k, name in enumerate(names)}),
        evaluator=Answers({name: sums(test, s.digits, k) for k, name in enumerate(names)}),
        natural=np.array(s.skew) / sum(s.skew),
    )


# --- LEGO ---------------------------------------------------------------------------------------------------------------
def chains(s: LegoSettings, seed: int, name: str, skill: int, number: int, avoid: set[str]) -> list[str]:
    """Different prompts with their answers, none of them in `avoid`, which they are added to."""
    family, rng, found = Lego(s.variables), numpy_rng(seed, "chains", name, skill), []
    while len(found) < number:
        prompt, answer, _ = family.draw(skill + 1, rng)
        if prompt not in avoid:
            avoid.add(prompt)
            found.append(prompt + answer)
    return found


def words(text: str) -> list[int]:
    """Ids of a chain's words without its signs: `c not b`, ..., the variable asked for, `val`, the answer."""
    return [LEGO_IDS[word] for word in text.split() if word in LEGO_IDS]


def lego_rows(texts: list[str]) -> Tensor:
    return torch.tensor([words(text) for text in texts])


class Words:
    """The tokenizer of chains: a word an id."""

    name, vocab = "words", len(LEGO_WORDS)

    def encode(self, text: str) -> np.ndarray:
        return np.array(words(text), dtype=np.uint8)

    def decode(self, ids: np.ndarray) -> str:
        return " ".join(LEGO_WORDS[int(i)] for i in ids)

    def to_json(self) -> str:
        return '{"kind": "words of chains"}'


def lego(s: LegoSettings, seed: int) -> Testbed:
    avoid: set[str] = set()
    names = [f"variable {k + 1}" for k in range(s.variables)]
    test = [chains(s, seed, "test", k, s.num_test, avoid) for k in range(s.variables)]
    train = [chains(s, seed, "train", k, s.pool, avoid) for k in range(s.variables)]
    told = [text for k in range(s.base_skills) for text in chains(s, seed, "base", k, s.pool, avoid)]
    base = warm_start(
        [(text[:-1], text[-1]) for text in told], name="lego base", config=model_config(s), tokenizer=Words(), end=None, steps=s.base_steps,
        batch_size=s.base_batch, lr=s.base_lr, optimizer=Muon(lr=s.base_lr, rest=AdamW(lr=s.lr, weight_decay=s.weight_decay)), seed=seed,
    )  # fmt: skip
    ledger = Ledger()
    base.charge(ledger)
    return Testbed(
        model=base.model.train(),
        source=MixtureSource({name: answered(lego_rows(texts)) for name, texts in zip(names, train, strict=True)}),
        evaluator=Answers({name: lego_rows(texts) for name, texts in zip(names, test, strict=True)}),
        natural=np.array(s.skew) / sum(s.skew),
        ledger=ledger,
    )


# --- genres -------------------------------------------------------------------------------------------------------------
def genres(s: GenreSettings, seed: int) -> Testbed:
    train, test = (WindowSource(corpus(s.corpus, split), s.context) for split in ("train", "test"))
    names = s.genres or tuple(train.domain_names)
    for name in names:
        if name not in train.domain_names:
            raise one_of("settings.genres", name, train.domain_names)

    def part(source: WindowSource, name: str) -> SubsetSource:
        return SubsetSource(source, np.flatnonzero(source.domains == list(source.domain_names).index(name)))

    source = MixtureSource({name: part(train, name) for name in names})
    sizes = np.bincount(source.domains, minlength=len(names))
    return Testbed(
        model=initialise(Transformer(model_config(s)), seed),
        source=source,
        evaluator=GenreLoss(PerDomainLoss({name: part(test, name) for name in names}, limit=s.num_test)),
        natural=sizes / sizes.sum(),
    )


class GenreLoss:
    """{"loss/GENRE"} and "loss", their mean."""

    def __init__(self, each: PerDomainLoss) -> None:
        self.each = each

    def __call__(self, model: nn.Module) -> Metrics:
        found = self.each(model)
        return {f"loss/{name}": value for name, value in found.items()} | {"loss": float(np.mean(list(found.values())))}


BEDS: dict[str, Callable[[Any, int], Testbed]] = {"addition": addition, "lego": lego, "genres": genres}
"""Each makes the testbed of a seed from its own settings, which bear its name in the study's."""
