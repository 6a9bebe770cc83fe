"""A transformers folder behind the Generator protocol: transformers' own tokens and log-probabilities."""

import json

import numpy as np
import pytest
import torch

from etude.engine.ledger import Ledger
from etude.engine.protocols import Sampling
from etude.errors import BadInput
from etude.generate.local import LocalGenerator
from etude.generate.pretrained import pretrained
from etude.generate.states import decoder_of

transformers = pytest.importorskip("transformers")
VOCAB = 40
PROMPTS = [np.array([1, 5, 9, 3]), np.array([7]), np.array([2, 2, 8, 30, 11, 4, 6])]


def llama(**changes):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=VOCAB, max_position_embeddings=32, **(sizes | changes)))


def gpt2():
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "bos_token_id": 0, "eos_token_id": VOCAB - 1}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=VOCAB, **sizes))


@pytest.fixture(params=[llama, gpt2], scope="module")
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("model")
    request.param().save_pretrained(place)
    return place


def test_greedy_tokens_are_those_of_transformers(folder):
    model = pretrained(folder)
    assert decoder_of(model) is model
    ledger = Ledger()
    groups = LocalGenerator(model, ledger=ledger).complete(PROMPTS, Sampling(temperature=0.0, max_tokens=10))
    for prompt, [completion] in zip(PROMPTS, groups, strict=True):
        expected = model.inner.generate(
            torch.tensor(prompt)[None], attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=10, pad_token_id=0,
            eos_token_id=VOCAB - 1,
        )[0, len(prompt) :]  # fmt: skip
        same = min(len(expected), 10)
        assert completion.tokens[:same].tolist() == expected.tolist()
    assert ledger.total("flops") > 0


def test_log_probabilities_are_those_of_a_whole_forward(folder):
    model = pretrained(folder)
    generator = LocalGenerator(model)
    for group, prompt in zip(generator.complete(PROMPTS, Sampling(temperature=0.8, max_tokens=9), n=3, seed=4), PROMPTS, strict=True):
        for completion in group:
            row = torch.tensor(np.concatenate((prompt, completion.tokens)))[None]
            logits = model.inner(input_ids=row).logits[0, len(prompt) - 1 : -1]
            expected = (logits / 0.8).log_softmax(-1).gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
            assert completion.logprobs == pytest.approx(expected.detach().numpy(), abs=1e-5)
            assert generator.score([prompt], [completion.tokens], temperature=0.8)[0] == pytest.approx(completion.logprobs, abs=1e-5)


def test_rows_leave_repeat_and_step_back(folder):
    model = pretrained(folder)
    tokens = torch.tensor([[3, 4, 5], [6, 7, 0]])
    state = model.begin(tokens, torch.tensor([[1, 1, 1], [1, 1, 0]]).bool())
    other = state.select([1, 1])
    model.extend(torch.tensor([[8], [9]]), other)
    alone = model.begin(torch.tensor([[6, 7, 9]])).logits[0]
    assert torch.allclose(other.logits[1], alone, atol=1e-5)
    assert torch.allclose(state.logits[0], model(tokens[:1])[0, -1], atol=1e-5)  # the state that was selected from is as it was
    other.rewind(1)
    assert torch.allclose(other.logits[0], state.logits[1], atol=1e-5)
    with pytest.raises(ValueError, match="rewind by 2"):
        other.rewind(2)


def test_a_sharded_folder_and_the_context(tmp_path):
    torch.manual_seed(1)
    whole = llama()
    whole.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = pretrained(tmp_path)
    assert torch.equal(model(torch.tensor([[1, 2]])), whole(torch.tensor([[1, 2]])).logits)
    with pytest.raises(BadInput, match="at most 32, the model's context"):
        LocalGenerator(model).complete([np.zeros(33, np.int64)], Sampling(max_tokens=1))
    with pytest.raises(BadInput, match="0 to 39"):
        LocalGenerator(model).complete([np.array([40])], Sampling(max_tokens=1))


def test_bad_input(tmp_path):
    with pytest.raises(BadInput, match="nothing there"):
        pretrained(tmp_path / "none")
    with pytest.raises(BadInput, match=r"no config\.json"):
        pretrained(tmp_path)
    config = llama().config.to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="no weights"):
        pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(BadInput, match="pickle files alone"):
        pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not at all")
    with pytest.raises(BadInput, match="can load"):
        pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(BadInput, match="code of its own"):
        pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="no JSON"):
        pretrained(tmp_path)
