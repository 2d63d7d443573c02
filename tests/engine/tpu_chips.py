"""What is written of a chip against what its compiler says; test_tpu_compiler.py runs each in a process of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from tfaclgan.engine import tpu_compiler, tpu_program


def compiled(chip, function, *arrays):
    place = SingleDeviceSharding(tpu_compiler.devices(chip, chip.topology)[0])
    return jax.jit(function, in_shardings=place, out_shardings=place).lower(*arrays).compile()


@pytest.mark.parametrize("kind", tpu_compiler.CHIPS)
def test_the_chip_is_the_compiler_s(kind):
    chip = tpu_compiler.CHIPS[kind]
    tpu_compiler.prepare(chip)
    for chips in chip.slices:
        assert len(tpu_compiler.slice_of(chip, chips).devices) == chips
    too_much = jax.ShapeDtypeStruct((2**27, 1024), jnp.float32)  # 512 GiB
    with pytest.raises(Exception, match=rf"available HBM \({chip.usable_bytes / 2**30:.2f}G\)") as caught:
        compiled(chip, jnp.sum, too_much)
    assert tpu_compiler._memory_asked_for(str(caught.value)) == 512 * 2**30
    square = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16)
    (product,) = [
        operation
        for operation in tpu_program.operations(compiled(chip, jnp.matmul, square, square).as_text())
        if operation.cycles
    ]
    assert product.cycles / chip.cycle_rate == pytest.approx(2 * 4096**3 / chip.flops, rel=1e-3)
