"""From a word to a study. A reference is a pair that survives a process boundary: who can find it, and under which word.

`locate` names a function as "module:function"; it is given the word (a slug, a path) and returns the `Study`. This floor
knows no paper: the catalogue is named by whoever composes.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from etude.engine.source_files import spec_of_file
from etude.errors import BadInput
from etude.evidence.study import Study

CATALOGUE = "etude.papers.catalogue:load_study"
FILE = "etude.evidence.reference:study_from_file"


@dataclass(frozen=True)
class Reference:
    """locate: "module:function"; word: its argument."""

    word: str
    locate: str = CATALOGUE

    def study(self) -> Study:
        """Raises BadInput where the function or the study cannot be found."""
        module, _, name = self.locate.partition(":")
        try:
            find = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise BadInput("locate", f"'{self.locate}' ({error})", "module:function that returns a Study") from error
        found = find(self.word)
        if not isinstance(found, Study):
            raise BadInput(f"study {self.word}", type(found).__name__, "a Study")
        return found


def study_from_file(path: str) -> Study:
    """The `STUDY` that a Python file defines. The file is executed anew on each call."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise BadInput("study", f"'{path}'", "a Python file that defines STUDY")
    name = f"etude_study_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    spec = spec_of_file(name, file)
    if spec is None or spec.loader is None:
        raise BadInput("study", f"'{path}'", "a Python file (.py) that defines STUDY")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being executed
    spec.loader.exec_module(module)
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise BadInput(str(file), "no STUDY" if study is None else f"STUDY = {type(study).__name__}", "STUDY = Study(...)")
    return study


def reference_of(study: Study) -> Reference | None:
    """How another process finds a study given as an object; None where it cannot be told (it is nobody's `STUDY`).

    A study of the catalogue, or of an installed package, is found under its slug; one from a single file by that file.
    """
    for module in list(sys.modules.values()):
        if vars(module).get("STUDY") is study and getattr(module, "__file__", None):
            file = Path(str(module.__file__)).resolve()
            packaged = file.name == "__init__.py" or (file.parent / "__init__.py").is_file()
            return Reference(study.slug) if packaged else Reference(str(file), FILE)
    return None
