import os
from importlib.util import module_from_spec

from etude.engine.source_files import spec_of_file


def test_a_file_changed_within_the_second_is_executed_as_it_is_now(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    file = tmp_path / "mine.py"
    for value in (1, 2):
        file.write_text(f"VALUE = {value}\n")
        os.utime(file, (1_700_000_000, 1_700_000_000))  # the same second, and the same size
        spec = spec_of_file("mine", file)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        assert value == module.VALUE
    assert not (tmp_path / "__pycache__").exists()
    assert spec_of_file("mine", tmp_path / "mine.txt") is None
