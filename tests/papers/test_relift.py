"""ReLIFT: bands by hand, the buffer, its interludes under the trainer, the testbed's questions, and the arms' budgets."""

import json
from dataclasses import fields, replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rollout_toys import END as TOY_END
from rollout_toys import Copy, Letters, PlainGenerator, tiny

from etude.engine import checkpoint
from etude.engine.ledger import Budget
from etude.engine.optim import AdamW, Alternating
from etude.engine.protocols import Method, Sampling
from etude.engine.schedule import Constant
from etude.engine.streams import numpy_rng
from etude.engine.trainer import Interrupted, Trainer
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.learn.estimators import GroupAdvantages
from etude.learn.finetune import Finetune
from etude.learn.interlude import Interleaved
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import PolicyGradient, relift
from etude.learn.problems import ProblemPool
from etude.learn.rollouts import Collector
from etude.learn.round import Group, RoundConfig
from etude.papers.improvement.relift import BANDS, STUDY, HardestBuffer, Settings, all_failed, arms, band, by_band, text
from etude.papers.improvement.relift.bands import sizes

TINY = STUDY.scales["smoke"].settings
TRAINED = ("RL", "SFT", "SFT then RL", "ReLIFT", "random")
POOL = ProblemPool.of(Copy(), 0, {1: 6, 2: 6})
ANSWERS = {number: POOL[number].answer for number in range(len(POOL))}


pytestmark = pytest.mark.usefixtures("own_cache")


def run(name, settings=TINY, seed=5):
    return STUDY.arms[name].run(Job(study="relift", arm=name, scale="smoke", seed=seed, settings=settings))


def group(number, *rewards):
    return Group([SimpleNamespace(problem=number, reward=r) for r in rewards], draw=0, accepted=True)


def buffer_of(demonstrations=None, **settings):
    settings = {"size": 3, "context": 32, "end": TOY_END, **settings}
    return HardestBuffer(POOL, ANSWERS if demonstrations is None else demonstrations, Letters(), **settings)


# --- bands ------------------------------------------------------------------------------------------------------------
def test_bands_by_eighths():
    found = [band(k / 8) for k in range(9)]
    assert found == ["hardest", "hard", "hard", "medium", "medium", "medium", "easy", "easy", "easy"]
    base, now = np.array([0.0, 0.0, 0.25, 1.0]), np.array([0.5, 0.0, 1.0, 0.75])
    found = by_band(base, now)
    assert (found["hardest"], found["hard"], found["easy"]) == (0.25, 1.0, 0.75)
    assert np.isnan(found["medium"])
    assert sizes(base) == {"easy": 0.25, "medium": 0.0, "hard": 0.25, "hardest": 0.5}
    with pytest.raises(BadInput, match="share right: found 1.5"):
        band(1.5)


# --- the buffer -------------------------------------------------------------------------------------------------------
def test_only_groups_that_failed_whole_go_in_and_the_oldest_come_out_first():
    assert all_failed(np.array([0.0, 0.0]))
    assert all_failed(np.array([-1.0, 0.0]))
    assert not all_failed(np.array([0.0, 1.0]))
    buffer = buffer_of()
    buffer.watch([group(4, 0, 0), group(7, 0, 1), group(1, 0, 0)])
    assert buffer.kept == [4, 1]
    assert not buffer.due()
    buffer.watch([group(9, 0, 0), group(4, 0, 0), group(2, 1, 1)])
    assert buffer.due()
    rows = buffer.take()
    assert rows.ids.tolist() == [4, 1, 9]
    assert buffer.kept == [4]  # what is more stays for the next time
    assert not buffer.due()
    letters = Letters()
    for place, number in enumerate(rows.ids):
        length, mask = int(rows.data["lengths"][place]), rows.data["loss_mask"][place]
        written = letters.decode(rows.data["tokens"][place, :length])
        assert written == POOL[number].prompt + POOL[number].answer + "."
        assert letters.decode(rows.data["tokens"][place, 1:][mask]) == POOL[number].answer + "."
    assert (buffer.groups, buffer.failed, buffer.trained) == (6, 4, 3)


def test_a_demonstration_is_paid_for_once():
    buffer = buffer_of(size=2)
    buffer.watch([group(n, 0, 0) for n in (3, 3, 3, 8)])
    assert [buffer.take().labels for _ in range(2)] == [1, 1]
    assert buffer.used == [3, 8]


def test_missing_and_wrong_demonstrations_are_never_trained_on():
    wrong = "0" if POOL[1].answer != "0" else "1"
    buffer = buffer_of({0: POOL[0].answer, 1: wrong, 6: POOL[6].answer[:1]}, size=1)  # 6 has two digits: half right
    buffer.watch([group(n, 0, 0) for n in (0, 1, 2, 6)])
    assert buffer.kept == [0]
    assert (buffer.failed, buffer.missing, buffer.unverified) == (4, 1, 2)


