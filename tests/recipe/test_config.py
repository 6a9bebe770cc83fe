import json
import tomllib

import pytest

from etude.errors import BadInput
from etude.recipe.config import dump, load, parse
from etude.recipe.overrides import replaced
from etude.recipe.places import Places

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
        ("optimizer.lrr=1", "command line, optimizer.lrr: found an unknown key, expected a known one; did you mean 'lr'?"),
        ("modle.width=3", "did you mean 'model'"),
        ("model.widht=3", "command line, model.widht: found an unknown key, expected a known one; did you mean 'width'?"),
        ("optimizer.lr=-1", "command line, optimizer.lr: found -1, expected greater than 0"),
        ("model.width=wide", "command line, model.width: found 'wide'"),
        ("model.kind=mamba", "expected transformer, gru, lstm, elman, mlp or cnn"),
        ("schedule.kind=sine", "command line, schedule.kind: found 'sine'"),
        ("budget={tokens=10, steps=5}", "command line, budget: found tokens and steps"),
        ("data={text='a', corpus='kjv'}", "command line, data: found both text and corpus"),
        ("schema=2", "command line, schema: found 2"),
        ("methods.3.at=1", "no entry 3"),
        ("budget.steps.x=1", "budget.steps.x"),
        ("nothing", "command line: found 'nothing', expected key=value"),
        ("=3", "command line: found '=3', expected key=value"),
        ("a..b=3", "command line: found 'a..b', expected a key such as"),
        ("run.folder=", "command line, run.folder: found nothing after '=', expected a value"),
        ("run.folder=' '", "command line, run.folder: found ' ', expected a text that is not empty"),
        ("data.text=''", "command line, data.text: found '', expected a text that is not empty"),
        ("methods.0.use=''", "command line, methods.0.use: found '', expected a text that is not empty"),
        ("data.tokenizer=bype", "expected 'byte', 'character', 'bpe' or 'model'; did you mean 'bpe'?"),
        ("optimizer.kind=adm", "expected adamw, sgd or muon; did you mean 'adamw'?"),
        ("model.width=true", "command line, model.width: found True, expected a whole number"),
        ("model.width=8.5", "command line, model.width: found 8.5, expected a whole number"),
        ("optimizer.lr='1'", "command line, optimizer.lr: found '1', expected a number"),
        ("optimizer.lr=inf", "command line, optimizer.lr: found inf, expected a finite number"),
        ("optimizer.betas=[0.9]", "command line, optimizer.betas.1: found nothing"),
        ("optimizer.betas=[0.9, 1.5]", "command line, optimizer.betas.1: found 1.5, expected less than 1"),
        ("optimizer.momentum=0.9", "command line, optimizer.momentum: found an unknown key"),
        (
            "optimizer={kind='sgd', nesterov=true}",
            "command line, optimizer: found {'kind': 'sgd', 'nesterov': True}, expected nesterov with",
        ),
        (
            "optimizer={kind='muon', rest={lrr=1}}",
            "optimizer.rest.lrr: found an unknown key, expected a known one; did you mean 'lr'?",
        ),
        ("optimizer.kind=adam", "command line, optimizer.kind: found 'adam', expected adamw, sgd or muon"),
        ("optimizer.over=['a']", "command line, optimizer.over: found it in the only optimizer"),
        ("optimizers.a.lrr=1", "command line, optimizers.a.lrr: found an unknown key, expected a known one; did you mean 'lr'?"),
        ("optimizers.a.kind=adam", "command line, optimizers.a.kind: found 'adam', expected adamw, sgd or muon"),
        ("sampler.kind=random", "command line, sampler.kind: found 'random', expected shuffle, weighted, mixture, online or curriculum"),
        ("sampler={kind='mixture'}", "command line, sampler.weights: found nothing, expected"),
        ("sampler={kind='mixture', weights={a=-1}}", "command line, sampler.weights.a: found -1, expected greater than or equal to 0"),
        (
            "sampler={kind='online', temprature=1}",
            "command line, sampler.temprature: found an unknown key, expected a known one; did you mean",
        ),
        ("data.domains.a.txt=x", "command line, data.domains.a.txt: found an unknown key, expected a known one; did you mean 'text'?"),
        ("data={domains={a={}}}", "command line, data.domains.a: found nothing, expected one of text, corpus and tokens"),
        ("data={domains={a={text='x', tokens='y'}}}", "command line, data.domains.a: found text and tokens"),
        ("data={}", "command line, data: found neither text, corpus, tokens, domains, rows, images nor table"),
        ("data={tokens='t', tokenizer='bpe'}", "command line, data.tokenizer: found 'bpe' beside tokens"),
        ("data={tokens='t', separator='x'}", "command line, data.separator: found it without a text file"),
        ("data={images='cats'}", "command line, data.images: found 'cats', expected 'digits' or 'mnist1d'"),
        ("data={images='digits', context=3}", "command line, data.context: found an unknown key"),
        ("data={table='t.csv'}", "command line, data.target: found nothing, expected"),
        ("data={table='t.csv', target='y', held_out=1}", "command line, data.held_out: found 1, expected less than 1"),
        ("data={table='t.csv', targt='y'}", "data.targ"),
        ("data.documents=split", "command line, data.documents: found 'split', expected 'joined', 'masked' or 'packed'"),
        ("budget.limit=10", "command line, budget: found limit, expected one of tokens"),
        ("budget={weights={tokens=1}}", "command line, budget: found weights, expected one of"),
        ("evaluate.measures=['los']", "command line, evaluate.measures.0: found 'los'"),
        ("evaluate.measure=['loss']", "did you mean 'measures'"),
        ("run.clip=no", "command line, run.clip: found 'no', expected a number"),
        ("run.clip=0", "command line, run.clip: found 0, expected greater than 0"),
        ("run.feedback_every=0", "command line, run.feedback_every: found 0, expected greater than or equal to 1"),
        ("model=3", "command line, model: found 3, expected a table"),
        ("methods.0.use=3", "command line, methods.0.use: found 3, expected a text"),
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


