"""Task hinting: shares by hand, what a batch and a row hold, that no test list is trained on, tempered attention, grading, the study."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from etude.data.samplers import FixedMixture
from etude.data.sources import MixtureSource, TensorSource
from etude.data.stream import DataStream
from etude.data.tasks.hints import HINTS
from etude.engine.ledger import Budget
from etude.engine.metrics import read_metrics
from etude.engine.protocols import Method
from etude.engine.streams import initialise, numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.generate.states import decoder_of
from etude.learn.supervised import Supervised
from etude.nn.mlp import MLP
from etude.papers.order.task_hinting import STUDY, HintMixture, Lesson, PositionFree, Settings, TaskHinting, share_at, sharpness, weights_of
from etude.papers.order.task_hinting.arms import measured, model_config, spent
from etude.papers.order.task_hinting.data import SORT, Exact, Numbers, data, listed, rows, unseen

SMALL = Settings(largest=16, longest=4, rows=300, width=16, heads=2, context=40, num_test=20)
WORDS = Numbers(16)


# --- the mixture ------------------------------------------------------------------------------------------------------
def test_shares_by_hand():
    assert [share_at(0.5, p) for p in (0.0, 0.3, 1.0)] == [0.5, 0.5, 0.5]
    assert [share_at([0.5, 0.1], p) for p in (0.0, 0.25, 1.0, 1.2)] == pytest.approx([0.5, 0.4, 0.1, 0.1])
    sizes, hints = np.array([30, 10, 60]), np.array([False, True, True])
    assert weights_of(sizes, hints, 0.7) == pytest.approx([0.3, 0.1, 0.6])
    assert weights_of(sizes, ~hints, 0.2) == pytest.approx([0.2, 0.8 / 7, 4.8 / 7])
    assert weights_of(sizes, hints, 0.0).tolist() == [1.0, 0.0, 0.0]


def source(task=8, hints=6, more=0):
    parts = {"task": task, "hints": hints, **({"more": more} if more else {})}
    return MixtureSource({name: TensorSource(x=np.full((n, 3), float(k))) for k, (name, n) in enumerate(parts.items()) if n})


def drawn(sampler, data, stages, seed=0):
    return [sampler.plan(k, data, numpy_rng(seed, "m", k)) for k in range(stages)]


def test_every_batch_holds_the_hints_share_and_the_task_comes_in_one_order_whatever_the_hints():
    plans = drawn(HintMixture(10, share=0.3), source(), 40)
    assert {int((ids >= 8).sum()) for ids in plans} == {3}
    assert len({tuple(ids >= 8) for ids in plans}) > 20  # at other places each time
    alone = np.concatenate(drawn(HintMixture(7, share=0.0), source(hints=0), 40))
    task = np.concatenate([ids[ids < 8] for ids in plans])
    assert task.tolist() == alone.tolist()
    assert sorted(task[:8]) == list(range(8))  # each once before any comes again


def test_a_share_that_is_no_whole_number_of_rows_holds_on_average():
    counts = [int((ids >= 8).sum()) for ids in drawn(HintMixture(10, share=0.33), source(), 200)]
    assert set(counts) == {3, 4}
    assert np.mean(counts) == pytest.approx(3.3, abs=0.15)


def test_hints_are_named_or_all_but_the_first():
    assert HintMixture(4).hints == ()
    named = HintMixture(10, share=0.5, hints=["task"])
    (ids,) = drawn(named, source(hints=6, more=6), 1)
    assert int((ids < 8).sum()) == 5
    assert named.history == [pytest.approx([0.5, 0.25, 0.25])]


# --- in a run ---------------------------------------------------------------------------------------------------------
class Killed(Exception): ...


class KillAt(Method):
    def __init__(self, step):
        self.at = {step}  # a set is none of the settings that a resumed run is held against

    def updated(self, run):
        if run.step in self.at:
            raise Killed


def labelled(task=30, hints=20):
    rng = numpy_rng(0, "points")
    parts = {"task": task, "hints": hints}
    return MixtureSource(
        {n: TensorSource(x=rng.normal(size=(m, 3)).astype(np.float32), y=rng.integers(0, 2, m)) for n, m in parts.items() if m}
    )


def train(method, data, folder=None, resume=False, kill=0, batch=8, **stream):
    return Trainer(
        initialise(MLP((3, 4, 2)), 0), DataStream(data, batch, 0, **stream), Supervised(), methods=[method, KillAt(kill)],
        budget=Budget(steps=12), folder=folder, checkpoint_every=0.25,
    ).run(resume=resume)  # fmt: skip


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


def test_the_share_moves_over_the_run_and_is_logged(tmp_path):
    method = TaskHinting(share=[0.5, 0.0])
    train(method, labelled(), tmp_path / "run", batch=12)
    told = [row["share/hints"] for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert told == pytest.approx([0.5 * (1 - k / 12) for k in range(12)])
    assert [h for _, h in method.sampler.history[:12]] == pytest.approx(told)


def test_a_share_of_nothing_is_the_task_alone_bit_for_bit():
    class Given(Method):
        slots = ("sampler",)

        def start(self, run):
            run.set_sampler(FixedMixture([1.0], 8))

    assert torch.equal(weights(train(TaskHinting(share=0), labelled())), weights(train(Given(), labelled(hints=0))))


@pytest.mark.parametrize("at", [4, 7])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, at):
    whole = train(TaskHinting(share=[0.6, 0.1]), labelled(), tmp_path / "whole")
    with pytest.raises(Killed):
        train(TaskHinting(share=[0.6, 0.1]), labelled(), tmp_path / "killed", kill=at)
    again = train(TaskHinting(share=[0.6, 0.1]), labelled(), tmp_path / "killed", resume=True)
    assert torch.equal(weights(again), weights(whole))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: TaskHinting(share=1.0), "a share from 0, below 1"),
        (lambda: TaskHinting(share=-0.1), "a share from 0, below 1"),
        (lambda: TaskHinting(share=[0.5, 0.2, 0.1]), "first, last"),
        (lambda: train(TaskHinting(hints=["hint"]), labelled()), "did you mean 'hints'"),
        (lambda: train(TaskHinting(hints=["task", "hints"]), labelled()), "no samples that are the task"),
        (lambda: train(TaskHinting(), labelled(hints=0)), "no samples that are hints"),
        (lambda: train(TaskHinting(), TensorSource(x=np.ones((9, 3)), y=np.zeros(9, int))), "samples without domains"),
        (lambda: Settings(factors=(1, 6)), "no number comes twice"),
        (lambda: Settings(context=60), "at least 66"),
        (lambda: Settings(longest=1), "from 2 to largest"),
        (lambda: Settings(factors=(2, 4)), "rising, from 1"),
        (lambda: WORDS.encode("sort 3 17: "), "a number from 0 to 16"),
        (lambda: WORDS.encode("sort 3 -1: "), "'-1'"),
        (lambda: unseen(replace(SMALL, largest=4, longest=2, factors=(1,)), 0, False, 2), "at most the lists there are, about 12"),
    ],
)  # fmt: skip
def test_what_is_refused(call, told):
    with pytest.raises(BadInput, match=told):
        call()


# --- the data ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("hint", HINTS)
def test_a_row_asks_on_its_words_and_learns_its_answer(hint, repeats):
    source = rows(SMALL, 0, hint, repeats).data
    for k in range(40):
        tokens, mask, length = source["tokens"][k], source["loss_mask"][k], int(source["lengths"][k])
        learnt = WORDS.decode(tokens[1:][mask].numpy())
        answer = learnt.split()
        assert learnt.endswith("\n") == (hint == "sort")
        asked = WORDS.decode(tokens[: length - int(mask.sum())].numpy()).split()
        numbers = [int(n) for n in asked[1 : asked.index(":")]]
        assert asked[0] == hint
        assert 2 <= len(numbers) <= 4
        assert repeats or len(set(numbers)) == len(numbers)
        assert not mask[length - 1 :].any()
        assert bool((tokens[length:] == WORDS.end).all())
        question, ordered = asked[asked.index(":") + 1 :], [str(n) for n in sorted(numbers)]
        if hint == "sort":
            assert answer == ordered
            assert not question
        elif hint == "successor":
            (number,) = question
            assert answer == [str(min([n for n in numbers if n > int(number)] or [int(number)]))]
        elif hint == "count":
            assert answer == [str(sum(n < int(question[0]) for n in numbers))]
        else:
            assert [answer[0] if n == "_" else n for n in question] == ordered


@pytest.mark.parametrize("repeats", [False, True])
def test_no_list_of_a_test_is_in_any_row(repeats):
    settings = replace(SMALL, largest=5, longest=3, factors=(1,), rows=2_000, num_test=30)
    kept = {listed(p.prompt) for p in unseen(settings, 3, repeats, 3)}
    assert len(kept) == 30
    for hint in HINTS:
        tokens = rows(settings, 3, hint, repeats).data["tokens"].numpy()
        shown = {" ".join(Numbers(5).decode(row).split(" :")[0].split()[1:]) for row in tokens}
        assert len(shown) > (60 - 30 if not repeats else 40)
        assert not shown & kept


def test_arms_see_the_same_rows_of_the_task_whatever_the_hint():
    alone, beside = data(SMALL, 0, "", False), data(SMALL, 0, "fill", False)
    ids = np.arange(300)
    assert torch.equal(alone.get(ids)["tokens"], beside.get(ids)["tokens"])
    assert list(beside.domain_names) == [SORT, "fill"]
    orders = []
    for source, batch, share in ((alone, 4, 0.0), (beside, 8, 0.5)):
        stream = DataStream(source, batch, 0, sampler=HintMixture(batch, share=share))
        orders.append([i for _ in range(30) for i in stream.next().ids.tolist() if i < 300])
    assert orders[0] == orders[1]


# --- the network ------------------------------------------------------------------------------------------------------
def network(tempered=False, slope=0.0, seed=0):
    model = initialise(PositionFree(model_config(SMALL), tempered), seed)
    if tempered:
        nn.init.constant_(model.temper.slope, slope)
    return model.eval()


def logits(model, tokens):
    return model.head(model(tokens)["hidden"])


def test_sharpness_by_hand():
    seen = torch.tensor([1.0, np.e, 20.0])
    assert sharpness(torch.tensor(0.5), seen).tolist() == pytest.approx([1.0, 1.5, 1 + 0.5 * np.log(20)])


def test_attention_is_without_positions_and_its_scores_are_stretched_by_what_a_token_sees():
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    for slope in (0.0, 0.7):
        model = network(True, slope)
        attention, x = model.blocks[0].attention, model.embedding(tokens)
        queries, keys, values = attention.query_key_value(x).view(8, 3, 2, 8).permute(1, 2, 0, 3)
        stretch = 1 + slope * torch.arange(1, 9).log()
        scores = (queries @ keys.transpose(1, 2)) * stretch[:, None] / 8**0.5
        mixed = scores.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf).softmax(-1) @ values
        want = attention.out(mixed.transpose(0, 1).flatten(1))
        assert torch.allclose(attention(x, model.rotary(torch.arange(8)))[0], want, atol=1e-6)


def test_untempered_and_a_slope_of_zero_are_one_network():
    tokens = torch.randint(0, WORDS.vocab, (3, 9), generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(network(True), tokens), logits(network(), tokens))
    assert not torch.allclose(logits(network(True, 0.5), tokens), logits(network(), tokens))


def test_decoding_step_by_step_is_the_same_network():
    model = network(True, 0.8)
    tokens = torch.randint(0, WORDS.vocab, (2, 10), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, :2] = False  # one prompt is shorter: its places count from its own first token
    assert decoder_of(model) is model
    state = model.begin(tokens[:, :6], mask)
    steps = [state.logits, *(model.extend(tokens[:, k : k + 1], state)[:, -1] for k in range(6, 10))]
    for row, first in ((0, 0), (1, 2)):
        whole = logits(model, tokens[row : row + 1, first:])[0, 5 - first :]
        assert torch.allclose(torch.stack([s[row] for s in steps]), whole, atol=1e-5)


# --- what is measured -------------------------------------------------------------------------------------------------
class Says(nn.Module):
    """A model that says, after each prompt's ":", what `write` makes of its numbers."""

    def __init__(self, write):
        super().__init__()
        self.write = write

    def forward(self, tokens):
        out = torch.zeros(*tokens.shape, WORDS.vocab)
        for row, ids in enumerate(tokens.tolist()):
            colon = ids.index(WORDS.ids[":"])
            said = WORDS.encode(self.write(ids[1:colon])).tolist()
            for place in range(colon, len(ids)):
                out[row, place, said[min(place - colon, len(said) - 1)]] = 1
        return out


