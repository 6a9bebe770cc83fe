"""The picture: each arm's samples by generation, hallucinations in red."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

INSIDE, OUTSIDE, INK, QUIET = "#3b6fb6", "#d3303f", "#22262b", "#6b7280"


def scatter(arms: tuple[str, ...]) -> Callable[[Any, dict[str, Any]], None]:
    """A `Plot.draw`: a row an arm, a column a generation, from the record's arrays of its first seed.

    Of each arm: "modes" [M, 2], "radius" [1] beyond which a point is off the support, and "generation 1", ... [n, 2].
    """

    def draw(axes: Any, record: dict[str, Any]) -> None:
        rows = [arm for arm in arms if arm in record["arrays"]]
        axes.set_axis_off()
        for i, arm in enumerate(rows):
            arrays = {name: np.asarray(values, dtype=np.float64) for name, values in record["arrays"][arm].items()}
            means, radius = arrays.pop("modes"), float(arrays.pop("radius")[0])
            edge = 1.2 * float(np.abs(means).max())
            height, width = 1 / len(rows), 1 / len(arrays)
            for j, points in enumerate(arrays.values()):
                panel = axes.inset_axes((j * width + 0.03, 1 - (i + 1) * height + 0.01, width - 0.04, height - 0.07))
                off = np.linalg.norm(points[:, None] - means, axis=2).min(1) > radius
                panel.scatter(*points[~off].T, s=0.7, color=INSIDE, linewidths=0)
                panel.scatter(*points[off].T, s=3.0, color=OUTSIDE, linewidths=0)
                panel.set(xlim=(-edge, edge), ylim=(-edge, edge), xticks=[], yticks=[], aspect="equal")
                panel.grid(visible=False)
                panel.set_title(f"generation {j + 1}: {100 * off.mean():.1f} % between modes", fontsize=6.5, color=INK, pad=2)
                if not j:
                    panel.set_ylabel(f"{arm} filter", fontsize=7.5, color=INK)
        note = f"the first samples drawn, seed {record['seeds'][0]}; red: far from every mode"
        axes.annotate(note, (1, -0.02), xycoords="axes fraction", ha="right", va="top", fontsize=6.5, color=QUIET)

    return draw
