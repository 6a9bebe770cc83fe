from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from etude.errors import BadInput
from etude.evidence import fingerprint
from etude.evidence.study import Arm, Scale, Study

CODE = '''
"""Module."""
LIMIT = 3
"""What LIMIT is."""

def f(x):
    """Doubles."""
    return x * 2  # twice
'''


def code(text):
    return fingerprint.code_hash({"a.py": text})


def test_comments_docstrings_and_layout_do_not_count():
    assert code(CODE) == code("LIMIT=3\ndef f(x):\n\n    return (x *\n        2)")


@pytest.mark.parametrize(
    ("old", "new"), [("x * 2", "2 * x"), ("LIMIT = 3", "LIMIT = 4"), ("LIMIT = 3", "LIMIT = 3.0"), ("def f(x)", "def f(x, y=1)")]
)
def test_code_counts(old, new):
    assert code(CODE) != code(CODE.replace(old, new))


def test_a_files_name_counts():
    assert code(CODE) != fingerprint.code_hash({"b.py": CODE})


def test_plain_values():
    @dataclass(frozen=True)
    class Inner:
        rates: tuple[float, ...]

    @dataclass(frozen=True)
    class Outer:
        inner: Inner
        dtype: torch.dtype
        path: Path
        kind: type
        count: np.int64

    told = fingerprint.plain(Outer(Inner((0.1, 0.2)), torch.bfloat16, Path("a/b"), dict, np.int64(3)))
    assert told == {"inner": {"rates": [0.1, 0.2]}, "dtype": "torch.bfloat16", "path": "a/b", "kind": "dict", "count": 3}
    assert fingerprint.plain({3, 1, 2}) == [1, 2, 3]


def test_the_code_of_a_study_is_its_own_file_and_not_the_floors(tiny):
    study = tiny().study()
    assert list(fingerprint.paper_files(study)) == ["tiny_study.py"]
    wrapped = replace(study, arms={"a": Arm(run=partial(partial(study.arms["plain"].run)), about="")})
    assert list(fingerprint.paper_files(wrapped)) == ["tiny_study.py"]
    assert fingerprint.paper_code(study) == fingerprint.code_hash({"tiny_study.py": Path(tiny().word).read_text()})


def test_a_package_counts_with_all_its_files(tmp_path, monkeypatch):
    package = tmp_path / "methodpkg"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("from methodpkg.deep.arm import run")
    (package / "helper.py").write_text("X = 1\n")
    (package / "deep" / "__init__.py").write_text("")
    (package / "deep" / "arm.py").write_text("def run(job): ...")
    monkeypatch.syspath_prepend(str(tmp_path))
    import methodpkg  # type: ignore[import-not-found]

    scales = {"quick": Scale(settings={}, seeds=1, size="s")}
    study = Study(slug="p", arms={"a": Arm(run=methodpkg.run, about="")}, scales=scales, claims=[], baseline="a", headline="loss")
    names = ("__init__.py", "deep/__init__.py", "deep/arm.py", "helper.py")
    assert list(fingerprint.paper_files(study)) == [f"methodpkg/{name}" for name in names]
    before = fingerprint.paper_code(study)
    (package / "helper.py").write_text("X = 2\n")
    assert fingerprint.paper_code(study) != before


def test_each_part_of_a_run_counts(tiny):
    study = tiny().study()
    hashes = fingerprint.study_hashes(study, "quick")
    of = partial(fingerprint.run_hash, study)
    found = {of(*run, hashes) for run in (("quick", "plain", 0), ("quick", "plain", 1), ("quick", "fast", 0), ("cpu", "plain", 0))}
    found |= {of("quick", "plain", 0, {**hashes, part: "other"}) for part in hashes}
    assert len(found) == 8
    assert set(hashes) == {"code", "settings", "data", "floors"}
    assert of("quick", "plain", 0, hashes) == of("quick", "plain", 0, dict(hashes))


def test_data_is_known_by_its_hash():
    found = fingerprint.data_hashes(["sample"])
    assert len(found["sample"]) == 64
    with pytest.raises(BadInput, match="sampel"):
        fingerprint.data_hashes(["sampel"])
