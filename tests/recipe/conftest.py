import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Encoded texts go to a folder of the test's own."""
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A tiny Qwen with a chat template, as a transformers folder."""
    from hf_folders import chat_folder  # needs transformers, which only those who ask for it need

    return chat_folder(tmp_path_factory.mktemp("models") / "qwen")
