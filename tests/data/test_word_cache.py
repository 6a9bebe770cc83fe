"""Keeping words gives the tokenizer's own ids, or leaves the text to it."""

import hypothesis.strategies as st
import pytest
from hf_folders import WORDS
from hypothesis import given, settings
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from etude.data.tokenizers import BytePairs
from etude.data.word_cache import word_cache

# As the tokenizer.json files of Qwen2 and Llama 3 have them.
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "gpt2": None,
    "qwen": QWEN,
    "llama": QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|"),
    "groups": QWEN.replace("(?i:", "(?:").replace("(?:'s", "(?:('s)"),
}


def made(pattern):
    inner = Tokenizer(models.BPE(ignore_merges=pattern is not None))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    inner.pre_tokenizer = level if pattern is None else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), level])
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    text = WORDS * 5 + "It's we'll I'VE 1234 567 x = (a+b);\n\n\tdef f(x):\r\n  return 12345"
    inner.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=380, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    )
    return inner


INNER = {name: made(pattern) for name, pattern in PATTERNS.items()}
KEPT = {name: word_cache(inner) for name, inner in INNER.items()}


@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=150, deadline=None)
@given(
    st.text(st.characters(max_codepoint=127) | st.characters(min_codepoint=0xC0, max_codepoint=0x17E), max_size=40)
    | st.lists(st.sampled_from(["the", " ", "'LL", "'s", "\n", "\r", "12", "  ", "-", "\t", "’s", "é", "—", "×"])).map("".join)
)
def test_the_same_ids(name, text):
    ours = KEPT[name](text)
    if any("\x1c" <= c <= "\x1f" for c in text):
        assert ours is None
    else:
        assert ours.tolist() == INNER[name].encode(text, add_special_tokens=False).ids


def test_what_is_left_to_the_tokenizer():
    assert KEPT["gpt2"]("日本") is None
    assert KEPT["gpt2"]("e\u0301") is None
    assert KEPT["gpt2"]("a<|end|>b") is None
    assert word_cache(BytePairs.train(WORDS * 3, 280).inner) is not None
    inner = made(None)
    inner.normalizer = normalizers.Lowercase()
    assert word_cache(inner) is None
    inner.normalizer = normalizers.NFC()
    assert word_cache(inner) is not None
    inner.add_tokens([AddedToken("lazy", single_word=True)])
    assert word_cache(inner) is None
    inner = made(None)
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    assert word_cache(inner) is None
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert word_cache(inner) is None
