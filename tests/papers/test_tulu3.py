"""Tulu 3: its stages against their definitions, the chain on disk, equal tokens, and what is refused."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from rollout_toys import END, Copy, Letters, PlainGenerator, tiny

from etude.data.tasks import task
from etude.data.tasks.judging import VerifierFailed
from etude.data.tokenizers import Bytes
from etude.engine import checkpoint
from etude.engine.identity import fingerprint
from etude.engine.ledger import Budget, Ledger
from etude.engine.protocols import Method, Sampling
from etude.engine.schedule import Linear
from etude.engine.streams import initialise
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.learn.finetune import Finetune
from etude.learn.preference import DPO, PairLogprobs
from etude.learn.problems import ProblemPool, Verified
from etude.learn.round import RoundConfig
from etude.learn.rows import CompletionSource
from etude.learn.values import ActorCritic, ValueModel
from etude.nn.transformer import Transformer, TransformerConfig
from etude.papers.improvement.tulu3 import (
    STUDY,
    Chain,
    Settings,
    arms,
    dpo,
    reward_model,
    rlvr,
    sft,
    stages,
)

TINY = STUDY.scales["smoke"].settings
ROWS = [(f"{d}?", str(d)) for d in range(10)]
PAIRS = [(f"{d}?", str(d), str((d + 3) % 10)) for d in range(10)]
GIVEN = {"context": 32, "tokenizer": Letters()}
SAMPLING = Sampling(max_tokens=2, stop_tokens=(END,))
SMALL = RoundConfig(prompts=8, samples=1, epochs=2, minibatch=8)


def tuned(parent, rows=ROWS, steps=3, **more):
    return sft(parent, rows, end=END, lr=1e-2, batch=4, budget=Budget(steps=steps), **GIVEN, **more)


def preferring(parent, pairs=PAIRS, steps=3, **more):
    return dpo(parent, pairs, end=END, lr=1e-2, batch=4, budget=Budget(steps=steps), **GIVEN, **more)


def rewarding(parent, **more):
    return reward_model(parent, PAIRS, end=END, lr=1e-2, batch=4, budget=Budget(steps=3), **GIVEN, **more)


def reinforced(parent, value=None, task=None, steps=4, **more):
    pool = ProblemPool.of(task or Copy(), 0, {1: 8}, Verified)
    more = {"sampling": SAMPLING, "lr": 1e-3, "budget": Budget(steps=steps), "rounds": SMALL, **GIVEN, **more}
    return rlvr(parent, value or ValueModel.from_policy(parent), pool, **more)


def rollouts(folder):
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


pytestmark = pytest.mark.usefixtures("own_cache")


# --- stages -----------------------------------------------------------------------------------------------------------
def test_the_preference_loss_is_length_normalised_with_beta_5():
    pairs = PairLogprobs(torch.tensor([[-2.0, -9.0]]), torch.tensor([[-4.0, -6.0]]), torch.tensor([[2.0, 3.0]]))
    # means: chosen (-1) - (-2) = 1, rejected (-3) - (-2) = -1; 5 (1 + 1) = 10
    assert stages.NORMALISED(pairs).item() == pytest.approx(math.log1p(math.exp(-10)))
    long = PairLogprobs(torch.tensor([[-20.0, -30.0]], requires_grad=True), torch.tensor([[-25.0, -25.0]]), torch.tensor([[25.0, 25.0]]))
    for loss, saturated in ((DPO(beta=5.0), True), (stages.NORMALISED, False)):  # b = 5 on sums leaves no gradient
        (grad,) = torch.autograd.grad(loss(long).sum(), long.policy)
        assert (grad.abs().max().item() < 1e-10) == saturated


def test_sft_is_the_plain_trainer_bit_for_bit_and_leaves_its_parent():
    parent, before = tiny(1), fingerprint(tiny(1))
    ours = tuned(parent).run()
    source = CompletionSource(ROWS, end=END, **GIVEN)
    plain = Trainer(
        tiny(1), stages.DataStream(source, 4, 0, drop_last=True), Finetune(), optimizer=stages.adamw(1e-2), schedule=Linear(warmup=0.03),
        budget=Budget(steps=3),
    ).run()  # fmt: skip
    assert same(ours.model, plain.model)
    assert fingerprint(parent) == before != fingerprint(ours.model)


def test_sft_sums_over_the_batch_however_it_is_cut():
    rows = [("1?", "1"), ("2?", "2345678"), ("3?", "33"), ("4?", "4")]
    whole = sft(tiny(), rows, end=END, lr=1e-2, batch=4, budget=Budget(steps=1), clip=None, **GIVEN).run().model
    source = CompletionSource(rows, end=END, **GIVEN)
    cut = Trainer(
        tiny(), stages.DataStream(source, 1, 0), Finetune(), optimizer=stages.adamw(1e-2), schedule=Linear(warmup=0.03),
        budget=Budget(steps=1), accumulate=4, clip=None,
    ).run().model  # fmt: skip
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


class First(Method):
    """Keeps the first update's loss."""

    def __init__(self):
        self.losses = []

    def loss(self, run, batch, output):
        self.losses.append(float(output.loss.detach()))


