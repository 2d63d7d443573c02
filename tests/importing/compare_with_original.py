"""Translates one picture by an original's code and by a run imported from the same file, and shows both.

    python compare_with_original.py original METHOD FOLDER FILE PICTURE translated.npz [SIDE]
    python compare_with_original.py ours RUN translated.npz both.png

The first needs PyTorch and Pillow; FOLDER is a clone of the original code (see make_golden.py), FILE its weights with
the generator A to B; the second needs this package only. METHOD is acl_gan, munit, ugatit or cyclegan. For a checkpoint
of U-GAT-IT's TensorFlow 1 code (FILE its folder) tf_keras is needed instead of PyTorch (see make_tf1_golden.py), and
TF_USE_LEGACY_KERAS=1. The picture is squeezed to SIDE x SIDE pixels (256 if not given; full U-GAT-IT weights know
theirs). both.png: picture, original's result, ours, eight times the difference. Ends with 1 if a value of the results
in [-1, 1] differs by 1e-4 or more.
"""

from __future__ import annotations

import os
import sys
import tempfile
import types

import make_tf1_golden
import numpy as np
from make_golden import load, tensor

BOUND = 1e-4


def original(method: str, folder: str, file: str, picture: str, output: str, side: int = 256) -> None:
    """Writes input, style and the original's translation, [b, h, w, c] in [-1, 1]."""
    from PIL import Image

    from tfaclgan.importing import originals, tf_checkpoints
    from tfaclgan.methods import base

    source = f"G_A={file}" if method == "cyclegan" else file
    found = originals.find(method, [source], base.get(method).config(), given=set())
    height, width = found.sides or (side, side)
    mode = {1: "L", 3: "RGB"}[found.channels]
    pixels = np.asarray(Image.open(picture).convert(mode).resize((width, height), Image.Resampling.BICUBIC))
    x = (pixels.reshape(1, height, width, -1) / 127.5 - 1).astype("float32")
    style = np.random.RandomState(0).standard_normal((1, getattr(found.config, "style_dim", 1))).astype("float32")
    prefix = "" if method == "cyclegan" else tf_checkpoints.find(file)
    image = _by_tensorflow(folder, prefix, found, x) if prefix else _by_torch(method, folder, file, found, x, style)
    np.savez(output, input=x, style=style, translation=image)


def _by_torch(method, folder, file, found, x, style):
    import torch

    content = torch.load(file, map_location="cpu", weights_only=True)
    with torch.no_grad():
        image = _TRANSLATE[method](folder, content, found, tensor(x), torch.from_numpy(style)[:, :, None, None])
    return image.numpy().transpose(0, 2, 3, 1)


def _by_tensorflow(folder, prefix, found, x):
    """The code's own test graph with the checkpoint's generators."""
    from tfaclgan.methods import ugatit

    folder, prefix = os.path.abspath(folder), os.path.abspath(prefix)
    code, tf = make_tf1_golden.load(folder)
    config = found.config
    settings = make_tf1_golden.arguments(
        phase="test",
        light=bool(config.light),
        smoothing=ugatit.choices(config).rho_smoothing > 0,
        ch=config.width,
        n_res=config.residual_blocks,
        img_size=x.shape[1],
        img_ch=found.channels,
        batch_size=1,
    )
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as work, tf.Graph().as_default(), tf.Session() as session:
        os.chdir(work)  # the code makes folders
        model = code.UGATIT(session, settings)
        model.build_model()
        tf.train.Saver().restore(session, prefix)
        image = session.run(model.test_fake_B, {model.test_domain_A: x})
        os.chdir(before)
    return image


def _munit(folder, content, found, x, z):
    import torch

    code, config = load(folder, "networks"), found.config
    masked = getattr(config, "mask", False)
    sizes = {"dim": config.width, "style_dim": config.style_dim, "n_downsample": config.downsamples,
             "n_res": config.residual_blocks, "mlp_dim": config.mlp_dim, "activ": "relu", "pad_type": "reflect",
             "output_dim": found.channels + masked}  # fmt: skip

    def generator(key):
        made = code.networks.AdaINGen(found.channels, sizes)
        made.load_state_dict(content[key], strict=False)  # statistics of the AdaIN layers
        return made.eval()

    if "AB" not in content:
        return generator("b").decode(generator("a").encode(x)[0], z)
    network = generator("AB")
    raw = network.decode(network.encode(x)[0], z)
    if not masked:
        return raw
    colours, focus = torch.split(raw, [found.channels, 1], 1)
    return colours * (focus + 1) / 2 + x * (1 - (focus + 1) / 2)


def _ugatit(folder, content, found, x, z):
    code, config = load(folder, "networks"), found.config
    sizes = {"ngf": config.width, "n_blocks": config.residual_blocks, "img_size": x.shape[-1]}
    if config.profile == "pt":
        sizes["light"] = bool(config.light)
    else:
        sizes["args"] = types.SimpleNamespace(
            light=config.light or -1,
            use_se=config.excite,
            attention_gan=config.attention_masks,
            attention_input=config.attention_input,
        )
    network = code.networks.ResnetGenerator(found.channels, found.channels, **sizes)
    network.load_state_dict(content.get("genA2B_ema", content["genA2B"]))
    return network.eval()(x)[0]


def _cyclegan(folder, content, found, x, z):
    code, config = load(folder, "models.networks"), found.config
    instance = code.networks.get_norm_layer("instance")
    channels = found.channels
    if config.generator == "unet":
        network = code.networks.UnetGenerator(channels, channels, config.downsamples, config.width, instance)
    else:
        dropout = any(".conv_block.6." in name for name in content)
        network = code.networks.ResnetGenerator(
            channels, channels, config.width, instance, use_dropout=dropout, n_blocks=config.residual_blocks
        )
    network.load_state_dict({n: v for n, v in content.items() if "running_" not in n and "num_batches" not in n})
    return network.eval()(x)


_TRANSLATE = {"acl_gan": _munit, "munit": _munit, "ugatit": _ugatit, "cyclegan": _cyclegan}


def ours(run: str, given: str, picture: str) -> int:
    """Prints the differences and writes the picture."""
    from PIL import Image

    import tfaclgan

    arrays = dict(np.load(given))
    translator = tfaclgan.load(run)
    style = arrays["style"] if translator.style_dim else None
    image = translator.translate(arrays["input"], "a2b", style)
    difference = np.abs(image - arrays["translation"])
    shown = [arrays["input"], arrays["translation"], image, 8 * difference - 1]
    row = np.concatenate([np.clip(one[0], -1, 1) for one in shown], axis=1)
    Image.fromarray(np.uint8(np.rint((row + 1) * 127.5)).squeeze()).save(picture)
    print(f"largest difference {difference.max():.1e}, mean {difference.mean():.1e} of values in [-1, 1]; {picture}")
    return int(difference.max() >= BOUND)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "ours":
        sys.exit(ours(*rest))
    original(*rest[:5], *map(int, rest[5:]))
