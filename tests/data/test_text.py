"""Text files that cannot be read say why."""

from itertools import pairwise

import pytest

from etude.data.encoding import encoded
from etude.data.text import READ, TextFile, parted, parts_of, read_text, text_pieces
from etude.data.tokenizers import Bytes
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
        (b"a" * 300_000 + b"\0def", r"binary data \(a zero byte at 300000\)"),
        (b"a" * 299_999 + b"\xfc", r"a byte that is not UTF-8 \(0xfc at 299999\)"),
        (b"a" * 262_143 + b"\xc3x", r"a byte that is not UTF-8 \(0xc3 at 262143\)"),
        (b"abc\xe2\x82", r"a byte that is not UTF-8 \(0xe2 at 3\)"),
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
    with pytest.raises(BadInput, match="found is a directory"):
        read_text(tmp_path)


def test_pieces_are_the_text_and_end_where_an_encoder_starts_anew(tmp_path):
    path = tmp_path / "a.txt"
    text = "für zwölf Boxkämpfer\n\n  a line\nanother €\r\n" * 40_000
    path.write_bytes(text.encode())
    assert "".join(text_pieces(path)) == "".join(text_pieces(path, 7)) == text
    found = TextFile.scan(path)
    assert (found.characters, found.alphabet()) == (len(text), "".join(sorted(set(text))))
    ((before, pieces),) = found.documents()
    listed = list(pieces)
    assert before == 0
    assert "".join(listed) == text
    assert len(listed) > 3
    assert max(map(len, listed)) < 2 * READ
    for end, start in pairwise(listed):
        assert end[-1] == "\n"
        assert not end[-2].isspace()
        assert not start[0].isspace()


def test_documents_between_separators(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n--\ntwo\n--\n\n--\nthree")
    found = [(before, "".join(pieces)) for before, pieces in TextFile.scan(path).documents("\n--\n")]
    assert found == [(0, "one"), (7, "two"), (14, ""), (18, "three")]


@pytest.mark.parametrize("first", [0, 2, 3, 5, 6])
def test_parted(first):
    head, tail = parted(iter(["abc", "def"]), first)
    assert "".join(head) == "abcdef"[:first]
    assert "".join(tail) == "abcdef"[first:]


def test_a_folder_of_texts(tmp_path, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path_factory.mktemp("cache")))
    for name, text in (("b.txt", "second "), ("a/z.md", "first, ünd "), ("c.txt", "third"), (".hidden.txt", "no"), ("d.csv", "no")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    folder = TextFile.scan(tmp_path)
    assert folder.characters == len("first, ünd second third")
    assert ["".join(pieces) for _, pieces in folder.documents()] == ["first, ünd ", "second ", "third"]
    assert ["".join(pieces) for _, pieces in folder.documents(", ")] == ["first", "ünd ", "second ", "third"]
    assert folder.alphabet() == "".join(sorted(set("first, ünd second third")))
    train, held = encoded(folder, Bytes(), held_out=0.01)
    assert (train.num_documents, held.num_documents) == (2, 1)
    assert held.tokens.tobytes() == b"third"
    (tmp_path / "c.txt").write_text("other")
    assert TextFile.scan(tmp_path).sha256 != folder.sha256
    with pytest.raises(BadInput, match="beside the folder a"):
        parts_of(tmp_path, "data.text")
    assert parts_of(tmp_path / "a", "data.text") == ()
    (tmp_path / "e" / "f").mkdir(parents=True)
    with pytest.raises(BadInput, match="a folder without texts"):
        parts_of(tmp_path / "e", "data.text")
    with pytest.raises(BadInput, match="a folder without texts"):
        TextFile.scan(tmp_path / "e")
