import json
import math
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from toys import Stop, ToyStream, squared, toy_model

from etude.data.samplers import Shuffle
from etude.data.sources import TensorSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.metrics import read_metrics
from etude.engine.optim import SGD, AdamW, Alternating, Muon, Several
from etude.engine.protocols import CHANGE, FIRST, NOISE, OBSERVE, Mapped, Method, Output, Score
from etude.engine.schedule import Constant, Cosine
from etude.engine.streams import generator, initialise
from etude.engine.trainer import DataEnded, Interrupted, NonFinite, Trainer
from etude.errors import BadInput
from etude.learn.supervised import Supervised


def trainer(model=None, stream=None, objective=squared, **settings):
    settings = {"budget": Budget(steps=20), "optimizer": SGD(lr=0.05), "schedule": Constant()} | settings
    return Trainer(model or toy_model(), stream or ToyStream(), objective, **settings)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_equals_a_loop_written_by_hand():
    model, stream = toy_model(), ToyStream()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        squared(model, stream.next()).loss.backward()
        optimizer.step()
    assert torch.equal(weights(trainer(clip=None).run().model), weights(model))


def test_accumulated_micro_batches_equal_one_batch():
    one = trainer(stream=ToyStream(batch=8)).run()
    eight = trainer(stream=ToyStream(batch=1), accumulate=8).run()
    assert torch.allclose(weights(one.model), weights(eight.model), atol=1e-5)
    assert one.ledger.total("samples") == eight.ledger.total("samples") == 160


def test_uneven_micro_batches_are_weighted_by_their_items():
    # 10 samples as 8 + 2 in one update must equal the mean over 10.
    split = trainer(stream=ToyStream(n=10, batch=8), accumulate=2, budget=Budget(steps=3)).run()
    whole = trainer(stream=ToyStream(n=10, batch=10), budget=Budget(steps=3)).run()
    assert torch.allclose(weights(split.model), weights(whole.model), atol=1e-6)


def test_an_update_never_spans_two_stages():
    class Watch(Method):
        def __init__(self):
            self.events = []

        def stage_start(self, run, stage):
            self.events.append(("start", stage.index, run.step))

        def stage_end(self, run, stage):
            self.events.append(("end", stage.index, run.step))

    watch = Watch()
    trainer(stream=ToyStream(n=24, batch=8), accumulate=2, methods=[watch], budget=Budget(steps=4)).run()
    assert watch.events == [("start", 0, 0), ("end", 0, 2), ("start", 1, 2), ("end", 1, 4)]


def test_clips_the_accumulated_gradient_by_its_global_norm():
    norms = []

    class Watch(Method):
        def clipped(self, run):
            norms.append(float(torch.cat([p.grad.flatten() for p in run.named_parameters().values()]).norm()))

    trainer(clip=0.1, methods=[Watch()]).run()
    assert max(norms) <= 0.1 + 1e-6
    assert norms[0] == pytest.approx(0.1, rel=1e-3)


def test_events_come_in_order_and_by_phase_not_by_list():
    calls = []

    def recorder(label, phase):
        def note(event):
            def hook(self, run, *rest):
                calls.append((event, label))

            return hook

        events = ("start", "stop", "stage_start", "batch", "loss", "backward", "gradients", "clipped", "updated")
        kind = type(label, (Method,), {e: note(e) for e in events} | {"phases": dict.fromkeys(events, phase)})
        return kind()

    hooks = [
        recorder("Looks", OBSERVE),
        recorder("Noise", NOISE),
        recorder("First", FIRST),
        recorder("Zed", CHANGE),
        recorder("Add", CHANGE),
    ]

    class Update(Method):
        slots = ("optimizer_step",)

        def update(self, run, optimizer):
            calls.append(("update", "Update"))

    trainer(methods=[*hooks, Update()], budget=Budget(steps=1)).run()
    order = list(dict.fromkeys(event for event, _ in calls))
    assert order == ["start", "stage_start", "batch", "loss", "backward", "gradients", "clipped", "update", "updated", "stop"]
    assert [label for event, label in calls if event == "loss"] == ["First", "Add", "Zed", "Noise", "Looks"]


