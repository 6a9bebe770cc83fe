"""Tokenizers: there and back, and through a file."""

import numpy as np
import pytest

from etude.data import tokenizers
from etude.data.tokenizers import BytePairs, Bytes, Characters, Marked
from etude.errors import BadInput

TEXT = "In the beginning was the word.\nAnd the word — für alle 🙂 — was there, the word.\n" * 20


@pytest.mark.parametrize("kind", ["byte", "character", "bpe"])
def test_there_and_back_also_through_a_file(tmp_path, kind):
    tokenizer = tokenizers.make(kind, TEXT, vocab=300)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert ids.max() < tokenizer.vocab
    assert tokenizer.name == kind
    tokenizers.save(tokenizer, tmp_path / "t.json")
    again = tokenizers.load(tmp_path / "t.json")
    assert again.vocab == tokenizer.vocab
    assert np.array_equal(again.encode(TEXT), ids)


def test_ids_by_hand():
    assert Bytes().encode("aé").tolist() == [97, 195, 169]
    assert Characters("banana").encode("nab").tolist() == [2, 0, 1]
    assert Characters("".join(map(chr, range(300)))).encode("a").dtype == np.uint16


def test_set_phrases_stand_whole(tmp_path):
    plain, tokenizer = Characters("no back to:12"), Characters("no back to:12", ("no, back", "no, back to ", "to"))
    assert tokenizer.vocab == plain.vocab + 3
    assert tokenizer.encode("1 no, back to 2 to").tolist() == [
        *plain.encode("1 ").tolist(), plain.vocab, *plain.encode("2 ").tolist(), plain.vocab + 2
    ]  # fmt: skip
    tokenizers.save(tokenizer, tmp_path / "t.json")
    again = tokenizers.load(tmp_path / "t.json")
    for text in ("no, back to 1", "no, back: 1no, backto", "12", ""):
        assert again.decode(again.encode(text)) == text
    assert Characters("12").to_json() == '{"kind": "character", "alphabet": "12"}'
    with pytest.raises(BadInput, match="'x' at character 14"):
        tokenizer.encode("1 no, back to x")
    with pytest.raises(BadInput, match=r"tokenizer\.words: found 'a'"):
        Characters("a", ("ab", "a"))


def test_pairs_shorten_and_take_any_text():
    tokenizer = BytePairs.train(TEXT, 280)
    assert tokenizer.vocab == 280
    assert len(tokenizer.encode(TEXT)) < 0.6 * len(TEXT.encode())
    assert tokenizer.decode(tokenizer.encode("新しい\0 \t")) == "新しい\0 \t"


def test_training_twice_gives_the_same():
    assert BytePairs.train(TEXT, 280).to_json() == BytePairs.train(TEXT, 280).to_json()


def test_bad_input(tmp_path):
    with pytest.raises(BadInput, match="text: found 'x' at character 2, expected one of the tokenizer's 2 characters"):
        Characters("ab").encode("abx")
    with pytest.raises(BadInput, match="an empty alphabet"):
        Characters("")
    with pytest.raises(BadInput, match=r"tokenizer\.vocab: found 256, expected at least 257"):
        BytePairs.train(TEXT, 256)
    with pytest.raises(BadInput, match="found 'bytes', expected a known name; did you mean 'byte'"):
        tokenizers.make("bytes", TEXT)
    path = tmp_path / "t.json"
    with pytest.raises(BadInput, match="no such file"):
        tokenizers.load(path)
    path.write_text("[]")
    with pytest.raises(BadInput, match="no tokenizer of etude"):
        tokenizers.load(path)
    path.write_text('{"kind": "bpe", "inner": {}}')
    with pytest.raises(BadInput, match="no tokenizer of etude"):
        tokenizers.load(path)
    path.write_text('{"kind": "word"}')
    with pytest.raises(BadInput, match="found kind 'word'"):
        tokenizers.load(path)


@pytest.mark.parametrize("kind", ["byte", "character", "bpe"])
def test_marks_come_after_a_tokenizers_own_ids(tmp_path, kind):
    inner = tokenizers.make(kind, TEXT, vocab=300)
    tokenizer = Marked(inner, ["<mid>", "<m"])
    ids = tokenizer.encode("the<mid>word<m")
    assert ids.tolist() == [*inner.encode("the"), inner.vocab, *inner.encode("word"), inner.vocab + 1]
    assert tokenizer.decode(ids) == "the<mid>word<m"
    assert tokenizer.decode(ids[:0]) == ""
    assert len(tokenizer.encode("")) == 0
    tokenizers.save(tokenizer, tmp_path / "t.json")
    again = tokenizers.load(tmp_path / "t.json")
    assert (again.vocab, again.encode("a<mid>").tolist()) == (inner.vocab + 2, [*inner.encode("a"), inner.vocab])
    with pytest.raises(BadInput, match="all different"):
        Marked(inner, ["a", "a"])
