"""U-GAT-IT: a cycle between two domains with class activation attention and AdaLIN, in the three forms people know.

Paper: Kim, Kim, Kang, Lee, "U-GAT-IT: Unsupervised Generative Attentional Networks with Adaptive Layer-Instance
Normalization for Image-to-Image Translation", ICLR 2020, arXiv 1907.10830. Codes, each a `profile`:

    tf  taki0112/UGATIT, TensorFlow 1: the paper's figures come from it
    pt  znxlwm/UGATIT-pytorch, the official PyTorch code: another network in many details
    en  zheng-yuwei/enhanced-UGATIT, a fork of it with many options

The networks of one profile cannot take the weights of another. `PROFILES` lists what differs; every entry can also be
set alone.

Names (code -> here): genA2B `g_a2b`, genB2A `g_b2a`; disGA, disLA, disGB, disLB `d_global_a`, `d_local_a`,
`d_global_b`, `d_local_b`. Both directions are trained. An auxiliary classifier's target 1 means "this input comes
from my source domain".

Deviations from the codes:
    - a phase makes one step of the spectral norms' power iteration; PyTorch makes one a forward pass (real, fake,
      and in the generators' step again; the fork's generators' step makes none), TensorFlow several in no fixed
      order. The singular vectors of a slowly moving kernel are the same.
    - both steps of a data iteration see the same images, as in PyTorch; TensorFlow's draw new ones.
    - `share_fakes` (not a default): the generators step first and the discriminators judge the fakes that were made
      for it, which saves two passes of the generators. The codes step the discriminators first, so that each
      generators' step meets a discriminator that is one update further.
    - the rate of profile tf falls in the codes' staircase over epochs of 10,000 data iterations.
    - profile tf stands for one Adam epsilon: TensorFlow 1 adds it to the uncorrected root.
    - profile en: the fork's inverted switch of the rate's decay, its fixed pairs, its swapped adversarial weights,
      its channel order with the input as a content (unless `attention_order`=fork) and its total variation, which
      is none, are put right; masks work for any batch.
    - the TensorFlow code's other kinds of GAN (`adversarial`): DRAGAN's noise is scaled by each image's deviation,
      not the batch's (equal at the published batch of 1). Penalties judge whole images, whatever is hidden from the
      auxiliary classifiers.
    - flat channels are normalised to 0 (layers/norm.py).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

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
from tfaclgan.networks import ugatit_sizes

ops = lazy_import("keras.ops")
adversarial = lazy_import("tfaclgan.losses.adversarial")
batches = lazy_import("tfaclgan.layers.batches")
foreground = lazy_import("tfaclgan.losses.foreground")
penalty = lazy_import("tfaclgan.losses.penalty")
precision = lazy_import("tfaclgan.layers.precision")
reconstruction = lazy_import("tfaclgan.losses.reconstruction")
resampling = lazy_import("tfaclgan.layers.resampling")
ugatit = lazy_import("tfaclgan.networks.ugatit")

DOMAINS = ("a", "b")
SCALES = ("global", "local")
OTHER = {"a": "b", "b": "a"}
GENERATORS = ("g_a2b", "g_b2a")
DISCRIMINATORS = tuple(f"d_{scale}_{domain}" for domain in DOMAINS for scale in SCALES)

# Form of the adversarial terms: its objective (losses/adversarial.py). The last three have a penalty besides.
OBJECTIVE_OF = {
    "least_squares": "least_squares",
    "non_saturating": "non_saturating",
    "hinge": "hinge",
    "wasserstein_gp": "wasserstein",
    "wasserstein_lp": "wasserstein",
    "dragan": "non_saturating",
}
PENALISED = ("wasserstein_gp", "wasserstein_lp", "dragan")

# What a profile sets where an option says "profile" (or -1, or 0 for mlp_dim).
PROFILES: dict[str, dict[str, Any]] = {
    "tf": {
        "score_padding": "keep",
        "shallow_filling": "off",
        "norm_affine": "on",
        "encoder_bias": "on",
        "decoder_bias": "on",
        "mlp_bias": "on",
        "cam_heads": "shared",
        "cam_bias": "on",
        "attention_weights": "normalised",
        "score_bias": "on",
        "variance": "biased",
        "rho_initial": 1.0,
        "rho_maximum": 1.0,
        "rho_smoothing": 0.1,
        "initial": "normal",
        "generators_power_step": "on",
    },
    "pt": {
        "score_padding": "shrink",
        "shallow_filling": "off",
        "norm_affine": "off",
        "encoder_bias": "off",
        "decoder_bias": "off",
        "mlp_bias": "off",
        "cam_heads": "separate",
        "cam_bias": "off",
        "attention_weights": "raw",
        "score_bias": "off",
        "variance": "unbiased",
        "rho_initial": 0.9,
        "rho_maximum": 1.0,
        "rho_smoothing": 0.0,
        "initial": "pytorch",
        "generators_power_step": "on",
    },
    "en": {
        "score_padding": "shrink",
        "shallow_filling": "on",
        "norm_affine": "on",
        "encoder_bias": "off",
        "decoder_bias": "on",
        "mlp_bias": "on",
        "cam_heads": "separate",
        "cam_bias": "on",
        "attention_weights": "raw",
        "score_bias": "on",
        "variance": "unbiased",
        "rho_initial": 0.9,
        "rho_maximum": 0.9,
        "rho_smoothing": 0.0,
        "initial": "pytorch",
        "generators_power_step": "off",
    },
}


def _switch(help: str, *choices: str, networks: bool = True) -> Any:
    return option("profile", help, choices=("profile", *(choices or ("on", "off"))), networks=networks)


def _number(help: str, maximum: float) -> Any:
    return option(-1.0, f"{help}; -1: the profile's", minimum=-1, maximum=maximum, networks=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of U-GAT-IT; `PROFILES` says what "profile" and -1 stand for."""

    profile: str = option(
        "tf",
        "code to follow: TensorFlow (the paper's figures), official PyTorch, or the enhanced fork",
        choices=("tf", "pt", "en"),
        networks=True,
    )
    # The networks' sizes.
    light: int = option(
        0,
        "side to which maps are mean-pooled before the MLP; 1: the official light model; 0: the full one, for one "
        "image size only",
        minimum=0,
        networks=True,
    )
    width: int = option(64, "channels after the generators' first convolution (ch)", minimum=1, networks=True)
    residual_blocks: int = option(4, "blocks in encoder and decoder each (n_res)", minimum=1, networks=True)
    mlp_dim: int = option(
        0,
        "width of the MLP's hidden layers; 0: the profile's (tf: width x blocks, pt and en: 4 x width)",
        minimum=0,
        networks=True,
    )
    discriminator_width: int = option(
        64, "channels after the discriminators' first convolution", minimum=1, networks=True
    )
    global_layers: int = option(
        7, "layers of the global discriminators (tf: n_dis + 1); 6 for 64 px", minimum=3, maximum=12, networks=True
    )
    local_layers: int = option(5, "layers of the local discriminators", minimum=3, maximum=12, networks=True)
    # What the codes disagree on.
    score_padding: str = _switch(
        "the discriminators' 4x4 convolutions of stride 1 keep the size, or shrink it by 1", "keep", "shrink"
    )
    shallow_filling: str = _switch(
        "discriminators of fewer than five layers have 3x3 convolutions in the missing ones' place"
    )
    norm_affine: str = _switch("instance norms have a learnt scale and shift")
    encoder_bias: str = _switch("biases of the generators' stem, downsamplings and residual blocks")
    decoder_bias: str = _switch("biases of the generators' adaptive blocks, upsamplings and head")
    mlp_bias: str = _switch("biases of the MLP")
    cam_heads: str = _switch("one head for means and peaks, or two", "shared", "separate")
    cam_bias: str = _switch("biases of these heads, which are then also added to the attention")
    attention_weights: str = _switch(
        "head's weights that the discriminators' attention uses: divided by the spectral norm, or not",
        "normalised",
        "raw",
    )
    score_bias: str = _switch("bias of the discriminators' last convolution")
    variance: str = _switch("variances of AdaLIN and LIN", "biased", "unbiased")
    rho_initial: float = _number("AdaLIN's rho at the start", 1)
    rho_maximum: float = _number("largest rho of AdaLIN after an update", 1)
    rho_smoothing: float = _number("the forward pass uses rho less this, not below 0", 1)
    initial: str = _switch("initial weights: N(0, 0.02), or PyTorch's default", "normal", "pytorch", networks=False)
    generators_power_step: str = _switch("spectral norms make a power step in the generators' step too", networks=False)
    # Losses.
    adversarial: str = option(
        "least_squares",
        "form of all adversarial terms (gan_type lsgan, gan, hinge, wgan-gp, wgan-lp, dragan)",
        choices=tuple(OBJECTIVE_OF),
    )
    gradient_penalty_weight: float = option(
        10.0, "weight of the penalty of wasserstein_gp, wasserstein_lp and dragan (GP_ld)", minimum=0
    )
    adversarial_weight: float = option(1.0, "weight of the adversarial terms", minimum=0)
    adversarial_weight_a: float = option(
        1.0, "factor on it for domain A's discriminators, which teach B to A (the fork's forward_adv_weight)", minimum=0
    )
    adversarial_weight_b: float = option(
        1.0, "factor on it for domain B's discriminators, which teach A to B (backward_adv_weight)", minimum=0
    )
    cycle_weight: float = option(10.0, "weight of the cycle, mean L1", minimum=0)
    identity_weight: float = option(10.0, "weight of a domain's images through the generator to it, mean L1", minimum=0)
    cam_weight: float = option(1000.0, "weight of the generators' auxiliary classifiers, cross-entropy", minimum=0)
    # The fork's options.
    discriminator_cam_weight: float = option(
        1.0,
        "factor on the terms of the discriminators' auxiliary classifiers; 0: none, and no attention (cam_D_weight)",
        minimum=0,
    )
    discriminator_attention: bool = option(True, "the discriminators weigh their maps (cam_D_attention)", networks=True)
    spectral_norm: bool = option(True, "spectral norm in the discriminators (sn)", networks=True)
    excite: bool = option(False, "scSE at the end of the generators' blocks (use_se)", networks=True)
    attention_masks: int = option(
        0,
        "pictures a generator paints and blends by masks of sum 1; 0: one picture (attention_gan)",
        minimum=0,
        networks=True,
    )
    attention_input: bool = option(False, "one of these pictures is the input", networks=True)
    attention_order: str = option(
        "contents",
        "channels of the painted pictures: picture by picture, or as the fork groups them (its weights need it)",
        choices=("contents", "fork"),
        networks=True,
    )
    deconvolution: bool = option(False, "upsample by transposed convolutions (use_deconv)", networks=True)
    blur_loss: bool = option(
        False, "discriminators also learn that blurred images are fake (has_blur); the data need blurred copies"
    )
    background_weight: float = option(
        0.0, "weight of the background's change, mean L1 (seg_fix_weight; 50 to 100); the data need masks", minimum=0
    )
    background_unjudged: bool = option(False, "scores of the background count as right (seg_D_mask)")
    background_detached: bool = option(False, "no adversarial gradient to the translations' background (seg_G_detach)")
    background_hidden: str = option(
        "none",
        "what the discriminators' auxiliary classifiers do not see of the background: nothing is hidden, its pixels "
        "(seg_D_cam_inp_mask), its features (seg_D_cam_fea_mask), or both",
        choices=("none", "pixels", "features", "both"),
    )
    mask_edge: str = option(
        "soft",
        "foreground masks: above 0.7 is 1 and up to 0.3 is 0 (soft), cut at 0.5 (hard_seg_edge), or as they are",
        choices=("soft", "hard", "as_is"),
    )
    mask_erosion: bool = option(
        True, "masks are closed and eroded by 2 pixels before the background's change is measured"
    )
    background_rims_and_mouth: bool = option(
        False,
        "glasses' rims and the inside of mouths belong to the background whose change background_weight weighs "
        "(seg_fix_glass_mouth); the data need masks with parts",
    )
    variation_weight: float = option(
        0.0, "weight of the translations' total variation, mean L1 of neighbours' differences", minimum=0
    )
    share_fakes: bool = option(
        False, "generators step first and their fakes are judged next: two generator passes less (not in the codes)"
    )