def test_only_overridden_hooks_are_called_and_slots_are_exclusive():
    class Owner(Method):
        slots = ("sampler",)

    class Other(Method):
        slots = ("sampler",)

    assert all(not hooks for hooks in trainer(methods=[Owner()]).hooks.lists.values())
    with pytest.raises(BadInput, match="Owner and Other, which both own 'sampler'"):
        trainer(methods=[Owner(), Other()])
    with pytest.raises(BadInput, match="the same method, Owner, as"):
        trainer(methods=[Owner(), Owner()])


def test_a_method_may_change_batch_model_loss_and_step():
    class Half(Method):
        def loss(self, run, batch, output):
            return Output(output.loss * 0.5, output.per_sample, output.weight)

    class Descend(Method):
        slots = ("optimizer_step",)

        def update(self, run, optimizer):
            with torch.no_grad():
                for p in run.named_parameters().values():
                    p -= 0.05 * p.grad
            return True

    half = trainer(methods=[Half()], optimizer=SGD(lr=0.1), clip=None).run()
    assert torch.allclose(weights(half.model), weights(trainer(clip=None).run().model), atol=1e-6)
    assert torch.allclose(weights(trainer(methods=[Descend()], clip=None).run().model), weights(trainer(clip=None).run().model), atol=1e-6)


def test_extra_gradient_is_right_charged_and_leaves_grad_alone():
    seen = {}

    class Probe(Method):
        variable_flops = True

        def gradients(self, run):
            before = {n: p.grad.clone() for n, p in run.named_parameters().items()}
            seen.update(run.gradient(run.stream.next()))
            assert all(torch.equal(before[n], p.grad) for n, p in run.named_parameters().items())

    plain = trainer(budget=Budget(steps=1)).run()
    probed = trainer(budget=Budget(steps=1), methods=[Probe()]).run()
    model, stream = toy_model(), ToyStream()
    stream.next()
    squared(model, stream.next()).loss.backward()
    for name, p in model.named_parameters():
        assert torch.allclose(seen[name], p.grad, atol=1e-7)
    assert probed.ledger.total("tokens") == 2 * plain.ledger.total("tokens")
    assert probed.ledger.total("flops") == 2 * plain.ledger.total("flops")


def test_flops_of_a_run_are_those_of_its_matrices():
    result = trainer(budget=Budget(steps=5)).run()
    forward = 2 * 8 * (6 * 16 + 16 * 3)
    backward = 2 * 8 * (6 * 16 + 2 * 16 * 3)  # the first layer needs no gradient of its input
    assert result.ledger.total("flops") == 5 * (forward + backward)


@pytest.mark.parametrize("budget", [Budget(samples=160), Budget(tokens=160), Budget(flops=20 * 5376), Budget(steps=20)])
def test_each_budget_ends_after_the_same_twenty_steps(budget):
    cost = trainer(budget=Budget(steps=1)).run().ledger.total("flops")
    if budget.quantity == "flops":
        budget = Budget(flops=20 * cost)
    result = trainer(budget=budget).run()
    assert result.steps == 20
    assert torch.equal(weights(result.model), weights(trainer().run().model))


def test_weighted_budget_and_its_refusals():
    result = trainer(budget=Budget(weights={"samples": 1.0, "steps": 8.0}, limit=160)).run()
    assert result.steps == 10
    for bad in ({}, {"steps": 0}, {"steps": 3, "tokens": 4}, {"steps": float("nan")}):
        with pytest.raises(BadInput, match="budget"):
            Budget(**bad)
    with pytest.raises(BadInput, match="did you mean 'tokens'"):
        Budget(token=3)


def test_data_that_ends_too_early_is_an_error_not_a_short_run():
    with pytest.raises(DataEnded, match=r"at step 8 with 40.0% of the budget spent"):
        trainer(stream=ToyStream(epochs=1)).run()


