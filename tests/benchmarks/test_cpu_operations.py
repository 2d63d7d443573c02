"""benchmarks/cpu_operations.py: both forms of an operation give the same, and the table is made."""

from __future__ import annotations

import sys

import cpu_operations
import numpy as np
import pytest
import tensorflow as tf

OPERATIONS = {operation.name: operation for operation in cpu_operations.operations(1)}


@pytest.mark.parametrize(
    "name", ["from 34x34", "from 33x33", "from 129x129", "transposed convolution, 128 to 64 channels", "64x64x256"]
)
def test_forms_agree(name):
    operation = next(operation for found, operation in OPERATIONS.items() if name in found)
    arrays = [tf.random.stateless_normal(shape, (0, i)) for i, shape in enumerate(operation.shapes)]
    plain, ours = (
        cpu_operations.traced(operation.function, kind, True)(*arrays) for kind in (operation.plain, operation.ours)
    )
    for one, other in zip(plain, ours, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


def test_the_table(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cpu_operations.py", "--only", "from 33x33", "--rounds=1"])
    assert cpu_operations.main() == 0
    head, line, row = capsys.readouterr().out.strip().splitlines()
    assert len(head.split("|")) == len(line.split("|")) == len(row.split("|")) == 9
    assert all(float(cell) > 0 for cell in row.split("|")[2:-1])


def test_an_operation_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cpu_operations.py", "--only", "fourier"])
    assert cpu_operations.main() == 2
    assert capsys.readouterr().err == "cpu_operations.py: error: no operation's name has fourier\n"
