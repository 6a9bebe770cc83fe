"""Text files as memory-mapped tokens: the same tokens as in memory, once, and flat memory."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import etude.data.encoding as encoding
from etude.data.encoding import encoded, text_tokens, tokenizer_for
from etude.data.sources import WindowSource
from etude.data.stream import source_of
from etude.data.text import TextFile
from etude.data.tokenizers import make
from etude.data.tokens import write_documents
from etude.errors import BadInput

TEXT = "Für zwölf Boxkämpfer,\n\n  jagt Viktor quer\nüber den großen Sylter Deich. €\r\n" * 6_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    return TextFile.scan(tmp_path / "a.txt")


@pytest.mark.parametrize("kind", ["byte", "character", "bpe"])
def test_tokens_are_those_of_the_whole_text(text, kind):
    cut = int(len(TEXT) * 0.9)
    whole = make(kind, TEXT if kind == "character" else TEXT[:cut], 300)
    tokenizer = tokenizer_for([text], kind, 300, held_out=0.1)
    assert tokenizer.to_json() == whole.to_json()
    train, held = encoded(text, tokenizer, held_out=0.1)
    assert held is not None
    assert np.array_equal(train.tokens, whole.encode(TEXT[:cut]))
    assert np.array_equal(held.tokens, whole.encode(TEXT[cut:]))
    assert train.num_documents == 1


def test_a_text_is_encoded_once(text, monkeypatch):
    first = text_tokens(text.path)
    monkeypatch.setattr(encoding, "_write", lambda *given: pytest.fail("encoded again"))
    assert np.array_equal(text_tokens(text.path).tokens, first.tokens)


def test_documents_stay_whole(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("\n\n".join(f"document {i}" for i in range(20)))
    train, held = encoded(TextFile.scan(path), make("byte", ""), held_out=0.25, separator="\n\n")
    assert held is not None
    names = [c.document(d).tobytes().decode() for c in (train, held) for d in range(c.num_documents)]
    assert names == [f"document {i}" for i in range(20)]
    assert held.num_documents == 4  # those that begin in the last quarter


def test_what_cannot_be_encoded(tmp_path, monkeypatch, text):
    short = tmp_path / "s.txt"
    short.write_text("ab")
    with pytest.raises(BadInput, match="nothing for the part 'held-out'"):
        encoded(TextFile.scan(short), make("byte", ""), held_out=0.1, separator="\n")
    with pytest.raises(BadInput, match="one of byte, character, bpe"):
        tokenizer_for([text], "words", 300)
    stale = TextFile(short, "0" * 64, 2)
    with pytest.raises(BadInput, match="content that changes while it is read"):
        encoded(stale, make("byte", ""))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="a folder that can be written"):
        text_tokens(short)


def test_a_folder_of_tokens_is_a_source(tmp_path):
    write_documents(tmp_path / "tokens", ["first document", "second"], make("byte", ""))
    source = source_of(tmp_path / "tokens", 4)
    assert isinstance(source, WindowSource)
    assert source.get(np.array([0]))["tokens"][0].tolist() == list(b"first")
    with pytest.raises(BadInput, match=r"no header.json"):
        source_of(tmp_path, 4)


def test_memory_is_flat_however_large_the_text(tmp_path):
    """64 MB become tokens and batches within a few MB of arrays and anonymous memory."""
    path, line = tmp_path / "large.txt", b"the cat sat on the mat; the dog ran to the sea.\n"
    with path.open("wb") as file:
        for _ in range(64):
            file.write(line * (2**20 // len(line)))
    program = """
        import sys, tracemalloc
        import numpy as np
        from etude.data.stream import stream_of

        def anonymous():
            rows = [row.split() for row in open("/proc/self/status")]
            return next(int(row[1]) for row in rows if row[0] == "RssAnon:") / 1024

        before = anonymous()
        tracemalloc.start()
        stream = stream_of(sys.argv[1], 8, 0, context=1024)
        for _ in range(5):
            stream.next()
        print(tracemalloc.get_traced_memory()[1] / 2**20, anonymous() - before, len(stream.source.tokens))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    peak, grown, num_tokens = map(float, done.stdout.split())
    assert num_tokens == path.stat().st_size > 66e6
    assert peak < 16
    if sys.platform == "linux":
        assert grown < 24
