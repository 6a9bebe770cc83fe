"""Is depth better spent on layers that are used again? The work of growth, with a plain transformer of eight layers as the baseline."""

from __future__ import annotations

from pathlib import Path

from etude.arenas import growth, recipes
from etude.arenas.arena import Arena

ARENA = Arena(
    name="recursion",
    question="Is depth better spent on layers that are used again?",
    goals=growth.ARENA.goals,
    enter=recipes.entrant,
    scales=growth.scales(),
    plots=growth.ARENA.plots,
    code=(Path(__file__), *growth.ARENA.code),
    baseline_about="a transformer of eight layers, each used once",
)
