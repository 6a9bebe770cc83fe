"""A run of one's own as the model that another run begins from: its checkpoint as a transformers folder, written once into its folder."""

from __future__ import annotations

from pathlib import Path

from etude.engine import checkpoint
from etude.errors import BadInput
from etude.generate.hub import is_run
from etude.recipe.build import Resolve, no_models
from etude.recipe.export import export_run
from etude.recipe.models import Models

EXPORTED = "transformers"
"""Where in a run's folder what others begin from lies, a folder a checkpoint."""


def begun_from(name: str, where: str, resolve: Resolve = no_models, models: Models = no_models) -> str:
    """What to begin from: for a run's folder that of its newest good checkpoint, exported where it is not there yet; else `name` itself.

    Raises BadInput, naming `where`, for a run without a checkpoint or of a model that cannot be exported.
    """
    folder = Path(name).expanduser()
    if not is_run(folder):
        return name
    try:
        place = folder / EXPORTED / checkpoint.latest(folder / "checkpoints")[0].name
        if not place.is_dir():
            export_run(folder, place, resolve=resolve, models=models)
    except BadInput as error:
        raise BadInput(where, f"{name}, a run that nothing can begin from ({error.where}: {error.found})", error.expected) from error
    return str(place)
