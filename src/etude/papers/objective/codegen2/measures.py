"""What the study measures of a model: how well it says files from left to right, and how well it fills holes in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from etude.data.corpora import corpus
from etude.data.sources import WindowSource
from etude.engine.device import evaluating
from etude.engine.protocols import Metrics, Sampling
from etude.evidence.registration import TUNING_FROM
from etude.generate.local import LocalGenerator
from etude.generate.states import PrefixReading
from etude.learn.corruption import SPARE_BYTES, Marks, infill_prompt
from etude.learn.language import HeldOutLoss
from etude.papers.objective.codegen2.holes import Hole, code, draw, infill, parses
from etude.papers.objective.codegen2.settings import TOO_LONG, Settings

MARKS = Marks.of(SPARE_BYTES)
NEWLINE = ord("\n")
WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def held_out_split(seed: int) -> str:
    """Seeds for tuning measure on validation, all others on test."""
    return "validation" if seed >= TUNING_FROM else "test"


def windows(name: str, split: str, context: int, *, of_code: bool) -> WindowSource:
    """Windows with the borders of files; a text is one file."""
    if of_code:
        return WindowSource(code(name, split), context, documents=True)
    text = corpus(name, split)
    return WindowSource(text, context, document_ids=np.zeros(len(text), dtype=np.int64))


class LeftToRight:
    """{"code loss", "text loss"}: nats per byte on held-out windows."""

    def __init__(self, settings: Settings, seed: int) -> None:
        split = held_out_split(seed)
        sources = {"code": windows(settings.code, split, settings.context, of_code=True)}
        sources["text"] = windows(settings.text, split, settings.context, of_code=False)
        self.parts = {name: HeldOutLoss(source, limit=settings.held_out_windows) for name, source in sources.items()}

    def __call__(self, model: nn.Module) -> Metrics:
        return {f"{name} loss": part(model)["loss"] for name, part in self.parts.items()}


@torch.no_grad()
def told(
    model: nn.Module, prompts: Sequence[np.ndarray], completions: Sequence[np.ndarray], *, prefix: bool = False, batch: int = 64
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each pair: nats of the completion's tokens [n], and the likeliest token at each of their places [n], given the true ones before.

    prefix: a prompt is read both ways up to and with its separator.
    """
    found = []
    with evaluating(model) as device:
        for first in range(0, len(prompts), batch):
            pairs = list(zip(prompts[first : first + batch], completions[first : first + batch], strict=True))
            rows = np.zeros((len(pairs), max(len(p) + len(c) for p, c in pairs)), dtype=np.int64)
            inside = np.zeros(rows.shape, dtype=bool)
            for i, (prompt, completion) in enumerate(pairs):
                rows[i, : len(prompt) + len(completion)] = np.concatenate([prompt, completion])
                inside[i, : int(np.argmax(prompt == MARKS.separator)) + 1] = prefix
            tokens = torch.from_numpy(rows).to(device)
            more = {"prefix": torch.from_numpy(inside[:, :-1]).to(device)} if prefix else {}
            logits = model.head(model(tokens[:, :-1], **more)["hidden"])  # type: ignore[operator]
            losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(pairs), -1).cpu().numpy()
            likeliest = logits.argmax(-1).cpu().numpy()
            for i, (prompt, completion) in enumerate(pairs):
                place = slice(len(prompt) - 1, len(prompt) - 1 + len(completion))
                found.append((losses[i, place].astype(np.float64), likeliest[i, place]))
    return found


class Filling:
    """How well holes are filled. marks: given both sides, as corrupted rows teach; else given the left side alone, up to as many bytes.

    "name loss", "line loss": nats per byte of the middle and of its end, mean over holes. "name exact": shares of holes where the greedy
    fill is the middle. "line exact", "line parses": the same of lines, and whether the file with the fill parses. What ends a fill
    is the mark or, from the left alone, the newline after a line and any byte that is no part of a name after a name.
    """

    def __init__(self, settings: Settings, seed: int, *, marks: bool, prefix: bool = False) -> None:
        self.settings, self.marks, self.prefix = settings, marks, prefix
        s = settings
        more = {"longest_file": s.longest_file, "longest": s.longest_line}
        split, counts = held_out_split(seed), {"name": s.num_names, "line": s.num_lines}
        self.holes = {kind: draw(s.code, split, kind, count, seed, **more) for kind, count in counts.items()}

    def __call__(self, model: nn.Module) -> Metrics:
        names, lines = self.holes["name"], self.holes["line"]
        by_name, by_line = self.of(model, names), self.of(model, lines)
        exact = [self._said(hole, likeliest) for hole, (_, likeliest) in zip(names, by_name, strict=True)]
        fills = self.fills(model, lines)
        return {
            "name loss": float(np.mean([losses.mean() for losses, _ in by_name])),
            "line loss": float(np.mean([losses.mean() for losses, _ in by_line])),
            "name exact": float(np.mean(exact)),
            "line exact": float(np.mean([fill == hole.middle for fill, hole in zip(fills, lines, strict=True)])),
            "line parses": float(np.mean([f is not None and parses(h.filled(f)) for f, h in zip(fills, lines, strict=True)])),
        }

    def of(self, model: nn.Module, holes: Sequence[Hole]) -> list[tuple[np.ndarray, np.ndarray]]:
        """`told` of each hole's middle and end."""
        if self.marks:
            ends = [MARKS.end_of_span] * len(holes)
            sides = [hole.around(self.settings.reach) for hole in holes]
            prompts = [infill_prompt(_ids(left), _ids(right), MARKS) for left, right in sides]
        else:
            ends = [hole.file[hole.end] for hole in holes]
            prompts = [_ids(hole.before(self.settings.reach - len(hole.middle))) for hole in holes]
        completions = [np.append(_ids(hole.middle), end) for hole, end in zip(holes, ends, strict=True)]
        return told(model, prompts, completions, prefix=self.prefix)

    def fills(self, model: nn.Module, lines: Sequence[Hole]) -> list[bytes | None]:
        """Greedy fills of line holes; None where it did not end."""
        longest = self.settings.longest_line + TOO_LONG
        generator = LocalGenerator(PrefixReading(model, MARKS.separator) if self.prefix else model)
        if self.marks:
            done = infill(generator, [hole.around(self.settings.reach) for hole in lines], MARKS, max_tokens=longest)
        else:
            prompts = [_ids(hole.before(self.settings.reach - len(hole.middle))) for hole in lines]
            groups = generator.complete(prompts, Sampling(temperature=0, max_tokens=longest, stop_tokens=(NEWLINE,)))
            done = [group[0] for group in groups]
        return [c.tokens[:-1].astype(np.uint8).tobytes() if c.finish == "stop" else None for c in done]

    def _said(self, hole: Hole, likeliest: np.ndarray) -> bool:
        """Greedy decoding says a text exactly where each of its tokens is the likeliest after the true ones before."""
        end = int(likeliest[-1])
        ended = end == MARKS.end_of_span if self.marks else end not in WORD
        return ended and likeliest[:-1].tolist() == list(hole.middle)


def _ids(text: bytes) -> np.ndarray:
    return np.frombuffer(text, dtype=np.uint8).astype(np.int64)
