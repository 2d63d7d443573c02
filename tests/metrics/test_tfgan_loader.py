"""TF-GAN's metric module is loaded alone and leaves no trace; its absence is explained."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.errors import UserError
from tfaclgan.metrics import tfgan


@pytest.fixture
def fresh():
    tfgan._load.cache_clear()
    yield
    tfgan._load.cache_clear()


def test_it_is_tf_gans_own_file_and_leaves_no_trace(fresh, monkeypatch):
    mine = types.ModuleType("tensorflow_probability")
    monkeypatch.setitem(sys.modules, "tensorflow_probability", mine)
    before = set(sys.modules)
    module = tfgan.classifier_metrics()
    assert module.__file__.endswith("tensorflow_gan/python/eval/classifier_metrics.py")
    assert not {name for name in sys.modules if name.startswith("tensorflow_gan")} - before
    assert sys.modules["tensorflow_probability"] is mine
    assert tfgan.classifier_metrics() is module


def test_neither_probability_nor_a_second_keras_is_imported():
    code = (
        "import sys\nfrom tfaclgan.metrics import tfgan\ntfgan.classifier_metrics()\n"
        "print([name for name in ('tensorflow_probability', 'tf_keras', 'tensorflow_hub', 'distutils') "
        "if name in sys.modules and getattr(sys.modules[name], '__file__', None)])"
    )
    # distutils would be missing on Python 3.12; its absence here shows that it is not needed.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("count", [1, 2, 57])
def test_covariance_is_numpys_with_divisor_n(count):
    x = np.random.default_rng(count).normal(size=(count, 7)) + 3
    got = tfgan.covariance(tf.constant(x)).numpy()
    np.testing.assert_allclose(got, np.cov(x, rowvar=False, ddof=0), atol=1e-14)


@pytest.mark.slow
def test_covariance_is_tensorflow_probabilitys():
    probability = pytest.importorskip("tensorflow_probability")
    x = np.random.default_rng(0).normal(size=(40, 9))
    try:
        expected = probability.stats.covariance(tf.constant(x)).numpy()
    except ImportError:
        pytest.skip("tensorflow_probability needs tf_keras")
    np.testing.assert_allclose(tfgan.covariance(tf.constant(x)).numpy(), expected, atol=1e-14)


def test_missing_package_is_a_user_error(fresh, monkeypatch):
    find = importlib.machinery.PathFinder.find_spec

    def hidden(name, *rest):
        return None if name == "tensorflow_gan" else find(name, *rest)

    monkeypatch.setattr(importlib.machinery.PathFinder, "find_spec", hidden)
    with pytest.raises(UserError, match=r"not installed; run: pip install .*tensorflow-gan==2.1.0"):
        tfgan.classifier_metrics()


def test_damaged_package_is_a_user_error_and_modules_are_restored(fresh, monkeypatch, tmp_path):
    (tmp_path / "tensorflow_gan").mkdir()
    (tmp_path / "tensorflow_gan" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"cannot be imported.*pip install"):
        tfgan.classifier_metrics()
    assert "tensorflow_gan" not in sys.modules
