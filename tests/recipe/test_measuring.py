"""What a recipe measures by letting the model answer: a verifier's accuracy, the harness's tasks."""

import json
import math
import sys

import pytest

from etude.errors import BadInput
from etude.papers.loading import load_methods, load_models
from etude.recipe.train import train_recipe

RECIPE = """
schema = 1
[model]
pretrained = "qwen"
[data]
rows = "r.jsonl"
context = 60
batch = 4
held_out = 0.25
[optimizer]
lr = 1e-2
weight_decay = 0.0
[schedule]
kind = "constant"
[budget]
steps = 80
[run]
folder = "out"
device = "cpu"
evaluate_every = 1.0
"""
VERIFIER = """
def same(response, completion):
    return response.strip() == completion.strip()
def told(response, messages):
    return response == messages[-1]["content"]
def number(response, row):
    return 1.0 if "answer" in row else 0.25
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, qwen):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen").symlink_to(qwen)
    (tmp_path / "r.toml").write_text(RECIPE)
    (tmp_path / "verifier.py").write_text(VERIFIER)
    write(lambda i: {"prompt": f"word {i % 3}:", "completion": [" fox", " dog", " lazy"][i % 3]})
    return tmp_path


def write(make, count=24, name="r.jsonl"):
    with open(name, "w") as out:
        for i in range(count):
            out.write(json.dumps(make(i)) + "\n")


def train(*overrides, **settings):
    return train_recipe("r.toml", resolve=load_methods, models=load_models, overrides=overrides, quiet=True, **settings)["metrics"]


def test_accuracy_of_what_is_learnt(place):
    found = train("evaluate.measures=['loss', 'verifier']", "evaluate.verifier.use=./verifier.py:same", "evaluate.verifier.max_tokens=8")
    assert found["held-out/loss"] < 0.1
    assert found["verifier/solved"] == 1
    assert found["verifier/finished"] == 1


def test_prompts_of_conversations_of_another_file_and_of_a_task(place):
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "fox"}]
    write(lambda i: {"messages": turns}, name="m.jsonl")
    small = ["budget.steps=1", "evaluate.verifier.max_tokens=4"]
    found = train("data.rows=m.jsonl", "evaluate.verifier.use=./verifier.py:told", "run.folder=a", *small)
    assert set(found) == {"held-out/loss", *(f"verifier/{n}" for n in ("reward", "solved", "finished", "response_tokens"))}
    write(lambda i: {"prompt": f"{i}", "answer": "x"}, 5, "other.jsonl")
    found = train("evaluate.verifier.use=verifier.py:number", "evaluate.verifier.rows=other.jsonl", "run.folder=b", *small)
    assert found["verifier/reward"] == 1
    more = ["evaluate.verifier.temperature=0.7", "evaluate.verifier.samples=3", "evaluate.verifier.problems=2"]
    found = train("evaluate.measures=['verifier']", "evaluate.verifier.task=addition", "run.folder=c", *more, *small)
    assert "held-out/loss" not in found
    assert found["verifier/solved"] == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluate.measures=['verifier']"], r"evaluate\.verifier\.use: found nothing, expected 'my_module:score' or"),
        (["evaluate.measures=['loss']", "evaluate.verifier.task=addition"], "evaluate.verifier: found it without its measure"),
        (["evaluate.verifier.use=./verifier.py:told"], r"r\.jsonl, line \d+, field 'messages': found nothing"),
        (["evaluate.verifier.use=./verifier.py:same", "data.held_out=0"], "evaluate.verifier: found no prompts"),
        (
            ["evaluate.verifier.use=./verifier.py:same", "evaluate.verifier.max_tokens=60"],
            r"line \d+: prompt: found \d+ tokens, expected at most 1",
        ),
        (["evaluate.lm_eval.limit=3"], "evaluate.lm_eval: found it without its measure, expected evaluate.measures with 'lm_eval:TASK'"),
    ],
)
def test_bad_input(place, overrides, message):
    with pytest.raises(BadInput, match=message):
        train(*overrides)


def test_without_the_package_one_line_says_how_to_get_it(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    from etude.generate import harness

    harness._manager.cache_clear()
    with pytest.raises(
        BadInput, match=r"r\.toml, evaluate\.measures|command line, evaluate\.measures: found lm_eval:TASK without the package"
    ) as error:
        train("evaluate.measures=['lm_eval:arc_easy']")
    assert error.value.expected == "the package: pip install 'etude[lm-eval]'"


TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: {kind}
doc_to_text: "{text}"
doc_to_target: "{target}"
{more}
"""


def test_tasks_of_the_harness_agree_with_its_own_model(place, qwen, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_HOME", str(place / "hf"))
    write(lambda i: {"question": f"word {i % 3}:", "choices": [" fox", " dog", " lazy"], "label": i % 3}, 12, "pick.jsonl")
    (place / "tasks").mkdir()
    kinds = {
        "pick": ("multiple_choice", "{{question}}", "{{label}}", 'doc_to_choice: "{{choices}}"\nmetric_list:\n  - metric: acc'),
        "say": (
            "generate_until", "{{question}}", "{{choices[label]}}",
            'generation_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 6\nmetric_list:\n  - metric: exact_match\n    ignore_case: true',
        ),
        "read": ("loglikelihood_rolling", "", "{{question}}" + " and more to read here" * 9, "metric_list:\n  - metric: bits_per_byte"),
    }  # fmt: skip
    for name, (kind, text, target, more) in kinds.items():
        told = TASK.format(name=f"own_{name}", file=place / "pick.jsonl", kind=kind, text=text, target=target, more=more)
        (place / "tasks" / f"{name}.yaml").write_text(told)
    measures = [f"lm_eval:own_{name}" for name in kinds]
    found = train(f"evaluate.measures={measures}", "evaluate.lm_eval.include=tasks")
    assert found["lm_eval/own_pick/acc"] == 1
    assert set(found) == {f"lm_eval/own_{n}" for n in ("pick/acc", "say/exact_match", "read/bits_per_byte")}
    with pytest.raises(BadInput, match=r"evaluate\.measures: found 'own_pik', expected a known name; did you mean 'own_pick'"):
        train("evaluate.measures=['lm_eval:own_pik']", "evaluate.lm_eval.include=tasks", "run.folder=no")

    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    from etude.generate.harness import Harness
    from etude.generate.pretrained import pretrained

    model, names = pretrained(qwen), [f"own_{name}" for name in kinds]
    ours = Harness(model.tokenizer, names, context=128, end=model.end_tokens, include="tasks")(model)
    theirs = evaluator.simple_evaluate(
        HFLM(pretrained=model.inner, tokenizer=AutoTokenizer.from_pretrained(qwen), batch_size=4), tasks=names,
        task_manager=TaskManager(include_path="tasks", include_defaults=False), bootstrap_iters=0,
    )["results"]  # fmt: skip
    for name, value in ours.items():
        task, metric = name.split("/")
        assert math.isclose(value, theirs[task][f"{metric},none"], rel_tol=1e-5), name