@dataclasses.dataclass(frozen=True)
class Choices:
    """A config's answers to what the codes disagree on."""

    keep_size: bool
    filled: bool
    affine: bool
    encoder_bias: bool
    decoder_bias: bool
    mlp_bias: bool
    shared_head: bool
    cam_bias: bool
    raw_attention: bool
    score_bias: bool
    unbiased: bool
    rho_initial: float
    rho_maximum: float
    rho_smoothing: float
    initial: str
    mlp_dim: int
    attend: bool
    generators_power_step: bool


@functools.lru_cache(maxsize=32)
def choices(config: Config) -> Choices:
    """The profile's values with the options that were set."""
    chosen = dict(PROFILES[config.profile])
    for name in chosen:
        value = getattr(config, name)
        if value not in ("profile", -1.0):
            chosen[name] = value
    hidden = config.width * (config.residual_blocks if config.profile == "tf" else 4)
    return Choices(
        keep_size=chosen["score_padding"] == "keep",
        filled=chosen["shallow_filling"] == "on",
        affine=chosen["norm_affine"] == "on",
        encoder_bias=chosen["encoder_bias"] == "on",
        decoder_bias=chosen["decoder_bias"] == "on",
        mlp_bias=chosen["mlp_bias"] == "on",
        shared_head=chosen["cam_heads"] == "shared",
        cam_bias=chosen["cam_bias"] == "on",
        raw_attention=chosen["attention_weights"] == "raw",
        score_bias=chosen["score_bias"] == "on",
        unbiased=chosen["variance"] == "unbiased",
        rho_initial=chosen["rho_initial"],
        rho_maximum=chosen["rho_maximum"],
        rho_smoothing=chosen["rho_smoothing"],
        initial=chosen["initial"],
        mlp_dim=config.mlp_dim or hidden,
        attend=config.discriminator_attention and config.discriminator_cam_weight > 0,
        generators_power_step=chosen["generators_power_step"] == "on",
    )