@pytest.mark.parametrize("where", ["loss", "gradient", "noise"])
def test_nan_stops_before_the_weights_are_touched(where):
    class Poison(Method):
        def loss(self, run, batch, output):
            return Output(output.loss * math.nan, None, output.weight) if run.step == 3 and where == "loss" else None

        def gradients(self, run):
            if run.step == 3 and where == "gradient":
                run.named_parameters()["3.weight"].grad[0, 0] = math.inf

        def clipped(self, run):
            if run.step == 3 and where == "noise":
                run.named_parameters()["0.bias"].grad[0] = math.nan

    model = toy_model()
    with pytest.raises(NonFinite) as caught:
        trainer(model, methods=[Poison()]).run()
    assert caught.value.step == 3
    expected = {"loss": "the loss", "gradient": "the gradient of 3.weight", "noise": "the gradient of 0.bias"}[where]
    assert caught.value.tensor == expected
    assert torch.equal(weights(model), weights(trainer(budget=Budget(steps=3)).run().model))


def test_a_loss_that_is_nan_where_no_gradient_is_stops_the_run_too():
    def constant(model, batch, carried=None):
        output = squared(model, batch)
        return Output(output.loss + (math.nan if constant.step == 3 else 0.0), output.per_sample, output.weight)

    class Count(Method):
        def batch(self, run, batch):
            constant.step = run.step

    with pytest.raises(NonFinite, match="step 4: found NaN or infinity in the loss, expected finite numbers: a lower learning rate may"):
        trainer(objective=constant, methods=[Count()]).run()


def test_what_is_not_finite_in_the_data_is_named_by_its_samples():
    x = torch.randn(12, 3)
    x[[2, 7], 1] = math.nan
    stream = DataStream(TensorSource(x=x, y=torch.full((12,), math.inf).scatter(0, torch.arange(11), 1.0)), 12, seed=0)
    with pytest.raises(NonFinite) as stopped:
        Trainer(torch.nn.Linear(3, 1), stream, Supervised("mse"), budget=Budget(steps=3)).run()
    assert sorted(map(int, re.findall(r"\d+", stopped.value.cause))) == [2, 7]  # in the batch's order; y's sample 11 comes after x
    said = r"step 1: found NaN or infinity in x of samples \d and \d and so in the loss, expected data of finite numbers; weights .* 0"
    assert re.fullmatch(said, str(stopped.value))


def test_weights_that_the_last_update_made_infinite_are_not_returned_or_kept(tmp_path):
    class Blow(Method):
        slots = ("optimizer_step",)

        def update(self, run, optimizer):
            if run.step == 4:
                with torch.no_grad():
                    run.named_parameters()["0.weight"][0, 0] = math.inf
            return True

    with pytest.raises(NonFinite, match="0.weight"):
        trainer(methods=[Blow()], budget=Budget(steps=5), folder=tmp_path / "r").run()
    assert not list((tmp_path / "r").rglob("step-*5"))


def test_learning_rate_follows_the_consumed_share(tmp_path):
    trainer(schedule=Cosine(warmup=0.5, final=0.0), budget=Budget(steps=4), folder=tmp_path / "r").run()
    rates = [row["lr"] for row in read_metrics(tmp_path / "r") if "lr" in row]
    middle = [0.125, 0.375, 0.625, 0.875]
    assert rates == pytest.approx([0.05 * Cosine(warmup=0.5, final=0.0)(s) for s in middle])


def test_dropout_draws_do_not_depend_on_the_global_generator_or_on_evaluation():
    def run(every):
        torch.manual_seed(int(every * 100))
        return trainer(toy_model(dropout=0.5), evaluators={"e": lambda m: {"v": float(torch.rand(1))}}, evaluate_every=every).run()

    assert torch.equal(weights(run(0.1).model), weights(run(1.0).model))


