"""CodeGen2: the mixture of objectives as a method, holes in files and what fills them, and the study's arms."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from etude.data.sources import TensorSource, WindowSource
from etude.data.stream import DataStream
from etude.engine.ledger import Budget
from etude.engine.protocols import Batch
from etude.engine.streams import initialise, numpy_rng
from etude.engine.trainer import Trainer
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.generate.local import LocalGenerator
from etude.learn.corruption import SPARE_BYTES, Marks, SpanCorruption, infill_prompt, restored
from etude.learn.language import CausalLM
from etude.nn.mlp import MLP
from etude.nn.transformer import Transformer, TransformerConfig, count_parameters
from etude.papers.objective.codegen2 import STUDY, Hole, Settings, SpanMixture, holes, infill, mixed, parses
from etude.papers.objective.codegen2.data import code, definitions, marks_of, pieces_of, tokenizer_of, windows
from etude.papers.objective.codegen2.measures import Filling, told
from etude.papers.objective.codegen2.probe import Probe, in_string
from etude.papers.objective.codegen2.study import Way, kept, stream

SMOKE = STUDY.scales["smoke"].settings
PAIRS = replace(SMOKE, tokenizer="bpe:300", vocab=313)
MARKS = Marks.of(SPARE_BYTES)
BYTES = [bytes([i]) for i in range(256)]
TEXT = b"def add(one, two):\n    total = one + two\n    if total:\n        return total\n    return None\n\n\n" * 30


def ids(text):
    return np.frombuffer(text, dtype=np.uint8)


def model(vocab=256, **more):
    return initialise(Transformer(TransformerConfig(vocab=vocab, width=16, depth=1, heads=2, context=96, **more)), 0)


def rows(count=6, length=65, documents=False):
    tokens = np.frombuffer(TEXT, dtype=np.uint8)
    ids = np.arange(len(tokens)) // 94 if documents else None
    source = WindowSource(tokens, length - 1, document_ids=ids)
    return Batch(source.get(np.arange(count)), np.arange(count), key=5)


def trained(methods=(), steps=6, net=None, accumulate=1):
    data = DataStream(WindowSource(np.frombuffer(TEXT, dtype=np.uint8), 64), 4, 0)
    return Trainer(net or model(), data, CausalLM(), methods=methods, budget=Budget(steps=steps), accumulate=accumulate).run().model


# --- the mixture --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("prefix", [False, True])
def test_chosen_rows_are_corrupted_and_the_others_are_what_they_were(prefix):
    given, chosen = rows(documents=True), np.array([1, 4])
    batch = mixed(given, chosen, SpanCorruption(MARKS, prefix=prefix))
    others = [0, 2, 3, 5]
    for name in ("tokens", "document_ids"):
        assert torch.equal(batch.data[name][others], given.data[name][others])
    assert batch.data["loss_mask"][others].all()
    alone = SpanCorruption(MARKS, prefix=prefix).corrupt(Batch({k: v[[1, 4]] for k, v in given.data.items()}, chosen, key=5))
    for name, values in alone.data.items():
        assert torch.equal(batch.data[name][chosen].to(values.dtype), values)
    assert batch.num_tokens == given.num_tokens
    assert ("prefix" in batch.data) is prefix
    if prefix:
        assert not batch.data["prefix"][others].any()


def test_the_loss_is_that_of_both_objectives_over_all_their_targets():
    net, given, chosen = model(), rows(), np.array([0, 3])
    whole = CausalLM()(net, mixed(given, chosen, SpanCorruption(MARKS, prefix=True)))
    spans = SpanCorruption(MARKS, prefix=True)(net, Batch({"tokens": given.data["tokens"][chosen]}, chosen, key=5))
    causal = CausalLM()(net, Batch({"tokens": given.data["tokens"][[1, 2, 4, 5]]}, np.array([1, 2, 4, 5])))
    assert whole.weight == spans.weight + causal.weight
    expected = (spans.loss * spans.weight + causal.loss * causal.weight) / whole.weight
    torch.testing.assert_close(whole.loss, expected, rtol=1e-5, atol=0)


def test_no_span_leaves_its_file_and_every_file_can_be_restored():
    given = rows(documents=True)
    made = mixed(given, np.arange(6), SpanCorruption(MARKS)).data
    for row, owners, before, ids in zip(
        made["tokens"], made["document_ids"], given.data["tokens"], given.data["document_ids"], strict=True
    ):
        parts = [row[owners == o].numpy() for o in owners.unique().tolist() if o >= 0]
        wholes = [before[ids == i].numpy() for i in ids.unique().tolist()]
        for part, whole in zip(parts, wholes, strict=False):
            text = restored(part, MARKS) if len(part) > 1 else part
            assert (text == whole[: len(text)]).all()


def test_the_rate_is_the_share_of_rows_and_draws_belong_to_the_sample():
    seen = []

    class Look(SpanMixture):
        def batch(self, run, batch):
            made = super().batch(run, batch)
            holed = np.zeros(len(batch), bool) if made is None else (made.data["tokens"] == MARKS.separator).any(1).numpy()
            seen.append(dict(zip(batch.ids.tolist(), holed.tolist(), strict=True)))
            return made

    data = TensorSource(tokens=torch.from_numpy(np.frombuffer(TEXT, np.uint8)[:2_000].reshape(50, 40).astype(np.int64)))
    for size in (50, 10):
        Trainer(
            model(), DataStream(data, size, 0), CausalLM(), methods=[Look(rate=0.3)], budget=Budget(steps=5), accumulate=50 // size
        ).run()
    shares = [np.mean(list(s.values())) for s in seen[:5]]
    assert np.mean(shares) == pytest.approx(0.3, abs=0.07)
    first = {k: v for part in seen[5:10] for k, v in part.items()}
    assert first == seen[0]  # one batch of 50 and five of 10 corrupt the same rows
    assert seen[0] != seen[1]


def test_switched_off_it_is_causal_training_bit_for_bit():
    off, plain = trained([SpanMixture(rate=0.0)]), trained()
    assert all(torch.equal(a, b) for a, b in zip(off.parameters(), plain.parameters(), strict=True))
    on = trained([SpanMixture()])
    assert not all(torch.equal(a, b) for a, b in zip(on.parameters(), plain.parameters(), strict=True))


class Killed(Exception):
    pass


@pytest.mark.parametrize("prefix", [False, True])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, prefix):
    def trainer(folder):
        data = DataStream(WindowSource(np.frombuffer(TEXT, dtype=np.uint8), 64), 4, 0)
        method = SpanMixture(prefix=prefix)
        return Trainer(model(), data, CausalLM(), methods=[method], budget=Budget(steps=8), folder=tmp_path / folder, checkpoint_every=0.25)

    def stop(share, loss):
        if share > 0.6:
            raise Killed

    whole = trainer("whole").run().model
    broken = trainer("broken")
    broken.progress = stop
    with pytest.raises(Killed):
        broken.run()
    again = trainer("broken").run(resume=True).model
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_marks_of_ones_own_for_another_vocabulary():
    net = initialise(Transformer(TransformerConfig(vocab=300, width=16, depth=1, heads=2, context=96)), 0)
    trained([SpanMixture(marks=[290, 291, 292, 293, 294])], net=net)


class Plain(nn.Module):
    """A language model that knows nothing of prefixes."""

    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(256, 8), nn.Linear(8, 256)

    def forward(self, tokens, document_ids=None):
        return self.out(self.embedding(tokens))


@pytest.mark.parametrize(
    ("call", "told_"),
    [
        (lambda: SpanMixture(rate=1.5), "SpanMixture.rate: found 1.5"),
        (lambda: SpanMixture(ratio=1.0), "between 0 and 1"),
        (lambda: SpanMixture(mean_span=0.5), "mean_span"),
        (lambda: SpanMixture(marks=[1, 2, 3]), "at least four"),
        (lambda: SpanMixture(marks=[1, 1, 2, 3]), "all different"),
        (lambda: trained([SpanMixture()], net=model(vocab=300)), "spare bytes for a vocabulary of 300"),
        (lambda: trained([SpanMixture(marks=[1, 2, 3, 256])]), "token 256, expected ids below the model's vocabulary of 256"),
        (lambda: trained([SpanMixture(rate=1.0, marks=[100, 1, 2, 3])]), "reserved token 100"),
        (lambda: trained([SpanMixture(prefix=True)], net=Plain()), "whose forward takes `prefix`"),
        (
            lambda: Trainer(
                MLP((3, 4, 2)), DataStream(TensorSource(x=torch.zeros(8, 3), y=torch.zeros(8).long()), 4, 0), CausalLM(),
                methods=[SpanMixture(marks=[0, 1, 2, 3])], budget=Budget(steps=1),
            ).run(),
            "no running text",
        ),
        (lambda: Settings(context=60), "what is around a hole"),
        (lambda: Settings(vocab=500), "at least 512: the tokenizer's ids and the marks"),
        (lambda: holes([ids(TEXT)], BYTES, "word", 2, numpy_rng(0)), "name or line"),
        (lambda: holes([ids(b"x = 1\n")], BYTES, "name", 2, numpy_rng(0)), "0 of kind 'name' in 1 files"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(call, told_):
    with pytest.raises(BadInput, match=told_):
        call()


# --- holes --------------------------------------------------------------------------------------------------------------
SOURCE = b"import math\n\n\ndef area(radius):\n    if radius:\n        return math.pi * radius\n    return 0  # no x\n"


def said(hole):
    return bytes(b"".join(hole.pieces[t] for t in hole.middle))


def test_names_are_variables():
    names = holes([ids(SOURCE)], BYTES, "name", 3, numpy_rng(0))
    assert sorted(said(h) for h in names) == [b"math", b"radius", b"radius"]
    with pytest.raises(BadInput, match="3 of kind 'name'"):  # a parameter and a module's attribute are none
        holes([ids(SOURCE)], BYTES, "name", 4, numpy_rng(0))


def test_lines_are_those_that_nothing_and_pass_cannot_replace():
    lines = holes([ids(SOURCE)], BYTES, "line", 2, numpy_rng(0))
    assert {said(h) for h in lines} == {b"def area(radius):", b"if radius:"}
    for hole in lines:
        assert parses(hole.filled(hole.middle))
        assert not parses(hole.filled(b""))
        assert not parses(hole.filled(b"pass"))
    with pytest.raises(BadInput, match="2 of kind 'line'"):
        holes([ids(SOURCE)], BYTES, "line", 3, numpy_rng(0))


def test_holes_lie_between_tokens_of_the_whole_file():
    tokenizer, pieces = tokenizer_of(PAIRS), pieces_of(PAIRS)
    tokens = tokenizer.encode(SOURCE.decode())
    assert b"".join(pieces[t] for t in tokens) == SOURCE
    assert [len(p) for p in pieces[-13:]] == [0] * 13
    lines = holes([tokens], pieces, "line", 2, numpy_rng(0))
    # The space before the first word of an indented line is of its token.
    assert {said(h) for h in lines} == {b"def area(radius):", b" if radius:"}
    assert all(parses(h.filled(h.middle)) and h.filled(h.middle) == SOURCE for h in lines)


def test_what_is_around_a_hole_is_as_much_on_both_sides_as_there_is():
    def around(start, end, reach):
        return tuple(bytes(part) for part in Hole(ids(b"0123456789"), start, end, "name", BYTES).around(reach))

    hole = Hole(ids(b"0123456789"), 4, 6, "name", BYTES)
    assert said(hole) == b"45"
    assert around(4, 6, 6) == (b"23", b"67")
    assert around(4, 6, 100) == (b"0123", b"6789")
    assert around(1, 2, 7) == (b"0", b"23456")
    assert around(8, 9, 7) == (b"34567", b"9")
    assert bytes(hole.before(5)) == b"123"
    assert bytes(hole.before(100)) == b"0123"
    assert hole.filled(b"x") == b"0123x6789"


@pytest.mark.parametrize(("source", "fine"), [(b"x = '\\d'\n", True), (b"x = (\n", False), (b"\0", False), (b"\xff = 1\n", False)])
def test_parsing(source, fine):
    assert parses(source) is fine


@pytest.mark.parametrize("settings", [SMOKE, PAIRS], ids=["bytes", "pairs"])
def test_no_file_is_in_two_splits_and_no_text_has_a_mark(settings):
    parts = {split: definitions("sample-code", split) for split in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == len({d for part in parts.values() for d in part}) == 67
    assert min(map(len, parts.values())) == 16
    pieces = pieces_of(settings)
    for split, part in parts.items():
        whole = code(settings, split)
        assert [b"".join(pieces[t] for t in d) for d in whole.documents()] == part
        assert not np.isin(whole.tokens, marks_of(settings).every).any()


def test_the_prompt_is_that_of_the_model_card():
    """left <mask_1> right <|endoftext|> <sep> <mask_1>, as the card of Salesforce/codegen2-1B builds it (its `format`)."""
    prompt = infill_prompt(np.frombuffer(b"ab", np.uint8), np.frombuffer(b"cd", np.uint8), MARKS).tolist()
    assert prompt == [97, 98, SPARE_BYTES[0], 99, 100, SPARE_BYTES[11], SPARE_BYTES[10], SPARE_BYTES[0]]


class Says(nn.Module):
    """Says a text after the last byte of a prompt, whatever it reads, one token more each step."""

    def __init__(self, text, prompt):
        super().__init__()
        self.text, self.prompt, self.embedding = list(text), prompt, nn.Embedding(256, 1)

    def forward(self, tokens):
        hidden = torch.zeros(*tokens.shape, 256)
        for place in range(tokens.shape[1]):
            said = place + 1 - self.prompt
            hidden[:, place, self.text[min(max(said, 0), len(self.text) - 1)]] = 20
        return {"hidden": hidden}

    def head(self, hidden):
        return hidden


@pytest.mark.parametrize(
    ("how", "text", "exact", "fine"),
    [
        ("spans", b"if total:\xff", 1.0, 1.0),
        ("spans", b"while total:\xff", 0.0, 1.0),
        ("spans", b"total\xff", 0.0, 0.0),
        ("spans", b"if total:\n", 0.0, 0.0),  # never ended
        ("left", b"if total:\n", 1.0, 1.0),
        ("left", b"if not total:\n", 0.0, 1.0),
        ("left", b"if total\n", 0.0, 0.0),
    ],
)
def test_what_is_graded_is_what_the_model_puts_there(how, text, exact, fine):
    start = TEXT.index(b"if total")
    hole = Hole(ids(TEXT), start, start + 9, "line", BYTES)
    measure = Filling(SMOKE, 0, how)
    measure.holes = {"line": [hole]}
    found = measure(Says(text, len(measure.prompt(hole))))
    assert (found["line exact"], found["line parses"]) == (exact, fine)
    assert (found["line loss"] < 0.01) == bool(exact)


@pytest.mark.parametrize(("text", "exact"), [(b"total:", 1.0), (b"total ", 1.0), (b"totals", 0.0), (b"tota:l", 0.0)])
def test_from_the_left_a_name_ends_where_no_letter_follows(text, exact):
    start = TEXT.index(b"total:")
    measure = Filling(SMOKE, 0, "left")
    measure.holes = {"name": [Hole(ids(TEXT), start, start + 5, "name", BYTES)], "line": measure.holes["line"]}
    assert measure(Says(text, len(measure.prompt(measure.holes["name"][0]))))["name exact"] == exact


def test_losses_of_fills_are_those_of_a_forward_with_the_prompt_as_prefix():
    net = model(init_std=0.3)
    prompts = [infill_prompt(np.arange(40, 40 + n), np.arange(60, 70), MARKS) for n in (3, 9)]
    fills = [np.array([70, 71]), np.array([72])]
    ends = np.isin(np.arange(256), [10, MARKS.end_of_span])
    for separator in (-1, MARKS.separator):
        for prompt, fill, (losses, likeliest) in zip(prompts, fills, told(net, prompts, fills, ends, separator=separator), strict=True):
            row = torch.from_numpy(np.concatenate([prompt, fill]))[None]
            inside = torch.zeros_like(row, dtype=torch.bool)
            inside[0, : len(prompt) - 1] = separator >= 0  # up to the separator, which the mark follows
            logits = net.head(net(row, prefix=inside)["hidden"]).detach().log_softmax(-1)[0, len(prompt) - 1 :]
            expected = [*(-logits[i, t] for i, t in enumerate(fill)), -torch.log(logits[-1, [10, MARKS.end_of_span]].exp().sum())]
            np.testing.assert_allclose(losses, np.array([float(e) for e in expected]), rtol=1e-4)
            assert likeliest.tolist() == logits.argmax(-1).tolist()


def test_infilling_on_ones_own():
    (done,) = infill(LocalGenerator(model()), [(ids(b"def f("), ids(b"):\n"))], Marks.of(SPARE_BYTES), max_tokens=5)
    assert 1 <= len(done.tokens) <= 5


@pytest.mark.parametrize(
    ("source", "marked"),
    [
        ("x = 'ab' + y  # 'c'\n", "    ****            "),
        ("f = 1\n'é\\\n\f' \"b\"\nf'{x}'\n", "      *********** ****** "),
    ],
)
def test_what_is_in_a_string(source, marked):
    inside = in_string(ids(source.encode()), BYTES)
    assert "".join("*" if i else " " for i in inside) == marked


class Labelled(nn.Module):
    """Hidden states that hold what is to be found, among noise, where it reads both ways; noise alone where it does not."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(256, 4)

    def forward(self, tokens, prefix=None):
        hidden = torch.randn(*tokens.shape, 4, generator=torch.Generator().manual_seed(0))
        if prefix is not None:
            assert prefix.all()
            hidden[..., 2] = 3 - 2 * self.labels[tuple(tokens[0].tolist())]
        return {"hidden": hidden}


