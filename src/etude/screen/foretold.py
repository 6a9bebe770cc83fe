"""What a recipe's run will take, said before it starts: `etude train RECIPE --plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etude.errors import BadInput
from etude.evidence.live import clock
from etude.evidence.wording import amount
from etude.papers.loading import load_methods, load_models
from etude.recipe.train import recipe_of
from etude.recipe.writing import plain
from etude.screen.probe import STEPS, begin


def foretold(path: Path | str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The plan of one run, from its first updates on its own device. JSON values. Raises BadInput and NonFinite as the run would.

    What begins later in a run is not seen (see `Probe`). detectable: None, as one run shows no effect.
    """
    recipe, places = recipe_of(path, overrides, load_methods, load_models)
    document = plain(recipe)
    try:
        found = begin(document)
    except BadInput as error:
        raise places.located(error, ()) from error
    run = found.whole(found.budget)
    return {
        "recipe": places.file, "arms": 1, "runs": 1, "budget": document["budget"], "updates": round(run.updates), "tokens": run.tokens,
        "flops": run.flops, "seconds": run.seconds, "device": found.device, "parameters": found.parameters, "memory": found.memory,
        "device_memory": found.device_memory, "disk": run.disk, "detectable": None,
    }  # fmt: skip


def foretold_lines(told: dict[str, Any]) -> list[str]:
    """The plan in words."""
    device = f", {amount(told['device_memory'])}B of the device's" if told["device_memory"] else ""
    return [
        f"{told['recipe']}: 1 arm, 1 run of {told['updates']:,} updates, {amount(told['tokens'])} tokens or samples, "
        f"{amount(told['flops'])} FLOPs",
        f"about {clock(told['seconds'])} on {told['device']}, from its first {min(STEPS, told['updates'])} updates; "
        f"{amount(told['memory'])}B of memory{device}, {amount(told['disk'])}B of disk",
        "one run shows no effect: etude screen compares methods on this recipe, over seeds",
    ]
