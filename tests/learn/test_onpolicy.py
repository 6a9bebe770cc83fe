"""Rollouts under the trainer: what a round holds, what it costs, what is logged, and that kills change nothing."""

import json
import math
import os
import signal

import numpy as np
import pytest
import torch
from rollout_toys import END, Copy, Letters, PlainGenerator, Retry, Table, tiny

from etude.data.samplers import SamplerBase
from etude.data.tasks.judging import VerifierFailed, reward_of
from etude.engine import checkpoint
from etude.engine.ledger import Budget
from etude.engine.metrics import read_metrics
from etude.engine.optim import SGD, AdamW
from etude.engine.protocols import Method, Problem, Sampling, Turn
from etude.engine.schedule import Constant
from etude.engine.streams import numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.advantages import Overlong, Unfinished
from etude.learn.estimators import GeneralisedAdvantages, GroupAdvantages
from etude.learn.logprobs import frozen_copy
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import PolicyConfig, PolicyGradient
from etude.learn.ppo import PPO
from etude.learn.problems import Domain, ProblemPool, Verified
from etude.learn.rollouts import Collector
from etude.learn.round import RoundConfig, informative
from etude.learn.success import Success
from etude.learn.values import ActorCritic, ValueModel

SAMPLING = Sampling(temperature=0.7, max_tokens=3, stop_tokens=(END,))
NO_KL = PolicyConfig(kl=0.0)


def collector(pool=None, **settings):
    sampling = settings.pop("sampling", SAMPLING)
    return Collector(pool or ProblemPool.of(Copy(), 0, {1: 6, 2: 6}), Letters(), sampling, context=32, **settings)


def stream_of(rules=None, config=None, **settings):
    config = config or RoundConfig(prompts=4, samples=3, minibatch=12)
    return RolloutStream(PlainGenerator, rules or collector(), config, seed=0, **settings)


def train(stream, *, model=None, objective=None, steps=2, folder=None, **settings):
    settings = {"optimizer": SGD(lr=0.1), "schedule": Constant(), **settings}
    model = model or tiny()
    return Trainer(model, stream, objective or PolicyGradient(NO_KL), budget=Budget(steps=steps), folder=folder, **settings).run()


class Batches(Method):
    """Keeps what was trained on, and the signals of its losses."""

    def __init__(self):
        self.batches, self.signals = [], []

    def loss(self, run, batch, output):
        self.batches.append(batch)
        self.signals.append({k: float(v) for k, v in output.signals.items()})