def test_evaluation_happens_at_start_intervals_and_end_in_evaluation_mode():
    modes = []

    def evaluator(model):
        modes.append((model.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return {"v": 1.0}

    result = trainer(evaluators={"e": evaluator}, evaluate_every=0.25).run()
    assert [row["step"] for row in result.history] == [0, 5, 10, 15, 20]
    assert set(modes) == {(False, False, False)}
    assert result.metrics == {"e/v": 1.0}
    assert result.curve("e/v", "step")[0] == [0, 5, 10, 15, 20]
    with pytest.raises(BadInput, match=r"RunResult.curve, x: found 'steps', .*did you mean 'step'"):
        result.curve("e/v", "steps")


def test_feedback_gives_the_ids_and_their_losses():
    stream = ToyStream()
    trainer(stream=stream, budget=Budget(steps=2)).run()
    first = ToyStream().next()
    assert (stream.seen[0].ids == first.ids).all()
    assert np.allclose(stream.seen[0].losses, squared(toy_model(), first).per_sample.numpy())


def test_batches_choose_objective_and_optimizer():
    def doubled(model, batch, carried=None):
        output = squared(model, batch)
        return Output(output.loss * 2, output.per_sample, output.weight)

    stream = ToyStream(objectives=("a", "b"), optimizers=("first", "second"))
    spec = Several({"first": (SGD(lr=0.05), ("0.",)), "second": (AdamW(), ("3.",))})
    start = toy_model()
    result = trainer(stream=stream, objective={"a": squared, "b": doubled}, optimizer=spec, budget=Budget(steps=1)).run()
    assert not torch.equal(result.model[0].weight, start[0].weight)
    assert torch.equal(result.model[3].weight, start[3].weight)
    with pytest.raises(BadInput, match="batch.objective"):
        trainer(stream=ToyStream(objectives=("c",)), objective={"a": squared}).run()
    with pytest.raises(BadInput, match="already"):
        trainer(optimizer=Several({"a": (SGD(), ("0.",)), "b": (SGD(), ("0.w",))})).run()


def test_muon_takes_matrices_and_adamw_the_rest():
    result = Muon().build(dict(toy_model().named_parameters()))
    assert {n: sum(len(g["params"]) for g in o.param_groups) for n, o in result.items()} == {"muon": 2, "adamw": 2}
    assert trainer(optimizer=Muon(), budget=Budget(steps=3)).run().steps == 3
    # Newton-Schulz multiplies matrices; that work is charged.
    assert trainer(optimizer=Muon(), budget=Budget(steps=1)).run().ledger.total("flops") > trainer(
        budget=Budget(steps=1)
    ).run().ledger.total("flops")


def test_an_update_clips_and_checks_only_what_it_steps():
    seen = []

    class Watch(Method):
        def clipped(self, run):
            seen.append((run.gradient_norm, float(run.named_parameters()["0.weight"].grad.norm())))

    def blows(model, batch, carried=None):
        output = squared(model, batch)
        huge = sum((p * 1e6).sum() for n, p in model.named_parameters() if n.startswith("3."))
        return Output(output.loss + huge, output.per_sample, output.weight)

    parts = {"first": (SGD(lr=0.01), ("0.",)), "last": (SGD(lr=0.01), ("3.",))}
    stream = ToyStream(optimizers=("first",))
    trainer(stream=stream, objective=blows, optimizer=Several(parts), clip=1e9, methods=[Watch()], budget=Budget(steps=1)).run()
    norm, own = seen[0]
    assert own <= norm < 1e3  # the other part's gradient is of size 1e6


def test_a_parameter_that_no_optimizer_owns_is_refused():
    with pytest.raises(BadInput, match="3.weight, which no optimizer owns"):
        trainer(optimizer=Several({"first": (SGD(lr=0.01), ("0.",))})).run()


def test_slots_are_enforced_where_they_are_used():
    class Steps(Method):
        def update(self, run, optimizer):
            return True

    class Grows(Widen):
        slots = ()

    class Gives(Method):
        def start(self, run):
            run.set_sampler(None)

    for method, message in ((Steps(), "no 'optimizer_step'"), (Grows(), "no 'surgery'"), (Gives(), "owns the slot 'sampler'")):
        with pytest.raises(BadInput, match=message):
            trainer(methods=[method]).run()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"0.bias": Mapped("banana", ("0.bias",))}, "banana"),
        ({"0.bias": Mapped("learn", ("0.bias", "9.bias"))}, "9.bias"),
        ({"0.bias": Mapped("copy", ("0.bias",))}, "differs from its source"),
        ({"0.bias": Mapped("new")}, "nothing said of 0.bias"),
        ({"0.other": Mapped("new")}, "0.other"),
    ],
)
def test_a_mapping_that_is_not_true_is_refused(mapping, message):
    class Wrong(Widen):
        def updated(self, run):
            if run.step == 2:
                new = toy_model(seed=3)
                new[0].bias.data.fill_(7.0)
                told = {n: Mapped("learn", (n,)) for n, _ in new.named_parameters()}
                run.replace(new, told | mapping, method=self)

    with pytest.raises(BadInput, match=message):
        trainer(methods=[Wrong()]).run()


