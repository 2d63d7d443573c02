"""ACL-GAN: unpaired translation held together by an adversarial consistency loss instead of a cycle.

Paper: Zhao, Wu, Dong, "Unpaired Image-to-Image Translation using Adversarial Consistency Loss", ECCV 2020,
arXiv 2003.04858. Official code: hyperplane-lab/ACL-GAN. The defaults are its released male-to-female model;
options add the other variants its repository had.

Names (paper -> code): S source domain, T target domain; G_S `g_s`, G_T `g_t`, D_S `d_s`, D_T `d_t`, D-hat
`d_hat`. From a source image x three images are made, each blended by its generator's mask over its input:

    bar   = G_T(x, z1)      the translation
    tilde = G_S(x, z2)      the source image through its own domain's generator
    hat   = G_S(bar, z3)    the way back

D-hat judges pairs (x, candidate): for it hat is real and tilde is fake, and the generators are pushed to
exchange the two, so the way back may be *any* source image that goes with x, not x itself. Identity images
(x with its own encoded style) are compared with x. Only source -> target is trained, unless
`both_directions`.

Deviations from the official code:
    - the discriminators' step runs no style encoder and no backward pass through the generators; the
      original computes both and throws the results away. Same updates.
    - the strength of the mask bound does not depend on batch and resolution (`mask_bound_scale`): the
      original's grows with the number of pixels in a batch. Equal at the paper's batch of 3 at 256 x 256.
    - generators step at even data iterations of the whole run; the original's count restarts each epoch.
    - a blank picture passes no gradient through instance norms (layers/norm.py); the original's weights turn NaN.
    - `skip` shows the decoders the input image; off by default (networks/munit.py).
    - image sides are checked before training; the original fails inside a convolution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from tfaclgan.errors import UserError
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
focus = lazy_import("tfaclgan.losses.focus")
reconstruction = lazy_import("tfaclgan.losses.reconstruction")
munit = lazy_import("tfaclgan.networks.munit")

PAPER_PIXELS = 3 * 256 * 256  # of one batch: where the two scales of the mask bound agree


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of ACL-GAN; "released" is the official male-to-female configuration."""

    direction: str = option(
        "a2b", "domain to translate from and to; the other one is trained by b2a", choices=("a2b", "b2a"), networks=True
    )
    both_directions: bool = option(
        False, "train both directions at once (variant aclmix; needs mask=false)", networks=True
    )
    mask: bool = option(True, "the generators also paint a mask and keep their input elsewhere", networks=True)
    identity_mask: bool = option(False, "blend identity images with their masks too (variant aclmaskpermg)")
    identity_style: str = option(
        "encoded", "style of identity images: the image's own, or zero (variant aclidt)", choices=("encoded", "zero")
    )
    judge_round_trip: bool = option(
        True, "the source discriminator also judges the way back; false: ablation aclmaskidt"
    )
    adversarial: str = option(
        "least_squares", "form of all adversarial terms", choices=("least_squares", "non_saturating")
    )
    adversarial_weight: float = option(1.0, "weight of the terms of both domains' discriminators", minimum=0)
    consistency_weight: float = option(
        0.2, "weight of the adversarial consistency loss (paper: lambda_acl; 0.5 for selfie2anime)", minimum=0
    )
    identity_weight: float = option(1.0, "weight of the identity loss (paper: lambda_idt), mean L1", minimum=0)
    style_weight: float = option(
        0.0, "weight of the reconstruction of z1, z2, z3 from the images, mean L1 (variant aclencode)", minimum=0
    )
    focus_weight: float = option(0.025, "weight of the mask loss (paper: lambda_mask); unused if mask=false", minimum=0)
    mask_bound: str = option(
        "batch",
        "what the bounds hold for: mean mask of the global batch (released), of each image (paper), "
        "or none but a pull to empty masks (square: the first basic model)",
        choices=("batch", "image", "square"),
    )
    mask_lower: float = option(
        0.3, "smallest free share of mask in the image, 0 to 1 (0.05 for glasses)", minimum=0, maximum=1
    )
    mask_upper: float = option(
        0.5, "largest free share of mask in the image, 0 to 1 (0.1 for glasses)", minimum=0, maximum=1
    )
    mask_bound_scale: str = option(
        "normalised",
        "strength of the bound: as at batch 3 with 256 x 256 pixels at any size, or growing with pixels as in the code",
        choices=("normalised", "code"),
    )
    focus_delta: float = option(0.001, "strength of the mask's bound inside the mask loss (paper: delta)", minimum=0)
    focus_epsilon: float = option(
        0.01, "keeps the term that pulls mask pixels to 0 or 1 finite (paper: epsilon)", minimum=1e-6
    )
    alpha: float = option(1.0, "scale of z2, the style of the source image's twin", minimum=0)
    width: int = option(64, "channels after the generators' first convolution", minimum=1, networks=True)
    downsamples: int = option(2, "halvings of the content encoder", minimum=1, maximum=12, networks=True)
    residual_blocks: int = option(4, "residual blocks in content encoder and decoder each", minimum=1, networks=True)
    style_dim: int = option(8, "numbers in a style", minimum=1, networks=True)
    mlp_dim: int = option(256, "width of the MLP that turns a style into AdaIN numbers", minimum=1, networks=True)
    skip: bool = option(
        False,
        "the decoders also see the input, at every size: not in the paper; narrow networks learn to copy sooner",
        networks=True,
    )
    discriminator_width: int = option(
        64, "channels after the discriminators' first convolution", minimum=1, networks=True
    )
    discriminator_scales: int = option(3, "image sizes each discriminator judges", minimum=1, maximum=12, networks=True)
    discriminator_layers: int = option(4, "stride-2 convolutions of each scale", minimum=1, maximum=12, networks=True)
    initial: str = option(
        "official",
        "initial weights: the code's, or balanced for narrow networks and short runs: discriminators scaled to their "
        "layers, styles that begin as small changes of a plain instance-normalised decoder",
        choices=("official", "balanced"),
    )


