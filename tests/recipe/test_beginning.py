"""What a run begins from: the token before a text, tokens that the model does not hold, the folder of another run,
its own checkpoint after a kill."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hf_folders import chat_folder

from etude.cli import main
from etude.data.row_files import row_file
from etude.engine import checkpoint
from etude.errors import BadInput
from etude.generate.hub import locate
from etude.generate.pretrained import pretrained
from etude.recipe.rows import read_rows, reader_of

transformers = pytest.importorskip("transformers")
SMALL = ["budget.samples=8", "data.batch=4", "optimizer.lr=1e-2", "run.device=cpu"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chat_folder(tmp_path / "model")
    with open("r.jsonl", "w") as out:
        for i in range(20):
            out.write(json.dumps({"prompt": f"the quick {i}", "completion": " brown fox"}) + "\n")
    return tmp_path


def change_tokenizer(change):
    path = Path("model/tokenizer.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def begin_texts():
    """As Llama's and Gemma's: the tokenizer itself puts a token before a text, and so does the chat template."""
    token = {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
    first, text = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    change_tokenizer(
        lambda content: content.update(
            post_processor={
                "type": "TemplateProcessing", "single": [first, text], "pair": [first, text], "special_tokens": {"<|endoftext|>": token},
            }
        )
    )  # fmt: skip
    config = json.loads(Path("model/tokenizer_config.json").read_text())
    Path("model/tokenizer_config.json").write_text(json.dumps(config | {"bos_token": "<|endoftext|>"}))
    template = Path("model/chat_template.jinja")
    template.write_text("{{ bos_token }}" + template.read_text())


def test_a_text_begins_as_the_models_own_tokenizer_begins_it(place):
    begin_texts()
    inner = transformers.AutoTokenizer.from_pretrained("model")
    reader = reader_of(Path("model"), "model")
    store = read_rows(row_file("r.jsonl"), reader)
    assert store.said is not None
    ids, said = store.tokens[: store.offsets[1]].tolist(), store.said[: store.offsets[1]]
    assert ids == [*inner("the quick 0 brown fox")["input_ids"], inner.eos_token_id]
    assert ids[0] == inner.bos_token_id
    assert not said[0]
    # A template writes it itself, and a text that has it gets no second one.
    asked = reader.asker.text([{"role": "user", "content": "fox"}], "row")
    for text in (asked, reader.asker.text("fox", "row"), reader.asker.text("<|endoftext|>fox", "row")):
        assert reader.tokenizer.encode(text).tolist().count(0) == 1


def test_samples_follow_the_same_beginning(place, capsys):
    begin_texts()
    assert main(["generate", "model", "the quick", "--max-tokens", "1", "--temperature", "0", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["prompt"] == "the quick"
    inner = transformers.AutoTokenizer.from_pretrained("model")
    model = transformers.AutoModelForCausalLM.from_pretrained("model")
    with torch.no_grad():
        best = model(**inner("the quick", return_tensors="pt")).logits[0, -1].log_softmax(-1).max()
    assert row["logprob"] == pytest.approx(float(best), abs=1e-5)


def test_added_tokens_that_a_model_has_no_room_for(place, capsys):
    vocab = json.loads(Path("model/config.json").read_text())["vocab_size"]

    def add(content):
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for number in range(len(content["model"]["vocab"]), vocab + 1):
            content["added_tokens"].append({"id": number, "content": f"<image_{number}>", **flags})

    change_tokenizer(add)
    reader = reader_of(Path("model"), "model")
    assert reader.tokenizer.vocab == vocab
    assert int(reader.tokenizer.encode(f"the <image_{vocab}> fox").max()) < vocab
    assert main(["init", "--model", "model", "--data", "r.jsonl", "--out", "a.toml"]) == 0
    assert main(["train", "a.toml", *SMALL]) == 0, capsys.readouterr().err
    template = Path("model/chat_template.jinja")
    template.write_text(f"<image_{vocab}>" + template.read_text())
    with pytest.raises(BadInput, match=rf"the tokenizer of model: found '<image_{vocab}>' as number {vocab}, in the chat template"):
        reader_of(Path("model"), "model")


def test_init_refuses_a_tokenizer_of_another_model(place, capsys):
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps(config | {"vocab_size": 200}))
    assert main(["init", "--model", "model", "--data", "r.jsonl"]) == 2
    assert "the tokenizer of model: found a vocabulary of" in capsys.readouterr().err
    assert not Path("recipe.toml").exists()


def test_a_run_begins_from_another(place, capsys):
    with pytest.raises(BadInput, match="none, which is not there"):
        locate("./none")
    assert main(["init", "--model", "model", "--data", "r.jsonl", "--out", "a.toml"]) == 0
    assert main(["train", "a.toml", *SMALL, "run.folder=a"]) == 0, capsys.readouterr().err
    with pytest.raises(BadInput, match="found a, the folder of a run, expected a transformers folder: `etude export a DIR --to hf`"):
        locate("a")
    assert main(["init", "--model", "a", "--data", "r.jsonl", "--out", "b.toml"]) == 0, capsys.readouterr().err
    assert main(["train", "b.toml", *SMALL, "run.folder=b", "lora.r=2"]) == 0, capsys.readouterr().err
    told = json.loads(Path("b/data.json").read_text())["model"]
    assert told["name"] == "a/transformers/step-000000002"
    first = pretrained("a/transformers/step-000000002").state_dict()
    assert any(not torch.equal(value, first[name]) for name, value in pretrained("model").state_dict().items())
    assert main(["export", "b", "out", "--to", "peft"]) == 0, capsys.readouterr().err
    assert json.loads(Path("out/adapter_config.json").read_text())["base_model_name_or_path"] == told["name"]
    assert main(["train", "b.toml", *SMALL, "run.folder=b", "lora.r=2", "--resume"]) == 0, capsys.readouterr().err


def test_a_fine_tuning_that_is_killed_goes_on_to_equal_bits(place, capsys):
    assert main(["init", "--model", "model", "--data", "r.jsonl", "--out", "a.toml"]) == 0
    command = ["train", "a.toml", *SMALL[1:], "budget.samples=200", "run.checkpoint_every=0.1", "run.keep_checkpoints=99"]
    assert main([*command, "run.folder=whole"]) == 0, capsys.readouterr().err
    process = subprocess.Popen([sys.executable, "-m", "etude", *command, "run.folder=killed"], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while process.poll() is None and len(list(place.glob("killed/checkpoints/step-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    capsys.readouterr()
    assert main([*command, "run.folder=killed", "--resume", "--json"]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["resumed_from"].startswith("step-")
    for name in ("metrics.jsonl", "order.bin"):
        assert (place / "killed" / name).read_bytes() == (place / "whole" / name).read_bytes()
    states = [checkpoint.load(checkpoint.latest(place / run / "checkpoints")[0])["model"] for run in ("whole", "killed")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