def test_dpo_begins_at_log_2_from_its_own_parent():
    first = First()
    parent = tuned(tiny()).run().model
    before = fingerprint(parent)
    result = preferring(parent, steps=30, methods=[first]).run()
    assert first.losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert first.losses[-1] < 0.1
    assert fingerprint(parent) == before != fingerprint(result.model)


@pytest.fixture(scope="module")
def careless():
    """Answers a digit by itself or by the next one, and closes its answers."""
    rows = [(f"{d}?", str((d + k) % 10)) for d in range(10) for k in (0, 1)]
    return sft(tiny(), rows, end=END, lr=1e-2, batch=20, budget=Budget(steps=200), **GIVEN).run().model


def test_rlvr_begins_at_its_parent_and_at_the_reward_model(careless, tmp_path):
    parent = preferring(careless).run().model
    value = rewarding(careless).run().model
    trainer = reinforced(parent, value, folder=tmp_path / "run")
    assert isinstance(trainer.model, ActorCritic)
    assert same(trainer.model.value, value)
    assert fingerprint(trainer.stream.reference) == fingerprint(parent) != fingerprint(careless)
    before = fingerprint(value)
    trainer.run()
    assert fingerprint(value) == before
    # The reward model's own score is in no reward; what did not end has -10, whatever was verified.
    assert {(r["finish"], r["reward"]) for r in rollouts(tmp_path / "run")} <= {("stop", 10.0), ("stop", 0.0), ("length", -10.0)}
    assert {0.0, 10.0} <= {r["reward"] for r in rollouts(tmp_path / "run")}
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    kl = [m["kl_reward"] for m in metrics if "kl_reward" in m]
    assert kl[0] == pytest.approx(0, abs=1e-6)  # the policy is still the parent
    assert abs(kl[-1]) > 1e-5


def test_an_unfinished_answer_is_never_paid(careless, tmp_path):
    short = Sampling(max_tokens=1, stop_tokens=(END,))  # a right digit leaves no room for the end
    reinforced(careless, sampling=short, folder=tmp_path / "a", steps=2).run()
    assert {r["reward"] for r in rollouts(tmp_path / "a") if r["finish"] != "stop"} == {-10.0}
    reinforced(careless, sampling=short, folder=tmp_path / "b", unfinished=None, steps=2).run()
    assert 10.0 in {r["reward"] for r in rollouts(tmp_path / "b")}


