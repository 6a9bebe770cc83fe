"""Python files of users: what is executed is what the file says now."""

from __future__ import annotations

from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType


class _Uncached(SourceFileLoader):
    """Compiles the file each time. Python's own cache takes a file of the same size, changed within the same second, for the old one."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def spec_of_file(name: str, path: Path) -> ModuleSpec | None:
    """As `spec_from_file_location`, for a file that may have changed since it was last executed; None where it is no Python file."""
    spec = spec_from_file_location(name, path)
    if spec is not None and isinstance(spec.loader, SourceFileLoader):
        spec.loader = _Uncached(name, str(path))
    return spec
