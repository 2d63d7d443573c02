"""The two kinds of function that the modules here are made of."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def compiled(function: Callable) -> Callable:
    """Compiled by XLA, once for each shape."""
    return tf.function(function, jit_compile=True, autograph=False)


def in_its_own_graph(function: Callable) -> Callable:
    """A function with its own gradient, as tf.custom_gradient takes it.

    tf.custom_gradient keeps the graph it is traced into for as long as the process lives: a small one, this way.
    """
    return tf.function(tf.custom_gradient(function), autograph=False)
