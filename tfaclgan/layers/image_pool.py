"""A pool of earlier fakes, kept on the device: a discriminator that sees them cannot chase the newest alone.

Shrivastava et al., arXiv 1612.07828; as CycleGAN uses it (arXiv 1703.10593, official code: `ImagePool`). While the
pool is not full each fake is put in and shown. Then, with probability 1/2, a random picture is taken out, shown, and
replaced by the fake; otherwise the fake is shown and forgotten.

Deviation: the official pool is one for the whole batch; here every position of the global batch has its own, so that
no replica waits for another. With the published batch of 1 there is no difference.
"""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any


def exchange(pool: Tensor, images: Tensor, step: Tensor, coin: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """What the discriminator is shown, and the pool afterwards.

    Args:
        pool: [b, size, h, w, c].
        images: the newest fakes [b, h, w, c].
        step: how many fakes each position was given before, an integer scalar.
        coin: [b], uniform in (0, 1): a full pool exchanges where it is above 1/2.
        place: [b], uniform in (0, 1): which picture.

    Returns:
        (images [b, h, w, c], pool).
    """
    count, size = pool.shape[:2]
    images = ops.cast(images, pool.dtype)
    step = ops.cast(step, "int32")
    full = step >= size
    random = ops.minimum(ops.cast(place * size, "int32"), size - 1)
    slot = ops.where(full, random, ops.minimum(step, size - 1))
    # A place is read and written by its number: comparing all places with it would pass over the whole pool.
    number = size * ops.arange(count, dtype="int32") + slot
    pictures = ops.reshape(pool, (count * size, *images.shape[1:]))
    stored = ops.take(pictures, number, axis=0)
    swap = ops.logical_and(full, coin > 0.5)
    put = ops.logical_or(swap, ops.logical_not(full))
    swap, put = (condition[:, None, None, None] for condition in (swap, put))
    pictures = ops.scatter_update(pictures, number[:, None], ops.where(put, images, stored))
    return ops.where(swap, stored, images), ops.reshape(pictures, pool.shape)