def networks(config: Config, image_shape: ImageShape) -> Networks:
    """Two generators, a discriminator a domain, and one of pairs for each direction trained."""
    channels = image_shape[-1]
    built = {name: _generator(name, channels, config) for name in ("g_s", "g_t")}
    built |= {name: _discriminator(name, channels, config) for name in ("d_s", "d_t")}
    built |= {name: _discriminator(name, 2 * channels, config) for name in _pair_discriminators(config)}
    return built


def _generator(name: str, channels: int, config: Config) -> Tensor:
    return munit.Generator(
        channels,
        mask=config.mask,
        width=config.width,
        downsamples=config.downsamples,
        residual_blocks=config.residual_blocks,
        style_dim=config.style_dim,
        mlp_dim=config.mlp_dim,
        initial=config.initial,
        skip=config.skip,
        name=name,
    )


def _discriminator(name: str, channels: int, config: Config) -> Tensor:
    return munit.discriminator(
        channels,
        width=config.discriminator_width,
        scales=config.discriminator_scales,
        layers_per_scale=config.discriminator_layers,
        initial=config.initial,
        name=name,
    )


def _pair_discriminators(config: Config) -> tuple[str, ...]:
    return ("d_hat_s", "d_hat_t") if config.both_directions else ("d_hat",)


def phases(config: Config) -> tuple[Phase, ...]:
    """All discriminators every data iteration, then both generators every other one."""
    masks_meet = config.mask and config.focus_weight > 0 and config.mask_bound != "image"
    return (
        Phase("discriminators", ("d_s", "d_t", *_pair_discriminators(config)), discriminator_loss),
        Phase("generators", ("g_s", "g_t"), generator_loss, every=2, cross_replica=masks_meet),
    )


