"""Interludes between rounds: their stages, objectives, optimizers and costs, and that kills inside one change nothing."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from rollout_toys import END, Copy, Letters, PlainGenerator, tiny

from etude.data.samplers import SamplerBase
from etude.data.sources import TensorSource
from etude.data.stream import DataStream
from etude.engine import checkpoint
from etude.engine.ledger import Budget
from etude.engine.metrics import read_metrics
from etude.engine.optim import SGD, AdamW, Alternating
from etude.engine.protocols import Feedback, Method, Sampling
from etude.engine.schedule import Constant
from etude.engine.streams import numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.learn.finetune import Finetune
from etude.learn.interlude import Interleaved, Rows
from etude.learn.onpolicy import RolloutStream
from etude.learn.policy import PolicyConfig, PolicyGradient
from etude.learn.problems import ProblemPool
from etude.learn.rollouts import Collector
from etude.learn.round import RoundConfig
from etude.learn.rows import completion_row, filled

TASK = Copy()
BOTH = {"": PolicyGradient(PolicyConfig(kl=0.0)), "sft": Finetune()}
TWO = Alternating({"rl": AdamW(lr=0.01), "sft": AdamW(lr=0.03)})


class Answers:
    """Keeps the answers of problems that were asked; due once there are `size`."""

    def __init__(self, pool, size=5):
        self.pool, self.size, self.kept, self.rounds = pool, size, [], 0

    def watch(self, groups):
        self.rounds += 1
        self.kept += [g.rollouts[0].problem for g in groups]

    def due(self):
        return len(self.kept) >= self.size

    def take(self):
        ids, self.kept = np.array(self.kept[: self.size]), self.kept[self.size :]
        rows = [completion_row(self.pool[i].prompt, self.pool[i].answer, context=32, tokenizer=Letters(), end=END) for i in ids]
        return Rows(filled(rows), ids, labels=len(ids))

    def identity(self):
        return self.size

    def state_dict(self):
        return {"kept": list(self.kept), "rounds": self.rounds}

    def load_state_dict(self, state):
        self.kept, self.rounds = list(state["kept"]), state["rounds"]


def streams(size=5, minibatch=2, epochs=2, sampler=None):
    pool = ProblemPool.of(TASK, 0, {1: 6, 2: 6})
    answers = Answers(pool, size)
    rules = Collector(pool, Letters(), Sampling(temperature=0.7, max_tokens=3, stop_tokens=(END,)), context=32)
    config = RoundConfig(prompts=4, samples=3, minibatch=6)
    main = RolloutStream(PlainGenerator, rules, config, seed=0, watch=answers.watch, sampler=sampler)
    return Interleaved(main, answers, seed=0, objective="sft", optimizer="sft", minibatch=minibatch, epochs=epochs), main, answers


def train(stream, steps, **settings):
    settings = {"optimizer": TWO, "schedule": Constant(), "objective": BOTH, **settings}
    return Trainer(settings.pop("model", None) or tiny(), stream, budget=Budget(steps=steps), **settings).run()


class Seen(Method):
    def __init__(self):
        self.batches, self.stages = [], []

    def stage_start(self, run, stage):
        self.stages.append((stage.name, stage.index))

    def loss(self, run, batch, output):
        self.batches.append((run.stage.name, batch))


def test_interludes_lie_between_rounds_with_their_own_objective_rows_and_cost(tmp_path):
    seen = Seen()
    stream = streams()[0]
    result = train(stream, 18, methods=[seen], folder=tmp_path / "run")
    # Rounds of 4 questions in two batches; five are enough: after rounds 1, 2, 3 (4 + 4 - 5 + 4 ...), each of 3 batches, twice over.
    names = [name for name, _ in seen.stages]
    assert names[:5] == ["round-0", "round-1", "interlude-0", "round-2", "interlude-1"]
    aside = [b for name, b in seen.batches if name == "interlude-0"]
    assert [len(b) for b in aside] == [2, 2, 1] * 2
    assert {(b.objective, b.optimizer) for b in aside} == {("sft", "sft")}
    assert {(b.objective, b.optimizer) for name, b in seen.batches if name.startswith("round")} == {("", "")}
    asked = [r["number"] for r in map(json.loads, (tmp_path / "run/rollouts.jsonl").read_text().splitlines()) if not r["sample"]]
    for epoch in (aside[:3], aside[3:]):
        assert sorted(int(i) for b in epoch for i in b.ids) == sorted(asked[:5])
    assert [i for b in aside[:3] for i in b.ids] != [i for b in aside[3:] for i in b.ids]
    number = sum(name.startswith("interlude") for name in names)
    assert result.ledger.entries["train"]["labels"] == 5 * number
    assert result.ledger.entries["train"]["tokens"] == sum(b.num_tokens for _, b in seen.batches)
    logged = [m["interlude_rows"] for m in read_metrics(tmp_path / "run") if "interlude_rows" in m]
    assert logged == [5.0] * number


def test_each_optimizer_steps_alone_and_keeps_its_own_state():
    counts = {}

    class Count(Method):
        def updated(self, run):
            parameter = next(iter(run.named_parameters().values()))
            counts[run.step] = {name: int(o.state[parameter]["step"]) if parameter in o.state else 0 for name, o in run.optimizers.items()}

    seen = Seen()
    train(streams()[0], 14, methods=[Count(), seen])
    aside = np.cumsum([name.startswith("interlude") for name, _ in seen.batches])
    for step, found in counts.items():
        assert found == {"rl.adamw": step - aside[step - 1], "sft.adamw": aside[step - 1]}
    assert aside[-1]


def test_an_interlude_that_is_never_due_changes_nothing():
    plain = train(streams()[1], 9, optimizer=AdamW(lr=0.01), objective=BOTH[""])
    stream, _, _ = streams(size=10_000)
    beside = train(stream, 9)
    for a, b in zip(plain.model.parameters(), beside.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for category, amounts in plain.ledger.entries.items():
        assert {q: v for q, v in amounts.items() if q != "seconds"} == {
            q: v for q, v in beside.ledger.entries[category].items() if q != "seconds"
        }


class Told(SamplerBase):
    def __init__(self):
        self.ids, self.steered = [], 0

    def plan(self, stage, source, rng):
        return rng.permutation(len(source))

    def observe(self, feedback):
        self.ids += feedback.ids.tolist()
        self.steered += bool(feedback.evaluations)


def test_samplers_hear_of_the_main_streams_samples_alone():
    class Always(Answers):
        def due(self):
            return True

        def take(self):
            return Rows({"x": torch.zeros(2, 3), "y": torch.zeros(2, dtype=torch.int64)}, np.array([1_000, 1_001]))

    source, told = TensorSource(x=torch.randn(12, 3), y=torch.zeros(12, dtype=torch.int64)), Told()
    stream = Interleaved(DataStream(source, 4, 0, sampler=told), Always(None), seed=0, objective="")
    seen = []
    _bound(stream)
    for _ in range(8):
        seen.append(stream.next())
        stream.observe(Feedback(1, seen[-1].ids, np.zeros(len(seen[-1]))))
        if stream._aside:
            stream.observe(Feedback(1, np.empty(0, np.int64), np.empty(0), evaluations={"a/b": 1.0}))
    assert [int(b.ids.max()) >= 1_000 for b in seen] == [False, False, False, True] * 2
    assert sorted(told.ids) == sorted([*range(12)] * 2)
    assert told.steered == 2


def _bound(stream):
    class Nothing:
        def charge(self, *given, **named): ...

        def log(self, *given): ...

    run = Nothing()
    run.ledger = run
    stream.bind(run)


# --- kills ------------------------------------------------------------------------------------------------------------
class Kill(Method):
    def __init__(self, at=None, inside=False):
        self.at, self.inside, self.events = [at], [inside], 0

    def _event(self, run, *_):
        if self.at[0] is not None and (run.stage is not None and run.stage.name.startswith("interlude")) >= self.inside[0]:
            self.events += 1
            if self.events == self.at[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    batch = backward = updated = stage_start = stage_end = _event


def long_run(folder, resume, kill_at=None, inside=False):
    torch.set_num_threads(1)
    stream, _, _ = streams(sampler=Told())
    Trainer(tiny(), stream, BOTH, optimizer=TWO, budget=Budget(steps=17), folder=folder, methods=[Kill(kill_at, inside)],
            checkpoint_every=0.05, accumulate=1).run(resume=resume)  # fmt: skip


def in_child(*arguments):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            long_run(*arguments)
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


@pytest.mark.parametrize("inside", [False, True])
def test_kills_change_nothing_inside_an_interlude_either(tmp_path, inside):
    assert in_child(tmp_path / "whole", False) == 0
    rng, folder, kills = numpy_rng(int(inside), "kills"), tmp_path / "broken", 0
    while kills < 5:
        status = in_child(folder, (folder / "run.json").exists(), int(rng.integers(3, 12)), inside)
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
        if status == 0:
            break
    if status != 0:
        assert in_child(folder, True) == 0
    assert kills >= 2
    (tree, tensors), (found, others) = state_of(tmp_path / "whole"), state_of(folder)
    assert tree == found
    assert all(torch.equal(t, others[name]) for name, t in tensors.items())
    for name in ("metrics.jsonl", "order.bin", "rollouts.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (folder / name).read_bytes()


def test_another_interlude_is_another_run(tmp_path):
    train(streams()[0], 4, folder=tmp_path / "run")
    with pytest.raises(BadInput, match=r"interlude: 5, here 6"):
        Trainer(tiny(), streams(size=6)[0], BOTH, optimizer=TWO, schedule=Constant(), budget=Budget(steps=4),
                folder=tmp_path / "run").run(resume=True)  # fmt: skip


def test_bad_input():
    class Empty(Answers):
        def take(self):
            return Rows({}, np.empty(0, np.int64))

    main = streams()[1]
    empty = Empty(main.collector.pool, size=0)
    for make, message in (
        (lambda: train(Interleaved(main, empty, seed=0, objective="sft"), 4), "interlude: found no rows, though one was due"),
        (lambda: train(Interleaved(main, empty, seed=0, objective="sft", epochs=0), 4), "Interleaved: found minibatch 0, epochs 0"),
        (lambda: Alternating({}), "optimizer: found no parts"),
        (lambda: train(streams()[0], 9, optimizer=Alternating({"rl": SGD()})), "batch.optimizer: found 'sft', expected one of rl"),
    ):
        with pytest.raises(BadInput, match=message):
            make()