def test_rlvr_learns_what_it_verifies(careless):
    rounds = RoundConfig(prompts=8, samples=4, epochs=2, minibatch=32)
    trained = reinforced(careless, steps=60, rounds=rounds, count_flops=False).run().model
    rates = []
    for model in (careless, trained.policy):
        groups = PlainGenerator(model).complete([Letters().encode(f"{d}?") for d in range(10)], SAMPLING, n=8, seed=1)
        rates.append(np.mean([c.text == str(d) for d, group in enumerate(groups) for c in group]))
    assert rates[1] > rates[0] + 0.1


# --- bad input --------------------------------------------------------------------------------------------------------
class Broken(Copy):
    def verify(self, problem, response):
        return {"3": None, "4": float("nan")}.get(response[:1], 1.0)


def test_a_verifier_that_fails_is_named_and_the_run_stops_or_goes_on(tmp_path):
    with pytest.raises(VerifierFailed, match=r"verifier of problem copy/0/1/\d, sample 0: found \w+Error: returned"):
        reinforced(tiny(), task=Broken(), steps=40, folder=tmp_path / "stop").run()
    assert next(r for r in rollouts(tmp_path / "stop") if "error" in r)["completion"][:1] in ("3", "4")
    reinforced(tiny(), task=Broken(), steps=40, folder=tmp_path / "zero", failures="zero").run()
    failed = [r for r in rollouts(tmp_path / "zero") if "error" in r]
    assert failed
    assert {r["reward"] for r in failed} <= {0.0, -10.0}


def test_rows_and_pairs_that_teach_nothing_are_named():
    with pytest.raises(BadInput, match="pair 1: found chosen = rejected, expected two different completions"):
        preferring(tiny(), [PAIRS[0], ("1?", "5", "5")])
    with pytest.raises(BadInput, match="pair 0, rejected: found an empty completion, expected at least one token"):
        preferring(tiny(), [("1?", "5", "")])
    with pytest.raises(BadInput, match="row 1: found an empty completion"):
        tuned(tiny(), [ROWS[0], ("1?", "")])
    with pytest.raises(BadInput, match=r"Verified\.paid"):
        ProblemPool.of(Copy(), 0, {1: 1}, lambda task: Verified(task, paid=-1)).environment(0)


# --- the chain --------------------------------------------------------------------------------------------------------
def whole(folder, kill=None):
    """SFT, DPO, a reward model and RLVR; kill: a stage whose trainer dies at its second update."""

    def more(name, here):
        calls = []

        def progress(share, loss):
            calls.append(share)
            if name == kill and len(calls) == 2:
                raise KeyboardInterrupt

        return {"folder": here.folder, "checkpoint_every": 0.01, "progress": progress}

    chain = Chain(tiny(), folder)
    chain.run("SFT", lambda parent, here: tuned(parent, **more("SFT", here)))
    chain.run("DPO", lambda parent, here: preferring(parent, **more("DPO", here)), parent="SFT")
    value = chain.run("RM", lambda parent, here: rewarding(parent, **more("RM", here)), parent="SFT", like=ValueModel.from_policy)
    chain.run("RLVR", lambda parent, here: reinforced(parent, value, **more("RLVR", here)), parent="DPO")
    return chain


def test_each_stage_goes_on_from_its_parent_on_disk_as_in_memory(tmp_path):
    memory, disk = whole(None), whole(tmp_path)
    assert [s.parent for s in disk.stages.values()] == ["base", "SFT", "SFT", "DPO"]
    for name in ("SFT", "DPO", "RM", "RLVR"):
        assert same(memory.model(name), disk.model(name))
        assert memory.ledgers[name].total("tokens") == disk.ledgers[name].total("tokens") > 0
    assert disk.ledgers["RLVR"].total("generated_tokens") > 0
    again = Chain(tiny(), tmp_path)
    assert same(again.model("RLVR"), disk.model("RLVR"))  # its line leads to the base
    again = Chain(tiny(), tmp_path)
    again.run("SFT", lambda parent, here: pytest.fail("trained again"))
    again.run("RM", lambda parent, here: pytest.fail("trained again"), parent="SFT", like=ValueModel.from_policy)
    assert again.ledgers["SFT"].as_dict() == disk.ledgers["SFT"].as_dict()


