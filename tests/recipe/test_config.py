import tomllib

import pytest

from etude.errors import BadInput
from etude.recipe.config import dump, load, parse

GOOD = """
schema = 1
[data]
text = "a.txt"
[budget]
steps = 5
[[methods]]
use = "stacking"
factor = 2
"""


def written(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


def test_a_recipe_goes_to_toml_and_back(tmp_path):
    recipe = load(written(tmp_path, GOOD), ("optimizer.lr=0.01", "run.folder=elsewhere", "methods.0.at=0.3", "model.kind=gru"))
    assert recipe.optimizer.lr == 0.01
    assert recipe.run.folder == "elsewhere"
    assert recipe.methods[0].settings == {"factor": 2, "at": 0.3}
    assert recipe.model.kind == "gru"
    assert parse(tomllib.loads(dump(recipe))) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.lrr=1", "r.toml, optimizer.lrr: found an unknown key, expected a known one; did you mean 'lr'?"),
        ("modle.width=3", "did you mean 'model'"),
        ("model.widht=3", "r.toml, model.widht: found an unknown key, expected a known one; did you mean 'width'?"),
        ("optimizer.lr=-1", "r.toml, optimizer.lr: found -1, expected greater than 0"),
        ("model.width=wide", "r.toml, model.width: found 'wide'"),
        ("model.kind=mamba", "expected transformer, gru, lstm, elman, mlp or cnn"),
        ("schedule.kind=sine", "r.toml, schedule.kind: found 'sine'"),
        ("budget.tokens=10", "budget: found tokens and steps"),
        ("data.corpus=kjv", "data: found both text and corpus"),
        ("schema=2", "r.toml, schema: found 2"),
        ("methods.3.at=1", "no entry 3"),
        ("budget.steps.x=1", "budget.steps.x"),
        ("nothing", "no key=value"),
        ("model.width=true", "r.toml, model.width: found True, expected a whole number"),
        ("model.width=8.5", "r.toml, model.width: found 8.5, expected a whole number"),
        ("optimizer.lr='1'", "r.toml, optimizer.lr: found '1', expected a number"),
        ("optimizer.lr=inf", "r.toml, optimizer.lr: found inf, expected a finite number"),
        ("optimizer.betas=[0.9]", "r.toml, optimizer.betas[1]: found nothing"),
        ("optimizer.betas=[0.9, 1.5]", "r.toml, optimizer.betas[1]: found 1.5, expected less than 1"),
        ("optimizer.momentum=0.9", "r.toml, optimizer.momentum: found an unknown key"),
        ("optimizer={kind='sgd', nesterov=true}", "r.toml, optimizer: found {'kind': 'sgd', 'nesterov': True}, expected nesterov with"),
        (
            "optimizer={kind='muon', rest={lrr=1}}",
            "optimizer.rest.lrr: found an unknown key, expected a known one; did you mean 'lr'?",
        ),
        ("optimizer.kind=adam", "r.toml, optimizer.kind: found 'adam', expected adamw, sgd or muon"),
        ("optimizer.over=['a']", "r.toml, optimizer.over: found it in the only optimizer"),
        ("optimizers.a.lrr=1", "r.toml, optimizers.a.lrr: found an unknown key, expected a known one; did you mean 'lr'?"),
        ("optimizers.a.kind=adam", "r.toml, optimizers.a.kind: found 'adam', expected adamw, sgd or muon"),
        ("sampler.kind=random", "r.toml, sampler.kind: found 'random', expected shuffle, weighted, mixture or online"),
        ("sampler={kind='mixture'}", "r.toml, sampler.weights: found nothing, expected"),
        ("sampler={kind='mixture', weights={a=-1}}", "r.toml, sampler.weights.a: found -1, expected greater than or equal to 0"),
        ("sampler={kind='online', temprature=1}", "r.toml, sampler.temprature: found an unknown key, expected a known one; did you mean"),
        ("data.domains.a.txt=x", "r.toml, data.domains.a.txt: found an unknown key, expected a known one; did you mean 'text'?"),
        ("data={domains={a={}}}", "r.toml, data.domains.a: found nothing, expected one of text, corpus and tokens"),
        ("data={domains={a={text='x', tokens='y'}}}", "r.toml, data.domains.a: found text and tokens"),
        ("data={}", "r.toml, data: found neither text, corpus, tokens, domains, images nor table"),
        ("data={tokens='t', tokenizer='bpe'}", "r.toml, data.tokenizer: found 'bpe' beside tokens"),
        ("data={tokens='t', separator='x'}", "r.toml, data.separator: found it without a text file"),
        ("data={images='cats'}", "r.toml, data.images: found 'cats', expected 'digits' or 'mnist1d'"),
        ("data={images='digits', context=3}", "r.toml, data.context: found an unknown key"),
        ("data={table='t.csv'}", "r.toml, data.target: found nothing, expected"),
        ("data={table='t.csv', target='y', held_out=1}", "r.toml, data.held_out: found 1, expected less than 1"),
        ("data={table='t.csv', targt='y'}", "data.targ"),
        ("data.documents=split", "r.toml, data.documents: found 'split', expected 'joined', 'masked' or 'packed'"),
        ("budget.limit=10", "r.toml, budget: found steps and limit, expected one of tokens"),
        ("budget={weights={tokens=1}}", "r.toml, budget: found weights, expected one of"),
        ("evaluate.measures=['los']", "r.toml, evaluate.measures[0]: found 'los'"),
        ("evaluate.measure=['loss']", "did you mean 'measures'"),
        ("run.clip=no", "r.toml, run.clip: found 'no', expected a number"),
        ("run.clip=0", "r.toml, run.clip: found 0, expected greater than 0"),
        ("run.feedback_every=0", "r.toml, run.feedback_every: found 0, expected greater than or equal to 1"),
        ("model=3", "r.toml, model: found 3, expected a table"),
        ("methods.0.use=3", "r.toml, methods[0].use: found 3, expected a text"),
        ("schema=0", "`etude recipe migrate` rewrites an older recipe"),
    ],
)
def test_what_is_wrong_is_named_with_place_found_and_expected(tmp_path, change, message):
    with pytest.raises(BadInput) as caught:
        load(written(tmp_path, GOOD), (change,))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        ("run.clip=none", "budget={limit=1e6, weights={tokens=1, 'steer.tokens'=0.5}}"),
        ("optimizers={a={kind='sgd', over=['x.']}, b={kind='muon', rest={betas=[0.8, 0.9]}}}",),
        ("data={domains={a={text='x'}, \"b c\"={tokens='y'}}, separator=\"\\n\\n\", documents='packed'}",),
        ("sampler={kind='online', weights={a=1}, weigh='softmax'}", "evaluate={measures=['domains'], limit=9}"),
        ("data={table='t.csv', target='y', features=['a', 'b'], classify=false}", "model={kind='mlp', hidden=[]}"),
        ("data={images='digits', label_noise=0.1}", "model={kind='cnn'}", "objective.label_smoothing=0.1"),
        (
            "model={use='paper:kind', shape={width=3, deep={x=[1, 2]}}, s='ü'}",
            "methods=[{use='m', after={kind='wsd', decay=0.1}}, {use='n'}]",
        ),
    ],
)
def test_everything_that_a_recipe_says_goes_to_toml_and_back(tmp_path, changes):
    recipe = load(written(tmp_path, GOOD), changes)
    assert parse(tomllib.loads(dump(recipe))) == recipe


def test_a_count_may_be_written_as_1e6(tmp_path):
    assert load(written(tmp_path, GOOD), ("budget.steps=1e6",)).budget.steps == 1_000_000


def test_only_one_of_optimizer_and_optimizers(tmp_path):
    with pytest.raises(BadInput, match=r"optimizer: found both \[optimizer\] and \[optimizers\]"):
        load(written(tmp_path, GOOD), ("optimizer.lr=1", "optimizers.a.lr=1"))


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="TOML that does not parse"):
        load(written(tmp_path, "schema = ["))
    with pytest.raises(BadInput, match="schema: found nothing"):
        load(written(tmp_path, "x = 1"))
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="cannot be read"):
        load(tmp_path / "b.toml")