def test_a_probe_finds_what_is_there_and_only_that():
    probe, net = Probe(SMOKE, 0, "test", both_ways=True), Labelled()
    assert 0.02 < np.mean([labels.mean() for _, labels in probe.parts]) < 0.9
    net.labels = {tuple(tokens[0].tolist()): torch.from_numpy(labels.astype(np.float32)) for tokens, labels in probe.parts}
    assert probe(net)["probe"] == 1.0
    probe.both_ways = False
    assert probe(net)["probe"] == pytest.approx(0.5, abs=0.15)


# --- the study ----------------------------------------------------------------------------------------------------------
def test_all_arms_of_code_see_the_same_rows_and_both_has_as_many_of_each():
    rows = [stream(SMOKE, Way(rate=r, prefix=p), 3).next().data["tokens"] for r, p in ((0.0, False), (None, True))]
    assert torch.equal(rows[0], rows[1])
    both = stream(SMOKE, Way(data="both"), 3)
    drawn = np.concatenate([both.next().ids for _ in range(100)])
    assert np.mean(both.source.domains[drawn] == 0) == pytest.approx(0.5, abs=0.1)


def test_marks_are_counted_as_tokens():
    method = SpanMixture(rate=1.0, ratio=0.15, mean_span=8.0)
    share = kept(stream(SMOKE, Way(), 0), method)
    assert 0.6 < share < 0.95
    source = windows(SMOKE, "code", "train")
    assert source.get(np.array([0]))["document_ids"].shape == (1, SMOKE.context + 1)


