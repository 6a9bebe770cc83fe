"""Figures of a study, as PNG files that come out the same for the same record.

Drawn on matplotlib's Agg canvas without its global state; nothing here depends on a display, a style file or the date.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput, one_of
from etude.evidence.statistics import mean_band, t_interval
from etude.evidence.study import Plot, Study

COLORS = ("#3b6fb6", "#d1652b", "#3d9157", "#8b5fb0", "#b3394f", "#6b7280", "#b08a1e", "#2a9da5")
INK, FAINT, QUIET = "#22262b", "#c9ced6", "#6b7280"
UNITS = {"flops": "FLOPs", "tokens": "training tokens", "seconds": "wall time (s)", "step": "updates", "share": "share of the budget"}


def draw_all(study: Study, record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws each of the study's plots into `folder` and returns the files. A plot whose arms or curves were not run is left out."""
    files = []
    for plot in study.plots:
        png = draw(plot, record)
        if png is not None:
            file = folder / f"{re.sub(r'[^a-z0-9]+', '-', plot.title.lower()).strip('-')}.png"
            write_atomic(file, png)
            files.append(file)
    return files


def draw(plot: Plot, record: Mapping[str, Any]) -> bytes | None:
    """The PNG of one plot, or None where the record has nothing for it. Raises BadInput for an unknown kind."""
    import io

    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.edgecolor": FAINT, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#eceef1",
        "axes.axisbelow": True,
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = Figure(figsize=(6.4, 4.0), dpi=160, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots()
        match plot.kind:
            case "curve":
                drawn = _curves(axes, plot, record)
            case "bars":
                drawn = _bars(axes, plot, record)
            case "custom" if plot.draw is not None:
                plot.draw(axes, dict(record))
                drawn = True
            case "custom":
                raise BadInput(f"plot '{plot.title}'", "no draw", "draw=function of (axes, record)")
            case _:
                raise one_of(f"plot '{plot.title}', kind", plot.kind, ("curve", "bars", "custom"))
        if not drawn:
            return None
        figure.suptitle(plot.title, x=0.02, ha="left", fontsize=11, fontweight="bold")
        axes.set_title(f"{record['slug']}, {record['size']}, {len(record['seeds'])} seeds", loc="left", fontsize=8, color=QUIET)
        data = io.BytesIO()
        canvas.print_png(data, metadata={"Software": None})
        return data.getvalue()


def _color(record: Mapping[str, Any], arm: str) -> str:
    return record["arms"][arm].get("color") or COLORS[list(record["arms"]).index(arm) % len(COLORS)]


def _curves(axes: Any, plot: Plot, record: Mapping[str, Any]) -> bool:
    ends: list[tuple[float, float, str, str]] = []
    for name, arm in record["arms"].items():
        pairs = [(x, y) for x, y in arm["curves"].get(plot.curve, []) if len(x) and all(map(math.isfinite, y))]
        if not pairs:
            continue
        x, mean, low, high = mean_band(pairs)
        color = _color(record, name)
        axes.plot(x, mean, color=color, linewidth=1.8, linestyle="--" if arm["reference"] else "-", solid_capstyle="round")
        if len(pairs) > 1:
            axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        ends.append((float(x[-1]), float(mean[-1]), name, color))
    if not ends:
        return False
    axes.set_xscale("log" if plot.log_x else "linear")
    axes.set_yscale("log" if plot.log_y else "linear")
    what, _, over = plot.curve.rpartition(" / ")
    axes.set_xlabel(UNITS.get(over, over))
    axes.set_ylabel(what)
    if any(len(arm["curves"].get(plot.curve, [])) > 1 for arm in record["arms"].values()):
        place: dict[str, Any] = {"xycoords": "axes fraction", "ha": "right", "va": "top"}
        axes.annotate("band: 95 % t interval over seeds", (1, 0.99), fontsize=7, color=QUIET, **place)
    _name_lines(axes, ends)
    return True


def _name_lines(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names at the right edge, in the lines' colours, in the lines' order, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    scale = np.log10 if axes.get_yscale() == "log" else np.asarray
    bottom, top = float(scale(low)), float(scale(high))
    gap, room = 0.055, len(ends)
    places = sorted(((float(scale(y)) - bottom) / (top - bottom), name, color) for _, y, name, color in ends)
    heights = [p[0] for p in places]
    for i in range(1, room):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    over = max(0.0, heights[-1] - 1.0)
    for i in range(room - 1, -1, -1):
        limit = heights[i] - over if i == room - 1 else min(heights[i], heights[i + 1] - gap)
        heights[i] = limit
    for height, (_, name, color) in zip(heights, places, strict=True):
        place: dict[str, Any] = {"xycoords": "axes fraction", "va": "center", "ha": "left", "annotation_clip": False}
        axes.annotate(name, (1.015, height), color=color, fontsize=8.5, **place)


def _bars(axes: Any, plot: Plot, record: Mapping[str, Any]) -> bool:
    arms = [(name, np.array(a["metrics"].get(plot.metric, []), dtype=np.float64)) for name, a in record["arms"].items()]
    arms = [(name, values[np.isfinite(values)]) for name, values in arms]
    arms = [(name, values) for name, values in arms if len(values)]
    if not arms:
        return False
    if plot.log_y:
        axes.set_xscale("log")
    for row, (name, values) in enumerate(arms):
        mean, color = float(values.mean()), _color(record, name)
        axes.plot([mean], [row], "o", color=color, markersize=7)
        if len(values) > 1:
            low, high = t_interval(values)
            axes.plot([low, high], [row, row], color=color, linewidth=2, solid_capstyle="round")
        axes.plot(values, [row] * len(values), "o", color=color, markersize=3, alpha=0.35)
        axes.annotate(f"{mean:.4g}", (mean, row), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8, color=color)
    axes.set_yticks(range(len(arms)), [name for name, _ in arms])
    axes.margins(x=0.1)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{plot.metric} (mean, 95 % t interval, and each seed)")
    return True
