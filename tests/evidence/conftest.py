import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from etude.evidence.places import Place
from etude.evidence.reference import FILE, Reference

TINY = Path(__file__).with_name("tiny_study.py")


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Reference]:
    """tiny(("old", "new"), ...) writes the tiny study with these changes to its text and says where it is."""

    def write(*changes: tuple[str, str]) -> Reference:
        text = TINY.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / "study" / "tiny_study.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return Reference(str(file), FILE)

    return write


@pytest.fixture
def git(tmp_path: Path) -> Callable[..., str]:
    """git("commit", ...) in the checkout of `place`."""
    folder = tmp_path / "checkout"
    folder.mkdir()

    def run(*arguments: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True).stdout

    run("init", "-q")
    return run


@pytest.fixture
def place(git: Callable[..., str], tmp_path: Path) -> Place:
    """An empty evidence folder in a git checkout of its own."""
    root = tmp_path / "checkout" / "evidence"
    root.mkdir()
    return Place(root, root.parent)


@pytest.fixture
def stub_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else these tests do; test_report.py draws in earnest."""
    from etude.evidence import plots

    monkeypatch.setattr(plots, "draw", lambda plot, record: b"a picture")
