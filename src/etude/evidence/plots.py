"""Figures of a study, as PNG files that come out the same for the same record.

Drawn on matplotlib's Agg canvas without its global state; nothing here depends on a display, a style file or the date.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from etude.engine.checkpoint import write_atomic
from etude.errors import BadInput, one_of
from etude.evidence import readings, records
from etude.evidence.claims import MOST_TOLERANCE
from etude.evidence.estimate import NotJudged
from etude.evidence.labels import End, name_ends
from etude.evidence.places import Place
from etude.evidence.statistics import mean_band, t_interval
from etude.evidence.study import Plot, Study
from etude.evidence.wording import amount, remark

if TYPE_CHECKING:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

COLORS = (
    "#3b6fb6", "#d1652b", "#3d9157", "#8b5fb0", "#b3394f", "#6b7280", "#b08a1e", "#2a9da5", "#1f2f54", "#d27fae", "#7b4b2a", "#8aa62f",
)  # fmt: skip
DASHES: tuple[Any, ...] = ("-", (0, (1, 1.3)), (0, (6, 1.5, 1, 1.5)))
"""Of the lines whose colors are used a second and a third time."""
INK, FAINT, QUIET = "#22262b", "#c9ced6", "#6b7280"
UNITS = {"flops": "FLOPs", "tokens": "training tokens", "seconds": "wall time (s)", "step": "updates", "share": "share of the budget"}
POWERS = {"k": (1e3, "10³"), "M": (1e6, "10⁶"), "G": (1e9, "10⁹"), "T": (1e12, "10¹²"), "P": (1e15, "10¹⁵")}
WIDTH, HEIGHT, MARGIN = 6.4, 4.0, 0.12  # inches


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


def redraw(study: Study, place: Place) -> tuple[list[Path], list[Path]]:
    """Draws the figures of a study on record anew: (those drawn, those that lie there and belong to no plot, which stay).

    Raises BadInput where there is no record that can be read.
    """
    record, folder = records.read(place.record(study.slug)), place.plots(study.slug)
    drawn = draw_all(study, record, folder)
    return drawn, sorted(set(folder.glob("*.png")) - set(drawn))


def draw(plot: Plot, record: Mapping[str, Any]) -> bytes | None:
    """The PNG of one plot, or None where the record has nothing for it. Raises BadInput for an unknown kind."""
    figure = paint(plot, record)
    return None if figure is None else _png(figure)


def paint(plot: Plot, record: Mapping[str, Any]) -> Figure | None:
    """The figure of one plot, or None where the record has nothing for it. Raises BadInput for an unknown kind."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.edgecolor": FAINT, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#eceef1",
        "axes.axisbelow": True, "axes.formatter.useoffset": False,
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        match plot.kind:
            case "curve":
                notes = _curves(axes, plot, record)
            case "bars":
                notes = _bars(axes, plot, record)
            case "custom" if plot.draw is not None:
                plot.draw(axes, dict(record))
                if axes.images:  # cells are told apart by their colors, and a grid would run through what is written in them
                    axes.grid(visible=False)
                _fill(axes)
                notes = []
            case "custom":
                raise BadInput(f"plot '{plot.title}'", "no draw", "draw=function of (axes, record)")
            case _:
                raise one_of(f"plot '{plot.title}', kind", plot.kind, ("curve", "bars", "custom"))
        if notes is None:
            return None
        n = len(record["seeds"])
        about = f"{record['slug']}, {record['size']}, {n} seed{'s' * (n != 1)}"
        _head(figure, _title(plot, record), "; ".join([about, *notes, *filter(None, [remark(record)])]))
        figure.canvas.draw()  # places everything, while the settings hold
        return figure


def _png(figure: Figure) -> bytes:
    """With a palette, which makes the file a third of the size and is not seen."""
    from PIL import Image

    data, canvas = io.BytesIO(), cast("FigureCanvasAgg", figure.canvas)
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(data, "png", optimize=True)
    return data.getvalue()


