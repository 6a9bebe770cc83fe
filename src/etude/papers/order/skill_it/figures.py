"""Figures: the mixture over time, and the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from etude.evidence.plots import COLORS
from etude.evidence.study import Plot


def mixture_of(arm: str) -> Plot:
    """What a run drew of each skill over its steps, mean over seeds."""

    def draw(axes: Any, record: Mapping[str, Any]) -> None:
        told = record["arms"].get(arm, {"curves": {}})["curves"]
        names = [name for name in told if "share, " in name]
        for place, name in enumerate(names):
            x, shares = np.array(told[name][0][0]), np.array([y for _, y in told[name]])
            style = {"color": COLORS[place % len(COLORS)], "linestyle": ("-", "--", ":")[place // len(COLORS) % 3]}
            axes.step(x, shares.mean(0), where="post", linewidth=1.6, label=name.partition("share, ")[2].removesuffix(" / steps"), **style)
        axes.set(xlabel="step", ylabel="share of the draws", ylim=(0, 1))
        if names:
            axes.legend(frameon=False, fontsize=7, ncols=2 if len(names) > 6 else 1)

    return Plot(title=f"What is drawn over time: {arm}", kind="custom", draw=draw)


def graph_of(arm: str) -> Plot:
    """The graph of an arm, mean over seeds: how much training on the skill of a row helps with that of a column."""

    def draw(axes: Any, record: Mapping[str, Any]) -> None:
        told = record["arms"].get(arm, {"metrics": {}})["metrics"]
        cells = {name: values for name, values in told.items() if "graph, row " in name}
        if not cells:
            return
        places = {name: tuple(int(part.split()[-1]) - 1 for part in name.split(", ")[-2:]) for name in cells}
        size = np.array(list(places.values())).max(0) + 1
        mean = np.zeros(size)
        for name, values in cells.items():
            mean[places[name]] = np.mean(values)
        axes.imshow(mean, cmap="Blues", vmin=0, vmax=1)
        if mean.size <= 64:
            for (i, j), value in np.ndenumerate(mean):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if value > 0.6 else "black")
        axes.set(xlabel="helps with skill", ylabel="training on skill", xticks=range(size[1]), yticks=range(size[0]))
        axes.set_xticklabels(range(1, size[1] + 1))
        axes.set_yticklabels(range(1, size[0] + 1))

    return Plot(title=f"Which skill helps which: {arm}", kind="custom", draw=draw)
