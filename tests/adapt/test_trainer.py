"""Methods in a `transformers.Trainer`: the bare trainer's numbers, etude's own order, and what is refused."""

import math

import numpy as np
import pytest
import torch

import etude
from etude.adapt import hf
from etude.data.samplers import Curriculum, FixedMixture, OnlineMixture, SamplerBase, WeightedDraw, by_loss
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW
from etude.engine.protocols import Method
from etude.engine.schedule import Constant, Cosine
from etude.engine.streams import generator
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.generate.pretrained import Pretrained
from etude.learn.finetune import Finetune
from etude.learn.rows import CompletionSource, Row
from etude.papers.growth.stacking import Grow
from etude.papers.objective.gradient_noise import GradientNoise, noise_variance
from etude.papers.order.cyclical_curriculum import CyclicalCurriculum

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
ROWS, LENGTH, VOCAB, SEED = 22, 9, 40, 3
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}


def rows():
    tokens = torch.randint(1, VOCAB, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    said = torch.arange(LENGTH) >= 3
    return [{"input_ids": t, "labels": torch.where(said, t, -100), "attention_mask": torch.ones_like(t)} for t in tokens]


def model(**changes):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=VOCAB, max_position_embeddings=32, **(SIZES | changes))
    return transformers.LlamaForCausalLM(config)


def trainer(folder, inner=None, kind=None, dataset=None, **settings):
    given = {
        "max_steps": 12, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "seed": SEED, "logging_steps": 1, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False, "lr_scheduler_type": "constant",
    } | settings  # fmt: skip
    args = transformers.TrainingArguments(output_dir=str(folder), **given)
    return (kind or transformers.Trainer)(model=inner or model(), args=args, train_dataset=dataset or rows())


def losses(of):
    return [row["loss"] for row in of.state.log_history if "loss" in row]


def weights(of):
    return torch.cat([p.detach().flatten() for p in of.parameters()])