def test_a_mistake_is_named_where_it_was_made(tmp_path):
    """The file's own mistakes at the file, whatever the command line changes beside them."""
    path = written(tmp_path, GOOD + "[optimizer]\nlrr = 1\n")
    for changes, message in (
        ((), "r.toml, optimizer.lrr: found an unknown key"),
        (("optimizer.lr=0.1", "methods.0.at=0.5"), "r.toml, optimizer.lrr: found an unknown key"),
        (("model.widht=3",), "command line, model.widht: found an unknown key"),
    ):
        with pytest.raises(BadInput) as caught:
            load(path, changes)
        assert str(caught.value).startswith(message)
    with pytest.raises(BadInput, match=r"^r.toml, methods\[0\].use: found 3, expected a text"):
        load(written(tmp_path, GOOD.replace('"stacking"', "3")))


FULL = """
schema = 1
[data]
text = "a.txt"
separator = "x"
tokenizer = "bpe"
held_out = 0.2
batch = 4
[model]
width = 32
heads = 2
[optimizer]
lr = 0.5
betas = [0.8, 0.9]
[schedule]
kind = "cosine"
final = 0.2
warmup = 0.1
[sampler]
kind = "mixture"
weights = { a = 1.0 }
update_every = 8
[budget]
tokens = 5
[[methods]]
use = "stacking"
factor = 2
"""


@pytest.mark.parametrize(
    ("changes", "table", "expected"),
    [
        (["budget.steps=5"], "budget", {"steps": 5}),
        (["budget.limit=9", "budget.weights={tokens=1}"], "budget", {"limit": 9.0, "weights": {"tokens": 1.0}}),
        (["budget.weights.tokens=2", "budget.limit=9"], "budget", {"limit": 9.0, "weights": {"tokens": 2.0}}),
        (["data.corpus=kjv"], "data", {"corpus": "kjv", "tokenizer": "bpe", "held_out": 0.2, "batch": 4}),
        (["data.tokens=t"], "data", {"tokens": "t", "held_out": 0.2, "batch": 4}),
        (["data.text=b.txt"], "data", {"text": "b.txt", "separator": "x", "tokenizer": "bpe", "held_out": 0.2, "batch": 4}),
        (["data.images=digits"], "data", {"images": "digits", "batch": 4}),
        (["data.table=t.csv", "data.target=y"], "data", {"table": "t.csv", "target": "y", "held_out": 0.2, "batch": 4}),
        (["data.domains.a.text=t"], "data", {"domains": {"a": {"text": "t"}}, "separator": "x", "tokenizer": "bpe"}),
        (["optimizer.kind=sgd", "optimizer.momentum=0.9"], "optimizer", {"kind": "sgd", "lr": 0.5, "momentum": 0.9}),
        (["optimizer.kind=muon"], "optimizer", {"kind": "muon", "lr": 0.5}),
        (["schedule.kind=constant"], "schedule", {"kind": "constant", "warmup": 0.1}),
        (["sampler.kind=shuffle"], "sampler", {"kind": "shuffle"}),
        (["sampler.kind=online"], "sampler", {"kind": "online", "weights": {"a": 1.0}, "update_every": 8}),
        (["model.kind=gru"], "model", {"kind": "gru", "width": 32}),
    ],
)
def test_a_change_that_chooses_an_alternative_replaces_the_one_in_the_file(tmp_path, changes, table, expected):
    recipe = load(written(tmp_path, FULL), changes)
    told = getattr(recipe, table).model_dump(exclude_none=True)
    assert {k: told[k] for k in expected} == expected
    own = {"text", "corpus", "tokens", "domains", "images", "table", "steps", "limit", "samples", "flops", "seconds"}
    assert own & set(told) <= set(expected)