def networks(config: Config, image_shape: ImageShape) -> Networks:
    """A generator a direction, a global and a local discriminator a domain."""
    built = {name: generator(config, image_shape, name) for name in GENERATORS}
    return built | {name: discriminator(config, image_shape[-1], name) for name in DISCRIMINATORS}


def generator(config: Config, image_shape: ImageShape, name: str) -> Any:
    """The `networks.ugatit.Generator` that the config asks for."""
    chosen = choices(config)
    return ugatit.Generator(
        image_shape,
        width=config.width,
        blocks=config.residual_blocks,
        light=config.light,
        mlp_dim=chosen.mlp_dim,
        affine=chosen.affine,
        encoder_bias=chosen.encoder_bias,
        decoder_bias=chosen.decoder_bias,
        mlp_bias=chosen.mlp_bias,
        shared_head=chosen.shared_head,
        cam_bias=chosen.cam_bias,
        unbiased=chosen.unbiased,
        rho_initial=chosen.rho_initial,
        rho_maximum=chosen.rho_maximum,
        rho_smoothing=chosen.rho_smoothing,
        initial=chosen.initial,
        excite=config.excite,
        masks=config.attention_masks,
        input_content=config.attention_input,
        fork_order=config.attention_order == "fork",
        deconvolution=config.deconvolution,
        name=name,
    )