class _Round(NamedTuple):
    """One trained direction: its images [b, h, w, c], what they were made with, and the masks.

    own, other: the generators of the images' domain and of the domain translated to.
    judged_hat: hat as the domain's discriminator sees it (variant aclmix: without gradient to bar).
    """

    own: Tensor
    other: Tensor
    images: Tensor
    bar: Tensor
    tilde: Tensor
    hat: Tensor
    judged_hat: Tensor
    styles: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]


def discriminator_loss(networks: Networks, batch: Batch, context: Context, config: Config) -> Loss:
    """Images against fakes in both domains; the way back (real) against the twin (fake) in pairs.

    A domain's fakes share the weight 1.
    """
    objective = adversarial.OBJECTIVES[config.adversarial]
    source, target = _domains(batch, config)
    rounds, _ = _make(networks, source, target, "discriminators", context, config)
    rounds = [_without_gradient(r) for r in rounds]
    terms = {}
    for name, images, fakes in zip(("d_s", "d_t"), (source, target), _judged(rounds, config), strict=True):
        *fake_scores, scores = _scores(networks[name], [*fakes, images])
        fake = sum(objective.fake(s) for s in fake_scores) / len(fake_scores)
        terms[name] = config.adversarial_weight * (fake + objective.real(scores))
    for name, r in zip(_pair_discriminators(config), rounds, strict=True):
        tilde_scores, hat_scores = _scores(networks[name], _pairs(r))
        terms[name] = config.consistency_weight * (objective.fake(tilde_scores) + objective.real(hat_scores))
    return Loss(terms)


def generator_loss(networks: Networks, batch: Batch, context: Context, config: Config) -> Loss:
    """Everything the generators, style encoders and MLPs are trained for; see the module docstring."""
    objective = adversarial.OBJECTIVES[config.adversarial]
    source, target = _domains(batch, config)
    rounds, identities = _make(networks, source, target, "generators", context, config)
    terms, watch = {}, {}
    for name, fakes in zip(("d_s", "d_t"), _judged(rounds, config), strict=True):
        scores = _scores(networks[name], fakes)
        terms[f"adversarial_{name}"] = config.adversarial_weight * sum(objective.real(s) for s in scores) / len(scores)
    for name, r in zip(_pair_discriminators(config), rounds, strict=True):
        tilde_scores, hat_scores = _scores(networks[name], _pairs(r))
        consistency = objective.real(tilde_scores) + objective.fake(hat_scores)
        terms[f"consistency_{name}"] = config.consistency_weight * consistency
    if config.mask:
        size, indecision, means = _mask_terms(rounds[0].masks, context, config)
        terms["mask_size"] = config.focus_weight * size
        terms["mask_indecision"] = config.focus_weight * indecision
        watch = {f"mask_{name}": means[i] for i, name in enumerate(("bar", "tilde", "hat"))}
    for name, images in (("g_s", source), ("g_t", target)):
        error = reconstruction.mean_absolute_error(identities[name], images)
        terms[f"identity_{name}"] = config.identity_weight * error
    if config.style_weight:
        terms["style"] = config.style_weight * sum(_style_error(r) for r in rounds)
    return Loss(terms, watch)


def _domains(batch: Batch, config: Config) -> tuple[Tensor, Tensor]:
    source, target = batch["a"], batch["b"]
    return (source, target) if config.direction == "a2b" else (target, source)


