"""An objective in a trainer of transformers or TRL: etude's own loss of the same draws, resumes, and what is refused."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from etude.adapt import hf
from etude.adapt.objective import Given
from etude.data.samplers import Curriculum
from etude.engine.protocols import Batch
from etude.engine.streams import derive
from etude.errors import BadInput
from etude.generate.pretrained import Pretrained
from etude.learn.corruption import Infilling as OneOrder
from etude.learn.corruption import Marks, MaskedLM, MiddleMarks, SpanCorruption
from etude.learn.dispatch import Sometimes
from etude.learn.infilling import Infilling
from etude.learn.language import CausalLM
from etude.learn.unlikelihood import Unlikelihood

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
ROWS, VOCAB, SEED, FILLER = 10, 40, 3, 0
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}
SPANS = SpanCorruption(Marks(spans=(30, 31), separator=32, end_of_text=33, end_of_span=34), ratio=0.3, mean_span=2)
MIDDLE = MiddleMarks(prefix=30, suffix=31, middle=32, end=33)


def rows(left=False):
    """Of several lengths, filled behind them, or every second one before."""
    made, rng = [], np.random.default_rng(0)
    for i in range(ROWS):
        text = torch.from_numpy(rng.integers(1, 30, 14 - i % 4))
        fill = torch.full((14 - len(text),), FILLER)
        mask, order = (torch.ones_like(text), torch.zeros_like(fill)), -1 if left and i % 2 else 1
        kept = torch.cat(mask[::order])
        tokens = torch.cat((text, fill)[::order])
        made.append({"input_ids": tokens, "attention_mask": kept, "labels": torch.where(kept.bool(), tokens, -100)})
    return made


def model(**changes):
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=VOCAB, max_position_embeddings=32, **(SIZES | changes)))


def trainer(folder, inner=None, dataset=None, **settings):
    given = {
        "max_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "seed": SEED, "logging_steps": 1, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
    } | settings  # fmt: skip
    args = transformers.TrainingArguments(output_dir=str(folder), **given)
    return transformers.Trainer(model=inner or model(), args=args, train_dataset=dataset or rows(), eval_dataset=rows())


def losses(of):
    return [row["loss"] for row in of.state.log_history if "loss" in row]


def weights(of):
    return torch.cat([p.detach().flatten() for p in of.model.parameters()])


def own_loss(objective, ids, step=0):
    """etude's own objective over the same rows, each text at its row's beginning, with the same draws."""
    chosen = [rows()[i] for i in ids]
    tokens, documents = torch.zeros(len(ids), 14, dtype=torch.long), torch.full((len(ids), 14), -1)
    for k, row in enumerate(chosen):
        text = row["input_ids"][row["attention_mask"].bool()]
        tokens[k, : len(text)], documents[k, : len(text)] = text, 0
    data = {"tokens": tokens, "document_ids": documents, "loss_mask": documents[:, 1:] == 0}
    with torch.no_grad():
        return float(objective(Pretrained(model()), Batch(data, np.array(ids), key=derive(SEED, "forward", step))).loss)


@pytest.mark.parametrize(
    "objective",
    [SPANS, SpanCorruption(SPANS.marks, everywhere=False), OneOrder(MIDDLE, order="spm"), Infilling(MIDDLE, "both"), Unlikelihood(0.5)],
)  # fmt: skip
def test_an_updates_loss_is_etudes_own_over_the_same_draws(tmp_path, objective):
    # The trainer's own loss counts a text's first token too where filling stands before it: only rewritten rows are free of that.
    data = rows(left=not isinstance(objective, Unlikelihood))
    adapted = hf(trainer(tmp_path, dataset=data, gradient_accumulation_steps=2), objective=objective)
    adapted.train()
    assert losses(adapted)[0] == pytest.approx(own_loss(objective, range(8)), abs=1e-4)
    bare = trainer(tmp_path, gradient_accumulation_steps=2)
    bare.train()
    assert abs(losses(adapted)[0] - losses(bare)[0]) > 1e-3
    assert hf(trainer(tmp_path), objective=objective).evaluate()["eval_loss"] == trainer(tmp_path).evaluate()["eval_loss"]


def test_labels_and_attention_of_a_row_by_hand(tmp_path):
    given = Given(SpanCorruption(SPANS.marks, ratio=0.3, mean_span=3, everywhere=False), trainer(tmp_path))
    tokens, mask = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]]), torch.tensor([[0] * 6 + [1] * 7])
    made = given.rewritten({"input_ids": tokens, "attention_mask": mask}, np.array([4]), key=9)
    row, last = made["input_ids"][0].tolist(), 7 + 5  # a mark twice, and three more
    start = row.index(30)
    spans = 2  # round(0.3 * 7) tokens in one span
    text = [1, 2, 3, 4, 5, 6, 7]
    span = text[start : start + spans]
    assert row == [*text[:start], 30, *text[start + spans :], 33, 32, 30, *span, 34, 33]
    assert made["attention_mask"][0].tolist() == [1] * last + [0]
    assert made["labels"][0].tolist() == [-100] * (last - 4) + [30, *span, 34, -100]
    again = given.rewritten({"input_ids": tokens, "attention_mask": mask}, np.array([4]), key=9)
    assert torch.equal(again["input_ids"], made["input_ids"])
    inputs = {"input_ids": tokens, "attention_mask": mask}
    keys = {tuple(given.rewritten(inputs, np.array([4]), key=k)["input_ids"][0].tolist()) for k in range(9)}
    assert len(keys) > 1


def test_filling_before_a_text_is_no_earlier_token(tmp_path):
    given, logits = Given(Unlikelihood(0.5), trainer(tmp_path)), torch.randn(1, 5, VOCAB, generator=torch.Generator().manual_seed(0))
    text = torch.tensor([[5, 6, 7, 6, 5]])
    whole = given.extra(Batch({"input_ids": text, "labels": text}, np.array([0])), transformers.utils.ModelOutput(logits=logits))
    filled = torch.cat([torch.full((1, 2), FILLER), text], 1)
    mask = (filled != FILLER).long()
    data = {"input_ids": filled, "labels": torch.where(mask == 1, filled, -100), "attention_mask": mask}
    moved = transformers.utils.ModelOutput(logits=torch.cat([torch.zeros(1, 2, VOCAB), logits], 1))
    p = logits.softmax(-1)[0]
    held = [[5], [5, 6], [5, 7], [6, 7]]  # before each target and not the target
    expected = -0.5 * sum(float((1 - p[t, c]).log()) for t, ids in enumerate(held) for c in ids)
    assert float(whole) == pytest.approx(expected, abs=1e-5)
    assert float(given.extra(Batch(data, np.array([0])), moved)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("sampler", [None, "losses"])
def test_a_resumed_run_has_equal_bits(tmp_path, sampler):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}

    def run(resume=None, objective=SPANS):
        order = Curriculum(measured=True, update_every=4, over=3, measure_every=2) if sampler else None
        more = {"train_sampling_strategy": "random"}
        adapted = hf(trainer(tmp_path, **settings, **more), sampler=order, objective=objective)
        adapted.train(resume_from_checkpoint=resume)
        return adapted

    whole = run(objective=Sometimes(SPANS, 0.5))
    again = run(str(tmp_path / "checkpoint-3"), Sometimes(SPANS, 0.5))
    assert torch.equal(weights(whole), weights(again))
    for other in (SPANS, None):
        with pytest.raises(BadInput, match="a checkpoint of another objective"):
            run(str(tmp_path / "checkpoint-3"), other)


def test_a_coin_leaves_updates_to_the_trainer(tmp_path):
    adapted, seen = hf(trainer(tmp_path, max_steps=6, learning_rate=0.0), objective=Sometimes(SPANS, 0.5)), []
    adapted.train()
    for step in range(6):
        ids = ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9])[step % 3]
        seen.append(own_loss(Sometimes(SPANS, 0.5), ids, step))
    assert losses(adapted) == pytest.approx(seen, abs=1e-3)
    plain = [own_loss(CausalLM(), ids) for ids in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9])]
    assert 0 < sum(abs(found - plain[k % 3]) < 1e-5 for k, found in enumerate(seen)) < 6


def test_off_is_the_trainers_own_bit_for_bit(tmp_path):
    settings = {"max_steps": 4, "gradient_accumulation_steps": 2}
    bare = trainer(tmp_path, model(attention_dropout=0.1), **settings)
    bare.train()
    for objective in (None, CausalLM(), Unlikelihood(0.0)):
        adapted = hf(trainer(tmp_path, model(attention_dropout=0.1), **settings), objective=objective)
        adapted.train()
        assert losses(adapted) == losses(bare)
        assert torch.equal(weights(adapted), weights(bare))


def test_a_loss_of_your_own_sees_the_rows_of_the_objective(tmp_path):
    own, seen = trainer(tmp_path), []

    def mean(outputs, labels, num_items_in_batch=None):
        seen.append((labels, num_items_in_batch))
        return torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / (
            num_items_in_batch
        )

    own.compute_loss_func = mean
    hf(own, objective=SPANS).train()
    ((labels, count),) = seen
    assert (labels == 32).sum() == 4
    assert count == (labels[:, 1:] != -100).sum()
    assert losses(own)[0] == pytest.approx(own_loss(SPANS, range(4)), abs=1e-4)
    smoothed = hf(trainer(tmp_path, label_smoothing_factor=0.1), objective=SPANS)
    smoothed.train()
    assert losses(smoothed)[0] != losses(own)[0]


class Other:
    def __call__(self, model, batch, carried=None):
        raise AssertionError


@pytest.mark.parametrize(
    ("objective", "settings", "said"),
    [
        ("spans", {}, "etude.adapt.hf, objective: found 'spans', expected"),
        (SpanCorruption, {}, "objective: found the class SpanCorruption"),
        (Other(), {}, "objective: found an Other, expected a corruption read from left to right"),
        (SpanCorruption(SPANS.marks, prefix=True), {}, "SpanCorruption(prefix=True), with attention both ways"),
        (Sometimes(OneOrder(MIDDLE, prefix=True), 0.5), {}, "Infilling(prefix=True), with attention both ways"),
        (MaskedLM(30, VOCAB), {}, "MaskedLM, with attention both ways, expected one read from left to right"),
        (Infilling(MiddleMarks(prefix=3, suffix=40, middle=1, end=2)), {}, "Infilling.marks: found the id 40, expected ids of the model's"),
        (Unlikelihood(), {"label_smoothing_factor": 0.1}, "trainer: found label_smoothing_factor = 0.1 beside Unlikelihood"),
    ],
)  # fmt: skip
def test_what_has_no_place_is_refused_in_one_line(tmp_path, objective, settings, said):
    with pytest.raises(BadInput) as error:
        hf(trainer(tmp_path, **settings), objective=objective)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_that_predicts_no_next_token_is_refused(tmp_path):
    inner = transformers.BertForMaskedLM(
        transformers.BertConfig(vocab_size=VOCAB, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    for objective in (SPANS, Unlikelihood()):
        with pytest.raises(BadInput, match="for a BertForMaskedLM, expected a decoder that predicts the next token"):
            hf(trainer(tmp_path, inner), objective=objective)


def prompts():
    return [row | {"labels": torch.cat([torch.full((12,), -100), row["labels"][12:]])} for row in rows()[1::2]]


@pytest.mark.parametrize("objective", [SPANS, Unlikelihood()])
def test_rows_that_are_no_texts_of_their_own_are_refused(tmp_path, objective):
    packed = [row | {"position_ids": torch.arange(14)} for row in rows()]
    with pytest.raises(BadInput, match="found 'position_ids' beside .*, expected rows of their own: padding_free and packing off"):
        hf(trainer(tmp_path, dataset=packed), objective=objective).train()
    if objective is SPANS:
        with pytest.raises(BadInput, match=r"labels: found texts whose beginning is not learnt \(prompts\) beside SpanCorruption"):
            hf(trainer(tmp_path, dataset=prompts()), objective=objective).train()
        short = [{"input_ids": row["input_ids"][:3], "labels": row["input_ids"][:3]} for row in rows()]
        with pytest.raises(BadInput, match="rows of 3 tokens, expected texts long enough"):
            hf(trainer(tmp_path, dataset=short), objective=objective).train()


# --- TRL ---------------------------------------------------------------------------------------------------------------
WORDS = ["<pad>", "<end>", *"abcdefghijklmnopqrstuvwxyz", "<1>", "<2>", "<sep>", "<eot>", "<eom>"]
WORD_SPANS = SpanCorruption(Marks(spans=(28, 29), separator=30, end_of_text=31, end_of_span=32), ratio=0.3, mean_span=2)


def nothing(completions, **more):
    return [0.0] * len(completions)


def made_by_trl(folder, kind, **settings):
    trl = pytest.importorskip("trl", reason="TRL's trainers need trl")
    datasets = pytest.importorskip("datasets", reason="TRL's trainers need datasets")
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>")
    common = {
        "output_dir": str(folder), "max_steps": 1, "learning_rate": 1e-2, "seed": SEED, "logging_steps": 1, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, "lr_scheduler_type": "constant",
        "gradient_checkpointing": False, "bf16": False, "per_device_train_batch_size": 4,
    } | settings  # fmt: skip
    torch.manual_seed(0)
    ends = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=64, **SIZES, **ends))
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS[2:28], size=12 + i % 3)) for i in range(8)]
    if kind == "grpo":
        rows, args = datasets.Dataset.from_dict({"prompt": texts}), trl.GRPOConfig(num_generations=2, max_completion_length=4, **common)
        return trl.GRPOTrainer(model=model, reward_funcs=[nothing], args=args, train_dataset=rows, processing_class=tokenizer)
    rows, args = datasets.Dataset.from_dict({"text": texts}), trl.SFTConfig(train_sampling_strategy="sequential", **common)
    return trl.SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("objective", [WORD_SPANS, Unlikelihood(0.5)])
def test_sfts_loss_is_etudes_own(tmp_path, objective):
    adapted = made_by_trl(tmp_path, "sft", gradient_accumulation_steps=2)
    tokens = [torch.tensor(row["input_ids"]) for row in adapted.train_dataset]
    with torch.no_grad():
        total, weight = 0.0, 0.0
        for ids in (range(4), range(4, 8)):  # each micro-batch is filled to its longest
            padded = torch.nn.utils.rnn.pad_sequence([tokens[i] for i in ids], batch_first=True)
            documents = (padded != 0).long() - 1
            data = {"tokens": padded, "document_ids": documents, "loss_mask": documents[:, 1:] == 0}
            output = objective(Pretrained(adapted.model), Batch(data, np.array(ids), key=derive(SEED, "forward", 0)))
            total, weight = total + float(output.loss) * output.weight, weight + output.weight
    hf(adapted, objective=objective).train()
    assert adapted.compute_loss_func is None
    assert losses(adapted)[0] == pytest.approx(total / weight, abs=1e-3)


@pytest.mark.filterwarnings("default")
def test_trls_packed_rows_and_rewards_are_refused(tmp_path):
    packed = hf(made_by_trl(tmp_path, "sft", packing=True, max_length=32), objective=WORD_SPANS)
    with pytest.raises(BadInput, match="rows of their own: padding_free and packing off"):
        packed.train()
    with pytest.raises(BadInput, match="SpanCorruption beside a GRPOTrainer, whose loss is of rewards, expected a Trainer"):
        hf(made_by_trl(tmp_path, "grpo"), objective=WORD_SPANS)
