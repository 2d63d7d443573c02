"""CycleGAN: two generators that must undo each other.

Paper: Zhu, Park, Isola, Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
ICCV 2017, arXiv 1703.10593. Official code: junyanz/pytorch-CycleGAN-and-pix2pix. The defaults are the code's (the
paper has no identity loss for horse2zebra; the code has it on for all).

Names (paper; code -> here): G, `G_A` -> `g_ab`; F, `G_B` -> `g_ba`; D_X, `D_B` -> `d_a`; D_Y, `D_A` -> `d_b`. Both
directions are trained; the generators first, the discriminators on the fakes the generators made before their update.

Deviations from the official code:
    - the image pool is one for each position of the batch (layers/image_pool.py); equal at the published batch of 1.
    - with `adversarial=wasserstein` the gradient penalty is added; the code has the penalty but its CycleGAN never
      calls it.
    - the linear decay acts on every data iteration; the code's is a staircase of epochs.
    - no dropout (the code's default for CycleGAN) and no batch norm.
    - flat channels in instance norms: layers/norm.py.
"""

from __future__ import annotations

import dataclasses

from tfaclgan.errors import UserError
from tfaclgan.lazy import lazy_import
from tfaclgan.methods.base import (
    Batch,
    Context,
    ImageShape,
    Loss,
    Memory,
    Method,
    Networks,
    Phase,
    Recipe,
    Tensor,
    Translation,
    option,
    register,
)

ops = lazy_import("keras.ops")
adversarial = lazy_import("tfaclgan.losses.adversarial")
batches = lazy_import("tfaclgan.layers.batches")
image_pool = lazy_import("tfaclgan.layers.image_pool")
patch = lazy_import("tfaclgan.networks.patch")
penalty = lazy_import("tfaclgan.losses.penalty")
reconstruction = lazy_import("tfaclgan.losses.reconstruction")
resnet = lazy_import("tfaclgan.networks.resnet")
unet = lazy_import("tfaclgan.networks.unet")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of CycleGAN; names in brackets are the official code's."""

    adversarial: str = option(
        "least_squares",
        "form of all adversarial terms (code: gan_mode)",
        choices=("least_squares", "non_saturating", "wasserstein"),
    )
    gradient_penalty_weight: float = option(
        10.0, "weight of WGAN-GP's penalty; used with wasserstein only (code: lambda_gp)", minimum=0
    )
    cycle_weight_a: float = option(10.0, "weight of the cycle a -> b -> a, mean L1 (lambda_A)", minimum=0)
    cycle_weight_b: float = option(10.0, "weight of the cycle b -> a -> b, mean L1 (lambda_B)", minimum=0)
    identity_weight: float = option(
        0.5, "weight of the identity loss as a share of the cycle's, mean L1; 0: none (lambda_identity)", minimum=0
    )
    pool_size: int = option(50, "earlier fakes kept for each position of the batch; 0: none (pool_size)", minimum=0)
    generator: str = option("resnet", "shape of the generators (netG)", choices=("resnet", "unet"), networks=True)
    width: int = option(64, "channels after the generators' first convolution (ngf)", minimum=1, networks=True)
    residual_blocks: int = option(
        9, "residual blocks of a resnet: 9 for 256 px and more, 6 below", minimum=0, networks=True
    )
    downsamples: int = option(
        2,
        "halvings of the generators: 2 for resnet; 7 (unet_128) or 8 (unet_256) for unet",
        minimum=1,
        maximum=12,
        networks=True,
    )
    upsampling: str = option(
        "transposed",
        "how a resnet doubles sides: published, or nearest (no checkerboard)",
        choices=("transposed", "nearest"),
        networks=True,
    )
    discriminator: str = option(
        "patch", "what a score judges: a window, or a pixel (netD)", choices=("patch", "pixel"), networks=True
    )
    discriminator_width: int = option(
        64, "channels after the discriminators' first convolution (ndf)", minimum=1, networks=True
    )
    discriminator_layers: int = option(
        3,
        "stride-2 convolutions of a patch discriminator; 3: windows of 70 px (n_layers_D)",
        minimum=1,
        maximum=12,
        networks=True,
    )


def networks(config: Config, image_shape: ImageShape) -> Networks:
    """A generator a direction, a discriminator a domain."""
    channels = image_shape[-1]
    built = {name: _generator(name, channels, config) for name in ("g_ab", "g_ba")}
    return built | {name: _discriminator(name, channels, config) for name in ("d_a", "d_b")}


def _generator(name: str, channels: int, config: Config) -> Tensor:
    if config.generator == "unet":
        return unet.generator(channels, width=config.width, downsamples=config.downsamples, name=name)
    return resnet.generator(
        channels,
        width=config.width,
        downsamples=config.downsamples,
        residual_blocks=config.residual_blocks,
        upsampling=config.upsampling,
        name=name,
    )


def _discriminator(name: str, channels: int, config: Config) -> Tensor:
    if config.discriminator == "pixel":
        return patch.pixel_discriminator(channels, width=config.discriminator_width, name=name)
    return patch.discriminator(
        channels, width=config.discriminator_width, layers=config.discriminator_layers, name=name
    )


def phases(config: Config) -> tuple[Phase, ...]:
    """Both generators, then both discriminators, every data iteration."""
    return (
        Phase("generators", ("g_ab", "g_ba"), generator_loss),
        Phase("discriminators", ("d_a", "d_b"), discriminator_loss),
    )