def discriminator(config: Config, channels: int, name: str) -> Any:
    """The `networks.ugatit.Discriminator` that the config asks for; "global" in its name decides its depth."""
    chosen = choices(config)
    return ugatit.Discriminator(
        channels,
        width=config.discriminator_width,
        depth=config.global_layers if "global" in name else config.local_layers,
        keep_size=chosen.keep_size,
        filled=chosen.filled,
        spectral=config.spectral_norm,
        score_bias=chosen.score_bias,
        shared_head=chosen.shared_head,
        cam_bias=chosen.cam_bias,
        raw_attention=chosen.raw_attention,
        attend=chosen.attend,
        initial=chosen.initial,
        name=name,
    )


def phases(config: Config) -> tuple[Phase, ...]:
    """All discriminators, then both generators; the other way round if they share fakes."""
    norms = DISCRIMINATORS if config.spectral_norm else ()
    judging = Phase("discriminators", DISCRIMINATORS, discriminator_loss, power_step=norms)
    twice = choices(config).generators_power_step
    painting = Phase("generators", GENERATORS, generator_loss, power_step=norms if twice else ())
    return (painting, judging) if config.share_fakes else (judging, painting)


def discriminator_loss(networks: Networks, batch: Batch, context: Context, config: Config) -> Loss:
    """Images against translations for all four discriminators, with their auxiliary classifiers."""
    objective = _objective(config)
    masks = _foregrounds(batch, config)
    if config.share_fakes:
        fakes = {domain: context.carried[f"fake_{domain}"] for domain in DOMAINS}
    else:
        fakes = {d: ops.stop_gradient(_generator_to(networks, d).paint(batch[OTHER[d]]).image) for d in DOMAINS}
    terms = {}
    for domain in DOMAINS:
        images = [fakes[domain], batch[domain]]
        # A fake shows the foreground of the image it was made of.
        shown = [masks[OTHER[domain]], masks[domain]] if masks else None
        if config.blur_loss:
            images.append(_blurred(batch, domain))
            shown = [*shown, masks[domain]] if shown else None
        weight = _adversarial_weight(domain, config)
        for scale in SCALES:
            scores, logits = _judge(networks[f"d_{scale}_{domain}"], images, shown, config)
            if config.background_unjudged:
                scores[0] = _settle(scores[0], shown[0], 0.0)
                scores[1] = _settle(scores[1], shown[1], 1.0)
            name = f"{scale}_{domain}"
            terms[name] = weight * _real_against_fakes(objective, scores)
            if config.discriminator_cam_weight:
                terms[f"cam_{name}"] = weight * config.discriminator_cam_weight * _real_against_fakes(objective, logits)
        if config.adversarial in PENALISED and config.gradient_penalty_weight:
            terms |= _penalties(networks, batch[domain], fakes[domain], domain, context, config)
    return Loss(terms)


