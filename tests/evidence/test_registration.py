import tomllib

import pytest

from etude.errors import BadInput
from etude.evidence import attempts, registration
from etude.evidence.pool import RunFailed
from etude.evidence.runner import StudyInterrupted, run_study

pytestmark = pytest.mark.usefixtures("stub_figures")


@pytest.fixture
def cpu(tmp_path, place):
    def start(study, **options):
        return run_study(study, "cpu", **{"out": tmp_path / "out", "place": place, "quiet": True, "workers": 1, **options})

    return start


def commit(git):
    git("add", "-A")
    git("commit", "-qm", "registered")


def test_a_cpu_run_needs_a_committed_registration(tiny, cpu, place, git, tmp_path):
    again = "etude run tiny --scale cpu --register, then commit the file"
    with pytest.raises(BadInput) as error:
        cpu(tiny())
    assert str(error.value) == f"tiny, cpu scale: found no registration, expected one made before the first run: {again}"
    path = registration.register(tiny().study(), place)
    assert path == place.registered("tiny")
    with pytest.raises(BadInput, match=r"tiny.toml: found a registration that is not committed, expected the file committed in git"):
        cpu(tiny())
    commit(git)
    path.write_text(path.read_text() + "# later\n")
    with pytest.raises(BadInput, match="found uncommitted changes"):
        cpu(tiny())
    git("checkout", "--", ".")
    assert not (tmp_path / "out").exists()
    record = cpu(tiny())
    assert record["registration"]["commit"] == git("rev-parse", "HEAD").strip()
    assert record["registration"]["code_unchanged"] is True
    assert place.record("tiny").is_file()
    assert sorted(p.name for p in place.plots("tiny").iterdir()) == ["final-loss.png", "loss-over-flops.png"]
    assert record["arms"]["plain"]["metrics"]["seed seen"] == [0.0, 1.0, 2.0]
    assert record["provenance"]["smoke"].keys() == {"plain", "fast"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("d=0.05", "d=0.06"), "claims[0].d: 0.06, registered 0.05"),
        (('text="fast falls faster"', 'text="fast is fast"'), "claims[0].text: 'fast is fast', registered 'fast falls faster'"),
        (("budget_tokens=1000", "budget_tokens=2000"), "settings.budget_tokens: 2000, registered 1000"),
        (('seeds=3, size="1k', 'seeds=4, size="1k'), "seeds: 4, registered 3"),
        (("reference=True, ", ""), "arms.ceiling.reference: False, registered True"),
        (('headline="loss"', 'headline="seed seen"'), "headline: 'seed seen', registered 'loss'"),
    ],
)
def test_a_study_that_departs_from_its_registration_is_refused(change, said, tiny, cpu, place, git):
    registration.register(tiny().study(), place)
    commit(git)
    with pytest.raises(BadInput) as error:
        cpu(tiny(change))
    assert f"found another study: {said}, expected the study as registered" in str(error.value)


def test_what_does_not_bind_may_change(tiny, place):
    registration.register(tiny().study(), place)
    study = tiny(('about="the baseline"', 'about="a baseline"'), ("0.001 * float(m", "0.003 * float(m")).study()
    registered = registration.load(place, "tiny")
    assert registered is not None
    assert registration.differences(registered, study) == []


def test_registering_again_keeps_the_older_text(tiny, place):
    path = registration.register(tiny().study(), place)
    first = path.read_text()
    registration.register(tiny().study(), place)
    assert path.read_text() == first  # nothing differs: nothing is written
    registration.register(tiny(("d=0.05", "d=0.06")).study(), place, "the spread was larger")
    registration.register(tiny(("d=0.05", "d=0.07")).study(), place)
    read = tomllib.loads(path.read_text())
    assert read["claims"][0]["d"] == 0.07
    assert [h["number"] for h in read["history"]] == [1, 2]
    assert read["history"][0]["reason"] == "the spread was larger"
    assert [tomllib.loads(h["text"])["claims"][0]["d"] for h in read["history"]] == [0.05, 0.06]
    assert read["claims"][0] | {"type": "Better", "primary": True, "arm": "fast", "metric": "loss", "equal": ["flops"]} == read["claims"][0]
    assert read["budget"] == {"budget_tokens": 1000}


def test_tuning_seeds_and_other_scales_are_free(tiny, cpu, place, tmp_path):
    record = cpu(tiny(), seeds=[100, 101])
    assert record["registration"] is None
    assert not place.record("tiny").exists()
    with pytest.raises(BadInput, match="found no registration"):
        cpu(tiny(), seeds=[99, 100])
    run_study(tiny(), "quick", seeds=1, out=tmp_path / "quick", place=place, quiet=True, workers=1)
    assert len(attempts.read(place, "tiny")) == 1


def test_only_a_whole_run_becomes_the_record(tiny, cpu, place, git):
    registration.register(tiny().study(), place)
    commit(git)
    assert cpu(tiny(), arms=["plain", "fast"])["complete"] is False
    assert cpu(tiny(), seeds=2)["complete"] is False
    assert not place.record("tiny").exists()
    assert cpu(tiny())["complete"] is True
    assert place.record("tiny").exists()