def generator_loss(networks: Networks, batch: Batch, context: Context, config: Config) -> Loss:
    """Fooling both discriminators, both cycles, and leaving images of the target domain as they are."""
    objective = adversarial.OBJECTIVES[config.adversarial]
    distance = reconstruction.mean_absolute_error
    a, b, g_ab, g_ba = batch["a"], batch["b"], networks["g_ab"], networks["g_ba"]
    fake_b, same_b = _each(g_ab, a, b) if config.identity_weight else (g_ab(a), None)
    fake_a, same_a = _each(g_ba, b, a) if config.identity_weight else (g_ba(b), None)
    terms = {
        "adversarial_d_a": objective.real([networks["d_a"](fake_a)]),
        "adversarial_d_b": objective.real([networks["d_b"](fake_b)]),
        "cycle_a": config.cycle_weight_a * distance(g_ba(fake_b), a),
        "cycle_b": config.cycle_weight_b * distance(g_ab(fake_a), b),
    }
    if config.identity_weight:
        terms["identity_a"] = config.identity_weight * config.cycle_weight_a * distance(same_a, a)
        terms["identity_b"] = config.identity_weight * config.cycle_weight_b * distance(same_b, b)
    return Loss(terms, carry={"a": fake_a, "b": fake_b})


def discriminator_loss(networks: Networks, batch: Batch, context: Context, config: Config) -> Loss:
    """Images against fakes, new ones and some of the pool's, in both domains; halved."""
    objective = adversarial.OBJECTIVES[config.adversarial]
    terms, memory = {}, {}
    for domain in "ab":
        discriminator, images = networks[f"d_{domain}"], batch[domain]
        fakes = context.carried[domain]
        count = images.shape[0]
        if config.pool_size:
            pool = f"pool_{domain}"
            draws = (context.uniform(f"{pool}/{name}", (count,)) for name in ("coin", "place"))
            fakes, memory[pool] = image_pool.exchange(context.memory[pool], fakes, context.step, *draws)
        scores, fake_scores = _each(discriminator, images, fakes)
        terms[f"d_{domain}"] = 0.5 * (objective.real([scores]) + objective.fake([fake_scores]))
        if config.adversarial == "wasserstein" and config.gradient_penalty_weight:
            share = context.uniform(f"penalty_{domain}", (count,))
            steepness = penalty.gradient_penalty(discriminator, images, fakes, share)
            terms[f"penalty_{domain}"] = config.gradient_penalty_weight * steepness
    return Loss(terms, memory=memory)


def _each(network: Tensor, first: Tensor, second: Tensor) -> list[Tensor]:
    """network(first), network(second), by one call."""
    return batches.parts(network(batches.join([first, second])), 2)


def memory(config: Config, image_shape: ImageShape) -> dict[str, Memory]:
    """The two pools of fakes."""
    shape = (config.pool_size, *image_shape)
    return {f"pool_{domain}": Memory(shape) for domain in "ab"} if config.pool_size else {}


def translate(networks: Networks, images: Tensor, style: None, direction: str, config: Config) -> Translation:
    """images [b, h, w, c] in [-1, 1] -> the translation."""
    return Translation(networks["g_ab" if direction == "a2b" else "g_ba"](images))


def size_multiple(config: Config) -> int:
    """Sides are divided by this and restored."""
    return 2**config.downsamples


def minimum_size(config: Config) -> int:
    """The smallest side that generators and discriminators accept."""
    multiple = size_multiple(config)
    # A resnet mirrors a pixel of its smallest map; a patch discriminator's last norm needs more than a pixel.
    generator = multiple if config.generator == "unet" else 2 * multiple
    patches = 3 * 2**config.discriminator_layers if config.discriminator == "patch" else 1
    return -(-max(generator, patches) // multiple) * multiple


def check(config: Config, image_shape: ImageShape) -> None:
    """UserError for sizes the networks cannot take."""
    height, width, _ = image_shape
    multiple, minimum = size_multiple(config), minimum_size(config)
    if config.generator == "unet" and config.downsamples < 2:
        raise UserError("--cyclegan.downsamples=1: a unet halves at least twice; give 7 for 128 px, 8 for 256 px")
    if height % multiple or width % multiple:
        raise UserError(
            f"image size {height} x {width}: both sides must be multiples of {multiple} for this CycleGAN "
            f"(2 ** --cyclegan.downsamples); choose e.g. {-(-height // multiple) * multiple}"
        )
    if min(height, width) < minimum:
        raise UserError(
            f"image size {height} x {width}: this CycleGAN needs sides of at least {minimum} pixels; use larger "
            "images or lower --cyclegan.discriminator_layers"
        )


METHOD = register(
    Method(
        name="cyclegan",
        title="CycleGAN",
        paper="https://arxiv.org/abs/1703.10593",
        config=Config,
        recipe=Recipe(
            steps=266_800,  # 200 epochs of horse2zebra: 1,334 images of the larger domain
            batch_size=1,
            image_size=256,
            load_size=286,
            learning_rate=2e-4,
            beta_1=0.5,
            beta_2=0.999,
            adam_epsilon=1e-8,
            augment="flip,crop",
        ),
        networks=networks,
        phases=phases,
        translate=translate,
        ema_networks=("g_ab", "g_ba"),
        directions=lambda config: ("a2b", "b2a"),
        size_multiple=size_multiple,
        minimum_size=minimum_size,
        check=check,
        memory=memory,
    )
)
