"""DITTO in a run: a coin for each update, or for each row, decides between repetitions and what the run learns otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from etude.data.tokenizers import Bytes, Tokenizer
from etude.engine.protocols import Batch, Method
from etude.engine.run import Run
from etude.errors import BadInput, one_of
from etude.learn.dispatch import Sometimes
from etude.papers.objective.ditto.repetition import PseudoRepetition

COINS = ("update", "row")
CLOSING = "\"')]}»”’"
"""May follow the end of a sentence inside its last token."""


def end_ids(tokenizer: Tokenizer, ends: str) -> tuple[int, ...]:
    """The tokens whose text closes a sentence: it ends in one of the characters of `ends`, but for spaces and closing quotes.

    Raises BadInput for no character, or one that no token ends in.
    """
    closing: dict[str, list[int]] = {c: [] for c in ends}
    for number in range(tokenizer.vocab):
        text = tokenizer.decode([number]).rstrip().rstrip("".join(c for c in CLOSING if c not in ends))  # type: ignore[arg-type]
        if text and text[-1] in closing:
            closing[text[-1]].append(number)
    lost = "".join(c for c, found in closing.items() if not found)
    if lost or not ends:
        found = f"'{lost}', in which no token of the tokenizer ends" if ends else "''"
        raise BadInput("ends", found, "characters that close a sentence, such as '.?!'")
    return tuple(sorted(number for found in closing.values() for number in found))


class Ditto(Method):
    """Pseudo-repetition penalisation, beside any objective on rows of tokens.

    decay: of a copy's probability against the copy before, 0 to 1 (the paper: 0.5 for open-ended text, 0.9 to 0.95 for summaries).
    rate:  share of repetitions; 0 is the run without the method, bit for bit. coin: one for each "update", as the paper puts it, or for
           each "row", as the authors' code comes to, with a row a micro-batch; rows without repetition then learn next tokens.
    ends:  what closes a sentence: characters, or token ids. form: "log", "square" or "clip" (see `penalty`).
    tokenizer: of the run's tokens, to find characters by. A recipe gives its own; otherwise bytes are taken for granted, and a token
           above 255 is bad input.
    Logs "repetition", the mean penalty of an update's repetitions, and "no sentence", the share of rows that had none; those learn next
    tokens. `counts` has how many rows were asked for a sentence and how many had one. Per-sample losses that samplers see are
    penalties in these updates. Raises BadInput.
    """

    slots = ("objective",)

    def __init__(
        self,
        *,
        decay: float = 0.5,
        rate: float = 0.5,
        ends: str | Sequence[int] = ".?!",
        coin: str = "update",
        form: str = "log",
        tokenizer: Any = None,
    ) -> None:
        if coin not in COINS:
            raise one_of("Ditto.coin", coin, COINS)
        if not 0 <= rate <= 1:
            raise BadInput("Ditto.rate", repr(rate), "a share, 0 to 1")
        try:
            PseudoRepetition([0] if isinstance(ends, str) else ends, decay=decay, form=form)
        except BadInput as error:
            raise error.at(f"Ditto.{error.where}") from error
        self.decay, self.rate, self.coin, self.form = decay, rate, coin, form
        self.ends = ends if isinstance(ends, str) else tuple(ends)
        self.tokenizer = tokenizer
        self.counts = {"asked": 0, "made": 0}

    def start(self, run: Run) -> None:
        if not self.rate:
            return
        by_row = self.coin == "row"
        objective = PseudoRepetition(self._ids(run.model), decay=self.decay, form=self.form, share=self.rate if by_row else 1.0)
        objective.counts = self.counts
        for name, own in run.objectives.items():
            run.objectives[name] = objective if by_row else Sometimes(objective, self.rate, own)

    def batch(self, run: Run, batch: Batch) -> None:
        tokens = batch.data.get("tokens")
        if self.rate and self.tokenizer is None and isinstance(self.ends, str) and tokens is not None and int(tokens.max()) > 255:
            raise BadInput("Ditto.ends", f"{self.ends!r} where tokens go up to {int(tokens.max())}", "`tokenizer` beside it, or token ids")

    def state_dict(self) -> dict[str, Any]:
        return dict(self.counts)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts.update(state)

    def _ids(self, model: nn.Module) -> tuple[int, ...]:
        """Raises BadInput for an end that no token of the run can be."""
        if isinstance(self.ends, str):
            return end_ids(self.tokenizer or Bytes(), self.ends)
        embedding = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
        vocab = getattr(self.tokenizer, "vocab", None) or (embedding.num_embeddings if embedding else None)
        if vocab is not None and max(self.ends) >= vocab:
            raise BadInput("Ditto.ends", f"token {max(self.ends)}", f"ids below the vocabulary of {vocab}")
        return self.ends