def test_the_study_spends_what_it_says_and_measures_what_it_claims():
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    tiny = replace(SMOKE, tokens=800, chain_tokens=1_600)
    outcomes = {name: arm.run(Job(study=STUDY.slug, arm=name, scale="smoke", seed=0, settings=tiny)) for name, arm in STUDY.arms.items()}
    for name, outcome in outcomes.items():
        (planned,) = STUDY.arms[name].planned(tiny).values()
        assert planned == (1_600 if name.endswith("chain") else 800)
        assert outcome.ledger["train"]["tokens"] == pytest.approx(planned, rel=0.35)
        claimed = {c.metric for c in STUDY.claims if name in (c.arm, c.baseline)}
        assert (
            claimed
            <= set(outcome.metrics)
            <= {*STUDY.failure, *STUDY.arms[name].failure} | {m for m in outcome.metrics if "left alone" in m or "text of" in m}
        )
        assert all(np.isfinite(v) for v in outcome.metrics.values())
    spent = {(n.endswith("chain"), *(v for k, v in o.ledger["train"].items() if k in ("tokens", "steps"))) for n, o in outcomes.items()}
    assert len(spent) == 2
    assert outcomes["mixture, prefix"].metrics["code loss"] != outcomes["mixture"].metrics["code loss"]
    assert outcomes["causal"].metrics["line loss"] == outcomes["causal"].metrics["line loss, left alone"]
    assert outcomes["causal"].metrics["text of a token"] == 1.0
    assert outcomes["spans"].metrics["text of a token"] < outcomes["mixture"].metrics["text of a token"] < 1


def test_the_paper_scale_has_a_source_for_every_setting_and_the_published_size():
    scale = STUDY.scales["paper"]
    assert set(scale.sources) == {f.name for f in fields(scale.settings)}
    with torch.device("meta"):
        net = STUDY.build_paper_model(scale.settings)
    ((count, _),) = STUDY.paper_parameters.values()
    assert count_parameters(net) == pytest.approx(count, rel=0.02)