@pytest.mark.parametrize(
    ("write", "exact", "tokens"),
    [
        (lambda n: " ".join(map(str, sorted(n))) + "\n", 1.0, 1.0),
        (lambda n: " ".join(map(str, sorted(n))) + " 0", 0.0, 1.0),  # never ends
        (lambda n: " ".join(map(str, sorted(n)[:-1])) + "\n", 0.0, 0.75),
        (lambda n: " ".join(map(str, sorted(n)[:-1])) + f" {min(n)}\n", 0.0, 0.75),
    ],
)
def test_answers_are_graded_whole_and_place_by_place(write, exact, tokens):
    assert Exact(SMALL, 0, False, 4)(Says(write)) == {"exact": exact, "tokens": tokens}


def test_metrics_by_hand():
    settings = replace(SMALL, factors=(1,))
    history = [{"share": k / 10, "1x/exact": k / 10, "1x/tokens": 1.0 if k > 7 else 0.0} for k in range(11)]
    assert measured(settings, history) == pytest.approx({"exact, 1x": 0.9, "tokens, 1x": 1.0, "area, 1x": 0.5, "end, 1x": 1.0})


@pytest.mark.parametrize("name", STUDY.arms)
def test_arms_spend_what_they_say_and_measure_what_is_claimed(name, tmp_path):
    smoke = STUDY.scales["smoke"].settings
    outcome = STUDY.arms[name].run(Job(study=STUDY.slug, arm=name, scale="smoke", seed=0, settings=smoke))
    for key, value in STUDY.arms[name].planned(smoke).items():
        assert outcome.ledger["train"][key.removeprefix("train.")] == value
    assert all(claim.metric in outcome.metrics for claim in STUDY.claims)
    assert all(0 <= outcome.metrics[m] <= 1 for m in outcome.metrics if m != "sharpness per ln n")
    assert ("sharpness per ln n" in outcome.metrics) == ("tempered" in name)
    json.dumps(outcome.metrics)


def test_planned_budgets_are_equal_where_claims_say_so():
    for claim in STUDY.claims:
        own, other = (STUDY.arms[n].planned(STUDY.scales["cpu"].settings) for n in (claim.arm, claim.baseline))
        assert {q: own[q] for q in claim.equal if q in own} == {q: other[q] for q in claim.equal if q in other}
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    assert spent(SMALL, Lesson(hint="fill", rows=2))["train.task_rows"] == spent(SMALL, Lesson())["train.task_rows"]


def test_the_paper_scale_has_a_source_for_every_setting():
    scale = STUDY.scales["paper"]
    assert set(scale.sources) == {f.name for f in fields(scale.settings)}
    with torch.device("meta"):
        model = STUDY.build_paper_model(scale.settings)
    assert model.config.width == 1_024