def test_other_alternatives(tmp_path):
    path = written(tmp_path, FULL)
    assert load(path, ["methods.0.use=gradient-noise", "methods.0.eta=0.1"]).methods[0].settings == {"eta": 0.1}
    assert load(path, ["methods.0.use=stacking:Grow", "methods.0.at=0.1"]).methods[0].settings == {"factor": 2, "at": 0.1}
    assert [m.use for m in load(path, ["methods.1.use=gradient-noise"]).methods] == ["stacking", "gradient-noise"]
    assert load(path, ["methods=[]", "methods.0.use=b"]).methods[0].settings == {}
    assert load(path, ["model.use=a-paper", "model.x=1"]).model.settings == {"x": 1}
    several = load(path, ["optimizers.a.kind=sgd"])
    assert several.optimizers["a"].kind == "sgd"
    assert load(written(tmp_path, dump(several)), ["optimizer.lr=0.1"]).optimizers is None


def test_what_a_change_takes_the_place_of_is_told(tmp_path):
    document = {
        "budget": {"steps": 5}, "optimizer": {"kind": "adamw", "lr": 0.1, "betas": [0.9, 0.95]}, "data": {"text": "a.txt"},
        "methods": [{"use": "stacking", "at": 0.2}],
    }  # fmt: skip
    before = json.dumps(document)
    assert replaced(document, ("budget.steps=9", "optimizer.lr=0.2", "run.seed=3", "methods.0.use=stacking:Grow")) == []
    changes = ("budget.tokens=1000", "run.seed=1", "optimizer.kind=sgd", "data.corpus=sample", "methods.0.use=gradient-noise")
    assert replaced(document, changes) == [
        "budget.tokens=1000 in place of budget.steps = 5",
        "optimizer.kind=sgd in place of optimizer.betas = [0.9, 0.95]",
        "data.corpus=sample in place of data.text = 'a.txt'",
        "methods.0.use=gradient-noise in place of methods.0.use = 'stacking', methods.0.at = 0.2",
    ]
    assert json.dumps(document) == before


def test_another_objective_leaves_what_only_the_former_knows(tmp_path):
    head = 'schema = 1\n[model]\npretrained = "m"\n[data]\nrows = "r.jsonl"\n[objective]\n'
    pairs = written(tmp_path, head + 'kind = "dpo"\nbeta = 0.1\nnormalised = true\n')
    assert load(pairs, ["objective.kind=orpo"]).objective.beta is None
    assert load(pairs, ["objective.kind=simpo", "objective.beta=2.5"]).objective.beta == 2.5
    assert load(pairs, ["objective.kind=dpo"]).objective.beta == 0.1
    assert replaced({"objective": {"beta": 0.1}}, ["objective.kind=ipo"]) == ["objective.kind=ipo in place of objective.beta = 0.1"]
    paid = head + 'kind = "dapo"\nverifier = "a:b"\nclip_high = 0.3\n[rollouts]\nmax_draws = 3\nsamples = 2\n'
    rloo = load(written(tmp_path, paid), ["objective.kind=rloo"])
    assert (rloo.objective.verifier, rloo.objective.clip_high, rloo.rollouts.max_draws, rloo.rollouts.samples) == ("a:b", None, None, 2)
    dpo = load(written(tmp_path, paid), ["objective.kind=dpo"])
    assert (dpo.objective.verifier, dpo.rollouts) == (None, None)


def test_alternatives_that_are_both_on_the_command_line_are_refused(tmp_path):
    for changes, message in (
        (["budget.tokens=5", "budget.steps=5"], "command line, budget: found tokens and steps"),
        (["data.text=a", "data.corpus=kjv"], "command line, data: found both text and corpus"),
        (["optimizer.betas=[0.9, 0.9]", "optimizer.kind=sgd"], "command line, optimizer.betas: found an unknown key"),
        (["optimizer.lr=1", "optimizers.a.lr=1"], "command line, optimizer: found both"),
    ):
        with pytest.raises(BadInput) as caught:
            load(written(tmp_path, FULL), changes)
        assert message in str(caught.value)


def test_a_count_may_be_written_as_1e6(tmp_path):
    assert load(written(tmp_path, GOOD), ("budget.steps=1e6",)).budget.steps == 1_000_000


def test_only_one_of_optimizer_and_optimizers(tmp_path):
    with pytest.raises(BadInput, match=r"^r.toml, optimizer: found both \[optimizer\] and \[optimizers\]"):
        load(written(tmp_path, GOOD + "[optimizer]\nlr = 1\n[optimizers.a]\nlr = 1\n"))


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="TOML that does not parse"):
        load(written(tmp_path, "schema = ["))
    with pytest.raises(BadInput, match="schema: found nothing"):
        load(written(tmp_path, "x = 1"))
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="no UTF-8"):
        load(tmp_path / "b.toml")


def test_two_keys_that_do_not_go_together_are_named_each_where_it_was_set():
    assert Places("r.toml").of("model.width and heads") == "r.toml, model.width and model.heads"
    assert Places("r.toml", ["model.width"]).of("model.width and heads") == "command line, model.width and r.toml, model.heads"
    assert Places("r.toml", ["model"]).of("model.width and heads") == "command line, model.width and model.heads"