def test_what_steers_reaches_the_sampler_and_is_charged():
    def steer(model):
        model(torch.zeros(10, 6))
        return {"loss": 2.5}

    stream = ToyStream()
    result = trainer(stream=stream, steer={"dev": steer}, steer_every=0.5, budget=Budget(steps=8)).run()
    told = [f for f in stream.seen if f.evaluations]
    assert [(f.step, dict(f.evaluations), len(f.ids)) for f in told] == [(0, {"dev/loss": 2.5}, 0), (4, {"dev/loss": 2.5}, 0)]
    assert result.ledger.as_dict()["prepare"] == {"evaluations": 2, "flops": 2 * 2 * 10 * (6 * 16 + 16 * 3)}


def test_steering_that_spends_the_rest_of_the_budget_ends_the_run_with_its_evaluation_and_checkpoint(tmp_path):
    def steer(model):
        model(torch.zeros(200, 6))
        return {"loss": 2.5}

    an_update, a_look = 3 * 2 * 8 * (6 * 16 + 16 * 3) - 2 * 8 * 6 * 16, 2 * 200 * (6 * 16 + 16 * 3)
    budget = Budget(flops=2.4 * a_look)  # the third look, at nine tenths, takes more than is left
    result = trainer(
        steer={"dev": steer}, steer_every=0.45, budget=budget, evaluators={"e": lambda m: {"w": 0.0}}, evaluate_every=1, folder=tmp_path,
        checkpoint_every=1,
    ).run()  # fmt: skip
    assert result.ledger.of("flops")["prepare"] == 3 * a_look
    assert result.ledger.of("flops")["train"] == result.steps * an_update
    assert result.history[-1]["step"] == result.steps
    assert (tmp_path / "checkpoints" / f"step-{result.steps:09d}").is_dir()


class Scored(Shuffle):
    """Asks for every sample's loss before each stage."""

    def __init__(self):
        super().__init__()
        self.scored = []

    def wants(self, stage):
        self.stage = stage
        return Score()

    def receive(self, score, values):
        self.scored.append(self.stage)


@pytest.mark.parametrize(
    ("limit", "scored", "spent"),
    [
        (190, [0], 192),  # of 62 left, scoring would take 64
        (200, [0, 1], 200),  # of 72 left, it leaves one update
        (220, [0, 1], 216),  # the update with the scoring does not count as one of 72 samples, more than twice what is left
    ],
)
def test_scoring_neither_overspends_a_budget_nor_ends_it_early(tmp_path, limit, scored, spent):
    sampler = Scored()
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    stream = DataStream(TensorSource(x=x, y=x.sum(1, keepdim=True)), 8, 0, sampler=sampler)
    done = trainer(nn.Linear(3, 1), stream, Supervised("mse"), budget=Budget(samples=limit), folder=tmp_path).run()
    assert sampler.scored == scored
    assert done.ledger.total("samples") == spent
    assert ("not scored" in (tmp_path / "metrics.jsonl").read_text()) == (scored == [0])


