"""Methods in TRL's trainers: SFT's own head and losses, GRPO's groups, rewards and repeated batches."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from etude.adapt import hf
from etude.data.stream import DataStream
from etude.engine.protocols import Method
from etude.errors import BadInput
from etude.papers.growth.stacking import Grow
from etude.papers.objective.gradient_noise import GradientNoise
from etude.papers.order.cyclical_curriculum import CyclicalCurriculum
from etude.papers.order.dump import Dump

transformers = pytest.importorskip("transformers")
trl = pytest.importorskip("trl", reason="TRL's trainers need trl")
datasets = pytest.importorskip("datasets", reason="TRL's trainers need datasets")
pytestmark = pytest.mark.filterwarnings("default")  # TRL's own
WORDS = ["<pad>", "<end>", *"abcdefghij"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}
ROWS, SEED = 20, 3


def tokenizer():
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>", padding_side="left")


def model():
    torch.manual_seed(0)
    ends = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=32, **SIZES, **ends))


def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS[2:], size=rng.integers(3, 8))) for _ in range(ROWS)]


COMMON = {
    "max_steps": 6, "learning_rate": 1e-2, "seed": SEED, "logging_steps": 1, "report_to": "none", "save_strategy": "no",
    "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, "lr_scheduler_type": "constant",
    "gradient_checkpointing": False, "bf16": False,
}  # fmt: skip


def sft(folder, **settings):
    args = trl.SFTConfig(output_dir=str(folder), per_device_train_batch_size=4, **(COMMON | settings))
    rows = datasets.Dataset.from_dict({"text": texts()})
    return trl.SFTTrainer(model=model(), args=args, train_dataset=rows, processing_class=tokenizer())


def grpo(folder, **settings):
    args = trl.GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=4, num_generations=2, max_completion_length=4, **(COMMON | settings)
    )
    rows = datasets.Dataset.from_dict({"prompt": texts(), "source": ["even", "odd"] * (ROWS // 2)})

    def short(completions, **more):
        return [-float(len(c.split())) + 0.1 * c.count("a") for c in completions]

    return trl.GRPOTrainer(model=model(), reward_funcs=short, args=args, train_dataset=rows, processing_class=tokenizer())


def losses(of):
    return [row["loss"] for row in of.state.log_history if "loss" in row]


def weights(of):
    return torch.cat([p.detach().flatten() for p in of.model.parameters()])


class Seen(Method):
    def __init__(self, by_row=None):
        self.by_row = by_row
        self.ids, self.steps, self.losses = [], [], []

    def batch(self, run, batch):
        self.ids.append(batch.ids.tolist())
        self.steps.append(run.step)
        if self.by_row is not None:
            batch.data["weights"] = self.by_row[batch.ids]

    def backward(self, run, batch, output):
        self.losses.append(None if output.per_sample is None else (output.per_sample, output.loss, output.weight))


@pytest.mark.parametrize("make", [sft, grpo])
def test_without_a_method_every_loss_is_the_bare_trainers(tmp_path, make):
    bare, adapted, watched = make(tmp_path), hf(make(tmp_path)), hf(make(tmp_path), [Seen(), GradientNoise(eta=0.0)])
    for one in (bare, adapted, watched):
        transformers.set_seed(5)
        one.train()
    assert losses(adapted) == losses(bare) == losses(watched)
    assert torch.equal(weights(adapted), weights(bare))
    assert torch.equal(weights(watched), weights(bare))


def test_each_rows_loss_is_taken_from_sfts_own_head(tmp_path):
    seen = Seen()
    hf(sft(tmp_path, max_steps=2, learning_rate=0.0), seen).train()
    for ids, (per_sample, loss, weight) in zip(seen.ids, seen.losses, strict=True):
        rows = [tokenizer()(f"{texts()[i]}<end>".replace("<end>", " <end>"), return_tensors="pt")["input_ids"] for i in ids]
        with torch.no_grad():
            each = [float(model()(row, labels=row).loss) for row in rows]
        assert per_sample.tolist() == pytest.approx(each, abs=1e-4)
        assert weight == sum(row.shape[1] - 1 for row in rows)
        assert float(loss) > 0


def test_weights_of_sft_rows(tmp_path):
    half, bare = hf(sft(tmp_path), Seen(torch.full((ROWS,), 0.5))), sft(tmp_path)
    ones = hf(sft(tmp_path), Seen(torch.ones(ROWS)))
    for one in (half, bare, ones):
        one.train()
    assert losses(ones) == losses(bare)
    assert losses(half)[0] == pytest.approx(losses(bare)[0] / 2, abs=1e-4)


def etudes_order(curriculum, batch, count, drop_last=False):
    class Numbers:
        def __len__(self):
            return ROWS

        def get(self, ids):
            return {}

    stream = DataStream(Numbers(), batch, SEED, sampler=curriculum.sampler, drop_last=drop_last)
    return [stream.next().ids.tolist() for _ in range(count)]


def test_a_curriculum_orders_sfts_rows(tmp_path):
    scores, seen = np.arange(1.0, ROWS + 1), Seen()
    hf(sft(tmp_path), [seen, CyclicalCurriculum(scores)]).train()
    assert seen.ids == etudes_order(CyclicalCurriculum(scores), 4, 6)
    self_paced = hf(sft(tmp_path, max_steps=12), CyclicalCurriculum())
    self_paced.train()
    assert len(losses(self_paced)) == 12


def test_a_curriculum_orders_grpos_prompts_in_groups(tmp_path):
    scores, seen = np.arange(1.0, ROWS + 1), Seen()
    settings = {"gradient_accumulation_steps": 2, "steps_per_generation": 2}
    hf(grpo(tmp_path, **settings), [seen, CyclicalCurriculum(scores, start=0.5)]).train()

    rounds = [seen.ids[k] + seen.ids[k + 1] for k in range(0, 12, 2)]  # a round's completions come shuffled, over two micro-batches
    prompts = etudes_order(CyclicalCurriculum(scores, start=0.5), 4, 6, drop_last=True)
    assert [sorted(r) for r in rounds] == [sorted(2 * p) for p in prompts]


def test_a_sampler_hears_of_grpos_advantages(tmp_path):
    told = []

    class Told(Dump):
        def start(self, run):
            super().start(run)
            own = self.sampler.observe
            self.sampler.observe = lambda feedback: (told.append(feedback), own(feedback))

    dump = Told(temperature=0.5)
    adapted = hf(grpo(tmp_path, steps_per_generation=2, num_iterations=2, max_steps=8), dump, domains="source")
    adapted.train()
    assert [len(f.ids) for f in told] == [8, 8]  # each rollout once, though every round lasts four updates
    assert dump.sampler.counts.sum() == 16
    first = told[0].values
    groups = first["reward"].reshape(-1, 2)
    expected = (groups - groups.mean(1, keepdims=True)) / (groups.std(1, ddof=1, keepdims=True) + 1e-4)
    assert first["advantage"].reshape(-1, 2) == pytest.approx(expected, abs=1e-4)
    assert (told[0].ids.reshape(-1, 2)[:, 0] == told[0].ids.reshape(-1, 2)[:, 1]).all()


def test_weights_of_grpos_rows_multiply_their_advantage(tmp_path):
    none, bare = hf(grpo(tmp_path), Seen(torch.zeros(ROWS))), grpo(tmp_path)
    before = weights(none).clone()
    transformers.set_seed(5)
    none.train()
    assert torch.equal(weights(none), before)
    transformers.set_seed(5)
    bare.train()
    assert not torch.equal(weights(bare), before)
    diverging = hf(grpo(tmp_path), Seen(torch.zeros(ROWS)))
    diverging.beta = 0.1
    with pytest.raises(BadInput, match="trainer: found beta = 0.1, a divergence that no row's weight multiplies"):
        diverging._etude._check_weighed()  # a run would first load its reference model from the Hub


def test_grpo_resumes_with_the_same_prompts(tmp_path):
    scores = np.arange(1.0, ROWS + 1)
    settings = {"save_strategy": "steps", "save_steps": 3, "steps_per_generation": 2}
    seen, rest = Seen(), Seen()
    hf(grpo(tmp_path, **settings), [seen, CyclicalCurriculum(scores, start=0.5)]).train()
    hf(grpo(tmp_path, **settings), [rest, CyclicalCurriculum(scores, start=0.5)]).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-3")
    )
    assert rest.steps == [3, 4, 5]
    assert sorted(rest.ids[1] + rest.ids[2]) == sorted(seen.ids[4] + seen.ids[5])  # the round after the one that was cut
    assert set(rest.ids[0]) <= set(seen.ids[2] + seen.ids[3])


@pytest.mark.parametrize("make", [sft, grpo])
def test_stacking_keeps_the_head_that_trl_has_put_on(tmp_path, make):
    grown = hf(make(tmp_path), Grow(factor=2))
    assert grown.model.config.num_hidden_layers == len(grown.model.model.layers) == 4
    before = grown.model.model.layers[3].mlp.down_proj.weight.detach().clone()
    transformers.set_seed(1)
    grown.train()
    assert not torch.equal(grown.model.model.layers[3].mlp.down_proj.weight, before)
    assert len(losses(grown)) == 6


def test_what_trl_has_no_place_for_is_refused(tmp_path):
    args = trl.DPOConfig(output_dir=str(tmp_path), **COMMON)
    pairs = datasets.Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    with pytest.raises(BadInput, match="trainer: found a DPOTrainer, expected a transformers Trainer, or TRL's"):
        hf(trl.DPOTrainer(model=model(), ref_model=model(), args=args, train_dataset=pairs, processing_class=tokenizer()))
    with pytest.raises(BadInput, match="GRPOTrainer, whose prompts have no loss for a score"):
        hf(grpo(tmp_path, max_steps=60), CyclicalCurriculum()).train()
