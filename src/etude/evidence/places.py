"""Where evidence lies: beside the source checkout, inside the installed package, or where ETUDE_EVIDENCE says.

Below the folder: `registered/SLUG.toml`, `records/SLUG.json`, `heads/SLUG.json` (the record's verdict and claims alone),
`attempts/SLUG.jsonl`, `tuning/SLUG.toml` (and its log, SLUG.md), `plots/SLUG/NAME.png`.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import etude
from etude.errors import BadInput

VARIABLE = "ETUDE_EVIDENCE"


@dataclass(frozen=True)
class Place:
    """An evidence folder.

    root:     the folder (it need not exist yet).
    checkout: the git work tree around it, or None. Only in a checkout are cpu runs gated by registration and written down:
              an installed package cannot be committed to.
    """

    root: Path
    checkout: Path | None = None

    def registered(self, slug: str) -> Path:
        return self.root / "registered" / f"{slug}.toml"

    def record(self, slug: str) -> Path:
        return self.root / "records" / f"{slug}.json"

    def head(self, slug: str) -> Path:
        return self.root / "heads" / f"{slug}.json"

    def attempts(self, slug: str) -> Path:
        return self.root / "attempts" / f"{slug}.jsonl"

    def tuning(self, slug: str) -> Path:
        return self.root / "tuning" / f"{slug}.toml"

    def plots(self, slug: str) -> Path:
        return self.root / "plots" / slug

    def recorded(self) -> list[str]:
        """Slugs that have a record, sorted."""
        return sorted(path.stem for path in (self.root / "records").glob("*.json"))


def find() -> Place:
    """The evidence folder of this installation. Raises BadInput where ETUDE_EVIDENCE names something that is no folder."""
    named = os.environ.get(VARIABLE)
    if named:
        root = Path(named).expanduser().resolve()
        if not root.is_dir():
            raise BadInput(VARIABLE, named, "an existing folder")
        return Place(root, _work_tree(root))
    package = Path(next(iter(etude.__path__))).resolve()
    for folder in package.parents:
        if (folder / "pyproject.toml").is_file() and (folder / "evidence").is_dir():
            return Place(folder / "evidence", _work_tree(folder))
    return Place(package / "_evidence")


def git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command run in `folder`, or None where git is missing or the command fails."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _work_tree(folder: Path) -> Path | None:
    for candidate in (folder, *folder.parents):
        if (candidate / ".git").exists():
            return candidate
    return None
