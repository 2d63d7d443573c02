"""The bits of `tf.random.stateless_uniform(alg="philox")` in JAX, so that both engines draw the same numbers.

Philox4x32-10: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. TensorFlow runs a seed once
through the generator under a key of its own, and takes the key and the upper half of the counter from what comes out.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

Array = Any
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)  # what is added to the key from round to round
_SEED_KEY = (0x3EC8F720, 0x02461E29)  # TensorFlow's
_ROUNDS = 10


@functools.partial(jax.jit, static_argnames=("shape", "unroll"))
def bits(first: Array, second: Array, shape: tuple[int, ...], unroll: bool = False) -> Array:
    """uint32 [*shape], a function of two seeds (whole numbers from 0 to 2^31 - 1).

    `unroll` writes the generator's rounds out. A loop costs a launch a round on an accelerator, and its absence a
    quarter of a small step's compilation on a CPU.
    """
    zero = jnp.uint32(0)
    seeds = (jnp.asarray(first, jnp.uint32), zero, jnp.asarray(second, jnp.uint32), zero)
    mixed = _philox(seeds, tuple(jnp.uint32(part) for part in _SEED_KEY), unroll)
    count = math.prod(shape)
    blocks = jax.lax.iota(jnp.uint32, -(-count // 4))
    words = _philox((blocks, zero, mixed[2], mixed[3]), mixed[:2], unroll)
    return jnp.stack(words, axis=-1).reshape(-1)[:count].reshape(shape)


def _philox(counter: tuple[Array, ...], key: tuple[Array, ...], unroll: bool) -> tuple[Array, ...]:
    def turn(_: Array, state: tuple[Any, ...]) -> tuple[Any, ...]:
        (a, b, c, d), (first, second) = state
        high_a, low_a = _product(_MULTIPLIERS[0], a)
        high_c, low_c = _product(_MULTIPLIERS[1], c)
        # Sums of unsigned numbers wrap around, as the generator wants them to.
        key = first + jnp.uint32(_WEYL[0]), second + jnp.uint32(_WEYL[1])
        return (high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a), key

    start = tuple(jnp.broadcast_arrays(*counter)), tuple(key)
    return jax.lax.fori_loop(0, _ROUNDS, turn, start, unroll=unroll)[0]


def _product(constant: int, value: Array) -> tuple[Array, Array]:
    """The upper and the lower 32 bits of a product; by halves, for JAX has no 64 bits unless told for everything."""
    low, high = jnp.uint32(constant & 0xFFFF), jnp.uint32(constant >> 16)
    value_low, value_high = value & jnp.uint32(0xFFFF), value >> 16
    first = high * value_low + (low * value_low >> 16)
    second = low * value_high + (first & jnp.uint32(0xFFFF))
    return high * value_high + (first >> 16) + (second >> 16), jnp.uint32(constant) * value
