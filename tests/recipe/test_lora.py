"""LoRA in a recipe: every family trains, resumes, and goes out to `peft` and, merged, to transformers."""

import json
import tomllib

import pytest
import torch
from hf_folders import WORDS, qwen_folder
from safetensors.torch import load_file

from etude.engine import checkpoint
from etude.errors import BadInput
from etude.generate.pretrained import pretrained
from etude.nn.lora import lora_layers
from etude.papers.loading import load_methods, load_models
from etude.recipe.build import build
from etude.recipe.config import dump, load, parse
from etude.recipe.export import export_run
from etude.recipe.finished import finished
from etude.recipe.sampled import sampled
from etude.recipe.train import train_recipe

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks so
RECIPE = """
schema = 1
[model]
pretrained = "base"
[lora]
r = 4
alpha = 8
[data]
text = "words.txt"
context = 16
batch = 4
held_out = 0.2
[optimizer]
lr = 3e-2
[budget]
steps = 3
[run]
folder = "out"
device = "cpu"
"""
OWN = "schema = 1\n[model]\nwidth = 16\ndepth = 2\nheads = 4\nkv_heads = 2\n[lora]\nr = 4\n" + RECIPE[RECIPE.index("[data]") :]
SIZES = {
    "max_position_embeddings": 32, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
FAMILIES = {
    "llama": lambda vocab: transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=vocab, **SIZES)),
    "mistral": lambda vocab: transformers.MistralForCausalLM(transformers.MistralConfig(vocab_size=vocab, sliding_window=4, **SIZES)),
    "qwen2": lambda vocab: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(vocab_size=vocab, tie_word_embeddings=True, **SIZES)),
    "qwen3": lambda vocab: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(vocab_size=vocab, **SIZES | {"head_dim": 16})),
    "gemma3": lambda vocab: transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(vocab_size=vocab, **SLIDING, **SIZES)),
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text(WORDS * 30)
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


def base(family="qwen3"):
    """A model folder of random weights with a tokenizer."""
    qwen_folder("base" if family == "qwen3" else "other")
    if family != "qwen3":
        tokenizer = transformers.AutoTokenizer.from_pretrained("other")
        torch.manual_seed(0)
        FAMILIES[family](len(tokenizer)).save_pretrained("base")
        tokenizer.save_pretrained("base")


def train(*overrides, **settings):
    return train_recipe("r.toml", resolve=load_methods, models=load_models, overrides=overrides, quiet=True, **settings)


def export(to, folder):
    return export_run("out", folder, to=to, resolve=load_methods, models=load_models)


def logits_of(inner):
    with torch.no_grad():
        return inner.eval()(input_ids=TOKENS).logits


TOKENS = torch.randint(0, 250, (2, 12), generator=torch.Generator().manual_seed(3))


def trained_logits():
    model = finished("out", load_methods, load_models, device="cpu").model.eval()
    with torch.no_grad():
        return model.head(model(TOKENS)["hidden"])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_out_and_comes_back(family, place):
    base(family)
    train()
    ours, before = trained_logits(), logits_of(pretrained("base").inner)
    assert not torch.allclose(ours, before, atol=1e-3)
    told = export("hf", "whole")
    assert told["largest_difference"] <= 1e-5
    whole = transformers.AutoModelForCausalLM.from_pretrained("whole")
    assert torch.allclose(logits_of(whole), ours, atol=1e-5)
    told = export("peft", "adapter")
    config = json.loads((place / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8, "base")
    assert told["parameters"] == sum(t.numel() for t in load_file("adapter/adapter_model.safetensors").values())
    peft = pytest.importorskip("peft")
    assert told["largest_difference"] <= 1e-5
    read = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained("base"), "adapter")
    assert torch.allclose(logits_of(read), ours, atol=1e-5)