def _objective(config: Config) -> Any:
    return adversarial.OBJECTIVES[OBJECTIVE_OF[config.adversarial]]


def _penalties(
    networks: Networks, images: Tensor, fakes: Tensor, domain: str, context: Context, config: Config
) -> dict[str, Tensor]:
    """How steep both discriminators' scores and classifiers are, each by itself, at the same mixtures of images."""
    share = context.uniform(f"penalty_{domain}/share", (images.shape[0],))
    if config.adversarial == "dragan":
        fakes = penalty.neighbourhood(images, context.uniform(f"penalty_{domain}/noise", tuple(images.shape)))
    outputs = {"": ("scores", 1.0), "cam_": ("logits", config.discriminator_cam_weight)}
    terms = {}
    for scale in SCALES:
        judge = networks[f"d_{scale}_{domain}"].judge
        for prefix, (output, factor) in outputs.items():
            if factor:
                steepness = penalty.gradient_penalty(
                    lambda mixed, judge=judge, output=output: getattr(judge(mixed), output),
                    images,
                    fakes,
                    share,
                    one_sided=config.adversarial == "wasserstein_lp",
                )
                weight = _adversarial_weight(domain, config) * factor * config.gradient_penalty_weight
                terms[f"penalty_{prefix}{scale}_{domain}"] = weight * steepness
    return terms


