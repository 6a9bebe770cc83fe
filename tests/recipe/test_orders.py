"""Domains, difficulties and what is predicted, on files of a user's own: what works, and what is refused in one line."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

import etude
from etude.cli import main
from etude.data.samplers import Curriculum, FixedMixture
from etude.engine.metrics import read_metrics
from etude.errors import BadInput
from etude.papers.loading import load_methods, load_models
from etude.recipe.build import build
from etude.recipe.config import dump, load, parse
from etude.recipe.export import export_run
from etude.recipe.sampled import sampled
from etude.recipe.train import train_recipe

RECIPE = """
schema = 1
[model]
width = 8
depth = 1
heads = 2
[data]
rows = "mine.jsonl"
domain = "source"
difficulty = "level"
context = 40
batch = 4
held_out = 0.2
[budget]
steps = 2
[run]
folder = "out"
device = "cpu"
evaluate_every = 1.0
"""
WORDS = "the quick brown fox jumps over the lazy dog and the cat"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(RECIPE)
    write()
    Path("hard.py").write_text(
        "def words(text):\n    return len(text.split())\n"
        "def nan(text):\n    return float('nan') if '#3' in text else 1.0\n"
        "def fails(row):\n    return row['nothing']\n"
        "def other(shape):\n    return 1.0\n"
        "def none():\n    return 1.0\n"
    )
    return tmp_path


def row(i):
    return {"text": f"#{i} {WORDS[: 10 + i]}", "source": ("letters", "notes")[i % 2], "level": i // 2}


def write(change=None, kind=row, count=20):
    rows = [kind(i) for i in range(count)]
    if change is not None:
        rows[3] = {k: v for k, v in (rows[3] | change).items() if v is not None}
    Path("mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def train(*overrides, **settings):
    return train_recipe("r.toml", resolve=load_methods, models=load_models, overrides=overrides, quiet=True, **settings)


def built(*overrides):
    return build(load("r.toml", overrides), load_methods, load_models)


def texts_of(trainer, ids):
    rows = trainer.stream.source.get(np.asarray(ids))["tokens"].numpy()
    return ["".join(chr(c) for c in r) for r in rows]


def test_rows_are_packed_by_domain_and_difficulty(place):
    trainer = built()
    source = trainer.stream.source
    assert source.domain_names == ("letters", "notes")
    rows = [json.loads(line) for line in Path("mine.jsonl").read_text().splitlines()]
    for i, text in enumerate(texts_of(trainer, np.arange(len(source)))):
        inside = [r for r in rows if r["text"][:10] in text]
        assert inside
        assert {r["source"] for r in inside} == {source.domain_names[source.domains[i]]}
        assert min(r["level"] for r in inside) <= source.difficulty[i] <= max(r["level"] for r in inside)


@pytest.mark.parametrize("kind", ["completion", "preference"])
def test_other_rows_have_them_too(place, kind, qwen):
    more = {"completion": " dog"} if kind == "completion" else {"chosen": " dog", "rejected": " cat"}
    write(kind=lambda i: {"prompt": f"count {i}", **more, "source": "ab"[i % 2], "level": 20 - i})
    trainer = built(f"model.pretrained={qwen}", "sampler.kind=curriculum", "sampler.over=2", "sampler.update_every=4")
    source = trainer.stream.source
    assert source.difficulty.tolist() == [20 - i for i in range(20) if i % 5 != 4]
    assert source.domains.tolist() == [i % 2 for i in range(20) if i % 5 != 4]
    first = trainer.stream.next().ids
    assert source.difficulty[first].max() <= np.sort(source.difficulty)[3]
    assert len(trainer.stream.source.longest(3)) == 3


def test_a_curriculum_goes_from_easy_to_hard_and_says_so(place):
    train("sampler.kind=curriculum", "sampler.over=4", "sampler.update_every=4", "budget={steps=5}")
    lines = [line for line in read_metrics(Path("out")) if "curriculum/share" in line]
    shares = [line["curriculum/share"] for line in lines]
    assert shares == pytest.approx([(k * (1 - 1 / 16) / 4 + 1 / 16) ** 0.5 for k in range(5)])
    hardest = [line["curriculum/hardest"] for line in lines]
    assert hardest == sorted(hardest)
    assert hardest[0] < hardest[-1]
    assert json.loads(Path("out/data.json").read_text())["samples"] > 4


def test_a_scorer_is_named_in_the_run_and_charged(place):
    told = train("data.difficulty=./hard.py:words", "sampler.kind=curriculum", "sampler.update_every=4")
    assert told["ledger"]["prepare"]["calls"] == 20
    assert told["ledger"]["prepare"]["seconds"] > 0
    assert json.loads(Path("out/data.json").read_text())["difficulty"]["name"] == "./hard.py:words"
    Path("hard.py").write_text("def words(text):\n    return -len(text)\n")
    with pytest.raises(BadInput, match=r"data, difficulty\.sha256"):
        train("data.difficulty=./hard.py:words", "sampler.kind=curriculum", "sampler.update_every=4", resume=True)


def test_seconds_of_a_scorer_come_on_top_of_those_of_training(place):
    trainer = built("data.difficulty=./hard.py:words", "sampler.kind=curriculum", "sampler.update_every=4")
    assert trainer.prepared is not None
    trainer.prepared.charge("prepare", seconds=1000)
    assert trainer.run().ledger.of("seconds")["train"] > 0


def test_a_folder_of_texts_has_a_domain_a_folder(place):
    for name in ("sea", "land"):
        for i in range(3):
            path = Path("texts", name, f"{i}.txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {i} " * 60)
    changes = ("data.text=texts", "data.documents=packed", "sampler.kind=curriculum", "sampler.update_every=4")
    trainer = built(*changes, "data.difficulty=length", "evaluate.measures=['loss', 'domains']")
    source = trainer.stream.source
    assert source.domain_names == ("land", "sea")
    for i, text in enumerate(texts_of(trainer, np.arange(len(source)))):
        assert source.domain_names[source.domains[i]] in text
    done = train(*changes, "data.difficulty=./hard.py:words", "sampler.kind=online", "evaluate.measures=['loss', 'domains']")
    assert set(done["metrics"]) == {"held-out/loss", "domains/land", "domains/sea"}
    assert done["ledger"]["prepare"]["calls"] == json.loads(Path("out/data.json").read_text())["samples"]
    (Path("texts") / "sky").mkdir()
    with pytest.raises(BadInput, match=r"data\.text: found texts/sky, a folder without texts"):
        built(*changes)
    Path("texts/sky/a.md").write_text("sky " * 40)
    Path("texts/loose.txt").write_text("x")
    with pytest.raises(BadInput, match=r"loose\.txt beside the folder land"):
        built(*changes)
    one = built("data.text=texts/land", "data.documents=packed", "data.difficulty=length")
    assert not hasattr(one.stream.source, "domains")
    assert one.stream.source.difficulty.max() == 420


def test_a_mixture_of_objectives_is_measured_generated_from_and_exported(place):
    Path("r.toml").write_text(
        RECIPE.replace('difficulty = "level"\n', "")
        + '[objectives.causal]\n[objectives.holes]\nkind = "spans"\n[objectives.middle]\nkind = "infilling"\norder = "spm"\n'
        + '[sampler]\nkind = "mixture"\nupdate_every = 4\n[sampler.weights]\n"letters/causal" = 1\n"notes/middle" = 3\n'
        + '[evaluate]\nmeasures = ["loss", "domains"]\n'
    )
    done = train()
    names = ("causal", "holes", "middle")
    assert set(done["metrics"]) == {f"held-out/{n}" for n in names} | {f"domains/{d}/{n}" for d in ("letters", "notes") for n in names}
    first = read_metrics(Path("out"))[1]
    assert first["share/letters/causal"] == 0.25
    assert first["share/notes/holes"] == 0
    rows = sampled(
        "out", ["the <middle:prefix><middle:suffix> dog<middle:middle>"], resolve=load_methods, models=load_models, max_tokens=30
    )
    assert rows[0]["tokens"] == 30
    exported = export_run("out", place / "hf", resolve=load_methods, models=load_models)
    assert exported["tokenizer"]
    recipe = load("r.toml")
    assert parse(tomllib.loads(dump(recipe))) == recipe


@pytest.mark.parametrize("kind", ["prefix", "unlikelihood", "causal"])
def test_completions_are_learnt_by_more_than_one_objective(place, qwen, kind):
    write(kind=lambda i: {"prompt": f"count {i}", "completion": " the fox", "source": "ab"[i % 2], "level": i})
    assert np.isfinite(train(f"model.pretrained={qwen}", f"objective.kind={kind}")["metrics"]["held-out/loss"])


@pytest.mark.parametrize("kind", ["prefix", "masked", "infilling", "spans"])
def test_a_pretrained_model_uses_tokens_of_its_own(place, qwen, kind):
    marks = {"masked": ["<|im_start|>"], "infilling": ["A", "B", "C", "D"], "spans": ["A", "B", "C", "D", "E"]}.get(kind)
    more = [f"objective.marks={json.dumps(marks)}"] if marks else []
    assert np.isfinite(train(f"model.pretrained={qwen}", f"objective.kind={kind}", *more)["metrics"]["held-out/loss"])


def test_prompts_that_are_answered_have_domains_and_difficulties(place):
    write(kind=lambda i: {"prompt": f"say {i}", "answer": str(i), "source": "ab"[i % 2], "level": 20 - i})
    Path("score.py").write_text("def score(response, answer):\n    return float(answer in response)\n")
    told = (
        "objective.kind=rloo",
        "objective.verifier=./score.py:score",
        "rollouts.prompts=4",
        "rollouts.samples=2",
        "rollouts.max_tokens=4",
    )
    trainer = built(*told, "sampler.kind=curriculum", "sampler.update_every=4", "sampler.over=2")
    pool = trainer.stream.collector.pool
    assert pool.domain_names == ("a", "b")
    assert [pool[i].data["level"] for i in range(len(pool))] == pool.difficulty.tolist()
    trainer.run()
    asked = {json.loads(line)["prompt"] for line in Path("out/rollouts.jsonl").read_text().splitlines()}
    assert asked <= {f"say {i}" for i in range(8, 20)}
    for signal, weigh in (("reward", "loss"), ("advantage", "loss"), ("loss", "softmax")):
        online = train(*told, f"sampler={{kind='online',signal='{signal}',weigh='{weigh}',update_every=4}}", f"run.folder={signal}")
        assert online["steps"] == 2
        assert {"share/a", "share/b"} <= {k for line in read_metrics(Path(signal)) for k in line}
    with pytest.raises(BadInput, match=r"sampler\.weigh: found 'loss' for prompts that are answered, expected weigh = 'softmax'"):
        train(*told, "sampler={kind='online',update_every=4}", "run.folder=c")
    with pytest.raises(BadInput, match=r"sampler\.by: found 'loss' for prompts that are answered"):
        train(*told, "sampler={kind='curriculum',by='loss',update_every=4}", "run.folder=c")
    bandit = train(*told, "methods.0.use=dump", "run.folder=b")
    assert bandit["steps"] == 2
    assert {"share/a", "share/b"} <= {k for line in read_metrics(Path("b")) for k in line}


def test_from_python(place, qwen):
    write(kind=lambda i: {"prompt": f"count {i}", "completion": " the fox"})
    from etude.generate.pretrained import pretrained

    model = pretrained(qwen)
    source = etude.rows("mine.jsonl", tokenizer=model, context=40)
    sampler = Curriculum(np.arange(len(source)), update_every=8, over=2)
    budget = etude.Budget(steps=2)
    assert etude.train(model, source, sampler=sampler, budget=budget, batch_size=4, device="cpu", quiet=True).steps == 2
    assert sampler.history[0][0] == 0.25
    with pytest.raises(BadInput, match=r"etude\.train, sampler: found it beside CyclicalCurriculum"):
        etude.train(model, source, sampler=sampler, methods=[etude.method("cyclical-curriculum")()], quiet=True)
    mixed = FixedMixture({"a": 1}, 8)
    with pytest.raises(BadInput, match="samples without domains"):
        etude.train(model, source, sampler=mixed, budget=budget, batch_size=4, device="cpu", quiet=True)


CURRICULUM = ["sampler.kind=curriculum", "sampler.update_every=4"]


@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        ({"level": None}, [], "mine.jsonl, line 4, field 'level': found nothing, expected it in every row: data.difficulty names it"),
        ({"level": "hard"}, [], "mine.jsonl, line 4, field 'level': found \"hard\", expected a finite number"),
        ({"source": None}, [], "mine.jsonl, line 4, field 'source': found nothing, expected it in every row: data.domain names it"),
        ({"source": 0.5}, [], "mine.jsonl, line 4, field 'source': found 0.5, expected a domain's name"),
        ({}, ["data.domain=sorce"], "data.domain: found 'sorce', which mine.jsonl, line 1 does not have, expected one of"),
        ({}, ["data.domain=sorce"], "did you mean 'source'?"),
        ({"source": "rare"}, ["data.held_out=0.25"], "data.domain: found nothing to train on in the domain 'rare' of mine.jsonl"),
        ({}, ["data.difficulty=./hard.py:nan", *CURRICULUM], "./hard.py:nan of mine.jsonl, line 4: found nan, expected a finite number"),
        ({}, ["data.difficulty=./hard.py:fails"], "./hard.py:fails of mine.jsonl, line 1: found KeyError: 'nothing'"),
        ({}, ["data.difficulty=./hard.py:other"], "mine.jsonl, line 1, field 'shape': found nothing, expected it: ./hard.py:other"),
        ({}, ["data.difficulty=./hard.py:none"], "data.difficulty: found './hard.py:none', which takes no field"),
        ({}, ["data.difficulty=./soft.py:words"], "data.difficulty: found ./soft.py, which is not there"),
        ({}, ["data.difficulty=./hard.py:word"], "did you mean 'words'"),
        ({}, ["sampler={kind='mixture',weights={letters=-1}}"], "sampler.weights.letters: found -1, expected greater than or equal to 0"),
        ({}, ["sampler={kind='mixture',weights={letters=0}}"], "sampler.weights: found only zeros"),
        ({}, ["sampler={kind='mixture',weights={leters=1}}"], "sampler.weights.leters: found 'leters'"),
        ({}, ["sampler={kind='weighted',weights={letters=1},share=1.0}"], "above zero, expected at least the"),
        ({}, ["sampler={kind='weighted',weights={letters=1},share=1.5}"], "sampler.share: found 1.5"),
        ({}, ["sampler={kind='online',signal='reward'}"], "sampler.signal: found 'reward' where nothing is answered, expected loss"),
        ({}, ["sampler={kind='curriculum',start=0}"], "sampler.start: found 0"),
        ({}, ["sampler={kind='curriculum',update_every=6}"], "sampler.update_every: found 6, expected a multiple of data.batch (4)"),
        ({}, ["objective={kind='spans',mean_span=50}"], "objective.mean_span: found spans of 50 tokens where 6.15 of 41 are taken out"),
        ({}, ["objective={kind='spans',ratio=1}"], "objective.ratio: found 1, expected less than 1"),
        ({}, ["objective={kind='masked',order='psm'}"], "objective.order: found it for the kind 'masked', expected it for infilling"),
        ({}, ["objective.alpha=1"], "objective.alpha: found it alone, expected it for unlikelihood"),
        ({}, ["objectives={a={kind='spam'}}"], "objectives.a.kind: found 'spam', expected 'causal', 'prefix'"),
        ({}, ["objective={kind='masked',marks=['A']}"], "objective.marks: found it for a tokenizer without names for tokens"),
        ({}, ["objective.kind=prefix", "model={kind='gru',width=8}"], "objective.kind: found 'prefix' for a RecurrentLM, expected a model"),
        ({}, ["data={corpus='sample',context=16,batch=4}", "sampler.kind=curriculum"], "sampler.by: found 'difficulty' for data without"),
        ({}, ["data={corpus='sample',context=16,batch=4,difficulty='length'}"], "data.difficulty: found 'length' of windows"),
        ({}, ["data={corpus='sample',context=16,batch=4}", "methods=[{use='cyclical-curriculum',scores='data.easiness'}]"],
         "methods.0.scores: found 'data.easiness' of data without a difficulty"),
        ({}, ["data={images='digits'}", "model={kind='mlp'}", "objective.kind=masked"], "objective.kind: found it for images"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_ends_with_2(place, capsys, change, overrides, message):
    write(change)
    assert main(["train", "r.toml", *overrides]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert message in said[0]
    assert not Path("out/metrics.jsonl").exists() or not Path("out/metrics.jsonl").read_text()


def test_bad_objectives_of_a_pretrained_model(place, qwen, capsys):
    for overrides, message in (
        (["objective.kind=masked"], "objective.marks: found nothing, for 'masked' on a pretrained model"),
        (["objective={kind='masked',marks=['nowhere']}"], "objective.marks: found 'nowhere', expected tokens of the model's own tokenizer"),
        (["objective={kind='infilling',marks=['A']}"], "objective.marks: found 1 tokens, expected 4: prefix, suffix, middle, end"),
    ):
        assert main(["train", "r.toml", f"model.pretrained={qwen}", *overrides]) == 2
        assert message in capsys.readouterr().err
    write(kind=lambda i: {"prompt": f"count {i}", "completion": " the fox", "source": "a", "level": 1})
    with pytest.raises(BadInput, match=r"objective\.kind: found 'spans' for rows of the kind 'completion'"):
        train(f"model.pretrained={qwen}", "objective.kind=spans")
    write(kind=lambda i: {"prompt": f"count {i}", "chosen": " fox", "rejected": " cat", "source": "a", "level": 1})
    with pytest.raises(BadInput, match=r"objective\.kind: found 'prefix' for rows with chosen and rejected"):
        train(f"model.pretrained={qwen}", "objective.kind=prefix")