def test_scoring_that_a_budget_in_flops_has_no_room_for():
    sampler = Scored()
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    stream = DataStream(TensorSource(x=x, y=x.sum(1, keepdim=True)), 8, 0, sampler=sampler)
    every = trainer(nn.Linear(3, 1), DataStream(stream.source, 8, 0, sampler=Scored()), Supervised("mse"), budget=Budget(steps=8)).run()
    limit = 1.1 * every.ledger.total("flops")  # scoring the second stage would take more
    done = trainer(nn.Linear(3, 1), stream, Supervised("mse"), budget=Budget(flops=limit)).run()
    assert sampler.scored == [0]
    assert done.ledger.total("flops") == pytest.approx(limit, rel=0.06)  # half an update


def test_a_score_of_something_unknown_is_refused():
    class Asks(ToyStream):
        def sampler_wants(self):
            return Score(np.arange(3), "gradient_norm")

    with pytest.raises(BadInput, match="gradient_norm"):
        trainer(stream=Asks()).run()


class Widen(Method):
    """A growing method for the tests: doubles the hidden layer once, at a step."""

    slots = ("surgery",)

    def __init__(self, at=6, moments="carry"):
        self.at, self.moments = at, moments

    def updated(self, run):
        if run.step == self.at:
            old = run.model
            new = initialise(nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 3)), 1)
            with torch.no_grad():
                new[3].bias.copy_(old[3].bias)
            mapping = {n: Mapped("new", (n,)) for n, _ in new.named_parameters()} | {"3.bias": Mapped("copy", ("3.bias",))}
            run.replace(new, mapping, method=self, moments=self.moments, note={"width": 32}, schedule=Constant(warmup=0.1))

    def rebuild(self, run, model, note):
        return nn.Sequential(nn.Linear(6, note["width"]), nn.Tanh(), nn.Dropout(0.1), nn.Linear(note["width"], 3))


def test_replacement_rebuilds_the_optimizer_and_carries_moments_by_the_mapping():
    states = {}

    class Watch(Method):
        def replaced(self, run, mapping):
            states.update({n: dict(run.optimizers["adamw"].state.get(p) or {}) for n, p in run.named_parameters().items()})
            states["steps"] = float(states["3.bias"]["step"])

    result = trainer(methods=[Widen(), Watch()], optimizer=AdamW()).run()
    assert result.parameters == 6 * 32 + 32 + 32 * 3 + 3
    assert states["steps"] == 6
    assert not states["0.weight"]


def test_optimizers_over_the_same_parameters_each_carry_their_own_moments():
    stream = ToyStream(objectives=("", "", ""), optimizers=("", "a", "b"))
    kept = []

    class Watch(Method):
        def gradients(self, run):
            kept[:] = [{n: o.state.get(p) for n, p in run.named_parameters().items()} for o in run.optimizers.values()]

        def replaced(self, run, mapping):
            for optimizer, before in zip(run.optimizers.values(), kept, strict=True):
                after = optimizer.state[run.named_parameters()["3.bias"]]
                assert all(torch.equal(value, before["3.bias"][name]) for name, value in after.items())
            first, second = (o.state[run.named_parameters()["3.bias"]] for o in run.optimizers.values())
            assert (int(first["step"]), int(second["step"])) == (4, 2)  # the empty name is the first's
            assert not torch.equal(first["exp_avg"], second["exp_avg"])

    both = Alternating({"a": AdamW(), "b": AdamW(lr=0.01)})
    assert trainer(stream=stream, methods=[Widen(), Watch()], optimizer=both, budget=Budget(steps=7)).run().steps == 7


def test_a_mapping_that_forgets_a_parameter_is_refused():
    class Forget(Widen):
        def updated(self, run):
            if run.step == 2:
                run.replace(toy_model(), {}, method=self)

    with pytest.raises(BadInput, match="nothing said of 0.weight"):
        trainer(methods=[Forget()]).run()


