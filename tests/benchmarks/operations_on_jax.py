"""benchmarks/single_operations.py on JAX: forms that it compares compute the same. See test_single_operations.py."""

from __future__ import annotations

import collections
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import single_operations

FORMS = collections.defaultdict(list)
for _form in single_operations.forms(batch=2, shrink=16):
    FORMS[_form.operation].append(_form)


@pytest.mark.parametrize("operation", FORMS)
def test_forms_agree_and_so_do_their_gradients(operation):
    first, *others = FORMS[operation]
    random = np.random.RandomState(0)
    arrays = tuple(jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in first.shapes)
    upstream = jnp.asarray(random.standard_normal(jax.eval_shape(first.function, *arrays).shape), jnp.float32)
    expected = jax.tree.leaves(single_operations.with_gradient(first.function)(arrays, upstream))
    assert others
    for form in others:
        for value, right in zip(
            jax.tree.leaves(single_operations.with_gradient(form.function)(arrays, upstream)), expected, strict=True
        ):
            np.testing.assert_allclose(
                value, right, rtol=1e-3, atol=1e-3 * float(jnp.abs(right).max()), err_msg=form.name
            )


def test_a_table_of_milliseconds(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["single_operations.py", "--batch=1", "--shrink=16", "--only", "norm and"])
    assert single_operations.main() == 0
    heads, _, *rows = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    assert heads == ["operation", "form", "ms", "ms with gradient"]
    assert [row[1] for row in rows] == ["as JAX derives it", "own gradient"]
    assert all(float(row[3]) >= 0 for row in rows)
