"""How a CPU's cores are shared: the setting in processes of their own, as TensorFlow keeps it from its start on."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.engine import cores

SETTING = """
import sys
from tfaclgan.engine import cores, strategy
import tensorflow as tf
cores._cores = lambda: int(sys.argv[1])
if sys.argv[2] == "started":
    tf.ones(2) + 1
elif sys.argv[2]:
    tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[2]))
strategy.make("cpu")
tf.ones(2) + 1
print(tf.config.threading.get_intra_op_parallelism_threads(), cores.branches())
"""


@pytest.mark.parametrize(
    "count, before, environment, expected",
    [
        (2, "", "", "1 2"),
        (1, "", "", "0 1"),
        (8, "", "", "0 1"),
        (2, "3", "", "3 1"),  # told by the program
        (8, "1", "", "1 2"),
        (1, "1", "", "1 1"),
        (2, "", "2", "0 1"),  # told by the environment
        (2, "started", "", "0 1"),
    ],
)
def test_each_operation_has_a_core_where_there_are_two(count, before, environment, expected):
    environment = {**os.environ, "TF_NUM_INTRAOP_THREADS": environment}
    command = [sys.executable, "-c", SETTING, str(count), before]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == expected, done.stderr


CALLS = {
    "array": lambda x, y: x * y,
    "dict": lambda x, y: {"sum": x + y, "of rows": tf.reduce_sum(x, 1)},
    "tuple": lambda x, y: (x - y, y),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("batch, parts", [(4, 2), (3, 1), (1, 1)])
def test_branches_give_what_the_whole_gives(call, batch, parts, monkeypatch):
    monkeypatch.setattr(cores, "branches", lambda: 2)
    sizes = []

    def counted(x, y):
        sizes.append(x.shape[0])
        return call(x, y)

    random = np.random.RandomState(0)
    x, y = (tf.constant(random.standard_normal((batch, 3))) for _ in range(2))
    found, expected = tf.function(cores.in_branches(counted))(x, y), call(x, y)
    tf.nest.assert_same_structure(found, expected)
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sizes == [batch // parts] * parts


def test_a_batch_that_is_not_known_stays_whole(monkeypatch):
    monkeypatch.setattr(cores, "branches", lambda: 2)
    function = tf.function(cores.in_branches(lambda x: x + 1), input_signature=[tf.TensorSpec((None, 3))])
    np.testing.assert_array_equal(function(tf.zeros((3, 3))), np.ones((3, 3)))
