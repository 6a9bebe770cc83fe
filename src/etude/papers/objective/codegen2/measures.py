"""What the study measures of a model: how well it says files from left to right, and how well it fills holes in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from etude.engine.device import evaluating
from etude.engine.protocols import Metrics, Sampling
from etude.engine.streams import numpy_rng
from etude.errors import one_of
from etude.evidence.registration import TUNING_FROM
from etude.generate.local import LocalGenerator
from etude.generate.states import PrefixReading
from etude.learn.corruption import infill_prompt
from etude.learn.language import HeldOutLoss
from etude.papers.objective.codegen2.data import files, marks_of, pieces_of, windows
from etude.papers.objective.codegen2.holes import KINDS, Hole, holes, parses
from etude.papers.objective.codegen2.settings import TOO_LONG, Settings

WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
HOW = ("left", "spans")
AT_ONCE = 64
"""Rows of one forward."""


def held_out_split(seed: int) -> str:
    """Seeds for tuning measure on validation, all others on test."""
    return "validation" if seed >= TUNING_FROM else "test"


class LeftToRight:
    """{"code loss", "text loss"}: nats per token on held-out windows."""

    def __init__(self, settings: Settings, seed: int) -> None:
        split, limit = held_out_split(seed), settings.held_out_windows
        self.parts = {kind: HeldOutLoss(windows(settings, kind, split), limit=limit) for kind in ("code", "text")}

    def __call__(self, model: nn.Module) -> Metrics:
        return {f"{name} loss": part(model)["loss"] for name, part in self.parts.items()}


@torch.no_grad()
def told(
    model: nn.Module, prompts: Sequence[np.ndarray], middles: Sequence[np.ndarray], ends: np.ndarray, *, separator: int = -1
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each pair, given the true tokens before: nats of the middle's tokens and of its end [n + 1], and the likeliest tokens [n + 1].

    ends: [V] bool, the tokens of which any ends a middle. separator: prompts are read both ways up to and with it; -1: from left to right.
    """
    found = []
    with evaluating(model) as device:
        stops = torch.from_numpy(ends).to(device)
        for first in range(0, len(prompts), AT_ONCE):
            pairs = list(zip(prompts[first : first + AT_ONCE], middles[first : first + AT_ONCE], strict=True))
            rows = np.zeros((len(pairs), max(len(p) + len(m) for p, m in pairs)), dtype=np.int64)
            inside = np.zeros(rows.shape, dtype=bool)
            for i, (prompt, middle) in enumerate(pairs):
                rows[i, : len(prompt) + len(middle)] = np.concatenate([prompt, middle])
                inside[i, : int(np.argmax(prompt == separator)) + 1] = separator >= 0
            tokens = torch.from_numpy(rows).to(device)
            more = {"prefix": torch.from_numpy(inside).to(device)} if separator >= 0 else {}
            logprobs = model.head(model(tokens, **more)["hidden"]).float().log_softmax(-1)  # type: ignore[operator]
            for i, (prompt, middle) in enumerate(pairs):
                own = logprobs[i, len(prompt) - 1 : len(prompt) + len(middle)]
                said = own[:-1].gather(1, torch.from_numpy(middle.astype(np.int64)).to(device)[:, None])[:, 0]
                losses = -torch.cat([said, own[-1, stops].logsumexp(0)[None]])
                found.append((losses.double().cpu().numpy(), own.argmax(-1).cpu().numpy()))
    return found


class Filling:
    """How well holes are filled. how: "spans", given both sides, as corrupted rows teach; "left", given the left alone, up to as many
    tokens.

    "name loss", "line loss": nats of the middle and its end, mean over tokens, then holes. "name exact", "line exact": the share of holes
    whose greedy fill is the middle. "line parses": whether the file with the fill parses. A fill that does not end is neither. It ends
    with its mark or, from the left alone, with a line's newline or with what cannot go on a name.
    """

    def __init__(self, settings: Settings, seed: int, how: str, *, prefix: bool = False) -> None:
        if how not in HOW:
            raise one_of("Filling, how", how, HOW)
        self.settings, self.how, self.marks = settings, how, marks_of(settings)
        self.separator = self.marks.separator if prefix else -1
        split, self.pieces = held_out_split(seed), pieces_of(settings)
        sources, counts = files(settings, split), (settings.num_names, settings.num_lines)
        self.holes = {
            kind: holes(sources, self.pieces, kind, count, numpy_rng(seed, "holes", split, kind), longest=settings.longest_line)
            for kind, count in zip(KINDS, counts, strict=True)
        }

    def __call__(self, model: nn.Module) -> Metrics:
        found: Metrics = {}
        for kind, listed in self.holes.items():
            ends, middles = self.ends(kind), [hole.middle for hole in listed]
            each = told(model, [self.prompt(hole) for hole in listed], middles, ends, separator=self.separator)
            found[f"{kind} loss"] = float(np.mean([losses.mean() for losses, _ in each]))
            # Greedy decoding says a text exactly where each of its tokens is the likeliest after the true ones before.
            exact = [(a[:-1] == m).all() and ends[a[-1]] for (_, a), m in zip(each, middles, strict=True)]
            found[f"{kind} exact"] = float(np.mean(exact))
        fills = self.fills(model, self.holes["line"])
        found["line parses"] = float(
            np.mean([f is not None and parses(h.filled(f)) for f, h in zip(fills, self.holes["line"], strict=True)])
        )
        return found

    def prompt(self, hole: Hole) -> np.ndarray:
        if self.how == "left":
            return hole.before(self.settings.reach).astype(np.int64)
        return infill_prompt(*hole.around(self.settings.reach), self.marks)

    def ends(self, kind: str) -> np.ndarray:
        """[V] the tokens that end a fill."""
        if self.how != "left":
            return np.arange(len(self.pieces)) == self.marks.end_of_span
        if kind == "line":
            return np.array([piece[:1] == b"\n" for piece in self.pieces])
        return np.array([bool(piece) and piece[0] not in WORD for piece in self.pieces])

    def fills(self, model: nn.Module, lines: Sequence[Hole]) -> list[np.ndarray | None]:
        """Greedy fills of line holes, without what ends them; None where one did not end."""
        longest = self.settings.longest_line + TOO_LONG
        generator = LocalGenerator(model if self.separator < 0 else PrefixReading(model, self.separator))
        stops = tuple(np.flatnonzero(self.ends("line")).tolist())
        sampling = Sampling(temperature=0, max_tokens=longest, stop_tokens=stops)
        groups = generator.complete([self.prompt(hole) for hole in lines], sampling)
        return [c.tokens[:-1] if c.finish == "stop" else None for (c,) in groups]
