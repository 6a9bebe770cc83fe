"""Text files that cannot be read say why."""

import pytest

from etude.data.text import read_text
from etude.errors import BadInput


def test_a_good_file(tmp_path):
    (tmp_path / "a.txt").write_bytes("für\r\n".encode())
    assert read_text(tmp_path / "a.txt") == "für\r\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found an empty file, expected text"),
        (b" \n", "found an empty file"),
        (b"abc\0def", r"binary data \(a zero byte at 3\), expected UTF-8 text"),
        ("für".encode("latin-1"), r"a byte that is not UTF-8 \(0xfc at 1\)"),
    ],
)
def test_a_bad_file(tmp_path, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_text(path)
    assert caught.value.where == str(path)


def test_no_file(tmp_path):
    with pytest.raises(BadInput, match="found no such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(BadInput, match="found Is a directory"):
        read_text(tmp_path)