def _real_against_fakes(objective: Any, values: list[Tensor]) -> Tensor:
    """Of a fake, the image, and whatever else is fake."""
    fake, real, *others = values
    return objective.real([real]) + objective.fake([fake, *others])


def generator_loss(networks: Networks, batch: Batch, context: Context, config: Config) -> Loss:
    """Adversarial terms, cycle, identity, auxiliary classifiers, and what the options add."""
    objective = _objective(config)
    cross_entropy = adversarial.OBJECTIVES["non_saturating"]
    distance = reconstruction.mean_absolute_error
    masks = _foregrounds(batch, config)
    fakes, identities, logits = {}, {}, {}
    for domain in DOMAINS:
        source = batch[OTHER[domain]]
        painted = _generator_to(networks, domain).paint(ops.concatenate([source, batch[domain]]))
        fakes[domain], identities[domain] = ops.split(painted.image, 2)
        logits[domain] = ops.split(painted.logits, 2)
    terms = {}
    for domain in DOMAINS:
        weight = _adversarial_weight(domain, config)
        judged, shown = fakes[domain], [masks[OTHER[domain]]] if masks else None
        if config.background_detached:
            judged = judged * shown[0] + ops.stop_gradient(judged) * (1 - shown[0])
        for scale in SCALES:
            scores, cam_logits = _judge(networks[f"d_{scale}_{domain}"], [judged], shown, config)
            if config.background_unjudged:
                scores[0] = _settle(scores[0], shown[0], 1.0)
            name = f"{scale}_{domain}"
            terms[f"adversarial_{name}"] = weight * objective.fool(scores)
            if config.discriminator_cam_weight:
                cam_weight = weight * config.discriminator_cam_weight
                terms[f"adversarial_cam_{name}"] = cam_weight * objective.fool(cam_logits)
    for domain in DOMAINS:
        source = OTHER[domain]
        again = _generator_to(networks, source).paint(fakes[domain]).image
        terms[f"cycle_{source}"] = config.cycle_weight * distance(again, batch[source])
        terms[f"identity_{domain}"] = config.identity_weight * distance(identities[domain], batch[domain])
        of_source, of_target = logits[domain]
        terms[f"cam_{source}2{domain}"] = config.cam_weight * (
            cross_entropy.real([of_source]) + cross_entropy.fake([of_target])
        )
        if config.background_weight:
            outside = 1 - _changeable(batch, source, config)
            change = distance(fakes[domain] * outside, batch[source] * outside)
            terms[f"background_{domain}"] = config.background_weight * change
        if config.variation_weight:
            terms[f"variation_{domain}"] = config.variation_weight * reconstruction.total_variation(fakes[domain])
    carry = {f"fake_{domain}": fakes[domain] for domain in DOMAINS} if config.share_fakes else {}
    watch = {f"rho_{name}": _mean_rho(networks[name]) for name in GENERATORS}
    return Loss(terms, watch, carry=carry)


def _generator_to(networks: Networks, domain: str) -> Any:
    return networks[f"g_{OTHER[domain]}2{domain}"]


def _adversarial_weight(domain: str, config: Config) -> float:
    return config.adversarial_weight * {"a": config.adversarial_weight_a, "b": config.adversarial_weight_b}[domain]


