"""Methods in trainers whose model has peft's adapters: the bare trainer's numbers, the base left alone, resumed to equal bits."""

import numpy as np
import pytest
import torch

from etude.adapt import hf
from etude.engine.protocols import Method
from etude.errors import BadInput
from etude.papers.growth.stacking import Grow
from etude.papers.objective.gradient_noise import GradientNoise
from etude.papers.order.cyclical_curriculum import CyclicalCurriculum

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
pytestmark = pytest.mark.filterwarnings("default")  # peft's own
ROWS, LENGTH, VOCAB = 22, 9, 40
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}


def rows():
    tokens = torch.randint(1, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": t, "labels": torch.where(torch.arange(LENGTH) >= 3, t, -100)} for t in tokens]


def thin():
    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=VOCAB, max_position_embeddings=32, **SIZES))
    return peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, task_type="CAUSAL_LM"))


def trainer(folder, **settings):
    given = {
        "max_steps": 8, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-2, "seed": 3,
        "logging_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True,
        "dataloader_pin_memory": False,
    } | settings  # fmt: skip
    args = transformers.TrainingArguments(output_dir=str(folder), **given)
    return transformers.Trainer(model=thin(), args=args, train_dataset=rows())


def losses(of):
    return [row["loss"] for row in of.state.log_history if "loss" in row]


def weights(of, what="lora_"):
    return torch.cat([p.detach().flatten() for n, p in of.model.named_parameters() if what in n])


class Watching(Method):
    """What it is shown: the names of the gradients, and whether rows have losses of their own."""

    def __init__(self, weight=None):
        self.weight, self.names, self.per_sample = weight, set(), []

    def batch(self, run, batch):
        if self.weight is not None:
            batch.data["weights"] = torch.full((len(batch),), self.weight)

    def backward(self, run, batch, output):
        self.per_sample.append(output.per_sample)

    def gradients(self, run):
        self.names |= {n for n, p in run.named_parameters().items() if p.grad is not None}


def test_without_a_method_every_loss_is_the_bare_trainers(tmp_path):
    bare, adapted, watched = trainer(tmp_path), hf(trainer(tmp_path)), trainer(tmp_path)
    watching = Watching()
    hf(watched, [watching, GradientNoise(eta=0.0)])
    for one in (bare, adapted, watched):
        transformers.set_seed(5)  # of the dropout
        one.train()
    assert losses(adapted) == losses(bare) == losses(watched)
    assert torch.equal(weights(adapted), weights(bare))
    assert torch.equal(weights(watched), weights(bare))
    assert len(watching.names) == 8  # A and B of two layers' queries and values
    assert all("lora_" in name for name in watching.names)
    assert all(len(each) in (2, 4) for each in watching.per_sample)


def test_methods_act_on_the_adapters_alone(tmp_path):
    noisy, weighed = hf(trainer(tmp_path), GradientNoise(eta=1e-3)), hf(trainer(tmp_path), Watching(0.0))
    bare = trainer(tmp_path)
    for one in (bare, noisy, weighed):
        one.train()
    assert not torch.equal(weights(noisy), weights(bare))
    assert torch.equal(weights(noisy, "base_layer"), weights(bare, "base_layer"))
    assert not weights(weighed, "lora_B").any()  # no row counts: they stay at their zeros
    assert weights(bare, "lora_B").any()


def test_a_curriculum_on_adapters_resumes_to_equal_bits(tmp_path):
    class Killed(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            if state.global_step == 5:
                raise KeyboardInterrupt

    def made(folder):
        methods = [CyclicalCurriculum(np.arange(1.0, ROWS + 1)), GradientNoise(eta=1e-4)]
        return hf(trainer(tmp_path / folder, save_strategy="steps", save_steps=3), methods)

    whole, killed, resumed = made("whole"), made("killed"), made("killed")
    transformers.set_seed(5)
    whole.train()
    killed.add_callback(Killed())
    transformers.set_seed(5)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    assert (tmp_path / "killed" / "checkpoint-3" / "adapter_model.safetensors").exists()
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(weights(resumed), weights(whole))


def test_growth_is_refused(tmp_path):
    with pytest.raises(BadInput, match="found a model with adapters, expected the whole model, before adapters are added to it"):
        hf(trainer(tmp_path), Grow())
