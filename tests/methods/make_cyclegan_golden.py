"""Makes cyclegan_golden.npz: what the official CycleGAN code computes in float64 from weights that a seed gives.

Needs PyTorch and a folder with the official code (junyanz/pytorch-CycleGAN-and-pix2pix, or the copy of its model and
networks in taesungp/contrastive-unpaired-translation, by the same authors, whose own additions are switched off):

    python tests/methods/make_cyclegan_golden.py FOLDER tests/methods/cyclegan_golden.npz

No weight is stored: each parameter is drawn from a seed made of its network, its place and its shape, by the same
function (`value`) here and in test_cyclegan_parity.py.
"""

from __future__ import annotations

import inspect
import random
import sys
import types
import zlib

import numpy as np

WIDTH = 8
SIZE = 32
CODE_NAMES = {"g_ab": "netG_A", "g_ba": "netG_B", "d_a": "netD_B", "d_b": "netD_A"}


def value(network: str, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """The `index`-th parameter of a network, PyTorch's order and shape (kernel, bias, kernel, bias ...)."""
    draw = np.random.RandomState(zlib.crc32(f"{network}/{index}".encode())).standard_normal(shape)
    # Transposed kernels count their output channels as fan; any fixed scale will do.
    return draw * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1 * draw


def image(seed: int, count: int = 1) -> np.ndarray:
    """[n, h, w, 3] in (-1, 1)."""
    return np.tanh(np.random.RandomState(seed).standard_normal((count, SIZE, SIZE, 3)))


def fill(torch, network, name: str) -> None:
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.from_numpy(value(name, index, tuple(parameter.shape))))


def known(function, **options):
    """The options that this version of the code has."""
    return {key: v for key, v in options.items() if key in inspect.signature(function).parameters}


def main(folder: str, output: str) -> None:
    sys.path.insert(0, folder)
    import torch

    torch.set_default_dtype(torch.float64)
    for absent in ("dominate", "visdom"):
        sys.modules.setdefault(absent, types.ModuleType(absent))
    from models import networks
    from models.cycle_gan_model import CycleGANModel
    from util.image_pool import ImagePool

    def tensor(images):
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def array(t):  # every third pixel: a file of some kilobytes
        return t.detach().numpy().transpose(0, 2, 3, 1)[:, ::3, ::3]

    def generator(name, kind="resnet_6blocks"):
        options = known(networks.define_G, no_antialias=True, no_antialias_up=True, gpu_ids=[])
        made = networks.define_G(3, 3, WIDTH, kind, "instance", False, "normal", 0.02, **options)
        fill(torch, made, name)
        return made

    def discriminator(name, kind="basic", layers=3):
        options = known(networks.define_D, no_antialias=True, gpu_ids=[])
        made = networks.define_D(3, WIDTH, kind, layers, "instance", "normal", 0.02, **options)
        fill(torch, made, name)
        return made

    golden = {}
    x = tensor(image(1, 2))
    # Forward passes of every shape.
    golden["resnet"] = array(generator("g_ab")(x))
    unet = networks.UnetGenerator(3, 3, 5, WIDTH, norm_layer=networks.get_norm_layer("instance"))
    fill(torch, unet, "unet")
    golden["unet"] = array(unet(x))
    instance = networks.get_norm_layer("instance")
    for kind, made in (
        ("unet", networks.UnetGenerator(3, 3, 8, 64, norm_layer=instance)),
        ("pixel", networks.PixelDiscriminator(3, 64, instance)),
    ):
        golden[f"{kind}_parameters"] = sum(p.numel() for p in made.parameters())
    golden["patch"] = array(discriminator("d_b")(x))
    golden["patch_2_layers"] = array(discriminator("d_2", "n_layers", 2)(x))
    golden["pixel"] = array(discriminator("pixel", "pixel")(x))

    # The gradient penalty, with the mixture's share given in place of its draw.
    share = torch.from_numpy(np.array([[0.3], [0.8]]))
    torch_rand, torch.rand = torch.rand, lambda *_, **__: share
    penalty, _ = networks.cal_gradient_penalty(discriminator("d_b"), x, tensor(image(2, 2)), "cpu")
    torch.rand = torch_rand
    golden["gradient_penalty"] = penalty.item()

    # One round of the model: all losses, then G's Adam step, then D's; and the losses of a second round.
    for mode in ("lsgan", "vanilla"):
        model = object.__new__(CycleGANModel)
        model.device, model.gpu_ids, model.isTrain = torch.device("cpu"), [], True
        model.opt = types.SimpleNamespace(
            lambda_A=10.0, lambda_B=10.0, lambda_identity=0.5, direction="AtoB", amp=False, gan_mode=mode
        )
        for name, code_name in CODE_NAMES.items():
            setattr(model, code_name, generator(name) if name.startswith("g") else discriminator(name))
        model.criterionGAN = networks.GANLoss(mode)
        model.criterionCycle = model.criterionIdt = torch.nn.L1Loss()
        model.fake_A_pool, model.fake_B_pool = ImagePool(50), ImagePool(50)
        for kind, pair in (("G", ("netG_A", "netG_B")), ("D", ("netD_A", "netD_B"))):
            parameters = [p for code_name in pair for p in getattr(model, code_name).parameters()]
            setattr(model, f"optimizer_{kind}", torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999)))
        model.real_A, model.real_B = tensor(image(3)), tensor(image(4))
        for turn in (1, 2):
            model.optimize_parameters()
            for code_name in ("D_A", "G_A", "cycle_A", "idt_A", "D_B", "G_B", "cycle_B", "idt_B"):
                golden[f"{mode}/{turn}/{code_name}"] = getattr(model, f"loss_{code_name}").item()
        if mode == "lsgan":
            golden["after/resnet"] = array(model.netG_A(x))
            golden["after/patch"] = array(model.netD_A(x))

    # The pool of three images, one at a time, with its draws: coin, then place.
    pool, draws = ImagePool(3), np.random.RandomState(5).uniform(size=(40, 2))
    queue = iter(draws)

    def uniform(*_):
        uniform.row = next(queue)
        return uniform.row[0]

    saved = random.uniform, random.randint
    random.uniform, random.randint = uniform, lambda low, high: int(uniform.row[1] * (high - low + 1))
    golden["pool/shown"] = np.array([pool.query(torch.full((1, 1, 1, 1), float(i))).item() for i in range(30)])
    random.uniform, random.randint = saved
    golden["pool/draws"] = draws
    small = {k: v.astype(np.float64) if isinstance(v, np.ndarray) else v for k, v in golden.items()}
    np.savez_compressed(output, **small)
    print({k: np.shape(v) for k, v in small.items()})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