def _judge(
    discriminator: Any, images: list[Tensor], masks: list[Tensor] | None, config: Config
) -> tuple[list[Tensor], list[Tensor]]:
    """Scores and logits of groups of images of one size, from one call."""
    joined = batches.join(images)
    cam_images = mask = None
    if config.background_hidden != "none":
        mask = batches.join(masks)
        if config.background_hidden in ("pixels", "both"):
            cam_images = joined * mask
        if config.background_hidden == "pixels":
            mask = None
    judgement = discriminator.judge(joined, cam_images, mask)
    return batches.parts(judgement.scores, len(images)), batches.parts(judgement.logits, len(images))


def _settle(scores: Tensor, mask: Tensor, target: float) -> Tensor:
    """Scores with `target` in the background: mask * score + (1 - mask) * target."""
    mask = resampling.area_pool(mask, *scores.shape[1:3])
    return precision.full_precision(scores) * mask + (1 - mask) * target


def _uses_masks(config: Config) -> bool:
    unjudged = config.background_unjudged or config.background_detached or config.background_hidden != "none"
    return bool(unjudged or config.background_weight)


def _foregrounds(batch: Batch, config: Config) -> dict[str, Tensor]:
    """{domain: mask [b, h, w, 1], 1 in the foreground}; empty if no option needs masks."""
    return {domain: _foreground(batch, domain, config) for domain in DOMAINS} if _uses_masks(config) else {}


def _foreground(batch: Batch, domain: str, config: Config) -> Tensor:
    return foreground.EDGES[config.mask_edge](_mask(batch, domain)[..., :1])


def _changeable(batch: Batch, domain: str, config: Config) -> Tensor:
    """Where the translation may differ from a domain's images: mask [b, h, w, 1], 1 there."""
    mask, edge = _mask(batch, domain), foreground.EDGES[config.mask_edge]
    if not config.background_rims_and_mouth:
        return edge(foreground.eroded(mask[..., :1]) if config.mask_erosion else mask[..., :1])
    if mask.shape[-1] != 3:
        raise UserError(
            f"--ugatit.background_rims_and_mouth needs masks with parts, and those of domain {domain.upper()} have "
            "none; make the data again with --mask_parts (docs/data.md), or leave this option out"
        )
    return foreground.without_rims_and_mouth(mask, edge, erosion=config.mask_erosion)


def _mask(batch: Batch, domain: str) -> Tensor:
    """A domain's masks as stored: [b, h, w, 1], or 3 planes with parts."""
    key = f"mask_{domain}"
    if key not in batch:
        raise UserError(
            f"the --ugatit.background options need foreground masks, and the data have none of domain {domain.upper()}"
            "; make the data again with masks (docs/data.md), or leave these options out"
        )
    return batch[key]


def _blurred(batch: Batch, domain: str) -> Tensor:
    if f"blur_{domain}" not in batch:
        raise UserError(
            "--ugatit.blur_loss needs blurred copies of the images, and the data give none; see docs/augmentation.md, "
            "or leave it out"
        )
    return batch[f"blur_{domain}"]


def _mean_rho(generator: Any) -> Tensor:
    """How much of AdaLIN is instance norm, on average."""
    rhos = [v for v in generator.trainable_variables if v.name == "rho" and "/decoder/block" in f"/{v.path}"]
    return sum(ops.mean(rho) for rho in rhos) / len(rhos)


def translate(networks: Networks, images: Tensor, style: Tensor, direction: str, config: Config) -> Translation:
    """images [b, h, w, c] in [-1, 1] -> the translation; with the input as a content, the share that is not it."""
    painted = networks[f"g_{direction}"].paint(images)
    mask = 1 - painted.masks[..., :1] if config.attention_masks and config.attention_input else None
    return Translation(painted.image, mask)