def test_a_recorded_study_is_run_again_for_a_reason(tiny, cpu, place, git):
    registration.register(tiny().study(), place)
    commit(git)
    cpu(tiny())
    before = place.record("tiny").read_text()
    for reason in ("", "  "):
        with pytest.raises(BadInput) as error:
            cpu(tiny(), reason=reason)
        told = 'found a record already, and no reason, expected why it is run again: --reason "TEXT"'
        assert str(error.value) == f"tiny, cpu scale: {told}"
    assert len(attempts.read(place, "tiny")) == 1
    assert place.record("tiny").read_text() == before
    assert cpu(tiny(), seeds=[100, 101])["complete"] is False  # tuning needs none
    cpu(tiny(), reason="another machine")
    assert [a["reason"] for a in attempts.read(place, "tiny")] == ["", "", "another machine"]


def test_what_a_failure_counts_as_binds_and_a_plan_does_not(tiny, place):
    registration.register(tiny().study(), place)
    planned = ('about="the baseline"', 'about="the baseline", planned=lambda s: {"flops": 10.0 * s.budget_tokens}')
    failure = ('headline="loss",', 'headline="loss", failure={"loss": 9.0, "solved": (0, 1)},')
    registered = registration.load(place, "tiny")
    assert registered is not None
    assert registration.differences(registered, tiny(planned).study()) == []
    assert [d[:9] for d in registration.differences(registered, tiny(failure).study())] == ["failure: "]
    registration.register(tiny(planned, failure).study(), place)
    read = tomllib.loads(place.registered("tiny").read_text())
    assert read["planned"] == {"plain": {"flops": 10_000.0}}
    assert read["failure"]["ceiling"] == {"loss": 9.0, "solved": [0, 1]}
    assert registration.differences(read, tiny(planned, failure).study()) == []


def test_every_cpu_run_is_an_attempt(tiny, cpu, place, git, tmp_path):
    registration.register(tiny().study(), place)
    commit(git)
    cpu(tiny(), seeds=1)
    cpu(tiny(), reason="all the seeds")
    with pytest.raises(RunFailed):
        cpu(tiny(("    steps = 20\n", "    steps = 20\n    raise RuntimeError('oh')\n")), reason="mended")
    with pytest.raises(StudyInterrupted):
        cpu(tiny(("    steps = 20\n", "    steps = 20\n    raise KeyboardInterrupt\n")), reason="mended")
    attempts.start(place, "tiny", {}, "and killed", [0], ["plain"])
    told = attempts.read(place, "tiny")
    assert [a["attempt"] for a in told] == [1, 2, 3, 4, 5]
    assert [a["state"] for a in told] == ["finished", "finished", "failed", "interrupted", "abandoned"]
    assert [a["difference"] for a in told[:4]] == [["the first attempt"], ["seeds"], ["code"], ["code"]]
    assert told[1]["reason"] == "all the seeds"
    assert told[1]["result"] == "holds"
    assert told[2]["result"] == "the run plain, seed 0 failed: RuntimeError: oh; finished runs are kept"
    assert told[4]["result"] == ""
    assert len(place.attempts("tiny").read_text().splitlines()) == 9


def test_a_torn_last_line_spoils_nothing(place):
    assert attempts.start(place, "tiny", {"code": "a"}, "", [0], ["plain"]) == 1
    with place.attempts("tiny").open("a") as file:
        file.write('{"attempt": 1, "sta')
    assert attempts.read(place, "tiny")[0]["state"] == "abandoned"
    assert attempts.start(place, "tiny", {"code": "b"}, "", [0], ["plain"]) == 2
    attempts.end(place, "tiny", 2, "finished", "holds", 1.0)
    assert [a["state"] for a in attempts.read(place, "tiny")] == ["abandoned", "finished"]
    assert attempts.read(place, "tiny")[1]["difference"] == ["code"]


def test_what_cannot_be_registered_is_refused(tiny, place, tmp_path):
    from dataclasses import replace

    study = tiny().study()
    with pytest.raises(BadInput, match="found no git checkout around it, expected a source checkout"):
        registration.register(study, type(place)(tmp_path))
    with pytest.raises(BadInput, match="tiny: found scales quick, expected a cpu scale to register"):
        registration.register(replace(study, scales={"quick": study.scales["quick"]}), place)
    with pytest.raises(BadInput, match="tiny: found no claims, expected at least one claim to register"):
        registration.register(replace(study, claims=[]), place)
    path = registration.register(study, place)
    path.write_text("schema = 1\nslug = 'other'\n")
    with pytest.raises(BadInput, match="found schema 1 of other, expected schema 1 of tiny"):
        registration.load(place, "tiny")
    path.write_text("schema = ")
    with pytest.raises(BadInput, match="found unreadable content"):
        registration.load(place, "tiny")
