"""Draws that belong to a sample: whatever the batch around it."""

import numpy as np
from scipy import stats

from etude.engine.streams import sample_normals, sample_uniforms


def test_a_draw_depends_on_key_sample_and_place_alone():
    ids = np.array([7, 3, 900_000_000_000])
    whole = sample_uniforms(5, ids, 6)
    for i in range(3):
        assert np.array_equal(sample_uniforms(5, ids[i : i + 1], 6)[0], whole[i])
    assert np.array_equal(sample_uniforms(5, ids, 4), whole[:, :4])
    assert not np.isin(sample_uniforms(6, ids, 6), whole).any()


def test_draws_are_uniform_normal_and_unrelated():
    ids = np.arange(4000)
    uniform, normal = sample_uniforms(0, ids, 3), sample_normals(1, ids, 3)
    assert ((uniform > 0) & (uniform < 1)).all()
    assert len(np.unique(uniform)) == uniform.size
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    # Neighbouring samples, places and keys: five standard errors of a correlation over 4,000 pairs.
    for a, b in ((uniform[1:, 0], uniform[:-1, 0]), (uniform[:, 0], uniform[:, 1]), (normal[:, 0], normal[:, 1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(4000)
    assert abs(np.corrcoef(sample_uniforms(2, ids, 1)[:, 0], sample_uniforms(3, ids, 1)[:, 0])[0, 1]) < 5 / np.sqrt(4000)