def panels(networks: Networks, images: Tensor, direction: str, config: Config) -> dict[str, Tensor]:
    """The strip of the PyTorch code and its fork, in their order; see `methods.base.Method.panels`.

    Input; the way back's generator on it (heatmap, identity); translation (heatmap, image); the cycle (heatmap,
    image); the attention masks of the translation; where the target's discriminators look at it.
    """
    source, target = direction.split("2")
    there, back = networks[f"g_{direction}"], networks[f"g_{target}2{source}"]
    identity, translation = back.paint(images), there.paint(images)
    cycle = back.paint(translation.image)
    shown = {
        "input": images,
        "heat_identity": identity.heatmap,
        "identity": identity.image,
        "heat_translation": translation.heatmap,
        "translation": translation.image,
        "heat_cycle": cycle.heatmap,
        "cycle": cycle.image,
    }
    for i in range(config.attention_masks):
        shown[f"heat_mask{i}"] = translation.masks[..., i : i + 1]
    for scale in SCALES:
        shown[f"heat_{scale}"] = networks[f"d_{scale}_{target}"].judge(translation.image).heatmap
    return shown


def size_multiple(config: Config) -> int:
    """Sides are halved twice and restored."""
    return ugatit_sizes.MULTIPLE


def minimum_size(config: Config) -> int:
    """The smallest side that generators and discriminators accept."""
    chosen = choices(config)
    return ugatit_sizes.minimum_side((config.global_layers, config.local_layers), chosen.keep_size, chosen.filled)


def check(config: Config, image_shape: ImageShape) -> None:
    """UserError for options that exclude each other and for sizes the networks cannot take."""
    if config.attention_input and config.attention_masks < 2:
        raise UserError(
            f"--ugatit.attention_input with --ugatit.attention_masks={config.attention_masks}: the input is one of the "
            "blended pictures and at least one must be painted; give 2 masks or more"
        )
    if config.background_rims_and_mouth and not config.background_weight:
        raise UserError(
            "--ugatit.background_rims_and_mouth with --ugatit.background_weight=0: it says what that weighs; give it a "
            "weight, 50 to 100"
        )
    if config.background_unjudged and config.adversarial != "least_squares":
        raise UserError(
            f"--ugatit.background_unjudged with --ugatit.adversarial={config.adversarial}: only least squares have a "
            "score that is right; use --ugatit.adversarial=least_squares"
        )
    chosen = choices(config)
    ugatit_sizes.check_size(image_shape, config.global_layers, config.local_layers, chosen.keep_size, chosen.filled)


RECIPE = Recipe(
    steps=1_000_000,
    batch_size=1,
    image_size=256,
    load_size=286,
    learning_rate=1e-4,
    beta_1=0.5,
    beta_2=0.999,
    adam_epsilon=1e-8,
    weight_decay=1e-4,
    weight_decay_on="kernels",
    lr_schedule="linear",
    lr_decay_start=-1,
    lr_decay_steps=10_000,  # an epoch
    augment="flip,crop",
)


def recipe_for(config: Config) -> Recipe:
    """The training settings of the config's profile; `RECIPE` is that of tf."""
    if config.profile == "tf":
        return RECIPE
    official = dataclasses.replace(RECIPE, weight_decay_on="all", lr_decay_steps=0)
    if config.profile == "pt":
        return official
    return dataclasses.replace(
        official,
        image_size=384,
        load_size=384,
        ema_decay=0.9999,
        ema_start=0.5,
        augment="flip,resized_crop:0.748:1:0.2,crop",  # aug_prob
    )


METHOD = register(
    Method(
        name="ugatit",
        title="U-GAT-IT",
        paper="https://arxiv.org/abs/1907.10830",
        config=Config,
        recipe=RECIPE,
        recipe_for=recipe_for,
        networks=networks,
        phases=phases,
        translate=translate,
        panels=panels,
        ema_networks=GENERATORS,
        directions=lambda config: ("a2b", "b2a"),
        size_multiple=size_multiple,
        minimum_size=minimum_size,
        fixed_size=lambda config: not config.light,
        check=check,
    )
)
