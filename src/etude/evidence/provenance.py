"""Where a record comes from: versions, machine, commit, date and the fingerprints of what it depends on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import etude
from etude.evidence import fingerprint
from etude.evidence.dates import now
from etude.evidence.places import git
from etude.evidence.study import Study


def provenance(study: Study, scale: str) -> dict[str, Any]:
    """JSON values. `hashes` are the four of `fingerprint.study_hashes`; `commit` is None outside a git checkout."""
    source = Path(next(iter(etude.__path__))).resolve()
    commit = git(source, "rev-parse", "HEAD")
    changed = git(source, "status", "--porcelain", "--", str(source)) if commit else None
    return {
        "etude": _version(),
        "commit": commit,
        "dirty": None if changed is None else bool(changed),
        **fingerprint.libraries(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "instruction_set": fingerprint.instruction_set(),
        "threads": 1,
        "date": now(),
        "hashes": fingerprint.study_hashes(study, scale),
        "data": fingerprint.data_hashes(study.data),
        "settings": fingerprint.settings_of(study, scale),
    }


def _version() -> str:
    try:
        return metadata.version("etude")
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