def test_the_control_takes_random_questions_as_often():
    buffer = buffer_of(pick="random", size=50)
    for _ in range(60):
        buffer.watch([group(4, 0, 0), group(5, 0, 1)])
    assert len(buffer.kept) == buffer.failed == 60
    assert len(set(buffer.kept)) > 6
    again = buffer_of(pick="random", size=50)
    again.watch([group(4, 0, 0)] * 60)
    assert again.kept == buffer.kept


def test_what_the_buffer_and_groups_refuse():
    for settings, message in (
        ({"size": 0}, "HardestBuffer.size: found 0, expected a whole number >= 1"),
        ({"pick": "some"}, "HardestBuffer.pick: found 'some'"),
        ({"demonstrations": {99: "1"}}, "HardestBuffer.demonstrations: found problem 99, expected numbers from 0 to 11"),
    ):
        with pytest.raises(BadInput, match=message):
            buffer_of(**settings)
    long = buffer_of(size=1, context=2)
    long.watch([group(6, 0, 0)])
    with pytest.raises(BadInput, match="demonstration of problem copy/0/2/0: found 6 tokens, expected at most 3"):
        long.take()
    with pytest.raises(BadInput, match="groups of 1"):
        composed(buffer_of(), samples=1)


# --- under the trainer ------------------------------------------------------------------------------------------------
def composed(buffer, samples=3):
    rules = Collector(POOL, Letters(), Sampling(max_tokens=3, stop_tokens=(TOY_END,)), context=32)
    config = RoundConfig(prompts=4, samples=samples, minibatch=6)
    main = RolloutStream(PlainGenerator, rules, config, seed=0, advantages=GroupAdvantages(by_std=False), watch=buffer.watch)
    return Interleaved(main, buffer, seed=0, objective="sft", optimizer="sft")


class Stop(Method):
    def __init__(self, at=0):
        self.at, self.stages = [at], []

    def updated(self, run):
        self.stages.append(run.stage.name)
        if run.step in self.at:
            run.request_stop()


def trained(folder, stop, steps=7, resume=False):
    losses = {"": PolicyGradient(relift(3)), "sft": Finetune(entropy=0.001)}
    return Trainer(
        tiny(), composed(buffer_of()), losses, optimizer=Alternating({"rl": AdamW(lr=0.01), "sft": AdamW(lr=0.01)}),
        schedule=Constant(), budget=Budget(steps=steps), folder=folder, methods=[stop], checkpoint_every=0.01,
    ).run(resume=resume)  # fmt: skip


