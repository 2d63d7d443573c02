"""Council-GAN: several generators that must not be told apart by their translations of a picture.

Paper: Nizan, Tal, "Breaking the cycle: colleagues are all you need", CVPR 2020, arXiv 1911.10538. Official code:
Onr/Council-GAN. The defaults are its male-to-female configuration.

Names (code -> here), for member i: gen_a2b_s[i] `g_i`, dis_a2b_s[i] `d_i` (judges the target domain),
dis_council_a2b_s[i] `c_i`. The council discriminator c_i sees a translation beside its source; the member's own is
fake, another member's, painted with a style nearer to 0, is real, so each member is pulled to what its colleagues
paint. There is no cycle. One direction is trained; all members translate with the same style.

Deviations from the official code:
    - council discriminators learn from the first data iteration, not from `council_start` on. The generators hear
      them from `council_start` on, as in the code.
    - where a council discriminator's colleague is drawn, each image draws its own; the code draws one for the batch.
    - no style encoder (networks/council.py) and none of the terms that every released configuration has at 0:
      reconstructions, VGG, absolute distances, discriminators and generators paired at random.
    - the code leaves `gan_w` out of the discriminators' loss if it trains b -> a; here both directions are equal.
    - a translation shows one member, `member`; the code's script draws one for each image.
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
council = lazy_import("tfaclgan.networks.council")
focus = lazy_import("tfaclgan.losses.focus")


MOST_MEMBERS = 16


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of Council-GAN; names in brackets are the official configuration's."""

    direction: str = option("a2b", "domain to translate from and to", choices=("a2b", "b2a"), networks=True)
    members: int = option(
        4,
        "generators, each with two discriminators (council_size)",
        minimum=1,
        maximum=MOST_MEMBERS,
        networks=True,
    )
    adversarial: str = option(
        "least_squares", "form of all adversarial terms (gan_type)", choices=("least_squares", "non_saturating")
    )
    adversarial_weight: float = option(24.0, "weight of the adversarial terms (gan_w; anime 26)", minimum=0)
    council_weight: float = option(4.0, "weight of the council's terms (council_w; glasses 12, anime 6)", minimum=0)
    council_start: int = option(
        10_000, "data iteration from which generators hear the council (council_start_at_iter; anime 1,000)", minimum=0
    )
    council_on_steps: int = option(
        0, "data iterations with the council in each turn of on and off; 0: always on (flipOnOff)", minimum=0
    )
    council_off_steps: int = option(0, "data iterations without it in each turn", minimum=0)
    comparisons: int = option(
        4,
        "colleagues each council discriminator sees in a step (numberOfCouncil_dis_relative_iteration)",
        minimum=1,
    )
    colleague_style: float = option(
        0.71,
        "scale of the style colleagues paint with (discriminetro_less_style_by; else 0.7)",
        minimum=0,
    )
    match_losses: bool = option(
        True, "scale the council's term to the running mean of the adversarial one (do_w_loss_matching)"
    )
    match_history: int = option(
        100, "data iterations in the running means, which begin at 1 (loss_matching_hist_size)", minimum=1
    )
    focus_start: int = option(
        50_000, "data iteration after which masks are judged (focus_loss_start_at_iter; glasses 15,000)", minimum=-1
    )
    mask_indecision_weight: float = option(
        0.5, "weight of the pull of mask pixels to 0 or 1 (mask_zero_or_one_w; glasses 10, anime 0)", minimum=0
    )
    mask_size_weight: float = option(
        0.5, "weight of the squared mean mask (mask_total_w; glasses 57, anime 0)", minimum=0
    )
    mask_variation_weight: float = option(
        0.0, "weight of the masks' total variation (mask_tv_w; glasses 2.2)", minimum=0
    )
    mask_epsilon: float = option(0.01, "keeps the pull to 0 or 1 finite (mask_zero_or_one_epsilon)", minimum=1e-6)
    paint_layers: int = option(
        3, "pictures with a mask each, painted one over the other (num_of_mask_dim_to_add)", minimum=1, networks=True
    )
    member: int = option(0, "the member whose translations are shown, from 0", minimum=0)
    width: int = option(64, "channels after the generators' first convolution", minimum=1, networks=True)
    downsamples: int = option(2, "halvings of the content encoder", minimum=1, maximum=12, networks=True)
    residual_blocks: int = option(5, "residual blocks in content encoder and decoder each", minimum=1, networks=True)
    style_dim: int = option(64, "numbers in a style", minimum=1, networks=True)
    mlp_dim: int = option(256, "width of the MLP that turns a style into AdaIN numbers", minimum=1, networks=True)
    discriminator_width: int = option(
        64, "channels after the discriminators' first convolution", minimum=1, networks=True
    )
    discriminator_scales: int = option(2, "image sizes each discriminator judges", minimum=1, maximum=12, networks=True)
    discriminator_layers: int = option(
        4, "convolutions of each scale before the score, with stride 2", minimum=1, maximum=12, networks=True
    )
    initial: str = option(
        "official",
        "initial weights: the code's, or balanced for narrow networks and short runs, as ACL-GAN's",
        choices=("official", "balanced"),
    )