def _head(figure: Figure, title: str, about: str) -> None:
    """Title and subtitle at the top left, broken into lines as the width asks; what is drawn gets the rest of the height."""
    height = figure.get_figheight()
    top = height - MARGIN
    for text, size, weight, color in ((title, 11, "bold", INK), (about, 8, "normal", QUIET)):
        # Measured line by line: the renderer knows widths, an average character does not.
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            fits = lines and _inches(figure, longer, size, weight) <= WIDTH - 2 * MARGIN
            lines = [*lines[:-1], longer] if fits else [*lines, word]
        for line in lines:
            figure.text(MARGIN / WIDTH, top / height, line, fontsize=size, fontweight=weight, color=color, ha="left", va="top")
            top -= 1.3 * size / 72
        top -= 0.02
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(0, 0, 1, top / height), w_pad=0.09, h_pad=0.06)


def _inches(figure: Figure, line: str, size: float, weight: str) -> float:
    text = figure.text(0, 0, line, fontsize=size, fontweight=weight)
    width = text.get_window_extent().width / figure.dpi
    text.remove()
    return width


def _title(plot: Plot, record: Mapping[str, Any]) -> str:
    """The plot's title; "at equal FLOPs" in it is held against the ledgers, and says by how much where they are not equal."""
    said = re.search(r"\bat equal (\w+)", plot.title, re.IGNORECASE)
    if said is None:
        return plot.title
    totals = []
    for name, arm in record["arms"].items():
        if not arm["reference"] and (plot.curve in arm["curves"] or plot.metric in arm["metrics"]):
            try:
                totals.append(float(np.mean(readings.spent(record, name, said[1].lower()))))
            except NotJudged:
                return plot.title
    apart = max(totals) / min(totals) - 1 if totals and min(totals) > 0 else 0.0
    if apart <= MOST_TOLERANCE:
        return plot.title
    return plot.title.replace(said[0], f"at unequal {said[1]} (up to {100 * apart:.0f} % apart)")


def _fill(axes: Any) -> None:
    """Makes the figure as high as lets square panels inside the axes fill their cells, so that no blank lies between them."""
    panels = [panel for panel in axes.child_axes if panel.get_aspect() == 1]
    if not panels:
        return
    whole = axes.get_position(original=True)
    cells = [panel.get_position(original=True) for panel in panels]
    shape = float(np.median([cell.width / whole.width / (cell.height / whole.height) for cell in cells]))  # of a square axes
    head = 0.8  # inches: title, subtitle and what is written below
    axes.figure.set_figheight(float(np.clip(head + (WIDTH - 2 * MARGIN) * shape, HEIGHT, 2 * HEIGHT)))


