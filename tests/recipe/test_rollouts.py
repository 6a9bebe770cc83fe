"""On-policy objectives from a recipe: prompts of rows and of tasks, verifiers by import path, resumed to equal bits."""

import json
import re
import shutil
import signal
import sys
import tomllib

import pytest
import torch

from etude.cli import main
from etude.data.tasks.judging import VerifierFailed
from etude.engine import checkpoint
from etude.engine.metrics import read_metrics
from etude.errors import BadInput
from etude.papers.loading import load_methods, load_models
from etude.recipe.build import build
from etude.recipe.config import dump, load, parse
from etude.recipe.export import export_run
from etude.recipe.finished import finished
from etude.recipe.train import train_recipe
from etude.recipe.verifiers import verifier_of

RECIPE = """
schema = 1
[model]
pretrained = "qwen"
[data]
rows = "p.jsonl"
context = 64
batch = 8
held_out = 0.2
[objective]
kind = "grpo"
verifier = "./score.py:score"
[rollouts]
prompts = 4
samples = 4
max_tokens = 8
[evaluate.verifier]
limit = 2
[optimizer]
lr = 3e-3
weight_decay = 0.0
[schedule]
kind = "constant"
warmup = 0.0
[budget]
steps = 4
[run]
folder = "out"
device = "cpu"
checkpoint_every = 0.25
evaluate_every = 0.5
keep_checkpoints = 9
"""
SCORE = """
def score(response, answer):
    return response.count(answer) / max(1, len(response))
def whole(response, row):
    return float(row["answer"] in response) + 0.01 * len(row["prompt"])
def trl(completions, answer, prompts=None, **rest):
    assert isinstance(completions[0], list) and completions[0][0]["role"] == "assistant" and prompts[0][0]["role"] == "user"
    return [float(a in c[0]["content"]) for a, c in zip(answer, completions)]
def fails(response, answer, number):
    if number == 3:
        raise ValueError("no three")
    return "text" if number == 4 else 1
def length(response):
    return min(1.0, len(response) / 30)
def of_task(response, answer, difficulty, result):
    return float(str(result) in response)
async def later(response):
    return 1.0
def ids(completions, completion_ids):
    return [1.0]
def hangs(response):
    while True:
        pass
def hangs_late(response, number):
    while number % 5:
        pass
    return 1.0
word = "score"
"""
TASK = (
    RECIPE.replace('rows = "p.jsonl"', 'task = "addition"').replace('verifier = "./score.py:score"\n', "").replace("held_out = 0.2\n", "")
)
OWN = TASK.replace('pretrained = "qwen"', 'kind = "gru"\nwidth = 16')


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, qwen):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen").symlink_to(qwen)
    (tmp_path / "r.toml").write_text(RECIPE)
    (tmp_path / "score.py").write_text(SCORE)
    rows(lambda i: {"prompt": [{"role": "user", "content": f"say {i}"}], "answer": "a", "number": i})
    return tmp_path


def rows(make, count=10, name="p.jsonl"):
    with open(name, "w") as out:
        for i in range(count):
            out.write(json.dumps(make(i)) + "\n")


def train(*overrides, **settings):
    return train_recipe("r.toml", resolve=load_methods, models=load_models, overrides=overrides, quiet=True, **settings)