def networks(config: Config, image_shape: ImageShape) -> Networks:
    """A generator, a discriminator and, if there are colleagues, a council discriminator a member."""
    channels = image_shape[-1]
    built = {}
    for i in range(config.members):
        built[f"g_{i}"] = council.Generator(
            channels,
            paint_layers=config.paint_layers,
            width=config.width,
            downsamples=config.downsamples,
            residual_blocks=config.residual_blocks,
            style_dim=config.style_dim,
            mlp_dim=config.mlp_dim,
            initial=config.initial,
            name=f"g_{i}",
        )
    for name in _names("d", config):
        built[name] = _discriminator(council.discriminator, channels, name, config)
    for name in _names("c", config):
        built[name] = _discriminator(council.council_discriminator, 2 * channels, name, config)
    return built


def _discriminator(make: Tensor, channels: int, name: str, config: Config) -> Tensor:
    return make(
        channels,
        width=config.discriminator_width,
        scales=config.discriminator_scales,
        layers_per_scale=config.discriminator_layers,
        initial=config.initial,
        name=name,
    )


def _names(kind: str, config: Config) -> tuple[str, ...]:
    if kind == "c" and config.members < 2:
        return ()
    return tuple(f"{kind}_{i}" for i in range(config.members))


def phases(config: Config) -> tuple[Phase, ...]:
    """Discriminators, council discriminators and generators, every data iteration."""
    council_phase = Phase("council", _names("c", config), council_loss)
    return (
        Phase("discriminators", _names("d", config), discriminator_loss),
        *([council_phase] if config.members > 1 else []),
        Phase("generators", _names("g", config), generator_loss, cross_replica=True),
    )


def discriminator_loss(networks: Networks, batch: Batch, context: Context, config: Config) -> Loss:
    """Each member's discriminator: images of the target domain against that member's translations."""
    objective = adversarial.OBJECTIVES[config.adversarial]
    source, target = _domains(batch, config)
    style = _style("style", source, context, config)
    terms = {}
    for i, name in enumerate(_names("d", config)):
        fakes = ops.stop_gradient(networks[f"g_{i}"](source, style)[0])
        both = networks[name](ops.concatenate([ops.cast(fakes, target.dtype), target]))
        fake_scores, scores = adversarial.split(both, 2)
        terms[name] = config.adversarial_weight * (objective.fake(fake_scores) + objective.real(scores))
    return Loss(terms)


def council_loss(networks: Networks, batch: Batch, context: Context, config: Config) -> Loss:
    """Each council discriminator: its member's translation is fake, its colleagues' are real."""
    objective = adversarial.OBJECTIVES[config.adversarial]
    source, _ = _domains(batch, config)
    style = _style("style", source, context, config)
    own, nearer = [], []
    for name in _names("g", config):
        full, less = _two_styles(networks[name], source, style, config.colleague_style * style)
        own.append(full)
        nearer.append(less)
    seen, terms = min(config.comparisons, config.members), {}
    for i, name in enumerate(_names("c", config)):
        shown = [own[i], *(image for j, image in enumerate(nearer) if j != i)]
        pairs = ops.concatenate([_beside(image, source) for image in shown])
        fake_scores, *others = adversarial.split(networks[name](pairs), len(shown))
        error = seen * objective.fake(fake_scores)
        for scores, weights in zip(others, _shares(i, source.shape[0], context, config), strict=True):
            error = error + objective.real(scores, weights)
        terms[name] = config.council_weight * error / config.comparisons
    return Loss(terms)