@pytest.mark.parametrize("stage", ["SFT", "DPO", "RM", "RLVR"])
def test_a_chain_that_was_killed_ends_as_one_that_was_not(tmp_path, stage):
    with pytest.raises(KeyboardInterrupt):
        whole(tmp_path, kill=stage)
    assert not (tmp_path / stage / "kept").exists()
    resumed, straight = whole(tmp_path), whole(None)
    for name in ("SFT", "DPO", "RM", "RLVR"):
        assert same(resumed.model(name), straight.model(name))
        for quantity in ("tokens", "generated_tokens", "flops"):
            assert resumed.ledgers[name].total(quantity) == straight.ledgers[name].total(quantity)


def test_a_stage_without_its_parent_is_refused(tmp_path):
    chain = Chain(tiny(), tmp_path)
    with pytest.raises(BadInput, match="stage 'DPO': found no checkpoint of its parent 'SFT', expected one of base, or that stage"):
        chain.run("DPO", lambda parent, here: preferring(parent), parent="SFT")
    chain.run("SFT", lambda parent, here: tuned(parent), made_of=1)
    with pytest.raises(BadInput, match="stage 'RLVR': found no checkpoint of its parent 'DPO', expected one of base, SFT, or"):
        chain.run("RLVR", lambda parent, here: reinforced(parent), parent="DPO")
    with pytest.raises(BadInput, match="stage 'SFT': found one made of other settings"):
        Chain(tiny(), tmp_path).run("SFT", lambda parent, here: tuned(parent), made_of=2)
    with pytest.raises(BadInput, match="stage 'SFT': found one gone on from another 'base'"):
        Chain(tiny(3), tmp_path).run("SFT", lambda parent, here: tuned(parent), made_of=1)
    with pytest.raises(BadInput, match="stage 'SFT': found one gone on from another 'base'"):
        Chain(tiny(3), tmp_path).run("DPO", lambda parent, here: preferring(parent), parent="SFT")
    with pytest.raises(BadInput, match="found a model of another shape"):
        Chain(tiny(context=64), tmp_path).run("SFT", lambda parent, here: tuned(parent), like=ValueModel.from_policy, made_of=1)
    with pytest.raises(BadInput, match="stage: found '../x'"):
        chain.run("../x", lambda parent, here: tuned(parent))
    place, _ = checkpoint.latest(tmp_path / "SFT" / "kept")
    (place / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match="does not match its checksum"):
        Chain(tiny(), tmp_path).model("SFT")


def test_a_stage_may_not_change_its_parent():
    def careless(parent, here):
        parent.requires_grad_(True)
        return Trainer(parent, stages.DataStream(CompletionSource(ROWS, end=END, **GIVEN), 4, 0), Finetune(), budget=Budget(steps=1))

    with pytest.raises(BadInput, match="stage 'SFT': found training that changed its parent 'base', expected training of a copy"):
        Chain(tiny()).run("SFT", careless)


# --- the study --------------------------------------------------------------------------------------------------------
MIDDLE = replace(TINY, sft_tokens=10_000, dpo_tokens=8_000, rlvr_tokens=16_000, pair_prompts=48)


@pytest.fixture(scope="module")
def outcomes():
    told = {}
    for name, arm in STUDY.arms.items():
        told[name] = arm.run(Job(study="tulu3", arm=name, scale="smoke", seed=5, settings=MIDDLE))
    return told


