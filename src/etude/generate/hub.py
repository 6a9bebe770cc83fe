"""Model folders by name: one of this machine, or one of the Hugging Face Hub, fetched once and kept in the Hub's own cache.

`HF_HUB_OFFLINE=1` and `offline()` (`etude train --offline`) keep to what is there already.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from etude.errors import BadInput

WANTED = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json",
          "chat_template*", "LICENSE*"]  # fmt: skip
"""What is fetched of a repository: never pickled weights, never code."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Located:
    """path: the folder. name: what was asked for. commit: of the Hub's repository; empty for a folder of this machine."""

    path: Path
    name: str
    commit: str = ""


def locate(name: str, revision: str | None = None, where: str = "model") -> Located:
    """The folder of that name, or the Hub's repository `org/name` at a revision (a branch, tag or commit; "main" where none is given).

    Raises BadInput for a folder that is not there or a run's (`recipe.continued` makes a model of it), a name that is neither, an unknown
    repository or revision, one that asks for a licence to be accepted first, and where there is neither a network nor a copy in the cache.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise BadInput(_of_revision(where), f"'{revision}' beside a folder", "none: only the Hub has revisions")
        if is_run(folder):
            raise BadInput(where, f"{name}, the folder of a run", f"a transformers folder: `etude export {name} DIR --to hf` writes one")
        return Located(folder, name)
    if folder.exists():
        raise BadInput(where, f"{name}, a file", "a folder with config.json and safetensors, or an id of the Hub")
    if not _HUB_ID.fullmatch(name):
        raise BadInput(where, f"{name}, which is not there", "a folder with config.json and safetensors, or an id of the Hub")
    return _fetched(name, revision, where)


def _of_revision(where: str) -> str:
    """Where the revision beside a model's name is said: `model.revision` in a recipe, `--revision` on the command line."""
    return "--revision" if where.startswith("--") else f"{where.removesuffix('.pretrained')}.revision"


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a run of etude's, with a checkpoint."""
    return (folder / "recipe.toml").is_file() and (folder / "checkpoints").is_dir() and not (folder / "config.json").exists()


@contextmanager
def offline(asked: bool = True) -> Iterator[None]:
    """Nothing is asked of the Hub meanwhile, by etude or by the packages that it uses; what its cache holds is used. asked: False changes
    nothing."""
    if not asked:
        yield
        return
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    # The package reads the variable once, on import.
    constants = sys.modules.get("huggingface_hub.constants")
    was = getattr(constants, "HF_HUB_OFFLINE", None)
    if constants is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
        if constants := sys.modules.get("huggingface_hub.constants"):
            constants.HF_HUB_OFFLINE = was if was is not None else str(before).upper() in ("1", "ON", "YES", "TRUE")  # type: ignore[attr-defined]


def _asks_nothing() -> bool:
    """Whether the Hub is not to be asked: `huggingface_hub` is then the one that says so, as it reads the variable by rules of its own."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@cache
def _fetched(name: str, revision: str | None, where: str) -> Located:
    """Asked of the Hub once in a process: a model and its tokenizer are of one commit, even where a branch moves meanwhile."""
    try:
        from huggingface_hub import errors, snapshot_download
        from huggingface_hub.utils import disable_progress_bars, logging
    except ImportError:
        raise BadInput(where, "no huggingface_hub", "the package: pip install 'etude[hf]'") from None
    disable_progress_bars()
    logging.set_verbosity_error()
    at = f"'{name}'" + (f" at '{revision}'" if revision else "")
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=WANTED))
    except errors.GatedRepoError:
        raise BadInput(where, f"{at}, whose licence must be accepted first", "access, asked for on its page, and `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise BadInput(_of_revision(where), f"{at}, which the Hub does not have", "a branch, tag or commit of that repository") from None
    except errors.RepositoryNotFoundError:
        raise BadInput(where, f"{at}, neither a folder here nor a repository of the Hub", "one of the two") from None
    except errors.LocalEntryNotFoundError:
        if not _asks_nothing():
            expected = "a folder here, or a network to fetch it once"
            raise BadInput(where, f"{at}, no folder here, not in the Hub's cache, and no way to the Hub", expected) from None
        expected = "a folder here, or to fetch it once without --offline and HF_HUB_OFFLINE"
        raise BadInput(where, f"{at}, no folder here, and not in the Hub's cache, which is all that is asked offline", expected) from None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        line = " ".join(str(error).split())
        raise BadInput(where, f"{at}: {line[:160]}", "a repository that the Hub gives") from error
    return Located(found, name, found.name)
