import pytest

from etude.data.decontamination import contamination, decontaminate, words
from etude.engine.streams import numpy_rng
from etude.errors import BadInput

WORDS = [f"w{i}" for i in range(500)]


def text(name, length):
    return " ".join(WORDS[i] for i in numpy_rng(0, name).integers(0, 500, length))


TESTS = [text(f"test{i}", 20) for i in range(30)]
CLEAN = [text(f"row{i}", 40) for i in range(50)]


def test_planted_leaks_are_found_and_nothing_else():
    rows = list(CLEAN)
    rows[7] = f"{rows[7]} {TESTS[3]}."  # whole, with something around it
    rows[11] = " ".join(TESTS[5].split()[4:16])  # 12 of 20 tokens: 60 %
    rows[20] = " ".join(TESTS[9].split()[:10])  # 10 of 20: 50 %, not above
    rows[21] = " ".join([*TESTS[10].split()[:7], "x", *TESTS[10].split()[7:14]])  # two runs of 7: none of 8
    rows[30] = TESTS[4].upper()
    found = contamination(TESTS, rows)
    assert [(m.test, m.row) for m in found.matches] == [(3, 7), (4, 30), (5, 11)]
    assert [m.share for m in found.matches] == [1.0, 1.0, pytest.approx(0.6)]
    assert found.rows == [7, 11, 30]
    assert found.drop_all
    assert "3 of 30 test prompts (10.0%) are in 3 of 50 rows: drop the data set" in str(found)
    assert "test 5 in row 11: 60% of its tokens" in str(found)
    assert contamination(TESTS, rows, most=0.2).drop_all is False
    clean = contamination(TESTS, CLEAN)
    assert clean.matches == ()
    assert "nothing to drop" in str(clean)


def test_shared_runs_as_a_brute_force_count():
    """Against a count straight from the definition, on texts of few different words."""
    few = [" ".join(str(i) for i in numpy_rng(1, "few", k).integers(0, 2, 14)) for k in range(12)]
    for n, share in ((3, 0.5), (5, 0.3), (8, 0.5)):
        found = {(m.test, m.row): m.share for m in contamination(few[:6], few[6:], n=n, share=share).matches}
        for t, prompt in enumerate(few[:6]):
            a = words(prompt)
            for r, row in enumerate(few[6:]):
                b = words(row)
                runs = [b[j : j + n] for j in range(len(b) - n + 1)]
                part = sum(any(i <= at < i + n and a[i : i + n] in runs for i in range(len(a) - n + 1)) for at in range(len(a))) / len(a)
                assert found.get((t, r), 0.0) == (pytest.approx(part) if part > share else 0.0)


def test_short_prompts_are_compared_whole():
    found = contamination(["1 + 2 ="], ["what is 1+2= ?", "1 + 3 ="])
    assert [(m.row, m.share) for m in found.matches] == [(0, 1.0)]


def test_a_data_set_is_dropped_whole_or_loses_its_leaks():
    many = [text(f"many{i}", 20) for i in range(100)]
    few = [CLEAN[0], f"see {many[3]}", CLEAN[1], f"{many[4]} it is"]  # 2 % of the evaluation: not over it
    some = [*CLEAN[2:5], *many[10:13]]  # 3 %
    cleaned = decontaminate({"few": few, "some": some, "none": CLEAN}, {"first": many, "second": TESTS})
    assert cleaned.kept == {"few": [0, 2], "some": [], "none": list(range(50))}
    assert cleaned.dropped == ["some"]
    assert cleaned.found["few", "first"].rows == [1, 3]
    assert cleaned.found["few", "second"].rows == []
    assert "some against first: 3 of 100 test prompts (3.0%) are in 3 of 6 rows: drop the data set" in str(cleaned)
    with pytest.raises(BadInput, match="evaluations: found none"):
        decontaminate({"none": CLEAN}, {})


def test_bad_input():
    with pytest.raises(BadInput, match="tests: found no prompt"):
        contamination([], CLEAN)
    with pytest.raises(BadInput, match=r"tests\[0\]: found ' ', expected a prompt with at least one token"):
        contamination([" "], CLEAN)
    with pytest.raises(BadInput, match="n >= 1"):
        contamination(TESTS, CLEAN, n=0)