def lines(folder, name="rollouts.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_round_is_grouped_masked_logged_and_charged(tmp_path):
    seen, stream = Batches(), stream_of()
    result = train(stream, folder=tmp_path / "run", steps=1, methods=[seen])
    rows = lines(tmp_path / "run")
    assert len(rows) == 12
    assert [r["prompt_id"] for r in rows] == [g for g in range(4) for _ in range(3)]
    assert {"prompt", "completion", "reward", "ids", "problem", "round"} <= set(rows[0])
    pool, letters = stream.collector.pool, Letters()
    (batch,) = seen.batches
    by_text = {}
    for i in range(12):
        tokens, mask = batch.data["tokens"][i], batch.data["loss_mask"][i]
        prompt = pool[int(batch.ids[i])].prompt
        assert letters.decode(tokens[: len(prompt)]) == prompt
        own = tokens[1:][mask].tolist()
        assert mask.nonzero().squeeze(1).tolist() == list(range(len(prompt) - 1, len(prompt) - 1 + len(own)))
        by_text.setdefault(prompt, []).append((own, batch.data["rewards"][i].item()))
    for row in rows:
        assert (row["ids"], row["reward"]) in by_text[row["prompt"]]
        assert row["completion"] == letters.decode([t for t in row["ids"] if t != END])
        assert row["reward"] == Copy().verify(next(p for p in pool._problems if p.id == row["problem"]), row["completion"])
    generated = sum(len(r["ids"]) for r in rows)
    spent = result.ledger.entries
    assert spent["generate"]["generated_tokens"] == generated
    assert spent["generate"]["samples"] == 12
    assert spent["generate"]["prompt_tokens"] == sum(len(r["prompt"]) for r in rows if not r["sample"])  # read once a group
    assert spent["judge"]["evaluations"] == 12
    assert spent["generate"]["flops"] > 0
    assert spent["train"]["tokens"] == sum(len(r["prompt"]) + len(r["ids"]) - 1 for r in rows)
    (metrics,) = [m for m in read_metrics(tmp_path / "run") if "loss" in m]
    assert metrics["reward"] == pytest.approx(np.mean([r["reward"] for r in rows]))
    equal = [len({r["reward"] for r in rows if r["prompt_id"] == g}) == 1 for g in range(4)]
    assert metrics["zero_advantage_groups"] == sum(equal)


def test_the_first_pass_has_ratio_one_at_another_temperature_and_later_ones_do_not():
    seen = Batches()
    stream = stream_of(
        config=RoundConfig(prompts=4, samples=3, minibatch=12, epochs=2), advantages=GroupAdvantages(baseline="none", by_std=False)
    )
    train(stream, steps=4, methods=[seen], optimizer=SGD(lr=1.0))
    deviations = [s["ratio_deviation"] for s in seen.signals]
    assert max(deviations[0], deviations[2]) < 1e-5
    assert deviations[1] > 1e-4


def test_epochs_and_mini_batches_show_every_rollout_once_each(tmp_path):
    seen = Batches()
    stream = stream_of(config=RoundConfig(prompts=4, samples=3, minibatch=5, epochs=2))
    train(stream, steps=6, methods=[seen], optimizer=SGD(lr=1e-6))
    assert [len(b) for b in seen.batches] == [5, 5, 2] * 2
    for epoch in (seen.batches[:3], seen.batches[3:]):
        assert sorted(i for b in epoch for i in b.ids.tolist()) == sorted(i for b in seen.batches[:3] for i in b.ids.tolist())
    assert not np.array_equal(seen.batches[0].ids, seen.batches[3].ids)


def test_the_share_of_generation_is_reported_each_step(tmp_path):
    result = train(stream_of(config=RoundConfig(prompts=2, samples=2, minibatch=2)), folder=tmp_path / "run", steps=4)
    rows = lines(tmp_path / "run", "timing.jsonl")
    assert [r["step"] for r in rows] == [1, 2, 3, 4]
    assert all(0 < rows[i]["generate_share"] < 1 for i in (0, 2))  # a round lasts two steps
    assert all(rows[i]["generate_share"] == 0 for i in (1, 3))
    assert sum(r["seconds"] for r in rows) == pytest.approx(result.ledger.total("seconds"))
    assert sum(r["generate"] for r in rows) == pytest.approx(result.ledger.total("seconds", ("generate",)))


class Constantly:
    """A task that pays for the digit 3; the table model can learn it."""

    name, difficulties = "three", (1,)

    def problem(self, seed, index, difficulty):
        return Problem(f"three/{index}", "?", "3", difficulty)

    def verify(self, problem, response):
        return float(response[:1] == "3")


@pytest.mark.parametrize("kind", ["grpo", "reinforce", "ppo"])
def test_it_learns(kind):
    rules = collector(ProblemPool.of(Constantly(), 0, {1: 4}), sampling=Sampling(max_tokens=1))
    config = RoundConfig(prompts=4, samples=8, minibatch=16, epochs=2)
    table = Table(torch.zeros(14, 14, dtype=torch.float64))
    if kind == "ppo":
        model = ActorCritic(table, ValueModel.from_policy(tiny()))
        stream = stream_of(rules, config, advantages=GeneralisedAdvantages(kl=0.01), reference=frozen_copy(table))
        objective = PPO()
    else:
        model = table
        advantages = GroupAdvantages() if kind == "grpo" else GroupAdvantages(baseline="leave-one-out", by_std=False)
        stream, objective = stream_of(rules, config, advantages=advantages), PolicyGradient(NO_KL)
    measures = {"threes": lambda text: float(text.count("3"))}
    success = Success(PlainGenerator, rules.pool, Letters().encode, Sampling(max_tokens=1), samples=10, measures=measures)
    result = train(stream, model=model, objective=objective, steps=30, optimizer=AdamW(lr=0.2, weight_decay=0),
                   evaluators={"held": success}, evaluate_every=1.0, count_flops=False)  # fmt: skip
    assert result.history[0]["held/solved"] < 0.3
    assert result.metrics["held/solved"] > 0.8
    assert result.metrics["held/solved/three/1"] == result.metrics["held/solved"] == result.metrics["held/reward"]
    assert result.metrics["held/threes/three/1"] == result.metrics["held/threes"] == result.metrics["held/solved"]
    assert (result.metrics["held/response_tokens"], result.metrics["held/finished"]) == (1.0, 0.0)


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_under_a_window_the_last_interactions_are_read_and_no_more(window):
    class Never(Retry):
        def step(self, response):
            return Turn(f"!{self.problem.prompt}", 0.0, terminated=False)

    pool = ProblemPool([Domain("never", [Copy().problem(0, i, 1) for i in range(3)], Never)])
    rules = Collector(pool, Letters(), SAMPLING, context=64, max_turns=5, window=window)
    letters, asked = Letters(), []

    class Spy(PlainGenerator):
        def complete(self, prompts, *given, **named):
            asked.append([letters.decode(p) for p in prompts])
            return super().complete(prompts, *given, **named)

    rollouts, spent = rules.collect(Spy(tiny(context=64)), np.arange(3), 2, seed=1, prompt_ids=range(3))
    for number, rollout in enumerate(rollouts):
        prompt = pool[rollout.problem].prompt
        said = [
            letters.decode(rollout.tokens[a:b]) for a, b in zip(rollout.starts, [*rollout.starts[1:], len(rollout.tokens)], strict=True)
        ]
        assert all(text.endswith(f"!{prompt}") for text in said[:-1])
        for turn in range(5):
            expected = prompt + "".join(said[max(0, turn - window + 1) : turn])
            assert letters.decode(rollout.read(turn)) == expected
            assert asked[turn][number if turn else number // 2] == expected
        assert len(rollout.tokens) == len(rollout.mask) == len(rollout.logprobs) == len(rollout.rewards)
    assert spent.prompt_tokens == sum(len(text) for turn in asked for text in turn)


def test_a_window_keeps_long_episodes_inside_the_context():
    class Never(Retry):
        def step(self, response):
            return Turn(f"!{self.problem.prompt}", 0.0, terminated=False)

    pool = ProblemPool([Domain("never", [Copy().problem(0, i, 1) for i in range(3)], Never)])
    made = {w: Collector(pool, Letters(), SAMPLING, context=16, max_turns=9, window=w) for w in (None, 2)}
    turns = {
        w: [len(r.starts) for r in c.collect(PlainGenerator(tiny()), np.arange(3), 1, seed=1, prompt_ids=range(3))[0]]
        for w, c in made.items()
    }
    assert max(turns[None]) < 9
    assert turns[2] == [9, 9, 9]


def test_dynamic_sampling_draws_again_and_charges_what_it_rejects(tmp_path):
    seen = Batches()
    stream = stream_of(keep=informative, config=RoundConfig(prompts=3, samples=2, minibatch=6, max_draws=4))
    result = train(stream, folder=tmp_path / "run", steps=3, methods=[seen])
    rows = lines(tmp_path / "run")
    assert any(not r["used"] for r in rows)
    assert result.ledger.entries["generate"]["generated_tokens"] == sum(len(r["ids"]) for r in rows)
    assert result.ledger.entries["generate"]["samples"] == len(rows)
    metrics = [m for m in read_metrics(tmp_path / "run") if "loss" in m]
    for number, (batch, found) in enumerate(zip(seen.batches, metrics, strict=True)):
        mine = [r for r in rows if r["round"] == number]
        assert len(batch) == 6 == sum(r["used"] for r in mine)
        assert found["rejected_tokens"] == sum(len(r["ids"]) for r in mine if not r["used"])
        groups = {}
        for row in mine:
            groups.setdefault(row["prompt_id"], []).append(row)
        assert all(len(g) == 2 for g in groups.values())
        taught = [g for g in groups.values() if g[0]["reward"] != g[1]["reward"]]
        used = [g for g in groups.values() if g[0]["used"]]
        assert all(g in used for g in taught[:3])  # an informative group is never passed over for another
        assert found["zero_advantage_groups"] == 3 - min(3, len(taught))
        assert {r["draw"] for r in mine} == set(range(len({r["draw"] for r in mine})))


def test_several_turns_mark_only_the_models_own_tokens():
    pool = ProblemPool([Domain("retry", [Copy().problem(0, i, 1) for i in range(4)], Retry)])
    rules = collector(pool, max_turns=3)
    rollouts, spent = rules.collect(PlainGenerator(tiny()), np.arange(4), 3, seed=1, prompt_ids=range(4))
    letters, several = Letters(), 0
    for rollout in rollouts:
        own = [t for t, on in zip(rollout.tokens, rollout.mask, strict=True) if on]
        said = [t for t, on in zip(rollout.tokens, rollout.mask, strict=True) if not on]
        prompt = pool[rollout.problem].prompt
        turns = rollout.texts[0::2]
        assert letters.decode(said) == prompt + f"!{prompt}" * (len(turns) - 1)
        assert "".join(turns) == letters.decode([t for t in own if t != END])
        assert rollout.reward == pytest.approx(sum(rollout.rewards))
        right = turns[-1] == pool[rollout.problem].answer
        assert rollout.reward == pytest.approx(-0.25 * (len(turns) - right) + right)
        assert all(on for on, reward in zip(rollout.mask, rollout.rewards, strict=True) if reward)
        # The recorded log-probabilities are the model's own at the sampling temperature, in the whole conversation.
        spread = PlainGenerator(tiny()).spread(rollout.tokens, 0.7)
        for place in np.flatnonzero(rollout.mask):
            assert rollout.logprobs[place] == pytest.approx(float(spread[place - 1, rollout.tokens[place]]), abs=1e-6)
        several += len(turns) > 1
    assert several
    assert spent.environment_steps == sum(len(r.texts[0::2]) for r in rollouts)
    again, _ = rules.collect(PlainGenerator(tiny()), np.arange(4), 3, seed=1, prompt_ids=range(4))
    assert [r.tokens for r in again] == [r.tokens for r in rollouts]
    short = Collector(pool, letters, SAMPLING, context=8, max_turns=9)
    assert {r.finish for r in short.collect(PlainGenerator(tiny()), np.arange(4), 3, seed=1, prompt_ids=range(4))[0]} >= {"context"}


def test_shaping_is_part_of_the_reward():
    plain, _ = collector().collect(PlainGenerator(tiny()), np.arange(4), 3, seed=1, prompt_ids=range(4))
    shaped, _ = collector(shaping=[Unfinished(), Overlong(max_tokens=3, margin=2)]).collect(
        PlainGenerator(tiny()), np.arange(4), 3, seed=1, prompt_ids=range(4)
    )
    for a, b in zip(plain, shaped, strict=True):
        # In their order: what never stopped is worth -10, whatever it had earned, and then pays for its length too.
        assert b.reward == pytest.approx((a.reward if a.finish == "stop" else -10) - max(0, (a.num_generated - 1) / 2))
        assert b.rewards[-1] == pytest.approx(b.reward)


class Accountant(PlainGenerator):
    """Knows its own operations, as a fast sampler does, and charges them to a ledger that it is given."""

    ledger = None

    def complete(self, prompts, *rest, **named):
        self.ledger.charge("generate", flops=1000 * len(prompts), seconds=9.0)
        return super().complete(prompts, *rest, **named)


def test_a_generator_that_counts_its_own_operations_is_believed():
    result = train(RolloutStream(Accountant, collector(), RoundConfig(prompts=4, samples=3, minibatch=12), seed=0))
    assert result.ledger.entries["generate"]["flops"] == 2 * 4 * 1000
    assert result.ledger.entries["generate"]["seconds"] < 9  # the stream takes its own time
    assert result.ledger.entries["generate"]["generated_tokens"] > 0


class Broken(Copy):
    def verify(self, problem, response):
        if response[:1] in "3456":
            raise ZeroDivisionError("no such digit")
        return float("nan") if response[:1] in "78" else 1.0


def test_a_verifier_that_fails_is_named_and_its_candidate_kept(tmp_path):
    pool = ProblemPool.of(Broken(), 0, {1: 6})
    with pytest.raises(
        VerifierFailed,
        match=r"verifier of problem copy/0/1/\d, sample \d: found (ZeroDivisionError|ValueError): .* on the response '",
    ):
        train(stream_of(collector(pool)), folder=tmp_path / "stop")
    assert any("ZeroDivisionError" in r.get("error", "") for r in lines(tmp_path / "stop"))
    train(stream_of(collector(pool, failures="zero")), folder=tmp_path / "zero")
    failed = [r for r in lines(tmp_path / "zero") if "error" in r]
    assert {r["reward"] for r in failed} == {0}
    metrics = [m for m in read_metrics(tmp_path / "zero") if "loss" in m]
    assert sum(m["verifier_failures"] for m in metrics) == len(failed)


class Odd(Copy):
    """Gives anything but a number, by the response's first character."""

    def verify(self, problem, response):
        return {"3": "1", "4": None, "5": [1], "6": float("inf")}.get(response[:1], 1)


def test_rewards_are_numbers_and_nothing_else():
    assert [reward_of(v) for v in (1, True, np.float32(0.5), torch.tensor(2.0))] == [1.0, 1.0, 0.5, 2.0]
    for value, kind, said in (("1", TypeError, "returned '1', a str"), (None, TypeError, "returned None, a NoneType"),
                              (math.nan, ValueError, "returned nan")):  # fmt: skip
        with pytest.raises(kind, match=said):
            reward_of(value)


def test_a_verifiable_reward_pays_for_full_marks_alone():
    problem = Problem("copy/x", "42?", "42", 2)
    for response, paid in (("42", 10.0), ("41", 0.0), ("7", 0.0)):
        environment = Verified(Copy())
        assert environment.reset(problem) == "42?"
        turn = environment.step(response)
        assert (turn.reward, turn.terminated) == (paid, True)
    nan = Verified(Broken())
    nan.reset(problem)
    with pytest.raises(ValueError, match="returned nan"):  # no quiet 0
        nan.step("7")
    with pytest.raises(BadInput, match="Verified.paid: found 0, expected a number > 0"):
        Verified(Copy(), paid=0)
    pool = ProblemPool.given(Copy(), [problem], Verified)
    assert pool.domain_names == ("copy",)
    assert isinstance(pool.environment(0), Verified)
    assert ProblemPool.of(Copy(), 0, {1: 3}, Verified)[2] == ProblemPool.of(Copy(), 0, {1: 3})[2]


@pytest.mark.parametrize("task", [Broken(), Odd()])
def test_an_evaluation_names_a_verifier_that_fails_or_counts_it(task):
    pool = ProblemPool.of(task, 0, {1: 20})
    rules = {"encode": Letters().encode, "sampling": Sampling(max_tokens=1), "samples": 20}
    with pytest.raises(
        VerifierFailed, match=r"verifier of problem copy/0/1/\d+, sample \d+: found \w+Error: .* on the response '\d', expected a finite"
    ):
        Success(PlainGenerator, pool, **rules)(tiny())
    told = Success(PlainGenerator, pool, failures="zero", **rules)(tiny())
    assert told["verifier_failures"] == pytest.approx(400 * (1 - told["solved"]))
    assert "verifier_failures" not in Success(PlainGenerator, ProblemPool.of(Copy(), 0, {1: 2}), **rules)(tiny())
    with pytest.raises(BadInput, match="failures: found 'skip', expected stop or zero"):
        Success(PlainGenerator, pool, failures="skip", **rules)


class Listener(SamplerBase):
    """Shows the problems whose rewards moved most, as a bandit would; keeps what it was told."""

    def __init__(self):
        self.told, self.plans = [], 0

    def plan(self, stage, source, rng):
        self.plans += 1
        return rng.permutation(np.flatnonzero(source.domains == (self.plans % 2)))[:4]

    def observe(self, feedback):
        self.told.append((feedback.step, feedback.ids.tolist(), feedback.values["reward"].tolist(), feedback.values["advantage"].tolist()))

    def state_dict(self):
        return {"told": self.told, "plans": self.plans}

    def load_state_dict(self, state):
        self.told, self.plans = state["told"], state["plans"]


def test_the_sampler_is_told_once_of_every_rollout(tmp_path):
    sampler = Listener()
    train(stream_of(sampler=sampler, config=RoundConfig(prompts=4, samples=3, minibatch=6, epochs=2)), folder=tmp_path / "run", steps=8)
    rows = lines(tmp_path / "run")
    assert [step for step, *_ in sampler.told] == [1, 5]
    for number, (_, ids, rewards, advantages) in enumerate(sampler.told):
        mine = [r for r in rows if r["round"] == number]
        assert ids == [r["number"] for r in mine]
        assert rewards == [r["reward"] for r in mine]
        assert advantages == pytest.approx([r["advantage"] for r in mine])
        assert len({r["difficulty"] for r in mine}) == 1  # the plan's domain
    assert any(any(a) for *_, a in sampler.told)


# --- kills ------------------------------------------------------------------------------------------------------------
class Kill(Method):
    def __init__(self, at=None):
        self.at, self.events = [at], 0

    def _event(self, *_):
        self.events += 1
        if self.events in self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    batch = backward = updated = stage_start = stage_end = _event


def long_run(folder, resume, kill_at=None):
    torch.set_num_threads(1)
    policy = tiny()
    model = ActorCritic(policy, ValueModel.from_policy(policy))
    stream = stream_of(
        config=RoundConfig(prompts=3, samples=2, minibatch=3, epochs=2, max_draws=2), keep=informative, sampler=Listener(),
        advantages=GeneralisedAdvantages(), reference=tiny(5),
    )  # fmt: skip
    trainer = Trainer(model, stream, PPO(), optimizer=AdamW(lr=0.01), budget=Budget(steps=14), folder=folder, methods=[Kill(kill_at)],
                      checkpoint_every=0.07, log_every=2, feedback_every=2)  # fmt: skip
    trainer.run(resume=resume)


def in_child(folder, resume, kill_at=None):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            long_run(folder, resume, kill_at)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def state_of(folder):
    state = checkpoint.load(checkpoint.latest(folder / "checkpoints")[0])
    for amounts in state["ledger"].values():
        amounts.pop("seconds", None)
    tensors = {}
    tree = checkpoint.pack({k: state[k] for k in ("model", "optimizers", "stream", "ledger", "step", "pending")}, tensors)
    return json.dumps(tree), tensors


def test_kills_anywhere_change_nothing(tmp_path):
    assert in_child(tmp_path / "whole", resume=False) == 0
    rng, folder, kills = numpy_rng(0, "kills"), tmp_path / "broken", 0
    while kills < 6:
        status = in_child(folder, (folder / "run.json").exists(), kill_at=int(rng.integers(3, 24)))
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
        if status == 0:
            break
    if status != 0:
        assert in_child(folder, resume=True) == 0
    assert kills >= 3
    (tree, tensors), (found, others) = state_of(tmp_path / "whole"), state_of(folder)
    assert tree == found
    assert all(torch.equal(t, others[name]) for name, t in tensors.items())
    for name in ("metrics.jsonl", "order.bin", "rollouts.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (folder / name).read_bytes()
    assert len(lines(folder, "timing.jsonl")) == 14


def test_a_run_goes_on_only_with_its_own_reference():
    stream, other = stream_of(reference=tiny(1)), stream_of(reference=tiny(2))
    with pytest.raises(BadInput, match="reference: found another model than the run began with"):
        other.load_state_dict(stream.state_dict())


class Mute(PlainGenerator):
    capabilities = frozenset({"tokens"})


class Empty(PlainGenerator):
    def _one(self, prompt, sampling, rng):
        from etude.engine.protocols import Completion

        return Completion(np.empty(0, dtype=np.int64), "", np.empty(0), "stop")


def test_bad_input():
    for make, message in (
        (lambda: train(RolloutStream(Mute, collector(), RoundConfig(), seed=0)), "generator: found one without log-probabilities"),
        (lambda: train(RolloutStream(Empty, collector(), RoundConfig(), seed=0)), "problem copy/.*, sample 0: found an empty completion"),
        (lambda: train(stream_of(Collector(ProblemPool.of(Copy(), 0, {2: 4}), Letters(), SAMPLING, context=4))),
         "problem copy/0/2/.: prompt: found 3 tokens, expected 1 to 2"),
        (lambda: collector(sampling=Sampling(temperature=0)), r"sampling\.temperature: found 0"),
        (lambda: collector(failures="skip"), "failures: found 'skip', expected stop or zero"),
        (lambda: collector(max_turns=0), "max_turns"),
        (lambda: collector(window=0), "window: found 0, expected a whole number >= 1"),
        (lambda: stream_of(collector(max_turns=3, window=2)), "collector.window: found 2, expected none, or all turns"),
        (lambda: stream_of(config=RoundConfig(samples=1)), "groups of 1"),
        (lambda: stream_of(advantages=GeneralisedAdvantages()), "reference: found none"),
        (lambda: stream_of(config=RoundConfig(max_draws=2)), r"RoundConfig\.max_draws: found 2"),
        (lambda: RoundConfig(epochs=0), r"RoundConfig\.epochs"),
        (lambda: train(stream_of(advantages=GeneralisedAdvantages(kl=0))), "model: found Transformer, expected an ActorCritic"),
        (lambda: stream_of().next(), "RolloutStream: found no run"),
        (lambda: ProblemPool([]), "problems: found no domains"),
        (lambda: ProblemPool.of(Copy(), 0, {1: 0}), "problems.copy/1: found no problems"),
        (lambda: ProblemPool.join([ProblemPool.of(Copy(), 0, {1: 1})] * 2), "expected different names"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=message):
            make()
    model = tiny()
    with pytest.raises(BadInput, match="shares parameters with the one in training"):
        train(stream_of(reference=model), model=model.requires_grad_(True))