class Seen(Method):
    """The ids of every micro-batch, and the update it belongs to."""

    def __init__(self):
        self.ids, self.steps = [], []

    def batch(self, run, batch):
        self.ids.append(batch.ids.tolist())
        self.steps.append(run.step)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_without_a_method_every_loss_is_the_bare_trainers(tmp_path, accumulation):
    settings = {"gradient_accumulation_steps": accumulation, "max_steps": -1, "num_train_epochs": 2}
    inner = {"attention_dropout": 0.1}
    bare = trainer(tmp_path, model(**inner), **settings)
    bare.train()
    adapted = hf(trainer(tmp_path, model(**inner), **settings))
    adapted.train()
    watched, seen = trainer(tmp_path, model(**inner), **settings), Seen()
    hf(watched, [seen, GradientNoise(eta=0.0)]).train()
    assert losses(adapted) == losses(bare) == losses(watched)
    assert torch.equal(weights(adapted.model), weights(bare.model))
    assert torch.equal(weights(watched.model), weights(bare.model))
    assert sorted(i for ids in seen.ids[: len(seen.ids) // 2] for i in ids) == list(range(ROWS))


def own_run(methods, accumulate=1, steps=12, weights=None):
    """The same training under etude's own trainer."""
    inner, data = model(), rows()
    source = CompletionSource(
        [Row(r["input_ids"].numpy(), (r["labels"] != -100).numpy()[1:]) for r in data], context=LENGTH, weights=weights
    )
    stream = DataStream(source, 4, SEED)
    optimizer = AdamW(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    wrapped = Pretrained(inner)
    result = Trainer(
        wrapped, stream, Finetune(), optimizer=optimizer, schedule=Constant(), methods=methods, budget=Budget(steps=steps), seed=SEED,
        accumulate=accumulate, count_flops=False,
    ).run()  # fmt: skip
    assert result.steps == steps
    return inner


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("scores", ["given", "easy"])
def test_a_curriculum_shows_the_ids_of_etudes_own_run(tmp_path, scores, accumulation):
    given = np.arange(1.0, ROWS + 1) if scores == "given" else "easy"
    theirs, ours = Seen(), Seen()
    adapted = hf(trainer(tmp_path, gradient_accumulation_steps=accumulation), [theirs, CyclicalCurriculum(given)])
    adapted.train()
    inner = own_run([ours, CyclicalCurriculum(given)], accumulation)
    assert theirs.ids == ours.ids
    assert theirs.steps == ours.steps
    assert len({len(ids) for ids in theirs.ids}) > 1  # short epochs end with smaller batches
    assert torch.allclose(weights(adapted.model), weights(inner), atol=1e-4)


def test_a_killed_run_resumes_with_the_same_ids_and_weights(tmp_path):
    class Killed(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **more):
            if state.global_step == 7:
                raise KeyboardInterrupt

    def made(folder):
        seen = Seen()
        settings = {"save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": 2}  # within an epoch of three updates
        return hf(trainer(tmp_path / folder, **settings), [seen, Listening(), CyclicalCurriculum(np.arange(1.0, ROWS + 1))]), seen

    class Listening(Method):
        def __init__(self):
            self.count = 0

        def updated(self, run):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    whole, all_ids = made("whole")
    whole.train()
    killed, _ = made("killed")
    killed.add_callback(Killed())
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    (tmp_path / "killed" / "checkpoint-7" / "etude" / "step-000000007").mkdir(parents=True)  # as a kill while it is written leaves it
    resumed, rest = made("killed")
    resumed.train(resume_from_checkpoint=True)
    assert rest.steps[0] == 4
    assert rest.ids == all_ids.ids[all_ids.steps.index(4) :]
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed._etude.hooks.methods[1].count == 12
    killed.pop_callback(Killed)
    killed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-4"))  # where it was interrupted, without leaving
    assert torch.equal(weights(killed.model), weights(whole.model))
    with pytest.raises(BadInput, match="a second run of methods"):
        resumed.train()
    other = hf(trainer(tmp_path / "killed", gradient_accumulation_steps=2), [CyclicalCurriculum()])
    with pytest.raises(BadInput, match="a checkpoint of another set of methods"):
        other.train(resume_from_checkpoint=True)
    with pytest.raises(BadInput, match="no checkpoint with methods' state"):
        made("nowhere")[0].train(resume_from_checkpoint=True)


def test_watched_order_of_the_trainer_goes_on_after_a_resume(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": 2}
    seen, rest = Seen(), Seen()
    hf(trainer(tmp_path, **settings), [seen]).train()
    hf(trainer(tmp_path, **settings), [rest]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert rest.ids == seen.ids[seen.steps.index(4) :]


def test_gradients_before_the_clip_and_noise_after_it(tmp_path):
    norms = []

    class Watch(Method):
        def gradients(self, run):
            norms.append(("before", norm(run)))

        def clipped(self, run):
            norms.append(("after", norm(run)))

    def norm(run):
        return float(torch.cat([p.grad.flatten() for p in run.named_parameters().values()]).norm())

    settings = {"optim": "sgd", "max_grad_norm": 0.1, "max_steps": 3, "gradient_accumulation_steps": 2}
    hf(trainer(tmp_path, **settings), Watch()).train()
    assert [when for when, _ in norms] == ["before", "after"] * 3
    assert all(n > 0.2 for when, n in norms if when == "before")
    assert all(n == pytest.approx(0.1, rel=1e-3) for when, n in norms if when == "after")

    bare, noised = model(), model()
    once = settings | {"max_steps": 1}
    trainer(tmp_path, bare, **once).train()
    hf(trainer(tmp_path, noised, **once), GradientNoise(eta=0.5)).train()
    for (name, ours), theirs in zip(noised.named_parameters(), bare.parameters(), strict=True):
        noise = torch.randn(ours.shape, generator=generator(SEED, "gradient-noise", 0, name)) * math.sqrt(noise_variance(0, 0.5))
        assert torch.allclose(theirs - ours, 1e-2 * noise, atol=1e-6)


def test_a_schedule_replaces_the_learning_rate(tmp_path):
    class Follow(Method):
        slots = ("schedule",)

        def __init__(self):
            self.rates = []

        def start(self, run):
            run.schedule = Cosine(warmup=0.25, final=0.1)

        def updated(self, run):
            self.rates.append(run.learning_rate)

    follow = Follow()
    hf(trainer(tmp_path, optim="sgd"), follow).train()
    own = Follow()
    own_run([own])
    assert follow.rates == pytest.approx(own.rates, rel=1e-12)
    assert follow.rates[0] < follow.rates[3] > follow.rates[-1]


class Weighted(Method):
    def __init__(self, by_row):
        self.by_row = torch.as_tensor(by_row, dtype=torch.float32)

    def batch(self, run, batch):
        batch.data["weights"] = self.by_row[batch.ids]


def test_weights_of_rows_count_as_in_etudes_own_loss(tmp_path):
    by_row = [(i % 4) / 2 for i in range(ROWS)]
    scores = CyclicalCurriculum("random", start=1.0)
    weighed = hf(trainer(tmp_path, gradient_accumulation_steps=2), [Weighted(by_row), scores])
    weighed.train()
    ours = own_run([CyclicalCurriculum("random", start=1.0)], 2, weights=by_row)
    plain = own_run([CyclicalCurriculum("random", start=1.0)], 2)
    assert torch.allclose(weights(weighed.model), weights(ours), atol=1e-4)
    assert not torch.allclose(weights(ours), weights(plain), atol=1e-2)
    bare, ones = trainer(tmp_path), hf(trainer(tmp_path), Weighted([1.0] * ROWS))
    bare.train()
    ones.train()
    assert losses(ones) == losses(bare)
    assert torch.equal(weights(ones.model), weights(bare.model))


def test_a_sampler_hears_each_rows_loss(tmp_path):
    heard = []

    class Hearing(SamplerBase):
        def plan(self, stage, source, rng):
            return np.arange(len(source))

        def observe(self, feedback):
            heard.append(feedback)

    class Owner(Method):
        slots = ("sampler",)

        def start(self, run):
            run.set_sampler(Hearing())

    inner = model()
    expected = []
    with torch.no_grad():
        for row in rows()[:4]:
            expected.append(float(inner(**{k: v[None] for k, v in row.items()}).loss))
    hf(trainer(tmp_path, inner, gradient_accumulation_steps=2, max_steps=2), Owner()).train()
    assert [f.step for f in heard] == [1, 1, 2, 2]
    assert heard[0].ids.tolist() == [0, 1, 2, 3]
    assert heard[0].losses.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2"])
def test_stacking_grows_the_model_before_the_optimizer_is_made(tmp_path, family):
    if family == "gpt2":
        inner = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    elif family == "qwen3":
        inner = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(vocab_size=VOCAB, head_dim=8, **SIZES))
    elif family == "gemma3":
        kinds = ["sliding_attention", "full_attention"]
        config = transformers.Gemma3TextConfig(
            vocab_size=VOCAB, head_dim=8, layer_types=kinds, eos_token_id=[1, 2], pad_token_id=0, **SIZES
        )
        inner = transformers.Gemma3ForCausalLM(config)
    else:
        inner = model()
    base = {k: v.clone() for k, v in inner.state_dict().items()}
    grown = hf(trainer(tmp_path, inner, save_strategy="steps", save_steps=6), Grow(factor=2))
    assert grown.model is inner
    after = inner.state_dict()
    layers = "transformer.h" if family == "gpt2" else "model.layers"
    for name, value in after.items():
        head, _, rest = name.removeprefix(f"{layers}.").partition(".")
        source = f"{layers}.{int(head) % 2}.{rest}" if name.startswith(layers) else name
        assert torch.equal(value, base[source])
    assert inner.config.num_hidden_layers == 4
    if family == "gemma3":
        assert inner.config.layer_types == ["sliding_attention", "full_attention"] * 2
        assert inner.config.eos_token_id == [1, 2]
    grown.train()
    owned = {id(p) for group in grown.optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in inner.parameters()}
    assert not torch.equal(inner.state_dict()["lm_head.weight"], base["lm_head.weight"])
    again = type(inner).from_pretrained(tmp_path / "checkpoint-12")
    tokens = rows()[0]["input_ids"][None]
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, inner.eval()(tokens).logits, atol=1e-5)
        written = inner.generate(tokens, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert torch.equal(written, inner.generate(tokens, max_new_tokens=4, do_sample=False, use_cache=False, pad_token_id=0))


@pytest.mark.parametrize(
    ("operator", "order"), [("interpolate", [0, 0, 1, 1]), ("random", [0, 1, None, None]), ("zero", [0, 1, None, None])]
)
def test_other_operators(tmp_path, operator, order):
    inner, tokens = model(), rows()[0]["input_ids"][None]
    base = {k: v.clone() for k, v in inner.state_dict().items()}
    with torch.no_grad():
        before = inner.eval()(tokens).logits
    hf(trainer(tmp_path, inner), Grow(factor=2, operator=operator))
    for i, source in enumerate(order):
        weight = inner.state_dict()[f"model.layers.{i}.self_attn.q_proj.weight"]
        copied = [torch.equal(weight, base[f"model.layers.{j}.self_attn.q_proj.weight"]) for j in range(2)]
        assert copied == [j == source for j in range(2)]
    with torch.no_grad():
        assert torch.allclose(inner.eval()(tokens).logits, before, atol=1e-6) == (operator == "zero")


class Objective(Method):
    slots = ("objective",)


class Scales(Method):
    def loss(self, run, batch, output):
        return output


class Late(Method):
    slots = ("surgery",)


@pytest.mark.parametrize(
    ("methods", "settings", "said"),
    [
        ([Objective()], {}, "methods: found Objective, which owns the slot 'objective' (the loss), expected a method of sampler, schedule"),
        ([Scales()], {}, "methods: found Scales, which acts on 'loss', expected a method of sampler"),
        ([Late()], {}, "found Late, which does not grow layers before the first update"),
        ([CyclicalCurriculum()], {"dataloader_num_workers": 2}, "dataloader_num_workers: found 2, which would draw batches ahead"),
        ([CyclicalCurriculum()], {"train_sampling_strategy": "sequential"}, "'sequential' beside CyclicalCurriculum"),
        ([CyclicalCurriculum(), Objective()], {}, "Objective, which owns the slot 'objective'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, methods, settings, said):
    with pytest.raises(BadInput) as error:
        hf(trainer(tmp_path, **settings), methods)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("stacking", "etude.adapt.hf, methods: found 'stacking', expected a list or a method such as etude.method"),
        (["stacking"], r"etude.adapt.hf, methods\[0\]: found 'stacking', expected a method such as etude.method"),
        (CyclicalCurriculum, "methods: found the class CyclicalCurriculum, expected one made from it"),
        ([lambda run: None], r"methods\[0\]: found the function <lambda>, expected a method"),
        ([transformers.TrainerCallback()], r"methods\[0\]: found a TrainerCallback, expected a method"),
        ([GradientNoise(eta=0.1), GradientNoise(eta=0.0)], r"found the same method, GradientNoise, as methods\[0\] and methods\[1\]"),
    ],
)
def test_what_is_no_method_is_refused(tmp_path, methods, said):
    with pytest.raises(BadInput, match=said):
        hf(trainer(tmp_path), methods)


def test_what_is_no_such_trainer_is_refused(tmp_path):
    with pytest.raises(BadInput, match="trainer: found the text 'no'|trainer: found 'no'"):
        hf("no")
    once = hf(trainer(tmp_path))
    with pytest.raises(BadInput, match="has methods already"):
        hf(once)
    done = trainer(tmp_path, max_steps=1)
    done.train()
    with pytest.raises(BadInput, match=r"trainer: found one that has trained, 1 updates, expected a trainer before `trainer.train\(\)`"):
        hf(done)
    two = trainer(tmp_path)
    two.args._n_gpu = 2
    with pytest.raises(BadInput, match="2 processes or devices, expected one process"):
        hf(two)

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield from rows()

    streamed = hf(trainer(tmp_path, dataset=Endless(), save_strategy="steps", save_steps=6), GradientNoise(eta=0.0))
    streamed.train()
    streamed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert streamed._etude.run.step == 12
    with pytest.raises(BadInput, match="which CyclicalCurriculum asks for"):
        hf(trainer(tmp_path, dataset=Endless()), CyclicalCurriculum())

    class Meddling(Method):
        def batch(self, run, batch):
            batch.data["tokens"] = batch.data["tokens"] + 1

    with pytest.raises(BadInput, match=r"Meddling.batch: found another tokens, expected nothing but `weights`"):
        hf(trainer(tmp_path), Meddling()).train()


def test_epochs_of_a_curriculum_are_as_many_updates_as_the_trainers(tmp_path):
    settings = {"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": 4}
    bare, adapted = trainer(tmp_path, **settings), hf(trainer(tmp_path, **settings), CyclicalCurriculum("random"))
    bare.train()
    adapted.train()
    assert adapted.state.global_step == bare.state.global_step == 4
    assert adapted.state.epoch == bare.state.epoch == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [({"label_smoothing_factor": 0.1}, "label_smoothing_factor = 0.1"), ({}, "a compute_loss_func of your own")],
)
def test_weights_have_no_place_in_another_loss(tmp_path, change, said):
    weighed = hf(trainer(tmp_path, **change), Weighted([0.5] * ROWS))
    if not change:
        weighed.compute_loss_func = lambda outputs, labels, num_items_in_batch=None: outputs.loss
    with pytest.raises(BadInput, match=said):
        weighed.train()


def test_rows_laid_end_to_end_have_no_loss_of_their_own(tmp_path):
    def flat(batch):
        return {key: torch.cat([row[key] for row in batch])[None] for key in ("input_ids", "labels")}

    ends = hf(trainer(tmp_path), Weighted([1.0] * ROWS))
    ends.data_collator = flat
    with pytest.raises(BadInput, match="each sample's loss: found 4 rows laid end to end"):
        ends.train()


def test_domains_come_from_a_column(tmp_path):
    from etude.papers.order.dump import Dump

    data = [row | {"source": "even" if i % 2 == 0 else "odd"} for i, row in enumerate(rows())]
    dump = Dump(signal="loss", update_every=2)
    adapted = hf(trainer(tmp_path, dataset=data), dump, domains="source")
    adapted.train()
    assert dump.sampler.names == ["even", "odd"]
    assert dump.sampler.counts.sum() == 12 * 4
    assert any("share/even" in row for row in adapted.state.log_history)
    with pytest.raises(BadInput, match="domains: found 'sourc', expected a known name; did you mean 'source'"):
        hf(trainer(tmp_path, dataset=data), Dump(signal="loss"), domains="sourc")
    with pytest.raises(BadInput, match="22 rows"):
        hf(trainer(tmp_path), Dump(signal="loss"), domains=["a"] * 3)


ORDERS = {
    "mixture": (lambda: FixedMixture({"even": 1, "odd": 3}, update_every=8), {"domains": "source"}),
    "online": (lambda: OnlineMixture(by_loss, update_every=8), {"domains": "source"}),
    "weighted": (lambda: WeightedDraw(np.arange(1.0, ROWS + 1), share=0.4), {}),
    "column": (lambda: Curriculum(update_every=8, over=4), {"difficulty": "level"}),
    "function": (lambda: Curriculum(update_every=8, over=4, power=1), {"difficulty": lambda row: float(row["input_ids"][0])}),
    "numbers": (lambda: Curriculum(update_every=8, over=4, hardest_first=True), {"difficulty": np.arange(ROWS)}),
    "losses": (lambda: Curriculum(measured=True, update_every=8, over=4, measure_every=2), {}),
}


@pytest.mark.parametrize("order", ORDERS)
def test_an_order_without_a_method_is_logged_and_resumes(tmp_path, order):
    data = [row | {"source": "even" if i % 2 == 0 else "odd", "level": i // 3} for i, row in enumerate(rows())]
    make, told = ORDERS[order]

    def run(resume=None):
        adapted = hf(trainer(tmp_path, dataset=data, save_strategy="steps", save_steps=6), sampler=make(), **told)
        adapted.train(resume_from_checkpoint=resume)
        return adapted

    whole = run()
    again = run(str(tmp_path / "checkpoint-6"))
    assert torch.equal(weights(whole.model), weights(again.model))
    logged = {key for row in whole.state.log_history for key in row}
    if "domains" in told:
        assert {"share/even", "share/odd"} <= logged
    if order in ("column", "function", "numbers", "losses"):
        shares = [row["curriculum/share"] for row in whole.state.log_history if "curriculum/share" in row]
        assert shares[0] == 0.25
        assert shares[-1] == 1
        assert shares == sorted(shares)
    assert ("prepare" in whole._etude.run.ledger.entries) == (order == "losses")


def test_orders_that_do_not_fit_are_refused(tmp_path):
    for told, message in (
        ({"difficulty": "levl"}, "difficulty: found 'levl'"),
        ({"difficulty": [1.0]}, "1 numbers, expected one for each of 22 rows"),
        ({"difficulty": lambda row: float("nan")}, "difficulty, row 0: found nan, expected a finite number"),
        ({"difficulty": lambda row: row["none"]}, "difficulty, row 0: found KeyError: 'none', expected a number"),
        ({"domains": [None] * ROWS}, "domains, row 0: found nothing"),
    ):
        with pytest.raises(BadInput, match=message):
            hf(trainer(tmp_path), sampler=Curriculum(update_every=8), **told)
    with pytest.raises(BadInput, match="samples without a difficulty"):
        hf(trainer(tmp_path), sampler=Curriculum(update_every=8)).train()
    with pytest.raises(BadInput, match="GivenOrder"):
        hf(trainer(tmp_path), CyclicalCurriculum(), sampler=Curriculum(update_every=8))


def test_it_is_there_by_its_name():
    assert etude.adapt.hf is hf