def _styles(record: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """arm -> (color, dashes), no two alike before all colors have been used three times. Colors that arms ask for are theirs alone."""
    asked = {name: arm.get("color") for name, arm in record["arms"].items()}
    free = [color for color in COLORS if color not in asked.values()]
    styles, turn = {}, 0
    for name, color in asked.items():
        styles[name] = (color or free[turn % len(free)], "-" if color else DASHES[turn // len(free) % len(DASHES)])
        turn += not color
    return styles


COUNTS = re.compile(r"\b(tokens|samples|updates|calls|FLOPs|parameters|bytes)\b", re.I)
"""Of a metric's name: where no value is above 1 they are not counted, but a share of them is told ("tokens, 4x")."""
SIZES = re.compile(r"\b(per second|a second|seconds|time|tokens|samples|updates|calls|FLOPs|parameters|bytes|length|perplexity)\b", re.I)
"""Of a metric's name: what is measured cannot be less than nothing."""


def _limits(plot: Plot, name: str, values: Sequence[float]) -> tuple[float, float]:
    """Between which values a quantity can lie: the plot's own; 0 to 1 where all are there and it is no loss; from 0 on where it
    is a size by its name and no value is below; else anywhere.

    An interval by Student's t knows no such limits; what lies beyond them is not drawn.
    """
    if plot.limits is not None:
        return plot.limits
    if not len(values) or min(values) < 0:
        return -math.inf, math.inf
    share = re.search("accuracy|share|rate", name) or (COUNTS.search(name) and max(values) <= 1)
    if SIZES.search(name) and not share:
        return 0.0, math.inf
    return (0.0, 1.0) if max(values) <= 1 and "loss" not in name else (-math.inf, math.inf)


def _cut(limits: tuple[float, float]) -> str:
    """ "cut at 0 and 1" """
    return "cut at " + " and ".join(f"{limit:g}" for limit in limits if math.isfinite(limit))


def _curves(axes: Any, plot: Plot, record: Mapping[str, Any]) -> list[str] | None:
    """Draws them and returns what the subtitle should say; None where there are none."""
    curves = {name: [(x, y) for x, y in arm["curves"].get(plot.curve, []) if len(x) and all(map(math.isfinite, y))]
              for name, arm in record["arms"].items()}  # fmt: skip
    curves = {name: pairs for name, pairs in curves.items() if pairs}
    if not curves:
        return None
    what, _, over = plot.curve.rpartition(" / ")
    bottom, top = limits = _limits(plot, what, [v for pairs in curves.values() for _, y in pairs for v in y])
    styles, ends, spans = _styles(record), [], []
    bands = cut = False
    drawn: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    same: list[str] = []  # which lie on a line that is there already
    for i, (name, pairs) in enumerate(curves.items()):
        if max(x[0] for x, _ in pairs) > min(x[-1] for x, _ in pairs):  # no place that all seeds share has a mean
            for x, y in pairs:
                axes.plot(x, y, color=styles[name][0], linewidth=1.1, marker="o" if len(x) == 1 else "", markersize=4)
                spans.append((np.asarray(x), np.asarray(y), np.asarray(y), np.asarray(y)))
            x, y = pairs[-1]
            ends.append(End(float(x[-1]), float(y[-1]), name, styles[name][0]))
            continue
        x, mean, low, high = mean_band(pairs)
        cut = cut or bool((low < bottom).any() or (high > top).any())
        low, high = np.clip(low, bottom, top), np.clip(high, bottom, top)
        color, dashes = styles[name]
        dashes = "--" if record["arms"][name]["reference"] and dashes == "-" else dashes
        if under := next((other for other, (at, y) in drawn.items() if np.array_equal(x, at) and np.array_equal(mean, y)), ""):
            same.append(f"'{name}' is '{under}', value for value")
            dashes = (0, (3, 3))  # so that both show
        drawn[name] = x, mean
        width = 2.4 - 1.1 * i / max(len(curves) - 1, 1)  # thinner ones on top, so that one that is covered still shows
        axes.plot(x, mean, color=color, linewidth=width, linestyle=dashes, marker="o" if len(x) == 1 else "", markersize=5)
        if len(pairs) > 1:
            bands = True
            alpha = 0.15 if len(curves) <= 4 else 0.09
            axes.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)
            if len(x) == 1:
                axes.plot([x[0]] * 2, [low[0], high[0]], color=color, linewidth=1.2)
        ends.append(End(float(x[-1]), float(mean[-1]), name, color))
        spans.append((x, mean, np.where(np.isfinite(low), low, mean), np.where(np.isfinite(high), high, mean)))
    axes.set_xscale("log" if plot.log_x else "linear")
    axes.set_yscale("log" if plot.log_y else "linear")
    notes = ["band: 95 % t interval over seeds" + cut * f", {_cut(limits)}"] if bands else []
    notes += same
    if (over in UNITS or over in ("samples", "steps", "updates")) and not plot.log_x and not plot.log_y:
        notes += _frame(axes, spans)
    whole = all(float(v).is_integer() for pairs in curves.values() for x, _ in pairs for v in x)
    axes.set_xlabel(_axis(axes.xaxis, UNITS.get(over, over), axes.get_xlim()[1], plot.log_x, whole))
    axes.set_ylabel(_axis(axes.yaxis, what, max(map(abs, axes.get_ylim())), plot.log_y))
    axes.set_xlim(*axes.get_xlim())  # what is written from here on moves no limit
    name_ends(axes, ends)
    return notes


def _frame(axes: Any, spans: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> list[str]:
    """Fits the height to what comes after the first tenth, where the beginning would take most of it; says where lines begin then.

    spans: (x, mean, low, high) of each line.
    """
    first, last = min(x[0] for x, *_ in spans), max(x[-1] for x, *_ in spans)
    x, _, low, high = (np.concatenate(side) for side in zip(*spans, strict=True))
    late = x >= first + 0.1 * (last - first)
    bottom, top = float(low[late].min()), float(high[late].max())
    if top - bottom <= 0 or top - bottom > 0.5 * (high.max() - low.min()):
        return []
    room = 0.06 * (top - bottom)
    axes.set_ylim(bottom - room, top + room)
    starts = [float(mean[0]) for _, mean, *_ in spans if not bottom - room <= mean[0] <= top + room]
    return [f"begins at {starts[0]:.3g}, outside the frame"] if starts else []


def _axis(axis: Any, label: str, largest: float, log: bool, whole: bool = False) -> str:
    """Puts numbers such as 20k and 1.5T on an axis, only whole ones where `whole`; returns its label, which explains the letter."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if whole and not log:
        axis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 5, 10]))
    letter = amount(largest)[-1]
    if largest < 1e4 or letter not in POWERS:
        return label
    if log:
        axis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
        return label
    unit, power = POWERS[letter]
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:.4g}{letter if value else ''}"))
    return f"{label} ({letter}: {power})"


def _bars(axes: Any, plot: Plot, record: Mapping[str, Any]) -> list[str] | None:
    arms = [(name, np.array(a["metrics"].get(plot.metric, []), dtype=np.float64)) for name, a in record["arms"].items()]
    arms = [(name, values[np.isfinite(values)]) for name, values in arms]
    arms = [(name, values) for name, values in arms if len(values)]
    if not arms:
        return None
    if plot.log_y:
        axes.set_xscale("log")
    axes.figure.set_figheight(max(HEIGHT, 1.4 + 0.32 * len(arms)))
    styles, limits = _styles(record), _limits(plot, plot.metric, np.concatenate([values for _, values in arms]).tolist())
    cut = False
    for row, (name, values) in enumerate(arms):
        mean, color = float(values.mean()), styles[name][0]
        hollow = record["arms"][name]["reference"]
        if len(values) > 1:
            ends = np.clip(t_interval(values), *limits)
            cut = cut or not np.array_equal(ends, t_interval(values))
            axes.plot(ends, [row, row], color=color, linewidth=2, solid_capstyle="round")
        axes.plot([mean], [row], "o", color=color, markersize=7, markerfacecolor="white" if hollow else color)
        axes.plot(values, [row + 0.2] * len(values), "o", color=color, markersize=2.5, alpha=0.5, markeredgewidth=0)
        axes.annotate(f"{mean:.4g}", (mean, row), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8, color=color)
    axes.set_yticks(range(len(arms)), [name for name, _ in arms])
    axes.margins(x=0.1)
    left, right = axes.get_xlim()
    if left < limits[0] and not plot.log_y:  # a little room for a point at the limit, none for what cannot be
        axes.set_xlim(left=max(left, limits[0] - 0.02 * (right - limits[0])))
    axes.set_ylim(len(arms) - 0.4, -0.7)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(_axis(axes.xaxis, plot.metric, max(map(abs, axes.get_xlim())), plot.log_y))
    return ["mean, 95 % t interval" + cut * f" ({_cut(limits)})" + ", and each seed below"]