def test_an_interlude_follows_the_round_that_filled_the_buffer_and_resumes(tmp_path):
    whole = Stop()
    result = trained(tmp_path / "whole", whole)
    rows = [json.loads(line) for line in (tmp_path / "whole/rollouts.jsonl").read_text().splitlines()]
    waiting, expected = 0, []
    for number in range(max(r["round"] for r in rows) + 1):
        rewards = {}
        for row in rows:
            if row["round"] == number:
                rewards.setdefault(row["prompt_id"], []).append(row["reward"])
        waiting += sum(max(r) <= 0 for r in rewards.values())
        expected += [f"round-{number}"] * 2
        if waiting >= 3:
            expected.append(f"interlude-{sum(name.startswith('i') for name in expected)}")
            waiting -= 3
    assert whole.stages == expected[:7]
    assert whole.stages.count("interlude-0") == 1
    assert result.ledger.entries["train"]["labels"] >= 1
    at = whole.stages.index("interlude-0")
    for number, step in enumerate((at, at + 1)):  # before the interlude, and just after it
        folder = tmp_path / f"broken-{number}"
        with pytest.raises(Interrupted):
            trained(folder, Stop(step))
        resumed = trained(folder, Stop(), resume=True)
        for a, b in zip(result.model.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(a, b)
        states = [checkpoint.load(checkpoint.latest(f / "checkpoints")[0])["stream"]["interlude"] for f in (tmp_path / "whole", folder)]
        assert states[0] == states[1]


def test_the_loss_is_reward_less_mean_summed_over_tokens_by_the_longest():
    advantages = {"loss_mask": torch.ones(3, 2, dtype=torch.bool), "rewards": torch.tensor([1.0, 0.0, 0.0])}
    GroupAdvantages(by_std=False)(advantages, np.zeros(3, dtype=np.int64), 3)
    assert advantages["advantages"][:, 0].tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    config = relift(8)
    assert (config.surrogate, config.mean_over, config.kl, config.entropy, config.max_tokens) == ("ratio", "length", 0.0, 0.001, 8)


# --- the testbed ------------------------------------------------------------------------------------------------------
def reachable(numbers):
    """Every value of every expression with + and - that uses each number once, by taking two at a time."""
    if len(numbers) == 1:
        return {numbers[0]}
    found = set()
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            if i != j:
                rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
                found |= reachable([*rest, a + b]) | reachable([*rest, a - b])
    return found


def test_questions_are_of_their_kind_and_the_tests_are_nobody_elses():
    settings = replace(TINY, largest=9)
    asked = {}
    for name, test in (("base", False), ("pool", False), ("test", True)):
        for kind, (operations, count) in text.KINDS.items():
            drawn = list(islice(text.problems(kind, settings, 1, name, test=test), 40))
            asked.setdefault(test, set()).update((tuple(sorted(p.data["numbers"])), p.data["target"]) for p in drawn)
            for p in drawn:
                assert len(p.data["numbers"]) == count
                assert (p.data["target"] in reachable(p.data["numbers"])) == (kind != "times")
                assert text.family(operations, 9, settings.target).verify(p, p.answer) == 1
                assert set(p.prompt + p.answer + "\n") <= set(text.TOKENIZER.decode(range(20)))
                assert len(p.answer) + 1 <= settings.max_tokens
            assert len({p.prompt for p in drawn}) == 40
    assert not asked[True] & asked[False]


def test_the_base_is_taught_slips_of_one_sign():
    settings = replace(TINY, base_copies=3, base_beyond=0.1, base_slips=0.5)
    taught, clean = (text.base_rows(s, 1) for s in (settings, replace(settings, base_slips=0.0)))
    assert [prompt for prompt, _ in taught] == [prompt for prompt, _ in clean]
    assert len(taught) == 3 * settings.base_questions
    changed = [(answer, right) for (_, answer), (_, right) in zip(taught, clean, strict=True) if answer != right]
    assert len(changed) / len(taught) == pytest.approx(0.5, abs=0.1)
    for answer, right in changed:
        assert [(a in "+-*", b in "+-*") for a, b in zip(answer, right, strict=True) if a != b] == [(True, True)]
    problem = next(iter(text.problems("sums", settings, 1, "base")))
    slipped = text.slip("sums", problem, settings, numpy_rng(0, "x"))
    assert text.family("+-", settings.largest, settings.target).verify(problem, slipped) == 0


# --- arms -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def outcomes():
    return {name: run(name) for name in STUDY.arms}


def test_arms_train_on_equally_many_tokens_from_one_base(outcomes):
    plan = STUDY.arms["ReLIFT"].planned(TINY)["train.tokens"]
    for name in TRAINED:
        spent = outcomes[name].ledger
        update = spent["train"]["tokens"] / spent["train"]["steps"]
        assert abs(spent["train"]["tokens"] - plan) <= 1.5 * update, name
    assert len({outcome.ledger["base:sums of three numbers"]["flops"] for outcome in outcomes.values()}) == 1
    assert "generate" not in outcomes["SFT"].ledger
    assert outcomes["RL"].metrics["demonstrations used"] == 0 == outcomes["base"].metrics["demonstrations used"]
    assert 0 < outcomes["ReLIFT"].metrics["demonstrations used"] <= 1
    assert outcomes["ReLIFT"].ledger["train"]["labels"] <= outcomes["ReLIFT"].metrics["demonstrations trained"]
    assert outcomes["ReLIFT"].metrics["demonstrations trained"] == TINY.size * outcomes["ReLIFT"].metrics["interludes"]


def test_claims_have_their_metrics_and_arms(outcomes):
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    for claim in STUDY.claims:
        for arm in claim.arms_named:
            assert claim.metric in outcomes[arm].metrics
    assert sum(outcomes["base"].metrics[f"share of the test, {name} band"] for name in BANDS) == pytest.approx(1)


def test_a_buffer_that_never_fills_is_reinforcement_alone_bit_for_bit(outcomes):
    never = run("ReLIFT", replace(TINY, size=100_000))
    assert never.metrics["interludes"] == 0
    shared = {k: v for k, v in never.metrics.items() if k in outcomes["RL"].metrics}
    assert repr(shared) == repr(outcomes["RL"].metrics)  # NaN is NaN
    assert never.ledger["train"]["flops"] == outcomes["RL"].ledger["train"]["flops"]
    assert never.ledger["generate"]["generated_tokens"] == outcomes["RL"].ledger["generate"]["generated_tokens"]


def test_bands_are_the_bases_whatever_was_trained(outcomes):
    job = Job(study="relift", arm="RL", scale="smoke", seed=5, settings=replace(TINY, num_test=16))
    first = arms.Bench(job)
    before = first.before.copy()
    torch.nn.init.zeros_(first.base.embedding.weight)
    assert np.array_equal(arms.Bench(job).before, before)


def test_settings_refuse():
    with pytest.raises(BadInput, match="settings.pool: found 30, expected a multiple of 4"):
        Settings(pool=30)
    with pytest.raises(BadInput, match="settings.sft_share"):
        Settings(sft_share=1.0)
    with pytest.raises(BadInput, match="settings.base_beyond: found 1.0, expected a share from 0 to below 1"):
        Settings(base_beyond=1.0)


def test_the_papers_model_and_the_sources():
    scale = STUDY.scales["paper"]
    with torch.device("meta"):
        model = STUDY.build_paper_model(scale.settings)
    count, _ = STUDY.paper_parameters["Qwen2.5-Math-7B"]
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(count, rel=0.02)
    assert set(scale.sources) == {f.name for f in fields(Settings)}