def _make(
    networks: Networks, source: Tensor, target: Tensor, step: str, context: Context, config: Config
) -> tuple[list[_Round], dict[str, Tensor]]:
    """All images of a step: its rounds and, for the generators' step, {generator: identity image}."""
    for_generators = step == "generators"
    shape = (source.shape[0], config.style_dim)
    directions = [("g_s", "g_t", source), ("g_t", "g_s", target)][: 1 + config.both_directions]
    noise = [[context.normal(f"{step}/z{3 * i + j}", shape) for j in (1, 2, 3)] for i in range(len(directions))]

    jobs = {"g_s": {}, "g_t": {}}
    for i, (own, other, images) in enumerate(directions):
        z1, z2, _ = noise[i]
        jobs[other]["bar", i] = (images, z1)
        jobs[own]["tilde", i] = (images, config.alpha * z2)
    if for_generators:
        for name, images in (("g_s", source), ("g_t", target)):
            jobs[name]["identity"] = (images, _identity_style(networks[name], images, config))
    raw = {name: _decode(networks[name], jobs[name]) for name in jobs}

    rounds = []
    for i, (own, other, images) in enumerate(directions):
        bar, bar_mask = munit.blend(raw[other]["bar", i], images)
        tilde, tilde_mask = munit.blend(raw[own]["tilde", i], images)
        hat, hat_mask = _way_back(networks[own], bar, noise[i][2])
        judged_hat = hat
        if config.both_directions and for_generators:
            judged_hat, _ = _way_back(networks[own], ops.stop_gradient(bar), noise[i][2])
        masks = (bar_mask, tilde_mask, hat_mask) if config.mask else ()
        rounds.append(
            _Round(networks[own], networks[other], images, bar, tilde, hat, judged_hat, tuple(noise[i]), masks)
        )
    identities = {}
    if for_generators:
        identities = {
            name: _identity_image(raw[name]["identity"], images, config)
            for name, images in (("g_s", source), ("g_t", target))
        }
    return rounds, identities


def _decode(generator: Tensor, jobs: dict[Any, tuple[Tensor, Tensor]]) -> dict[Any, Tensor]:
    """The raw outputs of jobs {label: (images, style)}: each batch of images encoded once, one call a network."""
    distinct = {id(images): images for images, _ in jobs.values()}
    encoded = generator.content(batches.join(distinct.values()))
    contents = dict(zip(distinct, batches.parts(encoded, len(distinct)), strict=True))
    content = batches.join([contents[id(images)] for images, _ in jobs.values()])
    styles, shown = (batches.join(parts) for parts in ([s for _, s in jobs.values()], [i for i, _ in jobs.values()]))
    raw = generator.decode(content, styles, shown)
    return dict(zip(jobs, batches.parts(raw, len(jobs)), strict=True))


def _way_back(own: Tensor, bar: Tensor, style: Tensor) -> tuple[Tensor, Tensor | None]:
    return munit.blend(own.decode(own.content(bar), style, bar), bar)


def _identity_style(generator: Tensor, images: Tensor, config: Config) -> Tensor:
    if config.identity_style == "zero":
        return ops.zeros((images.shape[0], config.style_dim), images.dtype)
    return generator.style(images)


def _identity_image(raw: Tensor, images: Tensor, config: Config) -> Tensor:
    """What the identity loss compares with the image: colours alone, unless the variant blends."""
    if not config.mask:
        return raw
    return munit.blend(raw, images)[0] if config.identity_mask else munit.colours_and_mask(raw)[0]


def _without_gradient(r: _Round) -> _Round:
    stopped = {name: ops.stop_gradient(getattr(r, name)) for name in ("bar", "tilde", "hat", "judged_hat")}
    return r._replace(**stopped)


def _judged(rounds: Sequence[_Round], config: Config) -> tuple[list[Tensor], list[Tensor]]:
    """The fakes that the discriminator of the source and of the target domain see."""
    of_source, of_target = [], []
    for r, own, other in zip(rounds, (of_source, of_target), (of_target, of_source)):
        own.append(r.tilde)
        if config.judge_round_trip:
            own.append(r.judged_hat)
        other.append(r.bar)
    return of_source, of_target


def _scores(discriminator: Tensor, groups: Sequence[Tensor]) -> list[list[Tensor]]:
    """One list of score maps a group of images, from one call."""
    return adversarial.split(discriminator(batches.join(groups)), len(groups))


def _pairs(r: _Round) -> list[Tensor]:
    return [ops.concatenate([r.images, candidate], axis=-1) for candidate in (r.tilde, r.hat)]


def _style_error(r: _Round) -> Tensor:
    encoders_images = ((r.other, r.bar), (r.own, r.tilde), (r.own, r.hat))
    return sum(
        reconstruction.mean_absolute_error(network.style(image), z)
        for (network, image), z in zip(encoders_images, r.styles, strict=True)
    )


