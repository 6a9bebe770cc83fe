"""Teaching arithmetic: what rows and prompts hold, that no pair is shared, how answers are graded, and the study's arms."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from etude.data.sources import WindowSource
from etude.errors import BadInput
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.nn.transformer import count_parameters
from etude.papers.order.teaching_arithmetic import STUDY, Examples, Settings, examples, read
from etude.papers.order.teaching_arithmetic.data import END, TOKENIZER, has_digit, train_pairs, unseen_pairs, written
from etude.papers.order.teaching_arithmetic.study import Exact

SMALL = Settings(counts=(400,), few=300, num_test=50)
FORMS = [Examples(form=form, count=400) for form in ("plain", "reverse", "simplified", "detailed")]


def pairs_of(array):
    return {(int(a), int(b)) for a, b in array}


def test_no_pair_is_trained_on_and_tested_and_arms_of_one_count_share_their_pairs():
    test, train = pairs_of(unseen_pairs(SMALL, 0)), pairs_of(train_pairs(SMALL, 0, 400, None))
    assert len(test) == 50
    assert len(train) == 400
    assert not test & train
    assert pairs_of(unseen_pairs(SMALL, 1)) != test
    assert min(min(p) for p in unseen_pairs(SMALL, 0, 4)) >= 1_000


def test_the_digit_left_out_is_in_no_operand():
    pairs = train_pairs(SMALL, 0, 400, 5)
    assert not has_digit(pairs, 5).any()
    assert has_digit(np.array([[153, 1], [5, 515], [7, 51]]), 5).tolist() == [True, False, True]


@pytest.mark.parametrize("how", FORMS, ids=lambda h: h.form)
def test_a_row_is_one_example_and_its_targets_are_the_answer(how):
    settings = replace(SMALL, context=400)
    source = examples(settings, how, 0)
    row = source.get(np.array([7]))
    tokens, mask = row["tokens"][0], row["loss_mask"][0]
    prompt, completion = written(settings, how, train_pairs(settings, 0, 400, None)[7])
    assert TOKENIZER.decode(tokens[: len(prompt + completion)].numpy()) == prompt + completion
    assert TOKENIZER.decode(tokens[1:][mask].numpy()) == completion
    assert completion.endswith("\n")
    assert (tokens[len(prompt + completion) :] == END).all()


def test_rows_of_both_formats_are_the_same_but_for_the_answers_order():
    plain, reverse = (examples(SMALL, Examples(form=f, count=400), 0).get(np.arange(400)) for f in ("plain", "reverse"))
    assert torch.equal(plain["loss_mask"], reverse["loss_mask"])
    assert torch.equal(plain["tokens"][:, :8], reverse["tokens"][:, :8])
    assert torch.equal(plain["tokens"][:, 8:12], reverse["tokens"][:, 8:12].flip(1))


def test_a_stream_is_all_examples_in_one_text_cut_into_windows():
    settings = replace(SMALL, rows="stream", context=64)
    source = examples(settings, Examples(form="reverse", delimited=True, count=400), 0)
    assert isinstance(source, WindowSource)
    text = TOKENIZER.decode(source.tokens)
    assert len(text.splitlines()) == 400
    assert all(line[0] == line[-1] == "$" for line in text.splitlines())


class Says(nn.Module):
    """A model that says a fixed text after every prompt of one length, whatever it reads."""

    def __init__(self, text: str, prompt: int) -> None:
        super().__init__()
        self.ids, self.prompt = TOKENIZER.encode(text).astype(np.int64), prompt

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, TOKENIZER.vocab)
        for place in range(tokens.shape[1]):
            said = place - self.prompt + 1
            logits[:, place, self.ids[min(max(said, 0), len(self.ids) - 1)]] = 1
        return logits


@pytest.mark.parametrize(
    ("how", "text", "right"),
    [
        (Examples(form="plain"), "0495\n", 1.0),
        (Examples(form="reverse"), "5940\n", 1.0),
        (Examples(form="plain"), "5940\n", 0.0),
        (Examples(form="plain"), "495\n", 0.0),  # no padding
        (Examples(form="simplified"), "A->5 , C->1\nA->9 , C->0\nA->4 , C->0.\n495\nInp", 1.0),
        (Examples(form="simplified"), "A->5 , C->1\nA->9 , C->0\nA->4 , C->0\n495\nInpu", 0.0),  # working that never ends
    ],
)
def test_what_is_graded_is_the_text_that_the_model_generates(how, text, right):
    prompt, _ = written(SMALL, how, (128, 367))
    measure = Exact(SMALL, how, np.array([[128, 367]]))
    assert measure(Says(text, len(prompt)))["success"] == right


def test_reading_by_hand():
    assert read(SMALL, Examples(form="reverse"), "5940\n") == 495
    assert read(SMALL, Examples(form="reverse"), "59400\n", digits=4) == 495
    assert read(SMALL, Examples(form="detailed"), "<scratch>\n</scratch>\n4 9 5\nInput") == 495
    assert read(SMALL, Examples(form="plain", delimited=True), "0495$\n") == 495
    assert read(SMALL, Examples(form="plain", delimited=True), "0495\n") is None


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Settings(counts=(800, 400)), "rising"),
        (lambda: Settings(digits=2, counts=(9_000,)), "half of the pairs"),
        (lambda: Settings(rows="lines"), "row"),
        (lambda: Examples(form="reversed"), "plain, reverse"),
        (lambda: examples(SMALL, Examples(form="detailed", count=400), 0), "one detailed example"),
    ],
)
def test_what_cannot_be_taught_is_told(call, told):
    with pytest.raises(BadInput, match=told):
        call()


def test_the_study_spends_what_it_says_and_measures_what_it_claims():
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    smoke = STUDY.scales["smoke"].settings
    outcomes = {name: arm.run(Job(study=STUDY.slug, arm=name, scale="smoke", seed=0, settings=smoke)) for name, arm in STUDY.arms.items()}
    for outcome in outcomes.values():
        assert outcome.ledger["train"]["tokens"] == pytest.approx(smoke.tokens, rel=0.25)
        assert 0 <= outcome.metrics["success"] <= 1
    alike = [{k: v for k, v in outcomes[f"{form}, few"].ledger["train"].items() if k != "seconds"} for form in ("plain", "reverse")]
    assert alike[0] == alike[1]
    assert "failure on longer operands" in outcomes["reverse, many"].metrics
    assert "success on the digit left out" in outcomes["reverse without 5, many"].metrics


def test_the_paper_scale_has_a_source_for_every_setting_and_the_published_size():
    scale = STUDY.scales["paper"]
    assert set(scale.sources) == {f.name for f in fields(scale.settings)}
    with torch.device("meta"):
        model = STUDY.build_paper_model(scale.settings)
    ((count, _),) = STUDY.paper_parameters.values()
    assert count_parameters(model) == pytest.approx(count, rel=0.02)
