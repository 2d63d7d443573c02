"""Rematerialisation: a network's maps are computed again when its gradient is taken, not kept until then.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174, with a generator's encoder or decoder as
the piece: a cycle passes a generator several times, and the maps of one pass of one piece are then all that is kept at
a time. The gradient is the same; the price is a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

_MAPS = 4  # dimensions of [b, h, w, c]


def rematerialise(network: keras.Model) -> None:
    """Makes the network's pieces forget their maps; first derivatives only, which is all that generators need.

    Pieces are the network itself if it is functional, else the functional models it holds. Those that read vectors
    (MLPs) are left alone: they have no maps worth forgetting.
    """
    for piece in _pieces(network):
        if len(piece.inputs[0].shape) == _MAPS:
            _forget(piece)


def _pieces(network: keras.Model) -> list[keras.Model]:
    if getattr(network, "inputs", None):
        return [network]
    return [layer for layer in network.layers if isinstance(layer, keras.Model) and getattr(layer, "inputs", None)]


def _forget(piece: keras.Model) -> None:
    compute = piece.call

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """`piece.call`; no layer of the house behaves differently in training, and none has masks."""

        def flat(*tensors: Any) -> Any:
            return compute(keras.tree.pack_sequence_as(inputs, tensors))

        return _computed_again(flat)(*keras.tree.flatten(inputs))

    piece.call = call


def _computed_again(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with nothing kept for its gradient but its arguments.

    Both frameworks tie the second pass to the gradient, so that XLA does not merge it with the first.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.checkpoint(function)
    import tensorflow as tf

    return tf.recompute_grad(function)
