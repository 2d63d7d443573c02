"""Every method in its smallest form."""

from __future__ import annotations

import dataclasses

# A method without an entry here fails `test_conformance_methods.test_every_method_is_covered`.
_MUNIT = {
    "width": 4,
    "downsamples": 1,
    "residual_blocks": 1,
    "mlp_dim": 8,
    "discriminator_width": 4,
    "discriminator_scales": 2,
    "discriminator_layers": 2,
}
TINY = {
    "acl_gan": _MUNIT,
    "munit": _MUNIT,
    "cyclegan": {
        "width": 4,
        "residual_blocks": 1,
        "discriminator_width": 4,
        "discriminator_layers": 2,
        "pool_size": 3,
    },
    "council_gan": {
        **_MUNIT,
        "members": 2,
        "style_dim": 4,
        "discriminator_scales": 1,
        "paint_layers": 2,
        "mask_epsilon": 0.5,  # at the released 0.01, slopes of 10,000 make any rounding a difference in a few steps
        "council_start": 0,
        "focus_start": -1,
    },
    "ugatit": {
        "width": 4,
        "residual_blocks": 1,
        "discriminator_width": 4,
        "global_layers": 5,
        "local_layers": 4,
        "share_fakes": True,  # fewer operations to trace; configs/ugatit_*.flags train without
    },
}
SIZE = 32
BATCH = 4


def config_of(method, **changes):
    return method.config(**{**TINY[method.name], **changes})


def flags_of(name):
    """The command's flags for the method of this name in its smallest form."""
    return (f"--method={name}", *(f"--{name}.{field}={value}" for field, value in TINY[name].items()))


def recipe_of(method, **changes):
    sizes = {"batch_size": BATCH, "image_size": SIZE, "load_size": SIZE}
    return dataclasses.replace(method.recipe, **{**sizes, "learning_rate": 1e-3, **changes})