def _two_styles(generator: Tensor, images: Tensor, *styles: Tensor) -> list[Tensor]:
    """The translations of images with two styles, encoded once, without gradient."""
    content = generator.content(images)
    raw = generator.decode(ops.concatenate([content, content]), ops.concatenate(styles))
    painted, _ = council.paint(raw, ops.concatenate([images, images]), generator.paint_layers)
    return ops.split(ops.stop_gradient(painted), 2)


def _shares(i: int, count: int, context: Context, config: Config) -> list[Tensor]:
    """How often discriminator i sees each colleague, [b] each; for every image they add up to the comparisons.

    Each round shows all colleagues; a last, incomplete one shows some, drawn without replacement.
    """
    colleagues = config.members - 1
    rounds, rest = divmod(min(config.comparisons, config.members), colleagues)
    if not rest:
        return [rounds * ops.ones((count,))] * colleagues
    draws = context.uniform(f"colleagues_{i}", (count, colleagues))
    rank = ops.sum(ops.cast(draws[:, :, None] > draws[:, None, :], "int32"), axis=2)
    picked = ops.cast(rank < rest, draws.dtype)
    return [rounds + picked[:, j] for j in range(colleagues)]


def generator_loss(networks: Networks, batch: Batch, context: Context, config: Config) -> Loss:
    """Fooling the own discriminator and the own council discriminator, and masks that are small, sharp and smooth."""
    objective = adversarial.OBJECTIVES[config.adversarial]
    source, _ = _domains(batch, config)
    style = _style("style", source, context, config)
    outcomes = [networks[name](source, style) for name in _names("g", config)]
    images, masks = [image for image, _ in outcomes], [mask for _, mask in outcomes]
    errors = [objective.real(networks[f"d_{i}"](image)) for i, image in enumerate(images)]
    terms = {f"adversarial_{i}": config.adversarial_weight * error for i, error in enumerate(errors)}
    memory = {}
    if config.members > 1:
        judged = [objective.real(networks[f"c_{i}"](_beside(image, source))) for i, image in enumerate(images)]
        active = _council_is_on(context.step, config)
        factors = ops.ones((config.members,), judged[0].dtype)
        if config.match_losses:
            factors, memory = _match(errors, judged, active, context)
        weight = config.council_weight * ops.cast(active, judged[0].dtype)
        terms |= {f"council_{i}": weight * factors[i] * error for i, error in enumerate(judged)}
    # The mean of a mask over the whole batch is squared, so replicas must share it.
    means = context.replica_mean(ops.stack([ops.mean(mask) for mask in masks]))
    started = ops.cast(context.step > config.focus_start, means.dtype)
    indecision = sum(focus.indecision(mask, config.mask_epsilon) for mask in masks)
    terms["mask_indecision"] = started * config.mask_indecision_weight * indecision
    terms["mask_size"] = started * config.mask_size_weight * ops.sum(ops.square(means))
    if config.mask_variation_weight:
        variation = sum(focus.variation(mask) for mask in masks)
        terms["mask_variation"] = started * config.mask_variation_weight * variation
    return Loss(terms, {f"mask_{i}": means[i] for i in range(config.members)}, memory)


def _council_is_on(step: Tensor, config: Config) -> Tensor:
    """A boolean scalar."""
    on = step >= config.council_start
    turn = config.council_on_steps + config.council_off_steps
    return ops.logical_and(on, step % turn < config.council_on_steps) if config.council_on_steps else on