@pytest.mark.parametrize(
    ("kind", "more"), [("grpo", ["rollouts.epochs=2"]), ("dr-grpo", []), ("dapo", ["rollouts.overlong=3"]), ("reinforce", []), ("rloo", [])]
)
def test_a_kind_is_trained_charged_killed_and_resumed(place, kind, more):
    more = [f"objective.kind={kind}", *more]
    whole = train("run.folder=whole", *more)
    shutil.copytree("whole", "broken")
    for path in sorted((place / "broken" / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(path)  # the first is in the middle of a round
    again = train("run.folder=broken", *more, resume=True)
    assert again["resumed_from"] == "step-000000001"
    for name in ("metrics.jsonl", "order.bin", "rollouts.jsonl"):
        assert (place / "whole" / name).read_bytes() == (place / "broken" / name).read_bytes()
    states = [checkpoint.load(checkpoint.latest(place / run / "checkpoints")[0])["model"] for run in ("whole", "broken")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert set(whole["metrics"]) == {f"verifier/{n}" for n in ("reward", "solved", "finished", "response_tokens")}
    spent = whole["ledger"]
    made = [json.loads(line) for line in (place / "whole" / "rollouts.jsonl").read_text().splitlines()]
    assert spent["generate"]["samples"] == spent["judge"]["evaluations"] == len(made)
    assert spent["generate"]["generated_tokens"] == sum(len(line["ids"]) for line in made)
    assert min(spent["generate"]["flops"], spent["train"]["flops"]) > 0
    assert 0 < whole["generate_share"] < 1
    steps = [line for line in read_metrics(place / "whole") if "loss" in line]
    assert {"reward", "response_tokens", "ratio", "entropy"} <= set(steps[0])
    assert ("kl" in steps[0]) == (kind == "grpo")
    recipe = load("r.toml", more)
    assert parse(tomllib.loads(dump(recipe))) == recipe


def test_what_is_paid_becomes_more_frequent(place):
    train("budget.steps=30", "rollouts.samples=8", "data.batch=32")
    rewards = [line["reward"] for line in read_metrics(place / "out") if "reward" in line]
    assert sum(rewards[-5:]) > 2 * sum(rewards[:5])
    assert finished("out", load_methods, device="cpu").stop_tokens == (2,)


def test_prompts_are_rendered_and_rows_are_handed_on(place):
    train("objective.verifier=./score.py:whole", "budget.steps=1")
    first = json.loads((place / "out" / "rollouts.jsonl").read_text().splitlines()[0])
    number = int(first["problem"].rpartition(" ")[2]) - 1
    assert first["prompt"] == f"<|im_start|>user\nsay {number}<|im_end|>\n<|im_start|>assistant\n"
    assert first["reward"] == pytest.approx(0.01 + float("a" in first["completion"]))  # one message
    assert train("objective.verifier=./score.py:trl", "budget.steps=1", "run.folder=trl")["steps"] == 1
    rows(lambda i: {"prompt": f"say {i}", "answer": "a"})
    train("budget.steps=1", "run.folder=plain")
    assert json.loads((place / "plain" / "rollouts.jsonl").read_text().splitlines()[0])["prompt"].startswith("say ")


def test_a_module_of_the_working_folder(place, monkeypatch):
    monkeypatch.delitem(sys.modules, "score", raising=False)
    found = verifier_of("score:length", "objective.verifier")
    assert found("x" * 15, {}) == 0.5
    assert str(place) not in sys.path
    monkeypatch.delitem(sys.modules, "score")


def test_a_verifier_that_fails_is_named_with_its_row(place, capsys):
    (place / "r.toml").write_text(RECIPE.replace("[evaluate.verifier]\nlimit = 2\n", ""))  # every row is trained on
    with pytest.raises(
        VerifierFailed,
        match=r"verifier of problem p\.jsonl, line \d+, sample \d+: found (ValueError: no three|TypeError: returned 'text', a str)",
    ):
        train("objective.verifier=./score.py:fails", "data.held_out=0")
    assert main(["train", "r.toml", "objective.verifier=./score.py:fails", "data.held_out=0", "run.folder=cli"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: verifier of problem p.jsonl, line ")
    failed = json.loads((place / "out" / "rollouts.jsonl").read_text().splitlines()[-1])
    assert failed["completion"]
    train("objective.verifier=./score.py:fails", "objective.failures=zero", "data.held_out=0", "rollouts.prompts=10", "run.folder=zero")
    told = [json.loads(line) for line in (place / "zero" / "rollouts.jsonl").read_text().splitlines()]
    assert {line["problem"] for line in told if "error" in line} == {"p.jsonl, line 4", "p.jsonl, line 5"}
    assert {line["reward"] for line in told if "error" in line} == {0.0}
    assert next(line for line in read_metrics(place / "zero") if "reward" in line)["verifier_failures"] == 8


def test_a_verifier_that_takes_too_long_has_failed(place):
    limit = "objective.verifier_seconds=0.05"
    with pytest.raises(VerifierFailed, match="TimeoutError: took longer than 0.05 seconds on the response"):
        train("objective.verifier=./score.py:hangs", limit)
    # Before the first update it is a held-out prompt's answer that it has failed on.
    [failed] = [json.loads(line) for line in (place / "out" / "failed.jsonl").read_text().splitlines()]
    assert failed["where"].startswith("verifier of problem p.jsonl, line ")
    assert failed["completion"]
    settings = ["objective.failures=zero", "budget.steps=1", "data.held_out=0", "rollouts.samples=2", "rollouts.prompts=10"]
    (place / "r.toml").write_text(RECIPE.replace("[evaluate.verifier]\nlimit = 2\n", ""))
    train("objective.verifier=./score.py:hangs_late", limit, "run.folder=zero", *settings)
    told = [json.loads(line) for line in (place / "zero" / "rollouts.jsonl").read_text().splitlines()]
    assert sorted(line["problem"] for line in told if "error" not in line) == ["p.jsonl, line 1"] * 2 + ["p.jsonl, line 6"] * 2
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_task_on_a_pretrained_model_and_on_one_of_bytes(place):
    (place / "r.toml").write_text(TASK)
    trainer = build(load("r.toml", ["data.difficulties=[1, 2]", "data.chat=true"]), load_methods, load_models)
    pool = trainer.stream.collector.pool
    assert pool.domain_names == ("addition/1", "addition/2")
    assert pool[0].prompt.startswith("<|im_start|>user\n")
    facts = json.loads(trainer.beside["data.json"])
    assert facts["task"]["problems"]["2"] > facts["task"]["problems"]["1"]  # most sums of two digits are held out, too
    assert facts["held_out_samples"] == 64
    train("objective.verifier=./score.py:of_task", "data.problems=64", "budget.steps=1", "data.held_out_problems=2")
    assert export_run("out", place / "hf", resolve=load_methods)["tokenizer"]
    assert "| problems of the task addition | made from the run's seed | " in (place / "hf" / "README.md").read_text()
    (place / "r.toml").write_text(OWN)
    result = train("data.problems=64", "data.held_out_problems=2", 'rollouts.stop=["\\n"]', "run.folder=own")
    assert result["ledger"]["generate"]["generated_tokens"] > 0
    assert finished("own", load_methods, device="cpu").tokenizer.name == "byte"
    (place / "r.toml").write_text(TASK.replace('"addition"', '"reasoning-gym/chain_sum"'))
    assert train("data.problems=8", "data.held_out_problems=2", "data.context=128", "budget.steps=1", "run.folder=gym")["steps"] == 1


def test_lora_and_less_memory(place):
    """The frozen reference of the KL shares what LoRA has frozen; a batch in pieces is the same batch."""
    settings = ["lora.r=4", "objective.kl=0.1", "run.activation_checkpointing=true", "run.accumulate=2"]
    whole = train("run.folder=whole", *settings)
    train("run.folder=pieces", "run.micro_batch=3", *settings)
    losses = [[line["loss"] for line in read_metrics(place / folder) if "loss" in line] for folder in ("whole", "pieces")]
    assert losses[0][:2] == pytest.approx(losses[1][:2], abs=1e-5)  # of the first round: later ones are sampled anew
    shutil.copytree("whole", "broken")
    for path in sorted((place / "broken" / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(path)
    assert train("run.folder=broken", *settings, resume=True)["metrics"] == whole["metrics"]
    states = [checkpoint.load(checkpoint.latest(place / f / "checkpoints")[0])["model"] for f in ("whole", "broken")]
    assert {name.split(".")[-2] for name in states[0]} == {"lora_A", "lora_B"}
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    with pytest.raises(BadInput, match=r"run\.micro_batch: found 'auto' for a RolloutStream, whose batches are not known beforehand"):
        train("run.folder=auto", "run.micro_batch=auto", *settings)


def test_samplers_and_methods(place):
    (place / "r.toml").write_text(TASK + '[sampler]\nkind = "mixture"\nweights = { "addition/1" = 1.0 }\nupdate_every = 8\n')
    train("data.difficulties=[1, 2]", "data.problems=64", "budget.steps=2", "data.held_out_problems=2")
    told = [json.loads(line) for line in (place / "out" / "rollouts.jsonl").read_text().splitlines()]
    assert {line["difficulty"] for line in told} == {1}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.verifier=score"], r"objective\.verifier: found 'score', expected 'my_module:score' or"),
        (["objective.verifier=./none.py:score"], r"objective\.verifier: found \./none\.py, which is not there"),
        (["objective.verifier=no_such_module:score"], "found module 'no_such_module', which is neither installed nor here"),
        (["objective.verifier=./score.py:scor"], "objective.verifier: found 'scor', expected a known name; did you mean 'score'"),
        (["objective.verifier=./score.py:word"], "found './score.py:word', a str, expected a function"),
        (["objective.verifier=./score.py:later"], "which is asynchronous"),
        (["objective.verifier=./score.py:ids"], "which asks for completion_ids"),
        (
            ["objective.verifier=./score.py:of_task"],
            r"p\.jsonl, line 1, field 'difficulty': found nothing, expected it: \./score\.py:of_task asks",
        ),
        (["objective.verifier=./broken.py:score"], r"found an error on import \(ZeroDivisionError: division by zero, .*broken\.py:1\)"),
        (["objective.kind=reinforce", "objective.clip_low=0.1"], "objective.clip_low: found it for the kind 'reinforce'"),
        (["objective.beta=0.1"], "objective.beta: found it for the kind 'grpo'"),
        (["objective.kind=dpo"], r"p\.jsonl, line 1, field 'completion': found nothing, expected it beside prompt"),
        (["rollouts.overlong=3"], r"rollouts\.overlong: found it for the kind 'grpo'"),
        (["rollouts.samples=1"], r"command line, rollouts\.samples: found groups of 1"),
        (["objective.verifier_seconds=0"], "objective.verifier_seconds: found 0"),
        (
            ["evaluate.verifier.task=addition", "evaluate.verifier.seconds=1"],
            "evaluate.verifier.seconds: found it for a task's own verifier",
        ),
        (["rollouts.sample=1"], "did you mean 'samples'"),
        (["rollouts.max_tokens=64"], r"p\.jsonl, line 1: prompt: found \d+ tokens, expected at most 1: data\.context = 64 holds"),
        (["rollouts.max_tokens=65"], r"data\.context: found 64, expected more than rollouts\.max_tokens, 65"),
        (["data.too_long=cut"], "data.too_long: found 'cut' for prompts"),
        (["data.rows=bad.jsonl"], r"bad\.jsonl, line 2, field 'prompt': found nothing"),
        (["data.rows=answered.jsonl"], r"answered\.jsonl, line 1, field 'prompt': found messages that end with the assistant's"),
        (["data.task=countdwn"], "data.task: found 'countdwn', expected a known name; did you mean 'countdown'"),
        (["data.task=addition", "data.settings={largest=3}"], r"data\.settings"),
        (["data.task=addition", "data.difficulties=[99]"], r"data\.difficulties: found 99, expected of addition: 1, 2"),
        (["data.task=addition", "objective.kind=dpo"], "objective.kind: found 'dpo' for a task"),
        (["evaluate.verifier.rows=p.jsonl", "evaluate.verifier.task=addition"], "evaluate.verifier: found both rows and task"),
        (["evaluate.verifier.problem=3"], "did you mean 'problems'"),
        (["evaluate.measures=['verifer']"], "did you mean 'verifier'"),
    ],
)
def test_bad_input(place, overrides, message):
    (place / "broken.py").write_text("1 / 0\n")
    rows(lambda i: {"prompt": "x", "answer": "a"} if not i else {"answer": "a"}, 3, "bad.jsonl")
    rows(lambda i: {"prompt": [{"role": "assistant", "content": "x"}], "answer": "a"}, 3, "answered.jsonl")
    with pytest.raises(BadInput, match=message):
        train(*overrides)


def test_another_verifier_is_refused_on_resume(place):
    train("budget.steps=2")
    (place / "score.py").write_text(SCORE + "\n# changed\n")
    sys.modules.pop(next(name for name in sys.modules if name.startswith("etude_verifier_score")))
    with pytest.raises(BadInput, match=r"data, verifier\.sha256"):
        train("budget.steps=2", resume=True)


def test_init_writes_a_recipe_that_trains(place, capsys):
    assert main(["init", "--model", "qwen", "--data", "p.jsonl", "--verifier", "./score.py:score", "--out", "a.toml"]) == 0
    shown = capsys.readouterr().out
    assert "--- p.jsonl, line 1\n<|im_start|>user\nsay 0<|im_end|>\n<|im_start|>assistant\n[[...]]\n" in shown
    small = ["rollouts.max_tokens=4", "budget.steps=1", "run.accumulate=1", "run.device=cpu"]
    assert main(["train", "a.toml", *small]) == 0, capsys.readouterr().err
    assert main(["init", "--model", "qwen", "--task", "addition", "--out", "b.toml"]) == 0
    assert load("b.toml").data.chat is True
    assert main(["train", "b.toml", "data.problems=64", "data.held_out_problems=2", *small]) == 0, capsys.readouterr().err
    assert "% of the time generating, in runs/addition" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--data", "alone.jsonl"],
            "--verifier: found none, expected './my_verifier.py:score' or 'my_module:score': rows with nothing but prompts",
        ),
        (["--data", "half.jsonl"], "half.jsonl, line 1, field 'rejected': found nothing, expected it beside chosen"),
        (["--data", "a.txt"], r"a\.txt: found 1\d tokens, expected some 60 or more"),
        ([], "etude init: found neither --data nor --task"),
        (["--data", "p.jsonl", "--task", "addition"], "etude init: found both --data and --task"),
        (["--task", "additoin"], "--task: found 'additoin', expected a known name; did you mean 'addition'"),
        (["--data", "p.jsonl", "--verifier", "./score.py:fail"], "--verifier: found 'fail', expected a known name; did you mean 'fails'"),
    ],
)
def test_init_refuses(place, capsys, arguments, message):
    rows(lambda i: {"prompt": f"say {i}"}, name="alone.jsonl")
    rows(lambda i: {"prompt": f"say {i}", "chosen": "a"}, name="half.jsonl")
    (place / "a.txt").write_text("a b c d e f g\n")
    assert main(["init", "--model", "qwen", "--out", "c.toml", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