def test_the_same_method_twice_and_the_fields_of_one_that_is_a_dataclass():
    @dataclass
    class Scale(Method):
        factor: float = 1.0
        times: int | None = None

    with pytest.raises(BadInput, match=r"^methods: found the same method, Scale, as methods\[0\] and methods\[2\], expected each m"):
        trainer(methods=[Scale(), Widen(), Scale(2.0)])
    trainer(methods=[Scale(2, 3)])
    with pytest.raises(BadInput, match="^Scale.factor: found 'much', expected a number"):
        trainer(methods=[Scale("much")])
    with pytest.raises(BadInput, match="^Scale.times: found 2.5, expected a whole number or None"):
        trainer(methods=Scale(times=2.5))


def test_a_method_with_state_per_parameter_must_know_of_replacement():
    class Averages(Method):
        per_parameter_state = True

    with pytest.raises(BadInput, match="Widen, which replaces the model, with Averages"):
        trainer(methods=[Widen(), Averages()])


@pytest.mark.parametrize(
    "methods", [list, lambda: [Widen(at=6)], lambda: [Widen(at=9, moments="reset")]], ids=["plain", "grown-before", "grown-after"]
)
@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_stopped_and_resumed_equals_unbroken_bit_for_bit(tmp_path, methods, optimizer):
    def make(folder, extra=()):
        return trainer(
            toy_model(dropout=0.3), ToyStream(n=60), optimizer=optimizer, schedule=Cosine(warmup=0.1), accumulate=2, folder=folder,
            methods=[*methods(), *extra], evaluators={"e": lambda m: {"w": float(weights(m).sum())}}, checkpoint_every=0.3,
        )  # fmt: skip

    unbroken = make(tmp_path / "a", [Stop(0)]).run()
    for turn, at in enumerate((3, 7, 11)):
        with pytest.raises(Interrupted):
            make(tmp_path / "b", [Stop(at)]).run(resume=turn > 0)
    resumed = make(tmp_path / "b", [Stop(0)]).run(resume=True)
    assert torch.equal(weights(unbroken.model), weights(resumed.model))
    for name in ("metrics.jsonl", "order.bin"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert resumed.ledger.total("flops") == unbroken.ledger.total("flops")
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.history]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in unbroken.history]


def test_resuming_a_run_that_has_ended_adds_nothing(tmp_path):
    """39 samples hold two updates of 16 and less than half of a third."""

    def make():
        return trainer(budget=Budget(samples=39), accumulate=2, folder=tmp_path / "run", evaluators={"e": lambda m: {"w": 0.0}})

    ended = make().run()
    kept = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    resumed = make().run(resume=True)
    assert (ended.steps, resumed.steps) == (2, 2)
    assert torch.equal(weights(ended.model), weights(resumed.model))
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == kept


def test_folders_are_not_overwritten_or_mixed_up(tmp_path):
    folder = tmp_path / "run"
    trainer(folder=folder).run()
    kept = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(BadInput, match="found a run already"):
        trainer(folder=folder).run()
    with pytest.raises(BadInput, match="a run of another seed"):
        trainer(folder=folder, seed=1).run(resume=True)
    with pytest.raises(BadInput, match="a run of another model"):
        trainer(toy_model(width=8), folder=folder).run(resume=True)
    with pytest.raises(BadInput, match="a run of another set of methods"):
        trainer(folder=folder, methods=[Widen(at=3)]).run(resume=True)
    with pytest.raises(BadInput, match="no run"):
        trainer(folder=tmp_path / "none").run(resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match="files that no run of etude wrote"):
        trainer(folder=tmp_path / "mine").run()
    assert (folder / "metrics.jsonl").read_bytes() == kept
    assert json.loads((folder / "run.json").read_text())["identity"]


def test_bad_settings_are_refused_before_anything_runs():
    for settings, message in (
        ({"accumulate": 0}, "accumulate"),
        ({"clip": 0}, "clip"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"device": "quantum"}, "device"),
        ({"precision": "int3"}, "precision"),
    ):
        with pytest.raises(BadInput, match=message):
            trainer(**settings)


def test_generator_free_of_device_state():
    assert generator(0, "x").device.type == "cpu"
