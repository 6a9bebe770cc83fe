"""Small transformers folders with a tokenizer, made here: no network."""

import torch

WORDS = "the quick brown fox jumps over a lazy dog while nine bright wizards box seven grumpy vexed queens. "


def qwen_folder(place, text=WORDS * 20, vocab=300, **sizes):
    """A Qwen3 of random weights with a byte-level tokenizer that has chat tokens, saved under `place`; returns the path."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([text], trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    shape = {
        "vocab_size": inner.get_vocab_size() + 4, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128, "tie_word_embeddings": True,
        "eos_token_id": 2, "bos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape | sizes))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""A ChatML template that says itself what is the assistant's."""


def chat_folder(place, template=CHAT, **sizes):
    """`qwen_folder` with a chat template."""
    qwen_folder(place, **sizes)
    (place / "chat_template.jinja").write_text(template)
    return place
