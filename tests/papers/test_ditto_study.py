"""DITTO's study: what is measured, by hand; the base that copies; arms that spend and measure what they say."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from etude.data.sources import WindowSource
from etude.data.tokenizers import Bytes, Characters
from etude.engine.streams import initialise
from etude.evidence.claims import check
from etude.evidence.study import Job
from etude.nn.transformer import Transformer, TransformerConfig, count_parameters
from etude.papers.objective.ditto import STUDY, SelfReinforcement, end_ids, repetitions
from etude.papers.objective.ditto.echoes import Echoes
from etude.papers.objective.ditto.probe import split_sentences

DOT = 9


def small():
    return initialise(Transformer(TransformerConfig(vocab=64, width=16, depth=2, heads=2, context=40, shifted=True)), 0)


# --- what is measured -------------------------------------------------------------------------------------------------
def test_ends_are_tokens_whose_text_closes_a_sentence():
    assert end_ids(Bytes(), ".?!") == (33, 46, 63)
    words = Characters("ab. '", words=(".'", "b. ", ".a"))
    assert {words.decode([i]) for i in end_ids(words, ".")} == {".", ".'", "b. "}


def test_repetitions_by_hand():
    assert split_sentences(np.array([1, DOT, 2, 3, DOT, 4, DOT, 5]), [DOT]) == [(2, 3, DOT), (4, DOT)]
    loop, human = np.array([DOT, 1, 2, DOT, 1, 2, DOT, 1, 2, DOT]), np.arange(10, 20)
    told = repetitions([loop, human], [DOT])
    assert told["repetition"] == pytest.approx((1 - 3 / 7) / 2)
    assert told["sentence repetition"] == pytest.approx((1 - 1 / 3) / 2)
    assert told["distinct"] == pytest.approx((3 + 9) / 18)


def test_self_reinforcement_by_hand(monkeypatch):
    pairs = [(np.array([1, 2]), np.array([3, 4])), (np.array([1, 2]), np.array([60, 61])), (np.array([1]), np.array([5, 6]))]
    probe = SelfReinforcement(pairs, 2)
    fixed = np.array([[0.2, 0.6], [0.1, 0.05], [0.4, 0.7]])
    monkeypatch.setattr(probe, "probabilities", lambda model: fixed)
    told = probe(nn.Identity())
    assert told["probability, copy 1"] == pytest.approx(0.7 / 3)
    assert told["risen, last copy"] == pytest.approx(2 / 3)
    assert told["growth, likely"] == pytest.approx((0.4 + 0.3) / 2)
    assert told["growth, unlikely"] == pytest.approx(-0.05)
    assert told["growth, difference"] == pytest.approx(0.4)


def test_probabilities_are_the_models_own_copy_by_copy():
    model, pairs = small(), [(np.array([1, 46]), np.array([3, 4, 46])), (np.array([7, 8, 46]), np.array([5, 46]))]
    found = SelfReinforcement(pairs, 3).probabilities(model)
    for (before, sentence), row in zip(pairs, found, strict=True):
        tokens = torch.from_numpy(np.concatenate([before, np.tile(sentence, 3)]))[None]
        p = model.head(model(tokens[:, :-1])["hidden"]).softmax(-1).detach().gather(2, tokens[:, 1:, None])[0, len(before) - 1 :, 0]
        assert row.tolist() == pytest.approx(p.view(3, -1).mean(1).tolist(), rel=1e-4)


# --- the base ---------------------------------------------------------------------------------------------------------
def test_echoes_are_a_share_of_the_rows_and_say_a_stretch_again():
    source = WindowSource(np.random.default_rng(0).integers(0, 64, 40_000).astype(np.uint16), 159)
    ids = np.arange(len(source))
    rows, plain = Echoes(source, 0.2, 5).get(ids)["tokens"], source.get(ids)["tokens"]
    echoes = (rows != plain).any(1)
    assert 0.1 < float(echoes.float().mean()) < 0.3
    periods = [next(p for p in range(1, 160) if torch.equal(row[p:], row[:-p])) for row in rows[echoes]]
    assert 8 <= min(periods) < max(periods) < 60
    assert torch.equal(Echoes(source, 0.2, 5).get(ids[::-1])["tokens"], rows.flip(0))
    assert not torch.equal(Echoes(source, 0.2, 6).get(ids)["tokens"], rows)


# --- the study --------------------------------------------------------------------------------------------------------
def test_the_study_spends_what_it_says_and_measures_what_it_claims(tmp_path, monkeypatch):
    monkeypatch.setenv("ETUDE_CACHE", str(tmp_path))
    check(STUDY.claims, {name: arm.reference for name, arm in STUDY.arms.items()})
    smoke = STUDY.scales["smoke"].settings
    outcomes = {name: arm.run(Job(study=STUDY.slug, arm=name, scale="smoke", seed=0, settings=smoke)) for name, arm in STUDY.arms.items()}
    for name, outcome in outcomes.items():
        assert "base:language model" in outcome.ledger
        if name != "base":
            assert outcome.ledger["train"]["tokens"] == smoke.tokens
        assert set(STUDY.failure) <= set(outcome.metrics)
        assert outcome.metrics["repetition, human text"] == outcomes["base"].metrics["repetition, human text"] < 0.5
    assert outcomes["mle"].ledger["train"]["flops"] == outcomes["ditto"].ledger["train"]["flops"]
    assert 0 <= outcomes["ditto"].metrics["rows without a sentence"] <= 1


def test_the_paper_scale_has_a_source_for_every_setting_and_the_size_of_the_authors_network():
    scale = STUDY.scales["paper"]
    assert set(scale.sources) == {f.name for f in fields(scale.settings)}
    with torch.device("meta"):
        model = STUDY.build_paper_model(scale.settings)
    theirs = 2 * 267_744 * 1024 + 16 * (4 * 1024**2 + 2 * 1024 * 4096)  # embedding and output apart; attention, two matrices
    assert count_parameters(model) == pytest.approx(theirs, rel=0.01)
    assert replace(scale.settings, coin="update").rate == 0.5