def test_all_arms_spend_the_same_tokens_and_count_them_by_stage(outcomes):
    for name, outcome in outcomes.items():
        parts = {k.removeprefix("tokens, "): v for k, v in outcome.metrics.items() if k.startswith("tokens, ")}
        if name == "base":
            assert not parts
            continue
        spent = outcome.ledger["stages"]["stage_tokens"]
        assert spent == pytest.approx(MIDDLE.total_tokens, rel=0.02)
        assert sum(parts.values()) == spent
        apart = sum(row.get(q, 0) for k, row in outcome.ledger.items() if not k.startswith("base:") for q in arms.PROCESSED)
        assert apart == spent
        stages_made = {"SFT"} | ({"DPO"} if "DPO" in name or "chain" in name else set())
        assert set(parts) == stages_made | ({"reward model", "RLVR"} if "RLVR" in name or "chain" in name else set())
    full = outcomes["full chain"]
    assert full.ledger["generate"]["generated_tokens"] > 0
    assert full.metrics["tokens, DPO"] == pytest.approx(MIDDLE.dpo_tokens, rel=0.1)
    assert 0 < full.metrics["pairs, on-policy"] < 1
    assert len(full.curves["success / tokens"][0]) == 4


def test_a_part_of_a_chain_is_the_same_in_every_arm(outcomes):
    """DPO and plain DPO go on from one SFT; what an arm measures after it is the same."""
    one, other = (outcomes[name].curves["success / tokens"] for name in ("full chain", "chain, plain DPO"))
    assert one[1][:2] == other[1][:2]
    assert one[0][:2] == other[0][:2]


def test_a_run_on_disk_and_one_again_say_the_same(outcomes, tmp_path):
    job = Job(study="tulu3", arm="full chain", scale="smoke", seed=5, settings=MIDDLE, folder=tmp_path)
    for _ in range(2):  # the second finds all its stages
        told = STUDY.arms["full chain"].run(job)
        assert told.metrics == outcomes["full chain"].metrics
        assert told.curves["success / tokens"] == outcomes["full chain"].curves["success / tokens"]


def test_the_study_is_sound():
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    assert set(STUDY.scales["paper"].sources) == {f.name for f in fields(Settings)}
    with torch.device("meta"):
        model = STUDY.build_paper_model(STUDY.scales["paper"].settings)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(8.03e9, rel=0.01)
    for bad in ({"sft_wrong": 1.0}, {"judge_errs": -0.1}, {"rlvr_tokens": 0}):
        with pytest.raises(BadInput, match=f"settings.{next(iter(bad))}"):
            Settings(**bad)
    assert arms.processed(Ledger({"a": {"tokens": 3, "samples": 9}, "b": {"generated_tokens": 2, "prompt_tokens": 4}})) == 9


@pytest.mark.parametrize(("name", "level"), [("addition", 2), ("reasoning-gym/chain_sum", 0)])
def test_on_a_model_and_a_task_of_ones_own(name, level):
    if name.startswith("reasoning-gym/"):
        pytest.importorskip("reasoning_gym")
    own = task(name)
    model = initialise(Transformer(TransformerConfig(vocab=256, width=16, depth=1, heads=2, context=256)), 0)
    items = [own.problem(0, i, level) for i in range(8)]
    chain, given = Chain(model), {"context": 256, "tokenizer": Bytes(), "lr": 1e-3, "budget": Budget(steps=2)}
    rows = [(p.prompt, p.answer) for p in items]
    chain.run("SFT", lambda parent, here: sft(parent, rows, end=10, batch=4, **given))
    triples = [(p.prompt, f"{p.answer}\n", "no\n") for p in items]
    chain.run("DPO", lambda parent, here: dpo(parent, triples, batch=4, **given), parent="SFT")
    value = chain.run("RM", lambda parent, here: reward_model(parent, triples, batch=4, **given), parent="SFT", like=ValueModel.from_policy)
    pool = ProblemPool.of(own, 0, {level: 8}, Verified)
    more = given | {"sampling": Sampling(max_tokens=4, stop_tokens=(10,)), "rounds": SMALL}
    chain.run("RLVR", lambda parent, here: rlvr(parent, value, pool, **more), parent="DPO")
    assert len({fingerprint(chain.model(name)) for name in ("base", "SFT", "DPO", "RLVR")}) == 4
    assert chain.ledgers["RLVR"].total("generated_tokens") > 0
