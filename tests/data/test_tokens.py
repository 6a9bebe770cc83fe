"""Token corpora on disk, and where they are cut."""

import json
import shutil

import numpy as np
import pytest

from etude.data.splits import document_ranges, token_ranges
from etude.data.tokenizers import Bytes
from etude.data.tokens import TokenCorpus, TokenWriter, dtype_for, write_documents
from etude.errors import BadInput


def written(folder, documents, vocab=256, **more):
    with TokenWriter(folder, vocab=vocab, **more) as writer:
        for document in documents:
            writer.add(document)
    return TokenCorpus.open(folder, verify=True)


@pytest.mark.parametrize(("vocab", "dtype"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_the_smallest_type_that_holds_the_vocabulary(vocab, dtype):
    assert dtype_for(vocab).name == dtype


def test_what_is_written_comes_back(tmp_path):
    documents = [[1, 2, 300], [4], [5, 70_000]]
    corpus = written(tmp_path / "c", documents, vocab=100_000)
    assert corpus.tokens.tolist() == [1, 2, 300, 4, 5, 70_000]
    assert corpus.offsets.tolist() == [0, 3, 4, 6]
    assert [corpus.document(d).tolist() for d in range(3)] == documents
    assert corpus.document_of(np.array([0, 2, 3, 4, 5])).tolist() == [0, 0, 1, 2, 2]
    header = json.loads((tmp_path / "c" / "header.json").read_text())
    assert header["dtype"] == "uint32"
    assert header["sha256"]["tokens.bin"] == corpus.sha256
    assert not list(tmp_path.glob(".*"))


def test_domains_are_kept(tmp_path):
    with TokenWriter(tmp_path / "c", vocab=256, domain_names=("a", "b")) as writer:
        writer.add([1], "b")
        writer.add([2, 3], "a")
    corpus = TokenCorpus.open(tmp_path / "c")
    assert corpus.domain_names == ("a", "b")
    assert corpus.document_domains.tolist() == [1, 0]


def test_texts_are_encoded_one_by_one(tmp_path):
    corpus = write_documents(tmp_path / "c", iter(["ab", "", "c"]), Bytes())
    assert corpus.tokens.tobytes() == b"abc"
    assert corpus.num_documents == 2
    assert corpus.tokenizer == "byte"


def test_an_error_inside_leaves_nothing(tmp_path):
    def broken():
        yield "one"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_documents(tmp_path / "c", broken(), Bytes())
    assert list(tmp_path.iterdir()) == []


def test_bad_input_of_the_writer(tmp_path):
    with pytest.raises(BadInput, match="document 0: found token 256, expected ids from 0 to 255"):
        written(tmp_path / "c", [[1, 256]])
    with pytest.raises(BadInput, match="found token -1"):
        written(tmp_path / "c", [[-1, 3]])
    with pytest.raises(BadInput, match="found no tokens, expected at least one document"):
        written(tmp_path / "c", [[]])
    with TokenWriter(tmp_path / "d", vocab=9, domain_names=("news",)) as writer:
        with pytest.raises(BadInput, match="did you mean 'news'"):
            writer.add([1], "newss")
        writer.add([1], "news")
    shutil.rmtree(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []
    written(tmp_path / "c", [[1]])
    with pytest.raises(BadInput, match="found something there already"):
        TokenWriter(tmp_path / "c", vocab=256)


def test_bad_input_of_the_reader(tmp_path):
    with pytest.raises(BadInput, match=r"no header\.json"):
        TokenCorpus.open(tmp_path / "none")
    written(tmp_path / "c", [[1, 2, 3]])
    tokens = tmp_path / "c" / "tokens.bin"
    tokens.write_bytes(b"\1\2\4")
    assert len(TokenCorpus.open(tmp_path / "c")) == 3
    with pytest.raises(BadInput, match="does not match its SHA-256"):
        TokenCorpus.open(tmp_path / "c", verify=True)
    tokens.write_bytes(b"\1\2")
    with pytest.raises(BadInput, match=r"found 2 bytes, expected 3 as header\.json says"):
        TokenCorpus.open(tmp_path / "c")
    (tmp_path / "c" / "header.json").write_text('{"format": 9}')
    with pytest.raises(BadInput, match="found format 9"):
        TokenCorpus.open(tmp_path / "c")


def test_splits_cover_everything_once():
    ranges = token_ranges(1000)
    assert list(ranges.values()) == [(0, 850), (850, 900), (900, 950), (950, 1000)]
    # Cuts at 85, 90 and 95 of 100 tokens fall on the nearest document edges.
    ranges = document_ranges(np.array([0, 40, 84, 88, 91, 96, 100]))
    assert ranges == {"train": (0, 2), "steer": (2, 4), "validation": (4, 5), "test": (5, 6)}


def test_a_part_is_a_view_of_whole_documents():
    corpus = TokenCorpus(
        np.arange(100, dtype=np.uint8), [0, 40, 84, 88, 91, 96, 100], vocab=256, domains=[0, 1, 0, 1, 0, 1], domain_names="ab"
    )
    part = corpus.part("steer")
    assert part.tokens.tolist() == list(range(84, 91))
    assert part.offsets.tolist() == [0, 4, 7]
    assert part.document_domains.tolist() == [0, 1]
    assert np.shares_memory(part.tokens, corpus.tokens)
    halves = corpus.part("test", shares={"train": 0.5, "test": 0.5}, by="tokens")
    assert halves.tokens.tolist() == list(range(50, 100))
    assert halves.offsets.tolist() == [0, 34, 38, 41, 46, 50]
    assert sum(len(corpus.part(s)) for s in ("train", "steer", "validation", "test")) == 100


def test_bad_splits():
    with pytest.raises(BadInput, match=r"add up to 0\.9"):
        token_ranges(100, {"train": 0.8, "test": 0.1})
    with pytest.raises(BadInput, match="did you mean 'validation'"):
        token_ranges(100, {"train": 0.8, "validatio": 0.2})
    with pytest.raises(BadInput, match="leave none for 'steer'"):
        token_ranges(3)
    with pytest.raises(BadInput, match="2 documents, which leave none"):
        document_ranges(np.array([0, 5, 9]))
