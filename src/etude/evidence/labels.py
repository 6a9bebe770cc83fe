"""Names at the ends of lines: beside the end where it lies inside the frame, in a column at the right edge where it lies there.

Names that would overlap are pushed apart, each as little as the others allow, and a thin line leads from a name that was moved
to its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

GAP = 0.058  # of the axes' height, between the middles of two names
SIZE = 8.5  # points
EDGE = 0.65  # of the width: names of lines that end behind it stand outside, at the right


@dataclass(frozen=True)
class End:
    """x, y: where a line ends, in the units of the data."""

    x: float
    y: float
    name: str
    color: str


def place(wanted: Sequence[float], gap: float) -> np.ndarray:
    """Heights [n] in 0 to 1 at least `gap` apart and in the order of `wanted`, with the least sum of squared moves.

    Where n of them do not fit, the gap shrinks to what does.
    """
    n = len(wanted)
    gap = min(gap, 1 / max(n - 1, 1))
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(n)
    free = isotonic_regression(np.asarray(wanted, dtype=np.float64)[order] - steps).x
    heights = np.empty(n)
    heights[order] = np.clip(free, 0.0, max(1.0 - gap * (n - 1), 0.0)) + steps
    return heights


def name_ends(axes: Any, ends: Sequence[End]) -> None:
    """Writes the names of lines at their ends, in the lines' colors. To be called when the limits of the axes are final."""
    placed = []
    for end in ends:
        across, up = axes.transLimits.transform(axes.transScale.transform((end.x, end.y)))
        placed.append((float(across), float(np.clip(up, 0, 1)), end))
    placed.sort(key=lambda one: one[0])
    columns: list[list[tuple[float, float, End]]] = []  # ends that are near to each other share a column of names
    for one in placed:
        edge = one[0] > EDGE
        joins = columns and (one[0] - columns[-1][0][0] < 0.2 or edge) and (columns[-1][0][0] > EDGE) == edge
        columns[-1].append(one) if joins else columns.append([one])
    for members in columns:
        heights = place([up for _, up, _ in members], GAP)
        size = SIZE * min(1.0, 1 / max(len(members) - 1, 1) / GAP)
        left = 1.03 if members[-1][0] > EDGE else members[-1][0] + 0.035
        for (_, _, end), height in zip(members, heights, strict=True):
            _write(axes, end, (left, float(height)), size)


def _write(axes: Any, end: End, at: tuple[float, float], size: float) -> None:
    from matplotlib import patheffects

    line: Mapping[str, Any] = {
        "arrowstyle": "-", "color": end.color, "linewidth": 0.7, "alpha": 0.7, "shrinkA": 1, "shrinkB": 1, "relpos": (0.0, 0.5),
    }  # fmt: skip
    text = axes.annotate(
        end.name, (end.x, end.y), xytext=at, textcoords="axes fraction", ha="left", va="center", color=end.color, fontsize=size,
        annotation_clip=False, arrowprops=line, zorder=5,
    )  # fmt: skip
    if at[0] < 1:  # a line that goes on behind the name would strike it through
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6})
    text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])
