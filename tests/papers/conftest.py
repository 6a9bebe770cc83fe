"""What tests of papers share."""

import pytest


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """A cache folder of the module's own: its bases are taught there, and nowhere else."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ETUDE_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()
