"""A transformers folder behind the Generator protocol: transformers' own tokens and log-probabilities."""

import json

import numpy as np
import pytest
import torch
from hf_folders import qwen_folder
from toys import Stop

from etude.data.sources import WindowSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget, Ledger
from etude.engine.optim import AdamW
from etude.engine.protocols import Sampling
from etude.engine.result import Interrupted
from etude.engine.schedule import Constant
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.generate.local import LocalGenerator
from etude.generate.pretrained import pretrained
from etude.generate.states import decoder_of
from etude.learn.language import CausalLM, HeldOutLoss

transformers = pytest.importorskip("transformers")
VOCAB = 40
PROMPTS = [np.array([1, 5, 9, 3]), np.array([7]), np.array([2, 2, 8, 30, 11, 4, 6])]


def llama(**changes):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=VOCAB, max_position_embeddings=32, **(sizes | changes)))


def gpt2():
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "bos_token_id": 0, "eos_token_id": VOCAB - 1}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=VOCAB, **sizes))


SIZES = {
    "vocab_size": VOCAB, "max_position_embeddings": 32, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": VOCAB - 1,
}  # fmt: skip


def mistral():
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, sliding_window=4))


def qwen2():
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES, tie_word_embeddings=True))


def qwen3():
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES | {"head_dim": 16}))


def gemma3():
    windows = {"sliding_window": 4, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**SIZES, **windows))


@pytest.fixture(params=[llama, mistral, qwen2, qwen3, gemma3, gpt2], scope="module")
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("model")
    request.param().save_pretrained(place)
    return place


def test_logits_are_those_of_transformers_and_documents_are_apart(folder):
    model = pretrained(folder)
    inner = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.randint(0, VOCAB, (2, 14), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.head(model(tokens)["hidden"]), inner(tokens).logits, atol=1e-5)
    ids = torch.tensor([[0] * 6 + [1] * 8, [4] * 3 + [5] * 1 + [4] * 10])
    together = model.head(model(tokens, document_ids=ids)["hidden"])
    for row, (start, end) in [(0, (0, 6)), (0, (6, 14)), (1, (0, 3)), (1, (3, 4)), (1, (4, 14))]:
        assert torch.allclose(together[row, start:end], inner(tokens[row : row + 1, start:end]).logits[0], atol=1e-5)


def test_it_trains_and_a_stopped_run_goes_on_with_the_same_bits(folder, tmp_path):
    """Training under the trainer, its operations counted; tied heads and every family's layers survive a checkpoint."""

    def run(place, stop=0, resume=False):
        rows = np.arange(600) % 7
        held_out = HeldOutLoss(WindowSource(rows[:100], 12))
        return Trainer(
            pretrained(folder), DataStream(WindowSource(rows, 12), 4, 0), CausalLM(), optimizer=AdamW(lr=1e-2), schedule=Constant(),
            budget=Budget(steps=8), methods=Stop(at=stop), evaluators={"held-out": held_out}, folder=place, checkpoint_every=1 / 8,
        ).run(resume=resume)  # fmt: skip

    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", stop=4)
    parts = run(tmp_path / "parts", resume=True)
    assert parts.resumed_from == "step-000000004"
    assert whole.ledger.total("flops") > 0
    assert whole.metrics["held-out/loss"] < np.log(VOCAB) - 0.5
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), parts.model.state_dict().values(), strict=True))


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
    assert torch.allclose(state.logits[0], model.head(model(tokens[:1])["hidden"])[0, -1], atol=1e-5)
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
    assert torch.equal(model.head(model(torch.tensor([[1, 2]]))["hidden"]), whole(torch.tensor([[1, 2]])).logits)
    with pytest.raises(BadInput, match="at most 32, the model's context"):
        LocalGenerator(model).complete([np.zeros(33, np.int64)], Sampling(max_tokens=1))
    with pytest.raises(BadInput, match="0 to 39"):
        LocalGenerator(model).complete([np.array([40])], Sampling(max_tokens=1))


def test_pickle_files_are_refused_with_the_command_that_converts_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = qwen_folder(tmp_path / "old")
    whole = pretrained("old")
    torch.save(whole.inner.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"old: found pickle files alone, expected \*\.safetensors, which this writes: python -c") as error:
        pretrained("old")
    exec(error.value.expected.split('"')[1])
    tokens = torch.tensor([[5, 6, 7]])
    again = pretrained("old-safetensors")
    assert torch.equal(again(tokens)["hidden"], whole(tokens)["hidden"])
    assert again.tokenizer is not None
    assert again.tokenizer.encode("the fox").tolist() == whole.tokenizer.encode("the fox").tolist()


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
    for kind, found in (("lama", "'lama'.*nearest: 'llama'"), ("t5", "architecture 't5'"), ("", "no model_type")):
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": kind}))
        with pytest.raises(BadInput, match=f"config.json: found .*{found}"):
            pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="no JSON"):
        pretrained(tmp_path)
