#!/usr/bin/env python3
"""Does a training step compute anything twice? Its program's operations beside what the algorithm needs.

    python benchmarks/step_work.py                                      # published widths at 256 px, minutes
    python benchmarks/step_work.py --size=64 --width=16 --blocks=2

Counts convolutions and matrix products in the program that TensorFlow gives to XLA, before XLA changes it, and compares
them with a count by hand of what one data iteration of the method needs: every network's forward pass on every picture
it has to see, and the backward passes that end in a weight or in a picture which is trained through. Upsampling is
counted in its cheapest form (nearest upsampling and a 5x5 or 3x3 convolution as four small ones at the low resolution),
reflected borders as one full convolution. Data iterations in which all phases are due.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import NamedTuple


class Work(NamedTuple):
    """Multiplications of one network for one picture: all layers, and those layers alone that see the picture."""

    all: float
    first: float

    def through(self) -> float:
        """Forward, and back to the picture; its weights rest."""
        return 2 * self.all

    def train(self, *, picture_trained: bool) -> float:
        """Forward and back to its weights, and to the picture if that is made by a network in training."""
        return 3 * self.all - (0 if picture_trained else self.first)


def munit_networks(
    size: int, width: int, downsamples: int, blocks: int, style_dim: int, mlp_dim: int, outputs: int, channels: int = 3
) -> dict[str, Work]:
    """Content encoder, style encoder, MLP and decoder (`networks/munit.py`)."""
    deep, small = width * 2**downsamples, (size // 2**downsamples) ** 2
    stem = 49 * channels * width * size**2
    down = sum(16 * width * 2**i * width * 2 ** (i + 1) * (size // 2 ** (i + 1)) ** 2 for i in range(downsamples))
    residual = 2 * blocks * 9 * deep**2 * small
    style_widths = [width * 2 ** min(i, 2) for i in range(5)]
    style = sum(16 * style_widths[i] * style_widths[i + 1] * (size // 2 ** (i + 1)) ** 2 for i in range(4))
    mlp = style_dim * mlp_dim + mlp_dim**2 + mlp_dim * 4 * blocks * deep
    up = sum(
        4 * 9 * (deep // 2**i) * (deep // 2 ** (i + 1)) * (size // 2 ** (downsamples - i)) ** 2
        for i in range(downsamples)
    )
    return {
        "content": Work(stem + down + residual, stem),
        "style": Work(stem + style + style_widths[-1] * style_dim, stem),
        "mlp": Work(mlp, style_dim * mlp_dim),
        "decoder": Work(residual + up + 49 * width * outputs * size**2, 0),
    }


def munit_discriminator(size: int, channels: int, width: int, scales: int, layers: int) -> Work:
    """`layers` halving 4x4 convolutions and a 1x1 one at each of `scales` sizes."""
    total = first = 0.0
    for scale in range(scales):
        side, inputs = size // 2**scale, channels
        for layer in range(layers):
            side //= 2
            work = 16 * inputs * width * 2**layer * side**2
            total, first = total + work, first + (work if layer == 0 else 0)
            inputs = width * 2**layer
        total += inputs * side**2
    return Work(total, first)


def acl_gan(size: int, width: int, blocks: int, batch: int) -> float:
    """Operations that a data iteration of the released ACL-GAN needs, both phases."""
    g = munit_networks(size, width, 2, blocks, 8, 256, outputs=4)
    one, pair = (munit_discriminator(size, channels, width, 3, 4) for channels in (3, 6))
    content, style, mlp, decoder = g["content"], g["style"], g["mlp"], g["decoder"]
    # bar; tilde; the way back. One content of x for each generator.
    making = 3 * content.all + 3 * (mlp.all + decoder.all)
    judging = 5 * one.train(picture_trained=False) + 2 * pair.train(picture_trained=False)
    # Both generators read x, G_T also y; the way back reads bar.
    reading = 3 * content.train(picture_trained=False) + content.train(picture_trained=True)
    styles = 2 * style.train(picture_trained=False)
    painting = 5 * decoder.train(picture_trained=True)
    mixing = 3 * mlp.train(picture_trained=False) + 2 * mlp.train(picture_trained=True)
    pleasing = 3 * one.through() + 2 * pair.through()
    return 2 * batch * (making + judging + reading + styles + painting + mixing + pleasing)


def ugatit_generator(size: int, width: int, blocks: int, light: int, channels: int = 3) -> Work:
    """Encoder, 1x1 squeeze, MLP and decoder of U-GAT-IT."""
    deep, small = 4 * width, (size // 4) ** 2
    stem = 49 * channels * width * size**2
    down = 9 * width * 2 * width * (size // 2) ** 2 + 9 * 2 * width * deep * small
    residual = 2 * blocks * 9 * deep**2 * small
    squeeze = 2 * deep * deep * small
    mlp = ((light**2 if light else small) * deep + deep + 2 * deep) * deep
    up = 4 * 4 * deep * 2 * width * small + 4 * 4 * 2 * width * width * (size // 2) ** 2
    head = 49 * width * channels * size**2
    return Work(stem + down + residual + squeeze + mlp + residual + up + head, stem)


def ugatit_discriminator(size: int, width: int, depth: int, channels: int = 3) -> tuple[Work, float]:
    """depth - 2 halving 4x4 convolutions, one that keeps the size less 1, a 1x1 squeeze and a score; and the
    multiplications of all kernels by one vector, for the spectral norm."""
    side, inputs, total, first, kernels = size, channels, 0.0, 0.0, 0.0
    for layer in range(depth - 1):
        outputs = width * 2**layer
        side = side // 2 if layer < depth - 2 else side - 1
        work = 16 * inputs * outputs * side**2
        total, first = total + work, first + (work if layer == 0 else 0)
        kernels += 16 * inputs * outputs
        inputs = outputs
    squeeze = 2 * inputs * inputs * side**2
    score = 16 * inputs * (side - 1) ** 2
    return Work(total + squeeze + score, first), kernels + 16 * inputs


def ugatit(size: int, width: int, blocks: int, batch: int, light: int, depths: tuple[int, int]) -> float:
    """Operations that a data iteration of U-GAT-IT (profile pt) needs, both phases."""
    g = ugatit_generator(size, width, blocks, light)
    work = 0.0
    for depth in depths:
        judge, kernels = ugatit_discriminator(size, width, depth)
        # A fake and an image are judged; later the fake once more. Power iteration and its quotient: three products a
        # phase, and one back to the kernel's gradient.
        work += 2 * (batch * (2 * judge.train(picture_trained=False) + judge.through()) + 7 * kernels)
    making = 2 * batch * g.all
    painting = 2 * batch * (2 * g.train(picture_trained=False) + g.train(picture_trained=True))
    return 2 * (work + making + painting)


@dataclasses.dataclass(frozen=True)
class Case:
    """A method, its --METHOD.options, and the operations it needs, all at the asked size."""

    method: str
    options: dict[str, object]
    needed: float


def cases(size: int, width: int, blocks: int, batch: int) -> list[Case]:
    """ACL-GAN, U-GAT-IT light and full."""
    shared = {"width": width, "residual_blocks": blocks, "discriminator_width": width}
    depths = (7, 5) if size >= 128 else (6, 5)
    layers = {"global_layers": depths[0], "local_layers": depths[1]}
    return [
        Case("acl_gan", shared, acl_gan(size, width, blocks, batch)),
        *(
            Case(
                "ugatit",
                {**shared, **layers, "profile": "pt", "light": light, "mlp_dim": 4 * width},
                ugatit(size, width, blocks, batch, light, depths),
            )
            for light in (1, 0)
        ),
    ]


def counted(case: Case, size: int, batch: int, dtype: str) -> float:
    """Operations of convolutions and products in the program of a data iteration in which all phases are due."""
    from tfaclgan.engine import hlo_work, tpu_compiler
    from tfaclgan.engine.tensorflow import Engine
    from tfaclgan.methods import base

    method = base.get(case.method)
    config = method.config(**case.options)
    recipe = dataclasses.replace(method.recipe, batch_size=batch)
    engine = Engine(method, config, image_shape=(size, size, 3), recipe=recipe, dtype=dtype, xla="on")
    return hlo_work.flops(tpu_compiler.step_hlo_text(engine, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels (256)")
    parser.add_argument("--width", type=int, default=64, help="channels after the first convolutions (64)")
    parser.add_argument("--blocks", type=int, default=4, help="residual blocks of every encoder and decoder (4)")
    parser.add_argument("--batch", type=int, default=1, help="images of each domain (1)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of products (float32)")
    arguments = parser.parse_args()
    print(f"{'':24}{'needed':>10}{'program':>10}  GFLOP a data iteration, convolutions and products")
    for case in cases(arguments.size, arguments.width, arguments.blocks, arguments.batch):
        program = counted(case, arguments.size, arguments.batch, arguments.dtype)
        light = {1: " light", 0: " full"}.get(case.options.get("light"), "")
        print(
            f"{case.method + light:24}{case.needed / 1e9:10.2f}{program / 1e9:10.2f}  {program / case.needed:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