@pytest.mark.parametrize("targets", ["all-linear", ["attention.query_key_value", "down"]])
def test_a_transformer_of_ones_own(place, targets):
    (place / "r.toml").write_text(OWN)
    train(f"lora.targets={json.dumps(targets)}")
    ours = trained_logits()
    assert export("hf", "whole")["largest_difference"] <= 1e-5
    assert torch.allclose(logits_of(transformers.AutoModelForCausalLM.from_pretrained("whole")), ours, atol=1e-5)
    export("peft", "adapter")
    below = transformers.AutoModelForCausalLM.from_pretrained("adapter/base")
    assert not torch.allclose(logits_of(below), ours, atol=1e-3)
    peft = pytest.importorskip("peft")
    assert torch.allclose(logits_of(peft.PeftModel.from_pretrained(below, "adapter")), ours, atol=1e-5)


def test_a_recipe_with_it_is_written_and_read_back():
    base()
    recipe = load("r.toml", ["lora.targets=['q_proj', 'mlp.down_proj']"])
    assert parse(tomllib.loads(dump(recipe))) == recipe
    model = build(recipe, load_methods, load_models).model
    assert [n for n, _ in lora_layers(model)] == [
        f"inner.model.layers.{i}.{part}" for i in range(2) for part in ("self_attn.q_proj", "mlp.down_proj")
    ]
    assert parse(tomllib.loads(dump(load("r.toml")))).lora.targets == "all-linear"


def test_a_killed_run_goes_on_with_the_same_bits_and_generates(place):
    base()
    train("run.folder=whole", "budget.steps=4", "run.checkpoint_every=0.25")
    train("run.folder=parts", "budget.steps=4", "run.checkpoint_every=0.25", "run.keep_checkpoints=4")
    for late in ("step-000000003", "step-000000004"):
        for file in (place / "parts" / "checkpoints" / late).iterdir():
            file.write_bytes(b"")
    told = train("run.folder=parts", "budget.steps=4", "run.checkpoint_every=0.25", "run.keep_checkpoints=4", resume=True)
    assert told["resumed_from"] == "step-000000002"
    whole, parts = (checkpoint.load(place / p / "checkpoints" / "step-000000004")["model"] for p in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in whole} == {"lora_A", "lora_B"}  # the base is in its folder
    rows = sampled("parts", ["the quick"], resolve=load_methods, models=load_models, max_tokens=4, device="cpu", quiet=True)
    assert rows[0]["tokens"] == 4


def test_another_base_is_noticed():
    base()
    train()
    qwen_folder("base", initializer_range=0.03)
    with pytest.raises(BadInput, match="out: found a checkpoint beside other frozen weights, expected the model folder that the run began"):
        finished("out", load_methods, load_models)
    with pytest.raises(BadInput, match="a checkpoint beside other frozen weights"):
        train(resume=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["lora.targets=['q_prj']"],
            r"command line, lora\.targets: found 'q_prj', which is at the end of no layer's name, expected 'q_proj",
        ),
        (["lora.targets=['lm_head']"], r"lora\.targets: found 'inner\.lm_head', whose weight is that of 'inner\.model\.embed_tokens' too"),
        (["lora.targets=q_proj"], r"lora\.targets: found 'q_proj', expected \"all-linear\" or a list of names of layers"),
        (["lora.targets=[]"], r"lora\.targets: found \[\], expected \"all-linear\" or a list"),
        (["lora.rank=4"], r"lora\.rank.*r, alpha"),
        (["lora.r=0"], r"lora\.r: found 0"),
        (["lora.r=4096"], r"command line, lora\.r: found 4096, expected at most \d+, the rank of the widest of the layers"),
        (["methods.0.use=stacking", "model.kind=transformer"], r"lora: found it beside \w+, which puts another model"),
    ],
)
def test_bad_input(overrides, message):
    base()
    with pytest.raises(BadInput, match=message):
        train(*overrides)


def test_without_it_there_is_no_adapter(place):
    base()
    (place / "r.toml").write_text(RECIPE.replace("[lora]\nr = 4\nalpha = 8\n", ""))
    train()
    with pytest.raises(BadInput, match=r"etude export --to: found 'peft' for a run without \[lora\], expected hf"):
        export("peft", "adapter")
    with pytest.raises(BadInput, match=r"etude export --to: found 'pft', expected hf or peft"):
        export("pft", "adapter")
