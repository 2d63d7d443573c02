"""One call of a network for several batches."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfaclgan.layers import batches


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_undo_join(count):
    groups = [np.random.RandomState(i).standard_normal((2, 3, 3, 1)) for i in range(count)]
    joined = batches.join(tf.constant(group) for group in groups)
    np.testing.assert_array_equal(joined, np.concatenate(groups))
    for part, group in zip(batches.parts(joined, count), groups, strict=True):
        np.testing.assert_array_equal(part, group)
