"""MUNIT: a content shared between two domains, a style of each, and crossed decoding.

Paper: Huang, Liu, Belongie, Kautz, "Multimodal Unsupervised Image-to-Image Translation", ECCV 2018,
arXiv 1804.04732. Official code: NVlabs/MUNIT. The defaults are those of its edges-to-shoes configuration;
`cycle_weight` is 10 for summer-to-winter and synthia-to-cityscape.

Names (code -> here): gen_a `g_a` (the auto-encoder of domain A), gen_b `g_b`, dis_a `d_a`, dis_b `d_b`.
Both directions are trained.

Deviations from the official code:
    - the optional VGG term (`vgg_w`, used for one 512 x 512 task) is left out: it needs a third party's weights.
    - the discriminators' step makes only what it judges, without gradient; same updates.
    - the learning rate of data iteration i is that of the schedule at i; the original steps its schedule at the
      start of the iteration, one iteration earlier.
"""

from __future__ import annotations

import dataclasses

from tfaclgan.lazy import lazy_import
from tfaclgan.methods.base import (
    Batch,
    Context,
    ImageShape,
    Loss,
    Method,
    Networks,
    Phase,
    Recipe,
    Tensor,
    Translation,
    option,
    register,
)
from tfaclgan.networks import munit_sizes

ops = lazy_import("keras.ops")
adversarial = lazy_import("tfaclgan.losses.adversarial")
batches = lazy_import("tfaclgan.layers.batches")
reconstruction = lazy_import("tfaclgan.losses.reconstruction")
munit = lazy_import("tfaclgan.networks.munit")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of MUNIT."""

    adversarial: str = option(
        "least_squares", "form of all adversarial terms", choices=("least_squares", "non_saturating")
    )
    adversarial_weight: float = option(1.0, "weight of the adversarial terms", minimum=0)
    image_weight: float = option(10.0, "weight of image reconstruction within a domain, mean L1", minimum=0)
    style_weight: float = option(1.0, "weight of style reconstruction, mean L1", minimum=0)
    content_weight: float = option(1.0, "weight of content reconstruction, mean L1", minimum=0)
    cycle_weight: float = option(
        0.0, "weight of the image cycle, mean L1; 0: none (10 for summer2winter and synthia2cityscape)", minimum=0
    )
    width: int = option(64, "channels after the generators' first convolution", minimum=1, networks=True)
    downsamples: int = option(2, "halvings of the content encoder", minimum=1, maximum=12, networks=True)
    residual_blocks: int = option(4, "residual blocks in content encoder and decoder each", minimum=1, networks=True)
    style_dim: int = option(8, "numbers in a style", minimum=1, networks=True)
    mlp_dim: int = option(256, "width of the MLP that turns a style into AdaIN numbers", minimum=1, networks=True)
    discriminator_width: int = option(
        64, "channels after the discriminators' first convolution", minimum=1, networks=True
    )
    discriminator_scales: int = option(3, "image sizes each discriminator judges", minimum=1, maximum=12, networks=True)
    discriminator_layers: int = option(4, "stride-2 convolutions of each scale", minimum=1, maximum=12, networks=True)


def networks(config: Config, image_shape: ImageShape) -> Networks:
    """An auto-encoder and a discriminator a domain."""
    channels = image_shape[-1]
    built = {}
    for name in ("g_a", "g_b"):
        built[name] = munit.Generator(
            channels,
            mask=False,
            width=config.width,
            downsamples=config.downsamples,
            residual_blocks=config.residual_blocks,
            style_dim=config.style_dim,
            mlp_dim=config.mlp_dim,
            name=name,
        )
    for name in ("d_a", "d_b"):
        built[name] = munit.discriminator(
            channels,
            width=config.discriminator_width,
            scales=config.discriminator_scales,
            layers_per_scale=config.discriminator_layers,
            name=name,
        )
    return built


def phases(config: Config) -> tuple[Phase, ...]:
    """Both discriminators, then both generators, every data iteration."""
    return (
        Phase("discriminators", ("d_a", "d_b"), discriminator_loss),
        Phase("generators", ("g_a", "g_b"), generator_loss),
    )


def discriminator_loss(networks: Networks, batch: Batch, context: Context, config: Config) -> Loss:
    """Images against translations, in both domains."""
    objective = adversarial.OBJECTIVES[config.adversarial]
    a, b = batch["a"], batch["b"]
    style_a, style_b = _styles("discriminators", a, context, config)
    fakes = {
        "d_a": networks["g_a"].decode(networks["g_b"].content(b), style_a),
        "d_b": networks["g_b"].decode(networks["g_a"].content(a), style_b),
    }
    terms = {}
    for name, images in (("d_a", a), ("d_b", b)):
        both = batches.join([ops.stop_gradient(fakes[name]), images])
        fake_scores, scores = adversarial.split(networks[name](both), 2)
        terms[name] = config.adversarial_weight * (objective.fake(fake_scores) + objective.real(scores))
    return Loss(terms)


def generator_loss(networks: Networks, batch: Batch, context: Context, config: Config) -> Loss:
    """Reconstruction within a domain, of style and content after crossing, and the adversarial terms.

    Content targets keep their gradient, as in the official code.
    """
    objective = adversarial.OBJECTIVES[config.adversarial]
    distance = reconstruction.mean_absolute_error
    g_a, g_b, a, b = networks["g_a"], networks["g_b"], batch["a"], batch["b"]
    style_a, style_b = _styles("generators", a, context, config)
    content_a, own_style_a = g_a.content(a), g_a.style(a)
    content_b, own_style_b = g_b.content(b), g_b.style(b)
    a_again, from_b = _decode_two(g_a, (content_a, own_style_a), (content_b, style_a))
    b_again, from_a = _decode_two(g_b, (content_b, own_style_b), (content_a, style_b))
    content_b_again, style_a_again = g_a.content(from_b), g_a.style(from_b)
    content_a_again, style_b_again = g_b.content(from_a), g_b.style(from_a)
    terms = {
        "adversarial_d_a": config.adversarial_weight * objective.real(networks["d_a"](from_b)),
        "adversarial_d_b": config.adversarial_weight * objective.real(networks["d_b"](from_a)),
        "image_a": config.image_weight * distance(a_again, a),
        "image_b": config.image_weight * distance(b_again, b),
        "style_a": config.style_weight * distance(style_a_again, style_a),
        "style_b": config.style_weight * distance(style_b_again, style_b),
        "content_a": config.content_weight * distance(content_a_again, content_a),
        "content_b": config.content_weight * distance(content_b_again, content_b),
    }
    if config.cycle_weight:
        terms["cycle_a"] = config.cycle_weight * distance(g_a.decode(content_a_again, own_style_a), a)
        terms["cycle_b"] = config.cycle_weight * distance(g_b.decode(content_b_again, own_style_b), b)
    return Loss(terms)


def _styles(step: str, images: Tensor, context: Context, config: Config) -> tuple[Tensor, Tensor]:
    shape = (images.shape[0], config.style_dim)
    return context.normal(f"{step}/style_a", shape), context.normal(f"{step}/style_b", shape)


def _decode_two(generator: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Two (content, style) pairs decoded by one call."""
    contents, styles = zip(first, second, strict=True)
    return batches.parts(generator.decode(batches.join(contents), batches.join(styles)), 2)


