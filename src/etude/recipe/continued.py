"""A run of one's own as the model that another run begins from: its checkpoint as a transformers folder, written once into its folder."""

from __future__ import annotations

from pathlib import Path

from etude.engine import checkpoint
from etude.errors import BadInput
from etude.generate.hub import EXPORTED, is_run
from etude.recipe.build import Resolve, no_models
from etude.recipe.export import export_run
from etude.recipe.models import Models


def prepare(name: str, where: str, resolve: Resolve = no_models, models: Models = no_models) -> None:
    """Exports the newest good checkpoint where `name` is the folder of a run and it is not there yet; `locate` then finds it.

    Raises BadInput, naming `where`, for a run without a checkpoint or of a model that cannot be exported.
    """
    folder = Path(name).expanduser()
    if not is_run(folder):
        return
    try:
        newest = checkpoint.latest(folder / "checkpoints")[0]
        place = folder / EXPORTED / newest.name
        if not place.is_dir():
            export_run(folder, place, resolve=resolve, models=models)
    except BadInput as error:
        raise BadInput(where, f"{name}, a run that nothing can begin from ({error.where}: {error.found})", error.expected) from error