def _mask_terms(masks: Sequence[Tensor], context: Context, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """The mask loss's two terms before `focus_weight`, and the masks' means [3]."""
    per_image = config.mask_bound == "image"
    means = ops.stack([focus.mask_means(mask, per_image) for mask in masks])
    if not per_image and config.focus_weight > 0:
        means = context.replica_mean(means)
    batch, height, width, _ = masks[0].shape
    pixels = PAPER_PIXELS
    if config.mask_bound_scale == "code":
        pixels = height * width * (1 if per_image else batch * context.replicas)
    square = config.mask_bound == "square"  # also: the first model summed over the masks
    lower, upper = (0.0, 0.0) if square else (config.mask_lower, config.mask_upper)
    divisor = 1 if square else len(masks)
    size = config.focus_delta * pixels * len(masks) * focus.excess(means, lower, upper) / divisor
    indecision = sum(focus.indecision(mask, config.focus_epsilon) for mask in masks) / divisor
    return size, indecision, ops.mean(ops.reshape(means, (len(masks), -1)), axis=1)


def _target_generator(networks: Networks, direction: str, config: Config) -> Tensor:
    trained = directions(config)
    if direction not in trained:
        raise UserError(
            f"direction {direction}: this ACL-GAN was trained for {', '.join(trained)} only; "
            "ask for that, or train with --acl_gan.direction or --acl_gan.both_directions"
        )
    return networks["g_t" if direction == config.direction else "g_s"]


def translate(networks: Networks, images: Tensor, style: Tensor, direction: str, config: Config) -> Translation:
    """images [b, h, w, c] in [-1, 1], style [b, style_dim] -> translation, its mask and unblended colours."""
    generator = _target_generator(networks, direction, config)
    raw = generator.decode(generator.content(images), style, images)
    image, mask = munit.blend(raw, images)
    return Translation(image) if mask is None else Translation(image, mask, munit.colours_and_mask(raw)[0])


def encode_style(networks: Networks, images: Tensor, direction: str, config: Config) -> Tensor:
    """Target-domain images [b, h, w, c] -> styles [b, style_dim]."""
    return _target_generator(networks, direction, config).style(images)


def directions(config: Config) -> tuple[str, ...]:
    """The trained ones."""
    return ("a2b", "b2a") if config.both_directions else (config.direction,)


def size_multiple(config: Config) -> int:
    """Sides are divided by this and restored, and the mask blends input and output."""
    return 2**config.downsamples


def minimum_size(config: Config) -> int:
    """The smallest side that generators, style encoders and every scale of the discriminators accept."""
    return munit_sizes.minimum_side(config.downsamples, config.discriminator_scales, config.discriminator_layers)


def check(config: Config, image_shape: ImageShape) -> None:
    """UserError for options that exclude each other and for sizes the networks cannot take."""
    if config.both_directions and config.mask:
        raise UserError(
            "--acl_gan.both_directions: this variant has no masks and --acl_gan.mask is on; add --acl_gan.mask=false"
        )
    if config.mask and config.mask_lower > config.mask_upper:
        raise UserError(
            f"--acl_gan.mask_lower={config.mask_lower:g} is above --acl_gan.mask_upper={config.mask_upper:g}, "
            "so no mask can satisfy both; give lower <= upper"
        )
    munit_sizes.check_size("acl_gan", image_shape, size_multiple(config), minimum_size(config))


METHOD = register(
    Method(
        name="acl_gan",
        title="ACL-GAN",
        paper="https://arxiv.org/abs/2003.04858",
        config=Config,
        recipe=Recipe(
            steps=350_000,
            batch_size=3,
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
        ema_networks=("g_s", "g_t"),
        directions=directions,
        size_multiple=size_multiple,
        minimum_size=minimum_size,
        style_dim=lambda config: config.style_dim,
        encode_style=encode_style,
        check=check,
    )
)
