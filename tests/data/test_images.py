"""Small images and signals."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from etude.data.images import _check_mnist1d, digits, mnist1d, with_label_noise
from etude.errors import BadInput


def test_digits_are_those_of_scikit_learn():
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        pytest.skip("scikit-learn is not installed")
    # Its file, because importing the package takes seconds.
    theirs = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",").astype(np.int64)
    splits = digits()
    parts = [splits.train, splits.steer, splits.validation, splits.test]
    assert [len(p) for p in parts] == [1097, 100, 200, 400]
    ours = torch.cat([torch.cat([p.x * 16, p.y[:, None].float()], 1) for p in parts]).numpy().astype(np.int64)
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))
    assert splits.train.x.dtype == torch.float32
    assert splits.train.y.bincount().min() > 80


def test_mnist1d_is_its_packages_default():
    data = pytest.importorskip("mnist1d.data")
    kept = np.random.get_state()[1].copy()  # noqa: NPY002  that it is left alone is what is tested
    splits = mnist1d(400, 100)
    assert (np.random.get_state()[1] == kept).all()  # noqa: NPY002
    arguments = data.get_dataset_args()
    arguments.num_samples = 500
    np.random.seed(0)  # noqa: NPY002
    made = data.make_dataset(arguments)
    assert [len(p) for p in (splits.train, splits.steer, splits.validation, splits.test)] == [350, 10, 40, 100]
    assert torch.allclose(splits.test.x, torch.tensor(made["x_test"], dtype=torch.float32))
    assert splits.train.y.tolist() == made["y"][:350].tolist()
    assert splits.train.x.shape == (350, 40)


def test_bad_sizes():
    pytest.importorskip("mnist1d.data")
    with pytest.raises(BadInput, match="multiple of the 10 classes"):
        mnist1d(401, 100)


def test_label_noise():
    y = torch.arange(1000) % 10
    noisy = with_label_noise(y, 0.3, 10, seed=0)
    assert int((noisy != y).sum()) == 300
    assert noisy.min() >= 0
    assert noisy.max() <= 9
    assert torch.equal(noisy, with_label_noise(y, 0.3, 10, seed=0))
    assert not torch.equal(noisy, with_label_noise(y, 0.3, 10, seed=1))
    assert torch.equal(with_label_noise(y, 0.0, 10, seed=0), y)
    shifts = ((noisy - y) % 10)[noisy != y]
    assert set(shifts.tolist()) == set(range(1, 10))
    with pytest.raises(BadInput, match="label noise"):
        with_label_noise(y, 1.5, 10, seed=0)
    with pytest.raises(BadInput, match="1 classes"):
        with_label_noise(y, 0.5, 1, seed=0)


def test_another_mnist1d_is_refused():
    parts = (mnist1d().train, mnist1d().steer, mnist1d().validation, mnist1d().test)
    x = np.concatenate([p.x.numpy() for p in parts])
    y = np.concatenate([p.y.numpy() for p in parts])
    _check_mnist1d(x + 1e-6, y)
    for changed in ((x * 1.01, y), (x, y[::-1])):
        with pytest.raises(BadInput, match="other samples than those that were recorded"):
            _check_mnist1d(*changed)