def _match(
    errors: list[Tensor], judged: list[Tensor], active: Tensor, context: Context
) -> tuple[Tensor, dict[str, Tensor]]:
    """What brings each member's council term to the size of its adversarial one, and the new running means.

    The memory [b, members, 2, history] holds the last adversarial and council terms, less 1: the means begin at 1.
    It is the same for every image of the batch.
    """
    old = context.memory["terms"]
    newest = ops.stop_gradient(ops.stack([ops.stack(errors), ops.stack(judged)], axis=1))
    newest = ops.cast(context.replica_mean(newest), old.dtype) - 1
    column = ops.broadcast_to(newest[None, :, :, None], (*old.shape[:3], 1))
    rolled = ops.concatenate([old[..., 1:], column], axis=-1)
    # The council's terms count only while they are used.
    counts = ops.logical_or(active, ops.convert_to_tensor([True, False]))[None, None, :, None]
    history = ops.where(counts, rolled, old)
    means = 1 + ops.mean(history[0], axis=-1)
    return ops.cast(means[:, 0] / means[:, 1], errors[0].dtype), {"terms": history}


def memory(config: Config, image_shape: ImageShape) -> dict[str, Memory]:
    """The last adversarial and council terms of every member."""
    matched = config.match_losses and config.members > 1
    return {"terms": Memory((config.members, 2, config.match_history))} if matched else {}


def _domains(batch: Batch, config: Config) -> tuple[Tensor, Tensor]:
    source, target = config.direction.split("2")
    return batch[source], batch[target]


def _style(name: str, images: Tensor, context: Context, config: Config) -> Tensor:
    return context.normal(name, (images.shape[0], config.style_dim))


def _beside(image: Tensor, source: Tensor) -> Tensor:
    return ops.concatenate([image, ops.cast(source, image.dtype)], axis=-1)


def translate(networks: Networks, images: Tensor, style: Tensor, direction: str, config: Config) -> Translation:
    """images [b, h, w, c] in [-1, 1], style [b, style_dim] -> one member's translation and what it painted over."""
    image, masks = networks[f"g_{config.member}"](images, style)
    return Translation(image, 1 - ops.prod(1 - masks, axis=-1, keepdims=True))


def size_multiple(config: Config) -> int:
    """Sides are divided by this and restored."""
    return 2**config.downsamples


def minimum_size(config: Config) -> int:
    """The smallest side with more than a pixel in the content and one in each score map."""
    multiple = size_multiple(config)
    judged = 2 ** (config.discriminator_layers + config.discriminator_scales - 1)
    return -(-max(2 * multiple, judged) // multiple) * multiple


def check(config: Config, image_shape: ImageShape) -> None:
    """UserError for options that exclude each other and for sizes the networks cannot take."""
    height, width, _ = image_shape
    multiple, minimum = size_multiple(config), minimum_size(config)
    if config.member >= config.members:
        raise UserError(
            f"--council_gan.member={config.member}: there are {config.members} members, numbered from 0; give at most "
            f"{config.members - 1}"
        )
    if config.council_off_steps and not config.council_on_steps:
        raise UserError(
            f"--council_gan.council_off_steps={config.council_off_steps} would silence the council for ever; "
            "give --council_gan.council_on_steps too"
        )
    if height % multiple or width % multiple or min(height, width) < minimum:
        raise UserError(
            f"image size {height} x {width}: Council-GAN needs sides that are multiples of {multiple} "
            f"(2 ** --council_gan.downsamples) and at least {minimum}; use such a size or fewer "
            "--council_gan.discriminator_layers"
        )


METHOD = register(
    Method(
        name="council_gan",
        title="Council-GAN",
        paper="https://arxiv.org/abs/1911.10538",
        config=Config,
        recipe=Recipe(
            steps=1_500_000,
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
            augment="council_released_gender",
        ),
        networks=networks,
        phases=phases,
        translate=translate,
        ema_networks=tuple(f"g_{i}" for i in range(MOST_MEMBERS)),
        directions=lambda config: (config.direction,),
        size_multiple=size_multiple,
        minimum_size=minimum_size,
        style_dim=lambda config: config.style_dim,
        check=check,
        memory=memory,
    )
)