def _generators(networks: Networks, direction: str) -> tuple[Tensor, Tensor]:
    source, target = direction.split("2")
    return networks[f"g_{source}"], networks[f"g_{target}"]


def translate(networks: Networks, images: Tensor, style: Tensor, direction: str, config: Config) -> Translation:
    """images [b, h, w, c] in [-1, 1], style [b, style_dim] of the target domain -> the translation."""
    source, target = _generators(networks, direction)
    return Translation(target.decode(source.content(images), style))


def encode_style(networks: Networks, images: Tensor, direction: str, config: Config) -> Tensor:
    """Target-domain images [b, h, w, c] -> styles [b, style_dim]."""
    return networks[f"g_{direction[-1]}"].style(images)


def size_multiple(config: Config) -> int:
    """Sides are divided by this and restored."""
    return 2**config.downsamples


def minimum_size(config: Config) -> int:
    """The smallest side that generators, style encoders and every scale of the discriminators accept."""
    return munit_sizes.minimum_side(config.downsamples, config.discriminator_scales, config.discriminator_layers)


def check(config: Config, image_shape: ImageShape) -> None:
    """UserError for sizes the networks cannot take."""
    munit_sizes.check_size("munit", image_shape, size_multiple(config), minimum_size(config))


METHOD = register(
    Method(
        name="munit",
        title="MUNIT",
        paper="https://arxiv.org/abs/1804.04732",
        config=Config,
        recipe=Recipe(
            steps=1_000_000,
            batch_size=1,
            image_size=256,
            load_size=256,
            learning_rate=1e-4,
            beta_1=0.5,
            beta_2=0.999,
            adam_epsilon=1e-8,
            weight_decay=1e-4,
            lr_decay_steps=100_000,
            lr_decay_factor=0.5,
            augment="flip,crop",
        ),
        networks=networks,
        phases=phases,
        translate=translate,
        ema_networks=("g_a", "g_b"),
        directions=lambda config: ("a2b", "b2a"),
        size_multiple=size_multiple,
        minimum_size=minimum_size,
        style_dim=lambda config: config.style_dim,
        encode_style=encode_style,
        check=check,
    )
)
